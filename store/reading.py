"""One hour of the request log as readers see it: read-only, one snapshot, bounded time. Owns its connection.

Rows stand in the order of their ids, so a page is a walk along the table from a cursor. Conditions on names
are turned into numbers of the file's dictionaries first, and the minute rollups say in which minutes those
names occur at all: a rare error is found without looking at the hours of traffic around it.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mdslite.errors import DeadlineExceeded, MdsliteError, StoreCorrupt
from mdslite.store.bodyfields import body_holds
from mdslite.store.chunks import SECONDS
from mdslite.store.columns import ID, Columns
from mdslite.store.filters import Filter, Sql
from mdslite.store.hours import check_kind, connect, translated
from mdslite.store.rows import Labels
from mdslite.store.walks import JOINS, SELECT, WITHOUT_BODIES, among, entries_query, minutes_condition

Bodies: TypeAlias = list[tuple[int, str | bytes | None]]  # of some rows, by their ids

MAX_ID = 2**62

_MAPPED_BYTES = 1 << 31
_WATCH_STEPS = 500_000  # of SQLite's machine between two looks at the clock: about 5 ms

_BATCH_ROWS = 16_384
_FETCH_ROWS = 500
# What files of the first and of the second schema lack, as empty as it is.
_STAND_INS = {
    1: (
        "CREATE TEMP VIEW series AS SELECT *, NULL AS client FROM main.series",
        "CREATE TEMP VIEW spans AS SELECT NULL AS id, NULL AS spans WHERE 0",
    ),
    2: ("CREATE TEMP VIEW traces AS SELECT NULL AS id, NULL AS trace_id WHERE 0",),
}


@dataclass(frozen=True, slots=True)
class Span:
    """What one file holds: ids [min_id, max_id], arrivals [since, until) in whole unix seconds."""

    path: Path
    min_id: int
    max_id: int
    since: int
    until: int
    max_lag_us: int  # the greatest distance of an id from its row's arrival

    def meets(self, since: float | None, until: float | None) -> bool:
        return (since is None or self.until > since) and (until is None or self.since < until)


class HourReader(AbstractContextManager["HourReader"]):
    """`late` says whether the query has used up its time; it is asked now and then. `mapped` reads twice as
    fast, but a disk's fault ends the process.

    :raises StoreCorrupt, StoreError: the file cannot be read
    :raises DeadlineExceeded: from any method
    """

    def __init__(self, path: Path, *, late: Callable[[], bool], mapped: bool = False) -> None:
        self.path = path
        self._asked = (SELECT, JOINS)
        self._mapped = mapped
        self._late = late
        self._connection: sqlite3.Connection | None = None
        self._fresh = False  # just made: it has no tables yet

    def __enter__(self) -> HourReader:
        self.begin(self._late)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, late: Callable[[], bool], *, bodies: bool = True) -> None:
        """Take a snapshot, of a file that rests or is opened for it. Without `bodies`, `walk` and `fetch`
        leave them unread."""
        self._late = late
        self._asked = (SELECT, JOINS) if bodies else WITHOUT_BODIES
        try:
            opened = self._connection is None
            connection = self._connection = self._connection or connect(self.path)
            connection.set_progress_handler(late, _WATCH_STEPS)
            if opened and self._mapped:
                connection.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
            connection.execute("BEGIN")
            if opened:
                self._prepare(connection)
        except BaseException as exc:
            self.close()
            if isinstance(exc, sqlite3.Error):
                raise translated(exc, self.path.name, write=False) from exc
            raise

    def rest(self) -> None:
        """Give the snapshot back, so that nobody waits for it, but leave the file open."""
        if self._connection is None:
            return
        try:
            self._connection.set_progress_handler(None, 0)
            self._connection.execute("COMMIT")  # keeps the stand-ins, which a rollback would take along
        except sqlite3.Error:
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def span(self) -> Span | None:
        """None when no row is there yet."""
        if self._fresh:
            return None
        # One minimum or maximum a SELECT is a look at the table's end; two of them read all of it.
        ((min_id, max_id),) = self.all("SELECT (SELECT min(id) FROM entries), (SELECT max(id) FROM entries)")
        if min_id is None:
            return None
        ((since, until),) = self.all(
            "SELECT (SELECT min(second) FROM seconds), (SELECT max(second) FROM seconds) + 1"
        )
        ((lag_us,),) = self.all("SELECT value FROM facts WHERE name = 'max_lag_us'")
        return Span(self.path, min_id, max_id, since, until, lag_us)

    def labels(self) -> dict[int, Labels]:
        """The label set behind each series number."""
        return {
            number: Labels(project, model, version, bool(shadow), *more)
            for number, project, model, version, shadow, *more in self.all(
                "SELECT id, project, model, version, shadow, endpoint, status, code, client FROM series"
            )
        }

    def walk(
        self, span: Span, wanted: Filter, *, low: int, high: int, limit: int, newest: bool
    ) -> list[tuple[Any, ...]]:
        """Rows of SELECT with ids [low, high) that pass the filter: the newest, or the oldest, first. Reads
        row by row, the columns of the file are not looked at."""
        return list(self._walk(*self._asked, span, wanted, low=low, high=high, limit=limit, newest=newest))

    def columns(
        self, names: Sequence[str], span: Span, wanted: Filter, *, low: int, high: int
    ) -> Iterator[Columns]:
        """The same rows' columns, by the names of `entries`, some rows at a time; rising ids."""
        select = ", ".join(f"e.{name}" for name in dict.fromkeys((ID, *names)))
        while low < high:
            rows = list(
                self._walk(select, "", span, wanted, low=low, high=high, limit=_BATCH_ROWS, newest=False)
            )
            if rows:
                found = np.array(rows, dtype=np.float64)
                numbers = dict(zip(dict.fromkeys((ID, *names)), found.T, strict=True))
                yield {**numbers, ID: found[:, 0].astype(np.int64)}
            if len(rows) < _BATCH_ROWS:
                return
            low = rows[-1][0] + 1

    def fetch(self, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        """Rows of SELECT by their ids, in that order."""
        select, joins = self._asked
        found: dict[int, tuple[Any, ...]] = {}
        for start in range(0, len(ids), _FETCH_ROWS):
            some = ids[start : start + _FETCH_ROWS]
            sql = f"SELECT {select} FROM entries e {joins} WHERE e.id IN ({','.join('?' * len(some))})"
            found.update((row[0], row) for row in self.all(sql, some))
        return [found[number] for number in ids if number in found]

    def chunks(self) -> list[tuple[int, int, int]]:
        """The first and last id and the number of rows of each chunk, rising; see `chunks`."""
        return self.all("SELECT id, last_id, rows FROM chunks ORDER BY id") if self._chunked() else []

    def bounds(self, field: str) -> list[tuple[int, str, float | None, float | None]]:
        """Of each chunk the type and the least and greatest value of a column."""
        return self.all("SELECT chunk, type, low, high FROM columns WHERE field = ?", [field])

    def column(self, field: str, chunks: Sequence[int]) -> dict[int, bytes]:
        """One column of some chunks, as it is stored; `chunks` may rise or fall, with none left out."""
        ends = sorted((chunks[0], chunks[-1]))
        sql = "SELECT chunk, data FROM columns WHERE field = ? AND chunk BETWEEN ? AND ?"
        return dict(self.all(sql, [field, *ends]))

    def request_ids(self, ids: NDArray[np.int64]) -> Iterator[str]:
        """The request's ids of rows."""
        numbers = ids.tolist()
        for start in range(0, len(numbers), _FETCH_ROWS):
            some = numbers[start : start + _FETCH_ROWS]
            sql = f"SELECT request_id FROM entries WHERE id IN ({','.join('?' * len(some))})"
            yield from (text for (text,) in self.all(sql, some))

    def body_ids(self) -> NDArray[np.int64]:
        """The rows that have bodies, rising."""
        rows = self.all("SELECT id FROM bodies ORDER BY id")
        return np.fromiter((number for (number,) in rows), np.int64, len(rows))

    def bodies(self, column: Literal["request", "reply"], *, first_id: int, last_id: int) -> Iterator[Bodies]:
        """What is kept of one body of each row between these ids that has some, by rising ids."""
        sql = f"SELECT id, {column} FROM bodies WHERE id BETWEEN ? AND ? ORDER BY id"
        return self._rows(sql, [first_id, last_id])

    def bodies_of(self, column: Literal["request", "reply"], ids: Sequence[int]) -> Iterator[Bodies]:
        """The same of these rows."""
        for start in range(0, len(ids), _FETCH_ROWS):
            some = ids[start : start + _FETCH_ROWS]
            sql = f"SELECT id, {column} FROM bodies WHERE id IN ({','.join('?' * len(some))})"
            yield from self._rows(sql, some)

    def traces(self, *, first_id: int, last_id: int) -> Iterator[list[tuple[int, bytes]]]:
        """The trace of each row between these ids that has one, by rising ids."""
        return self._rows(
            "SELECT id, trace_id FROM traces WHERE id BETWEEN ? AND ? ORDER BY id", [first_id, last_id]
        )

    def counts(
        self, wanted: Filter, *, start: float, stop: float, interval_s: float, source: str
    ) -> tuple[int, NDArray[np.int64]]:
        """Arrivals of [start, stop) by the rollups: the number of the first interval, counted from `start`,
        and how many came of each series (down) in it and those behind it (across)."""
        series = self.numbers("series", wanted)
        ((size,),) = self.all("SELECT count(*) FROM series")
        second, of, count = self._rollup(source, int(start), int(stop))
        here = (second >= start) & (second < stop)
        if series is not None:
            here &= np.isin(np.arange(size), series)[of]
        if not here.any():
            return 0, np.zeros((size, 0), dtype=np.int64)
        bucket = (second[here].astype(np.int64) - int(start)) // int(interval_s)
        first, last = int(bucket.min()), int(bucket.max())
        width = last - first + 1
        flat = of[here].astype(np.int64) * width + (bucket - first)
        # Whole numbers far below 2**53: sums of doubles are exact.
        found = np.bincount(flat, weights=count[here], minlength=size * width)
        return first, found.reshape(size, width).astype(np.int64)

    def _rollup(self, source: str, start: int, stop: int) -> tuple[NDArray[Any], ...]:
        """Times, series and counts of a rollup."""
        if self._chunked():
            packed = {
                field: self.all("SELECT data FROM columns WHERE field = ? AND chunk = 0", [field])
                for field in SECONDS
            }
            if all(packed.values()):
                return tuple(np.frombuffer(rows[0][0], SECONDS[field]) for field, rows in packed.items())
        time = "minute" if source == "minutes" else "second"
        rows = self.all(
            f"SELECT {time}, series_id, count FROM {source} WHERE {time} >= ? AND {time} < ?", [start, stop]
        )
        return tuple(np.array(rows, dtype=np.int64).reshape(-1, 3).T)

    def series_counts(self, series: Sequence[int], *, since: float, until: float) -> dict[int, int]:
        """Requests of each series that arrived in [since, until), to the second."""
        rows = self.all(
            "SELECT series_id, sum(count) FROM seconds WHERE second >= ? AND second < ? "
            f"AND {among('series_id', list(series))} GROUP BY 1",
            [int(since), math.ceil(until)],
        )
        return {number: int(count) for number, count in rows}

    def sample(
        self, series: Sequence[int], *, since: float, until: float, span: Span, every: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Latencies in microseconds and confidences (NaN where there is none) of one row in `every`."""
        rows = self.all(
            "SELECT latency_us, confidence FROM entries WHERE id >= ? AND id < ? AND id % ? = 0 "
            f"AND {among('series_id', list(series))}",
            [int(since * 1e6), int(until * 1e6) + span.max_lag_us + 1, every],
        )
        found = np.array(rows, dtype=np.float64).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def numbers(self, table: str, wanted: Filter) -> list[int] | None:
        """The numbers in a dictionary that pass the filter; None when all do."""
        condition = wanted.on(table)
        if condition is None:
            return None
        sql, values = condition
        return [number for (number,) in self.all(f"SELECT id FROM {table} WHERE {sql}", values)]

    def all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """What a statement finds.

        :raises DeadlineExceeded, StoreError: it took too long; the file cannot be read
        """
        if self._connection is None:
            raise StoreCorrupt(f"{self.path.name} is not open")
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc

    def _rows(self, sql: str, values: Sequence[Any]) -> Iterator[list[Any]]:
        """What a statement finds, some rows at a time, as they may be large."""
        if self._connection is None:
            raise StoreCorrupt(f"{self.path.name} is not open")
        try:
            cursor = self._connection.execute(sql, values)
            while rows := cursor.fetchmany(_FETCH_ROWS):
                yield rows
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc

    def _translated(self, exc: sqlite3.Error) -> MdsliteError:
        if getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            return _too_late()
        return translated(exc, self.path.name, write=False)

    def check_time(self) -> None:
        """:raises DeadlineExceeded: the query has used up its time"""
        if self._late():
            raise _too_late()

    def _chunked(self) -> bool:
        return bool(self.all("SELECT 1 FROM sqlite_schema WHERE name = 'chunks'"))

    def _walk(
        self,
        select: str,
        joins: str,
        span: Span,
        wanted: Filter,
        *,
        low: int,
        high: int,
        limit: int,
        newest: bool,
    ) -> Iterator[tuple[Any, ...]]:
        series = self.numbers("series", wanted)
        urls = self.numbers("urls", wanted)
        if series == [] or urls == []:
            return
        if wanted.since is not None:
            low = max(low, int(wanted.since * 1e6))
        if wanted.until is not None:
            high = min(high, int(wanted.until * 1e6) + span.max_lag_us + 1)
        ranges = self._ranges(span, low, high, minutes_condition(wanted, series))
        left = limit
        for start, stop in reversed(ranges) if newest else ranges:
            sql, values = entries_query(select, joins, wanted, series, urls, newest)
            rows = self.all(sql, [start, stop, *values, left])
            yield from rows
            left -= len(rows)
            if left <= 0:
                break

    def _ranges(self, span: Span, low: int, high: int, condition: Sql | None) -> list[tuple[int, int]]:
        """Ranges [start, stop) of ids, rising, whose minutes meet the condition on the minute rollups."""
        low, high = max(low, span.min_id), min(high, MAX_ID)
        if condition is None:
            return [(low, high)] if low < high else []
        ranges: list[tuple[int, int]] = []
        sql, values = condition
        for (minute,) in self.all(f"SELECT DISTINCT minute FROM minutes WHERE {sql} ORDER BY minute", values):
            start = max(low, minute * 1_000_000)
            stop = min(high, (minute + 60) * 1_000_000 + span.max_lag_us + 1)
            if start >= stop:
                continue
            if ranges and start <= ranges[-1][1]:
                ranges[-1] = (ranges[-1][0], max(stop, ranges[-1][1]))
            else:
                ranges.append((start, stop))
        return ranges

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.create_function("body_holds", 4, body_holds, deterministic=True)
        version = check_kind(connection, self.path.name)
        self._fresh = not version
        connection.execute("PRAGMA query_only = 0")
        for statement in _stand_ins(version):
            connection.execute(statement)
        connection.execute("PRAGMA query_only = 1")


def _stand_ins(version: int) -> list[str]:
    """What has to be made for a file to be read as one of today's; nothing for a file without a schema."""
    return [one for old, statements in _STAND_INS.items() if 0 < version <= old for one in statements]


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the query of the request log took too long", hint="narrow it, for example with since=15m"
    )
