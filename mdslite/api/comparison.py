"""Two versions beside each other: what the request log and the pairs of answers say, with how sure that is.

Errors, latencies and confidences are each version's own, over all that it answered in the time; the agreement
is over the requests that both answered, one of them as the other's shadow. Intervals hold with 95 %
(`intervals` names their sources). Where a difference's interval leaves out zero, it is called one.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import astuple
from time import time
from typing import Annotated

import numpy as np
from msgspec import Meta, structs

from mdslite.api.known import versions_of
from mdslite.api.operations import Call, Name, Nothing, Operation, declare
from mdslite.api.parts import Parts
from mdslite.api.schema import Given, ModelPath, Time, Value
from mdslite.errors import InvalidRequest, NotFound
from mdslite.intervals import (
    Estimate,
    mean_difference,
    mean_interval,
    percentile_interval,
    percentile_ratio,
    share_difference,
    share_interval,
)
from mdslite.store.comparisons import Disagreement, Pair, Sums
from mdslite.store.evidence import Evidence
from mdslite.store.moments import parse_moment, time_text

WINDOW_S = 3600.0
_FURTHER = "mdslite show {}/{} says what is deployed; --since goes further back"


class Figure(Value, frozen=True, kw_only=True):
    """A figure and its interval; a bound that too few requests can tell is null."""

    value: float
    low: float | None
    high: float | None


class Side(Value, frozen=True, kw_only=True):
    """One version by itself. Latencies in milliseconds, to the answer; errors are 5xx, and what was refused
    (4xx) is left out."""

    version: str
    shadow: bool
    requests: int
    errors: int
    error_rate: Figure | None
    p50_ms: Figure | None
    p99_ms: Figure | None
    confidence: Figure | None


class Differences(Value, frozen=True, kw_only=True):
    """The second version less the first; `p50_ratio` and `p99_ratio` say how many times as long it takes."""

    error_rate: Figure | None
    latency_ms: Figure | None
    p50_ratio: Figure | None
    p99_ratio: Figure | None
    confidence: Figure | None


class Dropped(Value, frozen=True, kw_only=True):
    """Copies of requests that came to no comparison, by why: requests left no time for them; the shadow was
    behind with others; they had waited for longer than a prediction may take; the shadow took none; nobody
    came to judging the two answers."""

    busy: int
    slow: int
    late: int
    refused: int
    unjudged: int


class Agreement(Value, frozen=True, kw_only=True):
    """Over the requests that both answered. `compute_ms` and `confidence` are the mean differences, the
    shadow's less the primary's, request by request."""

    primary: str
    shadow: str
    pairs: int
    compared: int
    agreed: int
    dropped: Dropped
    rate: Figure | None
    compute_ms: Figure | None
    confidence: Figure | None


class DisagreementInfo(Value, frozen=True, kw_only=True):
    """A request that two versions answered differently; long bodies are cut."""

    id: int
    time: Time
    request_id: str
    request: str
    primary_reply: str
    shadow_reply: str


class Comparison(Value, frozen=True, kw_only=True):
    """Two versions of a model. `verdict` sums up in words. `since` is later than asked for where a version
    was another model before."""

    project: str
    model: str
    since: Time
    until: Time
    first: Side
    second: Side
    difference: Differences
    agreement: Agreement | None
    disagreements: list[DisagreementInfo]
    verdict: list[str]


class CompareQuery(Given, frozen=True, kw_only=True):
    first: Annotated[Name, Meta(description="a version")]
    second: Annotated[Name, Meta(description="the version to look at beside it")]
    since: Annotated[str, Meta(description="from when on, such as 1h or 2026-11-22T14:00")] = "1h"
    until: Annotated[str | None, Meta(description="until when, such as 5m or 2026-11-22T15:00")] = None
    limit: Annotated[int, Meta(ge=0, le=200, description="disagreements at most")] = 20


async def compare_versions(parts: Parts, call: Call[ModelPath, CompareQuery, Nothing]) -> Comparison:
    """Two versions beside each other: errors, latency, confidence, agreement and where they disagree"""
    query, now = call.query, time()
    if query.first == query.second:
        raise InvalidRequest("expected two different versions to compare")
    since = parse_moment(query.since, now=now, field="since")
    until = now if query.until is None else parse_moment(query.until, now=now, field="until")
    if since >= until:
        raise InvalidRequest("expected a time before until", field="since")
    versions = query.first, query.second
    replaced = [
        (await parts.worker.call(parts.registry.replaced_at, call.path.project, call.path.model, one), one)
        for one in versions
    ]
    replaced_at, version = max(replaced)
    if not since < replaced_at < until:
        return await make_comparison(parts, call.path, versions, since=since, until=until, limit=query.limit)
    told = f"{version} has been this model since {time_text(replaced_at)}: what was before is left out"
    begins = (
        math.ceil(replaced_at / 60) * 60.0
    )  # pairs are kept by the minute: that of the change is left out
    try:
        found = await make_comparison(
            parts, call.path, versions, since=begins, until=until, limit=query.limit
        )
    except NotFound as exc:
        raise NotFound(f"{exc.message}: {told}", hint=exc.hint) from exc
    return structs.replace(found, verdict=[told, *found.verdict])


async def make_comparison(
    parts: Parts, path: ModelPath, versions: tuple[str, str], *, since: float, until: float, limit: int
) -> Comparison:
    """:raises NotFound: the log knows nothing of either version in that time"""
    found = await asyncio.to_thread(
        parts.request_log.evidence, path.project, path.model, since=since, until=until
    )
    first, second = (_choose(found, version) for version in versions)
    await _refuse_unknown(parts, path, [one.version for one in (first, second) if not one.requests])
    if not first.requests and not second.requests:
        raise NotFound(
            f"neither {versions[0]} nor {versions[1]} of {path.project}/{path.model} answered anything then",
            hint=_FURTHER.format(path.project, path.model),
        )
    agreement: Agreement | None = None
    disagreements: list[DisagreementInfo] = []
    for primary, shadow in (versions, versions[::-1]):
        pair = Pair(path.project, path.model, primary, shadow)
        sums, requests = await parts.comparisons.read(pair, since=since, until=until, limit=limit)
        if sums.pairs or sums.dropped:
            agreement = make_agreement(pair, sums)
            disagreements = [disagreement_info(*one) for one in requests]
            break
    return report(path, (first, second), agreement, disagreements, since=since, until=until)


async def _refuse_unknown(parts: Parts, path: ModelPath, silent: list[str]) -> None:
    """:raises NotFound: a version of which the log knows nothing is not deployed either"""
    known = await versions_of(parts, path.project, path.model) if silent else []
    for version in silent:
        if version not in known:
            parts.fleet.router.require_started(path.project, path.model, version)
        if not known:
            raise NotFound.version(path.project, path.model, version, known)
        if version not in known:
            raise NotFound(
                f"{path.project}/{path.model} has no version {version}, and none answered anything then: "
                f"it has {', '.join(known)}",
                hint=_FURTHER.format(path.project, path.model),
            )


def report(
    path: ModelPath,
    evidence: tuple[Evidence, Evidence],
    agreement: Agreement | None,
    disagreements: list[DisagreementInfo],
    *,
    since: float,
    until: float,
) -> Comparison:
    """The evidence on two versions beside each other, and what it says."""
    first, second = evidence
    sides = _side(first), _side(second)
    difference = _differences(first, second)
    return Comparison(
        project=path.project,
        model=path.model,
        since=time_text(since),
        until=time_text(until),
        first=sides[0],
        second=sides[1],
        difference=difference,
        agreement=agreement,
        disagreements=disagreements,
        verdict=judge(sides, difference, agreement),
    )


def judge(sides: tuple[Side, Side], difference: Differences, agreement: Agreement | None) -> list[str]:
    """What the figures say, a line each; what they leave open is said, too."""
    first, second = sides
    lines = []
    latency = ("mean latency", difference.latency_ms, "is slower", "is faster")
    if first.shadow != second.shadow:
        # A shadow waits behind all others: only what it computes can be compared.
        latency = ("compute", _compute(second, agreement), "computes longer", "computes less long")
    for what, figure, more, less in (
        ("error rate", difference.error_rate, "fails more often", "fails less often"),
        latency,
        ("confidence", difference.confidence, "is surer", "is less sure"),
    ):
        if figure is None or figure.low is None or figure.high is None:
            lines.append(f"{what}: not enough requests to tell")
        elif figure.low > 0:
            lines.append(f"{what}: {second.version} {more} than {first.version}")
        elif figure.high < 0:
            lines.append(f"{what}: {second.version} {less} than {first.version}")
        else:
            lines.append(f"{what}: no difference that these requests could show")
    if agreement is not None and agreement.rate is not None:
        low = agreement.rate.low or 0.0
        lines.append(
            f"agreement: {agreement.agreed} of {agreement.compared} answers, "
            f"so at least {math.floor(low * 1000) / 10:g} % of all"
        )
    return [*lines, *_coverage(agreement)]


def _coverage(agreement: Agreement | None) -> list[str]:
    """How many of the copies came to nothing, and why, where any did."""
    if agreement is None:
        return []
    dropped, shadow = agreement.dropped, agreement.shadow
    reasons = [
        f"{count} {why}"
        for count, why in (
            (dropped.busy, "as requests left no time for them"),
            (dropped.slow, f"as {shadow} was behind with others"),
            (dropped.late, "as they had waited too long"),
            (dropped.refused, f"as {shadow} took none"),
            (dropped.unjudged, "as there was no time to judge the answers"),
        )
        if count
    ]
    if not reasons:
        return []
    copies = agreement.pairs + sum(structs.astuple(dropped))
    return [f"copies: {agreement.pairs} of {copies} had an answer to compare; dropped: {', '.join(reasons)}"]


def _compute(second: Side, agreement: Agreement | None) -> Figure | None:
    """How much longer the second version computes than the first."""
    if agreement is None or agreement.compute_ms is None:
        return None
    figure = agreement.compute_ms
    if agreement.shadow == second.version:
        return figure
    low, high = (None if end is None else -end for end in (figure.high, figure.low))
    return Figure(value=-figure.value, low=low, high=high)


def _choose(found: list[Evidence], version: str) -> Evidence:
    """A version's evidence as primary or as a shadow: whichever it answered more as."""
    mine = [one for one in found if one.version == version]
    nothing = Evidence(version, False, 0, 0, np.empty(0), np.empty(0))
    return max(mine, key=lambda one: one.requests, default=nothing)


def _side(one: Evidence) -> Side:
    return Side(
        version=one.version,
        shadow=one.shadow,
        requests=one.requests,
        errors=one.errors,
        error_rate=_figure(share_interval(one.errors, one.requests)),
        p50_ms=_figure(percentile_interval(one.latency_ms, 0.5)),
        p99_ms=_figure(percentile_interval(one.latency_ms, 0.99)),
        confidence=_figure(
            mean_interval(len(one.confidence), float(one.confidence.sum()), float((one.confidence**2).sum()))
        ),
    )


def _differences(first: Evidence, second: Evidence) -> Differences:
    return Differences(
        error_rate=_figure(share_difference(second.errors, second.requests, first.errors, first.requests)),
        latency_ms=_figure(mean_difference(second.latency_ms, first.latency_ms)),
        p50_ratio=_figure(percentile_ratio(second.latency_ms, first.latency_ms, 0.5)),
        p99_ratio=_figure(percentile_ratio(second.latency_ms, first.latency_ms, 0.99)),
        confidence=_figure(mean_difference(second.confidence, first.confidence)),
    )


def make_agreement(pair: Pair, sums: Sums) -> Agreement:
    """What the sums over a pair's requests say."""
    return Agreement(
        primary=pair.primary,
        shadow=pair.shadow,
        pairs=sums.pairs,
        compared=sums.compared,
        agreed=sums.agreed,
        dropped=Dropped(
            busy=sums.dropped_busy,
            slow=sums.dropped_slow,
            late=sums.dropped_late,
            refused=sums.dropped_refused,
            unjudged=sums.dropped_unjudged,
        ),
        rate=_figure(share_interval(sums.agreed, sums.compared)),
        compute_ms=_figure(mean_interval(sums.latency_count, sums.latency_sum, sums.latency_squares)),
        confidence=_figure(
            mean_interval(sums.confidence_count, sums.confidence_sum, sums.confidence_squares)
        ),
    )


def disagreement_info(number: int, one: Disagreement) -> DisagreementInfo:
    """A disagreement as it is told, its number as the id."""
    return DisagreementInfo(
        id=number,
        time=time_text(one.time),
        request_id=one.request_id,
        request=one.request.decode("utf-8", "replace"),
        primary_reply=one.primary_reply.decode("utf-8", "replace"),
        shadow_reply=one.shadow_reply.decode("utf-8", "replace"),
    )


def _figure(estimate: Estimate | None) -> Figure | None:
    if estimate is None:
        return None
    value, low, high = (one if math.isfinite(one) else None for one in astuple(estimate))
    return None if value is None else Figure(value=value, low=low, high=high)


def make_operations() -> list[Operation]:
    url = "/api/v1/projects/{project}/models/{model}/comparison"
    return [declare("GET", url, compare_versions, group="models", errors=(404,))]
