"""Rows of the journal in columns. Owns no file.

The journal's thread turns the loop's tuples into `Block`s: numpy columns, label sets numbered once, and the
few bodies that are kept. Rollups, metrics and the hour files all read the same block. The work is cut into
short stretches with the interpreter lock let go between them, because a thread that holds the lock for a
millisecond makes every request wait that long.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from mdslite.store.bodies import Body, BodyBudget
from mdslite.store.rows import (
    MAX_ENDPOINT_CHARS,
    MAX_ID_CHARS,
    MAX_NAME_CHARS,
    MAX_URL_CHARS,
    Labels,
    Row,
    Run,
    clean,
)

STRETCH_ROWS = 256  # rows worked on before the interpreter lock is let go: about 0.3 ms
_MAX_TIME = 2.0**33  # unix seconds: far enough, and ids of microseconds stay far below 2**63
_MAX_LATENCY_MS = 1e9

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Block:
    """Rows in columns, each `count` long; absent numbers are NaN."""

    count: int
    labels: tuple[Labels, ...]
    label: Ints  # index into labels
    urls: tuple[str, ...]
    url: Ints  # index into urls
    request_ids: tuple[str, ...]
    time: Floats  # unix seconds, at arrival
    latency_ms: Floats
    queue_ms: Floats
    compute_ms: Floats
    upstream_ms: Floats
    confidence: Floats
    rows: Ints
    batch_rows: Ints
    bodies: tuple[Body, ...]

    @cached_property
    def ended_us(self) -> Ints:
        """When each request was answered: unix microseconds."""
        return np.rint((self.time + self.latency_ms / 1e3) * 1e6).astype(np.int64)

    @cached_property
    def body_bytes(self) -> int:
        return sum(body.size_bytes for body in self.bodies)


def build_block(
    rows: Sequence[Row], *, budget: BodyBudget, now_s: float, pause: Callable[[], None] = lambda: None
) -> Block:
    """Turn rows into columns. `pause` is called between stretches of work.

    :raises TypeError, ValueError, OverflowError: a row is not as `Row` says; nothing was spent of the budget
    """
    labels: _Numbers[tuple[Any, ...]] = _Numbers()
    urls: _Numbers[str] = _Numbers()
    stretches = []
    for start in range(0, len(rows), STRETCH_ROWS):
        stretches.append(_columns(rows[start : start + STRETCH_ROWS], labels, urls))
        pause()
    joined = {name: np.concatenate([s[name] for s in stretches]) for name in stretches[0] if name != "ids"}
    joined["latency_ms"] = np.maximum(joined["latency_ms"], 0.0)
    if not (
        (joined["time"] >= 0) & (joined["time"] < _MAX_TIME) & (joined["latency_ms"] < _MAX_LATENCY_MS)
    ).all():
        raise ValueError("a row's time or latency is no plausible number")
    known = tuple(_clean_labels(key) for key in labels)
    return Block(
        count=len(rows),
        labels=known,
        urls=tuple(clean(url, MAX_URL_CHARS) for url in urls),
        request_ids=tuple(chain.from_iterable(stretch["ids"] for stretch in stretches)),
        bodies=budget.choose(rows, known, joined["label"], now_s=now_s),
        **joined,
    )


def build_run_block(runs: Sequence[Run], *, pause: Callable[[], None] = lambda: None) -> Block:
    """Turn runs, whose rows already stand side by side, into columns. `pause` as in `build_block`."""
    labels: _Numbers[Labels] = _Numbers()
    urls: _Numbers[str] = _Numbers()
    counts = [len(run.calls) for run in runs]

    def spread(values: Iterable[float], dtype: type) -> NDArray[Any]:
        return np.repeat(np.array(list(values), dtype=dtype), counts)

    ids, arrived, queued, answered, confidence, rows = zip(
        *chain.from_iterable(run.calls for run in runs), strict=True
    )
    pause()
    if not "".join(ids).isascii() or max(map(len, ids)) > MAX_ID_CHARS:
        ids = tuple(clean(name, MAX_ID_CHARS) for name in ids)
    started, came = _floats(arrived), _floats(queued)
    pause()
    return Block(
        count=len(ids),
        label=spread((labels[run.labels] for run in runs), np.int64),
        url=spread((urls[run.url] for run in runs), np.int64),
        labels=tuple(_clean_labels(tuple(key)) for key in labels),
        urls=tuple(clean(url, MAX_URL_CHARS) for url in urls),
        request_ids=ids,
        time=started + spread((run.clock_to_unix for run in runs), np.float64),
        latency_ms=np.maximum(_floats(answered) - started, 0.0) * 1e3,
        queue_ms=(spread((run.started for run in runs), np.float64) - came) * 1e3,
        compute_ms=spread((run.compute_ms for run in runs), np.float64),
        upstream_ms=np.full(len(ids), np.nan),
        confidence=_floats(confidence),
        rows=np.array(rows, dtype=np.int64),
        batch_rows=spread((run.batch_rows for run in runs), np.int64),
        bodies=(),
    )


class _Numbers(dict[K, int]):
    """Numbers new keys in the order in which they are first asked for."""

    def __missing__(self, key: K) -> int:
        number = self[key] = len(self)
        return number


def _columns(rows: Sequence[Row], labels: _Numbers[tuple[Any, ...]], urls: _Numbers[str]) -> dict[str, Any]:
    (
        time, ids, project, model, version, shadow, url, status, code, latency, queue, compute, upstream,
        row_counts, batch_rows, confidence, endpoint, _, _,
    ) = zip(*rows, strict=True)  # fmt: skip
    keys = zip(project, model, version, shadow, endpoint, status, code, strict=True)
    if not "".join(ids).isascii() or max(map(len, ids)) > MAX_ID_CHARS:
        ids = tuple(clean(name, MAX_ID_CHARS) for name in ids)
    return {
        "ids": ids,
        "label": np.array(list(map(labels.__getitem__, keys)), dtype=np.int64),
        "url": np.array(list(map(urls.__getitem__, url)), dtype=np.int64),
        "time": _floats(time),
        "latency_ms": _floats(latency),
        "queue_ms": _floats(queue),
        "compute_ms": _floats(compute),
        "upstream_ms": _floats(upstream),
        "confidence": _floats(confidence),
        "rows": np.array(row_counts, dtype=np.int64),
        "batch_rows": np.array(batch_rows, dtype=np.int64),
    }


def _floats(values: Iterable[float | None]) -> Floats:
    column = np.array(values, dtype=np.float64)  # None becomes NaN
    column[np.isinf(column)] = np.nan
    return column


def _clean_labels(key: tuple[Any, ...]) -> Labels:
    project, model, version, shadow, endpoint, status, code = key
    return Labels(
        _name(project), _name(model), _name(version), bool(shadow), clean(endpoint, MAX_ENDPOINT_CHARS),
        int(status), _name(code),
    )  # fmt: skip


def _name(text: str | None) -> str | None:
    return None if text is None else clean(text, MAX_NAME_CHARS)
