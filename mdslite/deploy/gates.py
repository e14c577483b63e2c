"""What a rollout's next step depends on: `error_rate<1%`, `p99<1.2x`, `agreement>95%`. Pure functions.

A gate passes or fails only when a confidence interval lies wholly on one side of its limit; between, it is
open. It is looked at again and again, and each look is a chance to fail a version that is well: so it fails
at FAIL_LEVEL, and passes, which is asked once at a step's end, at PASS_LEVEL. `intervals` names the methods.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mdslite.errors import InvalidRequest, quoted
from mdslite.intervals import (
    Estimate,
    mean_difference,
    mean_interval,
    percentile_interval,
    percentile_ratio,
    share_interval,
)
from mdslite.store.comparisons import Sums
from mdslite.store.evidence import Evidence

Metric = Literal["error_rate", "p50", "p99", "latency", "confidence", "agreement"]

PASS_LEVEL = 0.95
FAIL_LEVEL = 0.999
REQUESTS_MIN = 50  # of each version, before a gate passes or fails

_GATE_HINT = "such as 'error_rate<1%', 'p99<1.2x' or 'agreement>95%'"
_GATE = re.compile(
    r"(?P<metric>error_rate|p50|p99|latency|confidence|agreement)\s*(?P<sign>[<>])=?\s*"
    r"(?P<limit>\d+(?:\.\d+)?)\s*(?P<unit>%|x|ms|s)?"
)
_UNITS: dict[str, tuple[str, ...]] = {
    "error_rate": ("%", "x"),
    "p50": ("x", "ms", "s"),
    "p99": ("x", "ms", "s"),
    "latency": ("x", "ms", "s"),
    "confidence": ("x", "%", ""),
    "agreement": ("%",),
}


@dataclass(frozen=True, slots=True)
class Gate:
    """`limit` is a share, milliseconds, or (`relative`) a multiple of the other versions' figure."""

    text: str
    metric: Metric
    below: bool
    limit: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Gate:
        """:raises InvalidRequest: it is no gate"""
        found = _GATE.fullmatch(text.strip())
        if found is None:
            raise InvalidRequest(
                f"expected such as error_rate<1%, p99<1.2x or agreement>95%; got {quoted(text)}",
                field="gates",
                hint="error_rate, p50, p99, latency, confidence and agreement can be gates",
            )
        metric, unit = found["metric"], found["unit"] or ""
        if unit not in _UNITS[metric]:
            wanted = " or ".join(one or "a plain number" for one in _UNITS[metric])
            raise InvalidRequest(
                f"{metric} is measured in {wanted}; got {quoted(text.strip())}",
                field="gates",
                hint=_GATE_HINT,
            )
        if unit == "%" and float(found["limit"]) > 100:
            raise InvalidRequest(
                f"{metric} is never above 100 %; got {quoted(text.strip())}", field="gates", hint=_GATE_HINT
            )
        scale = {"%": 0.01, "s": 1000.0}.get(unit, 1.0)
        return cls(
            text=text.strip(),
            metric=metric,  # type: ignore[arg-type]
            below=found["sign"] == "<",
            limit=float(found["limit"]) * scale,
            relative=unit == "x",
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """What a gate says now, in words too."""

    gate: str
    state: Literal["pass", "fail", "open"]
    text: str


def judge(gate: Gate, candidate: Evidence, others: Evidence, sums: Sums) -> Finding:
    """A gate on what is known of the candidate, of the other versions, and of the pairs of both."""
    if gate.metric == "agreement":
        return _judge_agreement(gate, sums)
    least = min(candidate.requests, others.requests) if gate.relative else candidate.requests
    if least < REQUESTS_MIN:
        whose = "it has answered" if candidate.requests <= others.requests else "the others have answered"
        return Finding(gate.text, "open", f"{whose} {least} requests; {REQUESTS_MIN} are needed to tell")
    loose = _estimate(gate, candidate, others, PASS_LEVEL)
    strict = _estimate(gate, candidate, others, FAIL_LEVEL)
    return _verdict(gate, loose, strict, f"after {candidate.requests} requests")


def _judge_agreement(gate: Gate, sums: Sums) -> Finding:
    if sums.compared < REQUESTS_MIN:
        told = f"{sums.compared} answers could be compared; {REQUESTS_MIN} are needed to tell"
        if sums.dropped:
            told += f" ({sums.dropped} copies were dropped: requests left too little time for them)"
        return Finding(gate.text, "open", told)
    loose = share_interval(sums.agreed, sums.compared, level=PASS_LEVEL)
    strict = share_interval(sums.agreed, sums.compared, level=FAIL_LEVEL)
    return _verdict(gate, loose, strict, f"of {sums.compared} answers")


def _verdict(gate: Gate, loose: Estimate | None, strict: Estimate | None, after: str) -> Finding:
    if loose is None or strict is None:
        return Finding(gate.text, "open", "there is nothing to compare with yet")
    value, low, high = (_show(gate, one) for one in (loose.value, loose.low, loose.high))
    told = f"{gate.metric} is {value} [{low}, {high}]"
    if gate.below:
        passes, fails = loose.high < gate.limit, strict.low > gate.limit
    else:
        passes, fails = loose.low > gate.limit, strict.high < gate.limit
    state: Literal["pass", "fail", "open"] = "pass" if passes else "fail" if fails else "open"
    return Finding(gate.text, state, f"{told} {after}")


def _estimate(gate: Gate, mine: Evidence, others: Evidence, level: float) -> Estimate | None:
    match gate.metric:
        case "error_rate":
            found = share_interval(mine.errors, mine.requests, level=level)
            if not gate.relative or found is None:
                return found
            base = share_interval(others.errors, others.requests, level=level)
            return None if base is None else _ratio(found, base)
        case "p50" | "p99":
            share = 0.5 if gate.metric == "p50" else 0.99
            if gate.relative:
                return percentile_ratio(mine.latency_ms, others.latency_ms, share, level=level)
            return percentile_interval(mine.latency_ms, share, level=level)
    values = mine.latency_ms if gate.metric == "latency" else mine.confidence
    base_values = others.latency_ms if gate.metric == "latency" else others.confidence
    if not gate.relative:
        return mean_interval(len(values), float(values.sum()), float((values**2).sum()), level=level)
    if not len(base_values) or not base_values.mean():
        return None
    # mine < k * theirs, whichever k: where the difference to k times theirs leaves out zero.
    difference = mean_difference(values, base_values * gate.limit, level=level)
    if difference is None:
        return None
    scale = float(base_values.mean())
    value, low, high = difference.value, difference.low, difference.high
    return Estimate(*(gate.limit + one / scale for one in (value, low, high)))


def _ratio(mine: Estimate, others: Estimate) -> Estimate:
    return Estimate(
        mine.value / others.value if others.value else math.inf if mine.value else 1.0,
        mine.low / others.high if others.high else 0.0,
        mine.high / others.low if others.low else math.inf,
    )


def _show(gate: Gate, value: float) -> str:
    if math.isinf(value):
        return "unknown"
    if gate.relative:
        return f"{value:.2f}x"
    if gate.metric in ("error_rate", "agreement"):
        return f"{value * 100:.2f} %"
    return f"{value:.3f}" if gate.metric == "confidence" else f"{value:.1f} ms"


def together(found: Sequence[Evidence]) -> Evidence:
    """Several versions' evidence as one."""
    nothing = np.empty(0)
    return Evidence(
        ", ".join(one.version for one in found),
        False,
        sum(one.requests for one in found),
        sum(one.errors for one in found),
        np.concatenate([nothing, *(one.latency_ms for one in found)]),
        np.concatenate([nothing, *(one.confidence for one in found)]),
    )
