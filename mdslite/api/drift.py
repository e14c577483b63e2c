"""The operations on drift: what is watched, what has fired, what is compared with, who is told."""

from __future__ import annotations

import asyncio
from time import time
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mdslite.api.alarms import plain
from mdslite.api.known import require_model
from mdslite.api.operations import Call, Name, Nothing, Operation, declare
from mdslite.api.parts import Parts
from mdslite.api.schema import Given, Limit, ModelPath, Time, Value
from mdslite.drift.baseline import figures_of
from mdslite.drift.schedule import DAY_S, HOUR_S
from mdslite.drift.watch import Signal
from mdslite.errors import InvalidRequest
from mdslite.store.drift import KEPT_S, Alert, Chosen, Watched
from mdslite.store.moments import parse_moment, time_text

_AHEAD_S = 7.0 * DAY_S
_STATES = {"firing": 0, "calm": 1, "waiting": 2}

Moment = Annotated[
    str,
    Meta(max_length=64, description="15m, 24h or 7d ago, 2026-11-22T10:00 (UTC), 10:00, now, Unix seconds"),
]
Window = Literal["10m", "1h", "24h"]
Test = Annotated[
    Literal["ks", "chi_square", "binomial"],
    Meta(description="Kolmogorov-Smirnov; chi-square; excess of one share over another"),
]
Measure = Annotated[
    Literal["psi", "distance", "ratio", "difference"],
    Meta(
        description="of how large the difference is: population stability index, Kolmogorov-Smirnov distance,"
        " ratio of latencies, difference of error rates"
    ),
]


class DriftQuery(Given, frozen=True, kw_only=True):
    project: Annotated[Name | None, Meta(description="only this project's models")] = None
    model: Annotated[Name | None, Meta(description="only models of this name")] = None


class AlertsQuery(DriftQuery, frozen=True, kw_only=True):
    since: Moment | None = None
    limit: Limit = 50
    before: Annotated[Annotated[int, Meta(ge=0)] | None, Meta(description="only alerts of lower `id`")] = None


class BaselineBody(Given, frozen=True, kw_only=True):
    """Which time was healthy. Whole hours are taken: that in which it begins and that in which it ends are
    part of it, the running one as far as it is counted. A day or a week of them is best."""

    since: Moment
    until: Annotated[Moment | None, Meta(description="now by default; at most a week ahead")] = None
    version: Annotated[
        Name | None, Meta(description="all versions are compared with this one; by default each with itself")
    ] = None


class WebhookBody(Given, frozen=True, kw_only=True):
    url: Annotated[str, Meta(min_length=1, max_length=2048, description="where alerts are posted as JSON")]


class SignalInfo(Value, frozen=True, kw_only=True):
    """One signal as it was looked at last. It fires when `p` is at most `level` and `effect` at least
    `threshold`; null where nothing could be said yet."""

    signal: Annotated[
        str,
        Meta(description="error_rate, latency, confidence, output, input.NAME, or presence.NAME of an input"),
    ]
    state: Literal["firing", "calm", "waiting"]
    since: Time | None
    looked_at: Time | None
    window: Window | None
    test: Test | None
    statistic: float | None
    p: float | None
    level: float | None
    measure: Measure | None
    effect: float | None
    threshold: float | None
    count: Annotated[int, Meta(description="values in the window")]
    text: str


class UsualInfo(Value, frozen=True, kw_only=True):
    """What is compared with: the hours [since, until) of `version`."""

    kind: Literal["automatic", "chosen"]
    version: str
    since: Time
    until: Time
    hours: int
    requests: int
    rows: Annotated[int, Meta(description="rows of bodies that were read")]


class DriftInfo(Value, frozen=True, kw_only=True):
    """One version, as itself or as a shadow. Of the last full hour: `requests`; `rows` of bodies that were
    read; `unread` bodies, which are cut or no JSON; values `left_out` as there are more features than are
    watched."""

    project: str
    model: str
    version: str
    shadow: bool
    state: Literal["collecting", "watching", "firing"]
    message: str
    requests: int
    rows: int
    unread: int
    left_out: int
    counted_to: Annotated[
        Time | None,
        Meta(description="what came later waits for the next look, ten minutes after the last"),
    ]
    baseline: UsualInfo | None
    signals: Annotated[list[SignalInfo], Meta(description="those that fire first")]


class AlertInfo(Value, frozen=True, kw_only=True):
    """A signal has begun to fire, or is `resolved`: `opened` is the alert that said it fired."""

    id: int
    time: Time
    project: str
    model: str
    version: str
    shadow: bool
    signal: str
    state: Literal["firing", "resolved"]
    text: str
    window: Window | None
    test: Test | None
    statistic: float | None
    p: float | None
    measure: Measure | None
    effect: float | None
    threshold: float | None
    count: int
    opened: int | None


class ChosenInfo(Value, frozen=True, kw_only=True):
    """A model's baseline; without `since` each version learns its own from its first day."""

    project: str
    model: str
    since: Time | None
    until: Time | None
    version: str | None


class WebhookInfo(Value, frozen=True, kw_only=True):
    url: str | None


async def get_drift(parts: Parts, call: Call[Nothing, DriftQuery, Nothing]) -> list[DriftInfo]:
    """Is what versions get and give still what it was? Signals against each version's baseline"""
    query, grant = call.query, call.caller.grant
    found = await asyncio.to_thread(parts.alarms.reader.watched, query.project, query.model)
    if not found and query.project and query.model and grant.covers(query.project, query.model):
        await require_model(parts, query.project, query.model)
    deployed = {one.key for one in parts.fleet.all()}
    return [
        _drift(one)
        for one in found
        if one.key[:3] in deployed and grant.covers(one.key.project, one.key.model)
    ]


async def list_alerts(parts: Parts, call: Call[Nothing, AlertsQuery, Nothing]) -> list[AlertInfo]:
    """What has drifted, and when it was over, the newest first"""
    query, grant = call.query, call.caller.grant
    project, model = query.project or grant.project, query.model or grant.model
    found = await asyncio.to_thread(
        parts.alarms.reader.alerts,
        since=0.0 if query.since is None else parse_moment(query.since, now=time(), field="since"),
        before=query.before,
        project=project,
        model=model,
        limit=query.limit,
    )
    return [_alert(one) for one in found if grant.covers(one.project, one.model)]


async def choose_baseline(parts: Parts, call: Call[ModelPath, Nothing, BaselineBody]) -> ChosenInfo:
    """Compare a model's versions with this time from now on"""
    path, body, now = call.path, call.body, time()
    versions = {one.version for one in parts.fleet.all() if one.key[:2] == (path.project, path.model)}
    if not versions or body.version not in (None, *versions):
        raise parts.fleet.router.unknown(path.project, path.model, body.version, versions)
    since = parse_moment(body.since, now=now, field="since")
    until = now if body.until is None else parse_moment(body.until, now=now, field="until")
    if not since < until:
        raise InvalidRequest(
            "expected a time before until", field="since", hint="such as since 24h, until now"
        )
    if since < now - KEPT_S or until > now + _AHEAD_S:
        raise InvalidRequest(
            "expected a time within the last 8 days, or up to 7 days ahead",
            field="since" if since < now - KEPT_S else "until",
            hint="hours are kept for 8 days",
        )
    since, until = _whole_hours(since, until, now)
    await parts.alarms.choose(
        path.project, path.model, Chosen(since=since, until=until, version=body.version)
    )
    call.caller.remark = f"{path.project}/{path.model} {time_text(since)} to {time_text(until)}"
    return _chosen(parts, path)


async def get_baseline(parts: Parts, call: Call[ModelPath, Nothing, Nothing]) -> ChosenInfo:
    """Which time was chosen for a model's versions to be compared with"""
    if parts.alarms.chosen(call.path.project, call.path.model) is None:
        await require_model(parts, call.path.project, call.path.model)
    return _chosen(parts, call.path)


async def drop_baseline(parts: Parts, call: Call[ModelPath, Nothing, Nothing]) -> ChosenInfo:
    """Let each version learn by itself again what is usual"""
    await parts.alarms.choose(call.path.project, call.path.model, None)
    return _chosen(parts, call.path)


async def get_webhook(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> WebhookInfo:
    """Where alerts are posted"""
    return WebhookInfo(url=parts.alarms.webhook)


async def set_webhook(parts: Parts, call: Call[Nothing, Nothing, WebhookBody]) -> WebhookInfo:
    """Have alerts posted there, five more times each if need be"""
    await parts.alarms.set_webhook(call.body.url)
    return WebhookInfo(url=parts.alarms.webhook)


async def drop_webhook(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> WebhookInfo:
    """Have alerts posted nowhere"""
    await parts.alarms.set_webhook(None)
    return WebhookInfo(url=None)


def make_operations() -> list[Operation]:
    root, group = "/api/v1", "drift"
    baseline = f"{root}/projects/{{project}}/models/{{model}}/baseline"
    webhook = f"{root}/alerts/webhook"
    return [
        declare("GET", f"{root}/drift", get_drift, group=group, errors=(404,), reach="own"),
        declare("GET", f"{root}/alerts", list_alerts, group=group, reach="own"),
        declare("GET", baseline, get_baseline, group=group, errors=(404,)),
        declare("PUT", baseline, choose_baseline, group=group, errors=(404, 507)),
        declare("DELETE", baseline, drop_baseline, group=group, errors=(507,)),
        declare("GET", webhook, get_webhook, group=group, scope="admin"),
        declare("PUT", webhook, set_webhook, group=group, errors=(507,)),
        declare("DELETE", webhook, drop_webhook, group=group, errors=(507,)),
    ]


def _whole_hours(since: float, until: float, now: float) -> tuple[float, float]:
    """The hours that are taken, as windows are kept by the hour; of the running one what there is of it."""
    ended = -(-until // HOUR_S) * HOUR_S
    return since // HOUR_S * HOUR_S, until if until <= now < ended else ended


def _drift(one: Watched) -> DriftInfo:
    record, head = one.record, one.baseline
    signals = sorted(record.signals, key=lambda signal: (_STATES[signal.state], signal.signal))
    firing = sum(signal.state == "firing" for signal in signals)
    usual = None
    message = record.note
    if head is not None:
        usual = UsualInfo(
            kind="chosen" if head.chosen else "automatic",
            version=head.source,
            since=time_text(head.since),
            until=time_text(head.until),
            hours=head.hours,
            requests=head.requests,
            rows=head.rows,
        )
        if firing:
            message = f"{firing} of {len(signals)} signals fire"
        elif not message:
            message = usual_text(signals)
    return DriftInfo(
        project=one.key.project,
        model=one.key.model,
        version=one.key.version,
        shadow=one.key.shadow,
        state="collecting" if head is None else "firing" if firing else "watching",
        message=message,
        requests=record.requests,
        rows=record.rows,
        unread=record.unread,
        left_out=record.left_out,
        counted_to=time_text(record.counted_to) if record.counted_to else None,
        baseline=usual,
        signals=[_signal(signal) for signal in signals],
    )


def usual_text(signals: list[Signal]) -> str:
    """How many signals are as usual where none fires, and of how many too little is known to say so."""
    few = sum(signal.finding is None for signal in signals)
    judged = len(signals) - few
    usual = f"{judged} {'signal is' if judged == 1 else 'signals are'} as usual"
    if not few:
        return usual
    waiting = f"{few} {'has' if few == 1 else 'have'} too few values so far"
    return f"{usual}, {waiting}" if judged else f"no signal is judged yet: {waiting}"


def _signal(one: Signal) -> SignalInfo:
    finding = one.finding
    return SignalInfo(
        signal=one.signal,
        state=one.state,
        since=time_text(one.since) if one.since else None,
        looked_at=None if one.looked_at is None else time_text(one.looked_at),
        level=finding.level if finding else None,
        text=finding.text if finding else "too few values so far",
        **figures_of(finding),
    )


def _alert(one: Alert) -> AlertInfo:
    return msgspec.convert(plain(one), AlertInfo)


def _chosen(parts: Parts, path: ModelPath) -> ChosenInfo:
    chosen = parts.alarms.chosen(path.project, path.model)
    return ChosenInfo(
        project=path.project,
        model=path.model,
        since=None if chosen is None else time_text(chosen.since),
        until=None if chosen is None else time_text(chosen.until),
        version=None if chosen is None else chosen.version,
    )
