"""What the request log tells of each version of a model over a time: how many requests, how many failed, how
long they took and how sure they were. Counts are exact; latencies and confidences are an even sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdslite import blame
from mdslite.store.reading import HourReader
from mdslite.store.rows import Labels, is_replay

SAMPLE_ROWS = 50_000  # of one version and hour file

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One version's requests; latencies in milliseconds. What was refused is not counted
    (`blame`)."""

    version: str
    shadow: bool
    requests: int
    errors: int
    latency_ms: Values
    confidence: Values


def read_hour(hour: HourReader, project: str, model: str, *, since: float, until: float) -> list[Evidence]:
    """What an open hour file says of a model's versions in [since, until), by when requests arrived."""
    span = hour.span()
    if span is None:
        return []
    groups: dict[tuple[str, bool], list[tuple[int, Labels]]] = {}
    for number, labels in hour.labels().items():
        counts_here = not blame.is_refused(labels.status) and not is_replay(labels)
        if (labels.project, labels.model) == (project, model) and labels.version and counts_here:
            groups.setdefault((labels.version, labels.shadow), []).append((number, labels))
    found = []
    for (version, shadow), series in groups.items():
        counts = hour.series_counts([number for number, _ in series], since=since, until=until)
        total = sum(counts.values())
        good = [number for number, labels in series if blame.is_good(labels.status)]
        every = max(1, sum(counts.get(number, 0) for number in good) // SAMPLE_ROWS)
        latency_us, confidence = hour.sample(good, since=since, until=until, span=span, every=every)
        found.append(
            Evidence(
                version,
                shadow,
                total,
                sum(counts.get(number, 0) for number, labels in series if blame.is_error(labels.status)),
                latency_us / 1e3,
                confidence[~np.isnan(confidence)],
            )
        )
    return found


def join(hours: Sequence[Evidence]) -> list[Evidence]:
    """Each version's evidence from several hours together."""
    groups: dict[tuple[str, bool], list[Evidence]] = {}
    for one in hours:
        groups.setdefault((one.version, one.shadow), []).append(one)
    return [
        Evidence(
            version,
            shadow,
            sum(one.requests for one in some),
            sum(one.errors for one in some),
            np.concatenate([one.latency_ms for one in some]),
            np.concatenate([one.confidence for one in some]),
        )
        for (version, shadow), some in sorted(groups.items())
    ]
