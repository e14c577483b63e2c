"""Labels as a training set: inputs, labels and what each version answered, as JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import msgspec

from mdslite.api.inputs import read_input
from mdslite.api.labeling import Labeling
from mdslite.store.exports import ParquetFile
from mdslite.store.labels import Label
from mdslite.store.moments import time_text

Format = Literal["jsonl", "csv", "parquet"]

PAGE = 500
COLUMNS = (
    "id", "time", "request_id", "project", "model", "version", "input", "label", "note", "author",
    "labelled_at", "reason", "answer", "confidence", "answers",
)  # fmt: skip
_TIMES = frozenset({"time", "labelled_at"})
_encode = msgspec.json.Encoder().encode


class _Writer(Protocol):
    def begin(self) -> bytes: ...

    def add(self, labels: Sequence[Label]) -> bytes: ...

    def end(self) -> bytes: ...


async def export(labeling: Labeling, project: str, model: str, form: Format) -> AsyncGenerator[bytes, None]:
    """A model's labels as they are now, the newest requests first, piece by piece.

    :raises InvalidRequest: Parquet takes a library that is not installed
    """
    makers: dict[Format, Callable[[], _Writer]] = {"jsonl": _JsonLines, "csv": _Csv, "parquet": _Parquet}
    writer = makers[form]()
    yield writer.begin()
    before: int | None = None
    while True:
        page = await labeling.page(project=project, model=model, label=None, limit=PAGE, before=before)
        yield writer.add(page)
        if len(page) < PAGE:
            break
        before = page[-1].item.id
    yield writer.end()


class _JsonLines:
    def begin(self) -> bytes:
        return b""

    def add(self, labels: Sequence[Label]) -> bytes:
        return b"".join(_encode(_row(one)) + b"\n" for one in labels)

    def end(self) -> bytes:
        return b""


class _Csv:
    """As RFC 4180 has it; inputs and answers as JSON."""

    def begin(self) -> bytes:
        return _lines([COLUMNS])

    def add(self, labels: Sequence[Label]) -> bytes:
        return _lines(tuple(_flat(one).values()) for one in labels)

    def end(self) -> bytes:
        return b""


class _Parquet:
    """Typed columns; inputs and answers as JSON, times in UTC."""

    def __init__(self) -> None:
        self._file = ParquetFile(_arrow_schema)

    def begin(self) -> bytes:
        return self._file.take()

    def add(self, labels: Sequence[Label]) -> bytes:
        if not labels:
            return b""
        rows = [_flat(one) for one in labels]
        for row in rows:
            row |= {name: datetime.fromisoformat(row[name]).astimezone(UTC) for name in _TIMES}
        return self._file.add({name: [row[name] for row in rows] for name in COLUMNS})

    def end(self) -> bytes:
        return self._file.end()


def _arrow_schema(arrow: Any) -> Any:
    kinds = {"id": arrow.int64(), "confidence": arrow.float64()}
    kinds |= {name: arrow.timestamp("us", tz="UTC") for name in _TIMES}
    return arrow.schema([(name, kinds.get(name, arrow.string())) for name in COLUMNS])


def _row(one: Label) -> dict[str, Any]:
    item, now = one.item, one.current
    assert now is not None
    values = (
        item.id,
        time_text(item.time),
        item.request_id,
        item.project,
        item.model,
        item.version,
        read_input(item.request),
        now.label,
        now.note,
        now.author,
        time_text(now.time),
        item.reason,
        item.answers[0].answer if item.answers else None,
        item.confidence,
        {answer.version: answer.answer for answer in item.answers},
    )
    return dict(zip(COLUMNS, values, strict=True))


def _flat(one: Label) -> dict[str, Any]:
    row = _row(one)
    return row | {name: _encode(row[name]).decode() for name in ("input", "answers")}


def _lines(rows: Iterator[tuple[Any, ...]] | Sequence[tuple[Any, ...]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
