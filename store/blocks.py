"""Logged requests in columns. Owns no file.

The writer's process turns the loop's records into `Block`s: numpy columns, label sets numbered once, and the
few bodies that are kept. Rollups, metrics and the hour files all read the same block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from mdslite.store.bodies import Body, BodyBudget
from mdslite.store.courtesy import Rest, no_rest
from mdslite.store.redaction import redact_spans
from mdslite.store.rows import (
    KEEPING,
    MAX_ENDPOINT_CHARS,
    MAX_ID_CHARS,
    MAX_NAME_CHARS,
    MAX_SPANS_CHARS,
    MAX_URL_CHARS,
    RECORD_FIELDS,
    SPANS,
    TRACE_ID_BYTES,
    Labels,
    Record,
    Run,
    clean,
    count_rows,
)

_MAX_TIME = 2.0**33  # unix seconds: far enough, and ids of microseconds stay far below 2**63
_MAX_LATENCY_MS = 1e9

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
K = TypeVar("K", bound=Hashable)

_LISTS = {"ids", "traces"}  # of a part's columns, those that are no arrays


@dataclass(frozen=True)
class Block:
    """Requests in columns, each `count` long, in the order of their answers; absent numbers are NaN."""

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
    spans: tuple[tuple[int, str], ...]  # row of the block, and its spans
    traces: tuple[tuple[int, bytes], ...]  # row of the block, and its trace's id

    @cached_property
    def ended_us(self) -> Ints:
        """When each request was answered: unix microseconds."""
        return np.rint((self.time + self.latency_ms / 1e3) * 1e6).astype(np.int64)


def build_block(records: Sequence[Record | Run], *, budget: BodyBudget, rest: Rest = no_rest) -> Block:
    """Turn rows and runs into columns, and spend what is granted on their bodies.

    :raises TypeError, ValueError, OverflowError: a row is not as `Row` says, or a run not as `Run` does;
        nothing was spent of the budget
    """
    labels: _Numbers[tuple[Any, ...]] = _Numbers()
    urls: _Numbers[str] = _Numbers()
    runs = [record for record in records if isinstance(record, Run)]
    rows = [record for record in records if not isinstance(record, Run)]
    parts = [_row_columns(rows, labels, urls)] if rows else []
    rest()
    parts += [_run_columns(runs, labels, urls, rest)] if runs else []
    rest()
    plain = parts[0].keys() - _LISTS
    columns = {name: np.concatenate([part[name] for part in parts]) for name in plain}
    columns["latency_ms"] = np.maximum(columns["latency_ms"], 0.0)
    time, latency_ms = columns["time"], columns["latency_ms"]
    if not ((time >= 0) & (time < _MAX_TIME) & (latency_ms < _MAX_LATENCY_MS)).all():
        raise ValueError("a row's time or latency is no plausible number")
    known = tuple(map(_clean_labels, labels))
    block = Block(
        count=len(time),
        labels=known,
        urls=tuple(clean(url, MAX_URL_CHARS) for url in urls),
        request_ids=tuple(chain.from_iterable(part["ids"] for part in parts)),
        spans=tuple(_spans(rows)),
        traces=tuple(_traces(tuple(chain.from_iterable(part["traces"] for part in parts)))),
        bodies=budget.choose(rows, known, columns["label"][: len(rows)]),
        **columns,
    )
    return _in_order(block, records) if rows and runs else block


class _Numbers(dict[K, int]):
    """Numbers new keys in the order in which they are first asked for."""

    def __missing__(self, key: K) -> int:
        number = self[key] = len(self)
        return number


def _row_columns(
    rows: Sequence[Record], labels: _Numbers[tuple[Any, ...]], urls: _Numbers[str]
) -> dict[str, Any]:
    if any(len(row) != RECORD_FIELDS for row in rows):
        raise ValueError("a row has too few or too many fields")
    (
        time, ids, project, model, version, shadow, url, status, code, latency, queue, compute, upstream,
        row_counts, batch_rows, confidence, endpoint, _, _, _, client, traces, _, _, _,
    ) = zip(*rows, strict=True)  # fmt: skip
    keys = zip(project, model, version, shadow, endpoint, status, code, client, strict=True)
    return {
        "ids": _clean_ids(ids),
        "traces": traces,
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


def _run_columns(
    runs: Sequence[Run], labels: _Numbers[tuple[Any, ...]], urls: _Numbers[str], rest: Rest
) -> dict[str, Any]:
    counts = [len(run.calls) for run in runs]

    def spread(values: Iterable[float], dtype: type) -> NDArray[Any]:
        return np.repeat(np.array(list(values), dtype=dtype), counts)

    ids, arrived, queued, answered, confidence, rows, traces = zip(
        *chain.from_iterable(run.calls for run in runs), strict=True
    )
    rest()
    started, came = _floats(arrived), _floats(queued)
    label = spread((labels[run.labels] for run in runs), np.int64)
    url = spread((urls[run.url] for run in runs), np.int64)
    rest()
    return {
        "ids": _clean_ids(ids),
        "traces": traces,
        "label": label,
        "url": url,
        "time": started + spread((run.clock_to_unix for run in runs), np.float64),
        "latency_ms": (_floats(answered) - started) * 1e3,
        "queue_ms": (spread((run.started for run in runs), np.float64) - came) * 1e3,
        "compute_ms": spread((run.compute_ms for run in runs), np.float64),
        "upstream_ms": np.full(len(ids), np.nan),
        "confidence": _floats(confidence),
        "rows": np.array(rows, dtype=np.int64),
        "batch_rows": spread((run.batch_rows for run in runs), np.int64),
    }


def _in_order(block: Block, records: Sequence[Record | Run]) -> Block:
    """A block of first all rows and then all runs, put in the order of its records."""
    is_run = np.array([isinstance(record, Run) for record in records])
    sizes = [count_rows(record) for record in records if isinstance(record, Run)]
    order = np.argsort(
        np.concatenate([np.flatnonzero(~is_run), np.repeat(np.flatnonzero(is_run), sizes)]), kind="stable"
    )
    rank = np.empty(block.count, dtype=np.int64)
    rank[order] = np.arange(block.count)
    columns = {
        field.name: getattr(block, field.name)[order]
        for field in dataclasses.fields(block)
        if isinstance(getattr(block, field.name), np.ndarray)
    }
    return dataclasses.replace(
        block,
        request_ids=tuple(block.request_ids[at] for at in order.tolist()),
        bodies=tuple(
            sorted(
                (dataclasses.replace(body, index=int(rank[body.index])) for body in block.bodies),
                key=lambda body: body.index,
            )
        ),
        spans=tuple(sorted((int(rank[at]), spans) for at, spans in block.spans)),
        traces=tuple(sorted((int(rank[at]), trace_id) for at, trace_id in block.traces)),
        **columns,
    )


def _clean_ids(ids: tuple[str, ...]) -> tuple[str, ...]:
    if "".join(ids).isascii() and max(map(len, ids)) <= MAX_ID_CHARS:
        return ids
    return tuple(clean(name, MAX_ID_CHARS) for name in ids)


def _floats(values: Iterable[float | None]) -> Floats:
    column = np.array(values, dtype=np.float64)  # None becomes NaN
    column[np.isinf(column)] = np.nan
    return column


def _spans(rows: Sequence[Record]) -> Iterator[tuple[int, str]]:
    for at, row in enumerate(rows):
        spans, keeping = row[SPANS], row[KEEPING]
        if spans is None or len(spans) > MAX_SPANS_CHARS:  # half of them would be no JSON
            continue
        if keeping is not None and keeping[1]:
            spans = redact_spans(spans)
        if spans is not None:
            yield at, spans


def _traces(ids: tuple[bytes | None, ...]) -> Iterator[tuple[int, bytes]]:
    if ids.count(None) == len(ids):
        return
    for at, trace_id in enumerate(ids):
        if trace_id is not None:
            if type(trace_id) is not bytes or len(trace_id) != TRACE_ID_BYTES:
                raise ValueError("a trace's id is not 16 bytes")
            yield at, trace_id


def _clean_labels(key: tuple[Any, ...]) -> Labels:
    project, model, version, shadow, endpoint, status, code, client = key
    return Labels(
        _name(project), _name(model), _name(version), bool(shadow), clean(endpoint, MAX_ENDPOINT_CHARS),
        int(status), _name(code), _name(client),
    )  # fmt: skip


def _name(text: str | None) -> str | None:
    return None if text is None else clean(text, MAX_NAME_CHARS)
