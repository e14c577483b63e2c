"""Logged rows as files: CSV, JSON lines, Parquet. Owns no file: what is made is handed on piece by piece."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from mdslite.errors import InvalidRequest
from mdslite.store.entries import Entry, LoggedBody
from mdslite.store.moments import time_text

GROUP_ROWS = 8192  # of a Parquet file, which are held at once

# The columns of CSV and Parquet: those of an entry, and of a body its content, encoding and whole size.
_PLAIN = (
    "id", "time", "request_id", "project", "model", "version", "shadow", "url", "status", "code",
    "latency_ms", "queue_ms", "compute_ms", "upstream_ms", "rows", "batch_rows", "confidence", "endpoint",
    "client", "trace_id",
)  # fmt: skip
_BODY = ("", "_encoding", "_bytes")
COLUMNS = (*_PLAIN, *(f"{body}{suffix}" for body in ("request", "reply") for suffix in _BODY), "spans")


class Export(Protocol):
    """Turns rows into the bytes of one file."""

    def begin(self) -> Iterator[bytes]: ...

    def add(self, rows: Sequence[Entry]) -> Iterator[bytes]: ...

    def end(self) -> Iterator[bytes]: ...


class JsonLines:
    """An object a line, as the admin API has it."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()

    def begin(self) -> Iterator[bytes]:
        yield from ()

    def add(self, rows: Sequence[Entry]) -> Iterator[bytes]:
        yield self._encoder.encode_lines(rows)

    def end(self) -> Iterator[bytes]:
        yield from ()


class Csv:
    """As RFC 4180 has it: a line of names, CRLF, quotes where needed; times in ISO 8601, UTC."""

    def __init__(self) -> None:
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text)

    def begin(self) -> Iterator[bytes]:
        self._writer.writerow(COLUMNS)
        yield self._take()

    def add(self, rows: Sequence[Entry]) -> Iterator[bytes]:
        for row in rows:
            cells = _cells(row)
            cells["time"] = time_text(row.time)
            cells["shadow"] = "true" if row.shadow else "false"
            self._writer.writerow([cells[name] for name in COLUMNS])
        yield self._take()

    def end(self) -> Iterator[bytes]:
        yield from ()

    def _take(self) -> bytes:
        text = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return text.encode()


class Parquet:
    """Typed columns; times are timestamps in UTC.

    :raises InvalidRequest: pyarrow is not installed here
    """

    def __init__(self) -> None:
        self._file = ParquetFile(_arrow_schema)
        self._rows: list[Entry] = []

    def begin(self) -> Iterator[bytes]:
        yield self._file.take()

    def add(self, rows: Sequence[Entry]) -> Iterator[bytes]:
        self._rows += rows
        if len(self._rows) >= GROUP_ROWS:
            yield self._write()

    def end(self) -> Iterator[bytes]:
        if self._rows:
            yield self._write()
        yield self._file.end()

    def _write(self) -> bytes:
        cells = [_cells(row) for row in self._rows]
        self._rows = []
        for row in cells:
            row["time"] = datetime.fromtimestamp(row["time"], UTC)
        columns = {name: [row[name] for row in cells] for name in COLUMNS}
        return self._file.add(columns)


EXPORTS: Mapping[str, Callable[[], Export]] = {"csv": Csv, "jsonl": JsonLines, "parquet": Parquet}
MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}


class ParquetFile:
    """A Parquet file as its bytes come. `make_schema` makes its schema of the module `pyarrow`.

    :raises InvalidRequest: pyarrow is not installed here
    """

    def __init__(self, make_schema: Callable[[Any], Any]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as exc:
            raise InvalidRequest(
                "writing Parquet takes pyarrow, which is not installed where the appliance runs",
                hint="pip install 'mdslite[parquet]' there, or export csv or jsonl",
            ) from exc
        self._arrow = pyarrow
        self._schema = make_schema(pyarrow)
        self._sink = Sink()
        self._writer = pyarrow.parquet.ParquetWriter(
            pyarrow.PythonFile(self._sink, mode="w"), self._schema, compression="zstd"
        )

    def add(self, columns: Mapping[str, Sequence[Any]]) -> bytes:
        """Write a group of rows."""
        self._writer.write_table(self._arrow.table(columns, schema=self._schema))
        return self.take()

    def end(self) -> bytes:
        self._writer.close()
        return self.take()

    def take(self) -> bytes:
        """What was written and not taken yet."""
        return self._sink.take()


class Sink(io.RawIOBase):
    """A file that is only written to, and whose bytes are taken away as they come."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = len(memoryview(data).cast("B"))
        self._bytes += memoryview(data).cast("B")
        self._size += size
        return size

    def tell(self) -> int:
        return self._size

    def take(self) -> bytes:
        taken, self._bytes = bytes(self._bytes), bytearray()
        return taken


def _cells(row: Entry) -> dict[str, Any]:
    cells = {name: getattr(row, name) for name in _PLAIN}
    for name, body in (("request", row.request), ("reply", row.reply)):
        for suffix, value in zip(_BODY, _body_cells(body), strict=True):
            cells[name + suffix] = value
    cells["spans"] = None if row.spans is None else msgspec.json.encode(row.spans).decode()
    return cells


def _body_cells(body: LoggedBody | None) -> tuple[str | None, str | None, int | None]:
    return (None, None, None) if body is None else (body.content, body.encoding, body.size_bytes)


def _arrow_schema(arrow: Any) -> Any:
    whole = {"id", "status", "rows", "batch_rows", "request_bytes", "reply_bytes"}
    broken = {"latency_ms", "queue_ms", "compute_ms", "upstream_ms", "confidence"}
    kinds = dict.fromkeys(whole, arrow.int64()) | dict.fromkeys(broken, arrow.float64())
    kinds |= {"time": arrow.timestamp("us", tz="UTC"), "shadow": arrow.bool_()}
    return arrow.schema([(name, kinds.get(name, arrow.string())) for name in COLUMNS])
