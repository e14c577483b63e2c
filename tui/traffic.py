"""Which figures of its traffic a version has: those of the last minute, or, for a part of the past that was
chosen, those of the request log. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mdslite.blame import error_rate
from mdslite.tui.snapshot import Json, Snapshot


@dataclass(frozen=True, slots=True)
class Total:
    """All versions that answer their callers, together. Percentiles of parts make none of the whole: `p50_ms`
    is that of the version in the middle of the traffic, `p99_ms` the slowest version's, which is the most
    that it can be."""

    rps: float
    p50_ms: float | None
    p99_ms: float | None
    error_rate: float | None
    window_s: float | None  # the longest of all versions


@dataclass(frozen=True, slots=True)
class Figures:
    """Of `window_s` seconds: `rps` is of all requests, `good`, `errors` and `refused` are how many of them
    were."""

    window_s: float | None = None
    good: int = 0
    errors: int = 0
    refused: int = 0
    rps: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    error_rate: float | None = None
    confidence: float | None = None
    low_confidence: float | None = None

    @property
    def refused_share(self) -> float | None:
        """Of all requests, 0 to 1; None without any."""
        total = self.good + self.errors + self.refused
        return self.refused / total if total else None


def from_log(snapshot: Snapshot) -> bool:
    """Are the figures to be read from the log, rather than those of the last minute?"""
    view = snapshot.view
    return view.brush is not None or view.moment is not None or bool(view.filter)


def figures_of(snapshot: Snapshot, project: str, model: str, version: Json) -> Figures:
    """The figures of one version for what is looked at."""
    group = _group(snapshot, project, model, version["version"])
    sure = (group or {}).get("confidence") or {}
    slow = (group or {}).get("latency_ms") or {}
    if not from_log(snapshot):
        requests, errors, refused = (version.get(name) or 0 for name in ("requests", "errors", "refused"))
        return Figures(
            window_s=version.get("window_s"),
            good=requests - errors - refused,
            errors=errors,
            refused=refused,
            rps=version.get("rps"),
            p50_ms=version.get("p50_ms"),
            p95_ms=slow.get("p95"),
            p99_ms=version.get("p99_ms"),
            error_rate=version.get("error_rate"),
            confidence=sure.get("p50"),
            low_confidence=sure.get("p10"),
        )
    found = snapshot.percentiles
    if found is None:
        return Figures()
    since, until = found.get("since"), found.get("until")
    length_s = 1.0 if since is None or until is None else max(1.0, until - since)
    if group is None:
        return Figures(window_s=length_s, rps=0.0)
    return Figures(
        window_s=length_s,
        good=group["count"] - group["errors"] - group["refused"],
        errors=group["errors"],
        refused=group["refused"],
        rps=group["count"] / length_s,
        p50_ms=slow.get("p50"),
        p95_ms=slow.get("p95"),
        p99_ms=slow.get("p99"),
        error_rate=group["error_rate"],
        confidence=sure.get("p50"),
        low_confidence=sure.get("p10"),
    )


def add_up(snapshot: Snapshot) -> Total | None:
    """None while nothing is known."""
    if snapshot.models is None:
        return None
    found = [
        figures_of(snapshot, model["project"], model["model"], version)
        for model in snapshot.models
        for version in model["versions"]
        if not version.get("shadow")
    ]
    rps = sum(one.rps or 0.0 for one in found)
    return Total(
        rps=rps,
        p50_ms=_middle((one.p50_ms, one.rps or 0.0) for one in found),
        p99_ms=max((one.p99_ms for one in found if one.p99_ms is not None), default=None),
        error_rate=error_rate(good=sum(one.good for one in found), errors=sum(one.errors for one in found)),
        window_s=max((one.window_s for one in found if one.window_s is not None), default=None),
    )


def _middle(values: Iterable[tuple[float | None, float]]) -> float | None:
    """The value up to which half of all weight lies."""
    known = sorted((value, weight) for value, weight in values if value is not None)
    left = sum(weight for _, weight in known) / 2
    for value, weight in known:
        left -= weight
        if left <= 0:
            return value
    return None


def _group(snapshot: Snapshot, project: str, model: str, version: str) -> Json | None:
    for group in (snapshot.percentiles or {}).get("groups", []):
        if (group.get("project"), group.get("model"), group.get("version")) == (project, model, version):
            found: Json = group
            return found
    return None
