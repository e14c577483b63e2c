"""All rows of an hour that pass a filter, as columns or as a page. Owns nothing.

What stands in chunks is judged chunk by chunk: by the least and greatest value of each column first, then by
arrays. The rest, and whatever is asked of bodies, is left to SQLite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from mdslite.errors import StoreCorrupt
from mdslite.store.columns import ARRIVED, COMPARE, HASH, ID, Array, Columns, compare, hash_id, unpack
from mdslite.store.filters import FIELDS, Filter, Term
from mdslite.store.reading import MAX_ID, HourReader, Span

Verdict: TypeAlias = Array | bool  # of a chunk's rows, or of all of them at once

_AHEAD_CHUNKS = 16


@dataclass(frozen=True, slots=True)
class Chunk:
    id: int  # of its first row
    last_id: int
    rows: int


class Part(ABC):
    """Some of the rows that pass, in the order of their ids. Use it before the next one is asked for."""

    rows: int
    of_rows: int  # those between its ids that were looked at
    first_id: int  # no row of it has one below, or above the last
    last_id: int

    @abstractmethod
    def take(self, name: str) -> Array:
        """A column, by the names of `columns`."""

    @abstractmethod
    def arrivals(self) -> tuple[int, int]:
        """Unix microseconds; no row arrived before the first, or after the second."""

    @abstractmethod
    def passes(self, ids: Array) -> Array:
        """Which of these rows pass, by their ids (rising, between the first and the last of the part)."""


class HourScan:
    """The rows of an open hour with ids (after, before) that pass a filter."""

    def __init__(
        self, hour: HourReader, span: Span, wanted: Filter, *, after: int = 0, before: int = MAX_ID
    ) -> None:
        self._hour = hour
        self._span = span
        self._wanted = wanted
        self._low = after + 1
        self._high = before
        self._stats: dict[str, dict[int, tuple[str, float | None, float | None]]] = {}
        self._loaded: tuple[int, dict[str, Array]] = (0, {})
        self._ahead: dict[str, dict[int, bytes]] = {}
        self._tables: dict[str, Array] = {}
        self._order: list[int] = []  # chunks, as they are gone through
        self._place: dict[int, int] = {}
        self._listed = [
            (table, field)
            for table, field in (("series", "series_id"), ("urls", "url_id"))
            if wanted.on(table) is not None
        ]
        self._ids = [term for term in wanted.terms if term.field == "request_id"]
        self._compared = [
            (FIELDS[term.field].column, term.operator, float(term.value) * FIELDS[term.field].scale)
            for term in wanted.terms
            if term.field in FIELDS
            and FIELDS[term.field].kind in ("integer", "number")
            and FIELDS[term.field].table == "entries"
        ]

    def parts(self, *names: str) -> Iterator[Part]:
        """The rows by rising ids; each part has the columns of these names."""
        chunks, end = self._chunks(newest=False)
        for chunk in chunks:
            passed = self._judge(chunk)
            if passed is not False:
                yield _ChunkPart(self, chunk, passed)
        stored = [name for name in (*names, "lag_us") if name != ARRIVED]
        low = max(self._low, end)
        for read in self._hour.columns(stored, self._span, self._wanted, low=low, high=self._high):
            yield _ReadPart(read)

    def page(self, *, limit: int, newest: bool) -> list[tuple[Any, ...]]:
        """Rows as `HourReader.walk` gives them."""
        chunks, end = self._chunks(newest=newest) if self._wanted.terms else ([], 0)
        low = max(self._low, end)
        found: list[tuple[Any, ...]] = []
        if newest:
            found = self._walk(low, limit, newest)
        ids: list[int] = []
        for chunk in chunks:
            left = limit - len(found) - len(ids)
            if left <= 0:
                break
            passed = self._judge(chunk)
            if passed is False:
                continue
            some = self.take(chunk, ID, None if passed is True else np.flatnonzero(passed))
            ids += (some[::-1] if newest else some)[:left].tolist()
        found += self._hour.fetch(ids)
        if not newest and len(found) < limit:
            found += self._walk(low, limit - len(found), newest)
        return found

    def _walk(self, low: int, limit: int, newest: bool) -> list[tuple[Any, ...]]:
        return self._hour.walk(self._span, self._wanted, low=low, high=self._high, limit=limit, newest=newest)

    def _chunks(self, *, newest: bool) -> tuple[list[Chunk], int]:
        """The chunks that hold ids of the scan, and the first id behind all chunks. None of them where bodies
        or traces are asked for: few rows have some, and SQLite goes from there."""
        traced = any(term.field == "trace_id" for term in self._wanted.terms)
        if traced or self._wanted.on("bodies") is not None:
            return [], 0
        found = [Chunk(*row) for row in self._hour.chunks()]
        end = found[-1].last_id + 1 if found else 0
        found = [one for one in found if one.last_id >= self._low and one.id < self._high]
        if newest:
            found.reverse()
        self._order = [one.id for one in found]
        self._place = {number: place for place, number in enumerate(self._order)}
        return found, end

    def _judge(self, chunk: Chunk) -> Verdict:
        self._hour.check_time()
        verdicts: list[Array] = []
        for verdict in self._verdicts(chunk):
            if verdict is False:
                return False
            if verdict is not True:
                verdicts.append(verdict)
        if not verdicts:
            return True
        together = verdicts[0]
        for other in verdicts[1:]:
            together = together & other
        return together if together.any() else False

    def _verdicts(self, chunk: Chunk) -> Iterator[Verdict]:
        """From the cheapest on."""
        for table, field in self._listed:
            yield self._is_listed(chunk, table, field)
        if chunk.id < self._low or chunk.last_id >= self._high:
            ids = self.take(chunk, ID, None)
            yield (ids >= self._low) & (ids < self._high)
        yield self._arrived(chunk)
        for field, sign, value in self._compared:
            yield self._compares(chunk, field, sign, value)
        for term in self._ids:
            yield self._is_called(chunk, term)

    def _is_listed(self, chunk: Chunk, table: str, field: str) -> Verdict:
        """Whether the rows' number in a dictionary is among those that pass."""
        _, low, high = self._bounds(chunk, field)
        if low is None or high is None:
            return False
        passing = self._passing(table, int(high) + 1)
        if not (some := passing[int(low) : int(high) + 1]).any():
            return False
        return True if some.all() else passing[self._column(chunk, field).astype(np.intp, copy=False)]

    def _passing(self, table: str, size: int) -> Array:
        """For each number of a dictionary whether its text passes."""
        known = self._tables.get(table)
        if known is None or len(known) < size:
            numbers = self._hour.numbers(table, self._wanted) or []
            known = np.zeros(max([size, *(number + 1 for number in numbers)]), dtype=np.bool_)
            known[numbers] = True
            self._tables[table] = known
        return known

    def _arrived(self, chunk: Chunk) -> Verdict:
        """Whether the rows arrived within the filter's time."""
        since, until = self._wanted.since, self._wanted.until
        if since is None and until is None:
            return True
        since_us = -MAX_ID if since is None else round(since * 1e6)
        until_us = MAX_ID if until is None else round(until * 1e6)
        first, last = self.arrivals(chunk)
        if last < since_us or first >= until_us:
            return False
        if first >= since_us and last < until_us:
            return True
        arrived = self.take(chunk, ARRIVED, None)
        return (arrived >= since_us) & (arrived < until_us)

    def _compares(self, chunk: Chunk, field: str, sign: str, value: float) -> Verdict:
        kind, low, high = self._bounds(chunk, field)
        if low is None or high is None:
            return False  # a comparison with what is absent never holds
        known = _known(sign, low, high, value)
        if known is False or (known is True and not kind.endswith("?")):
            return known
        values = self._column(chunk, field)
        found = compare(values, sign, value)
        return found & ~np.isnan(values) if sign == "!=" and kind.endswith("?") else found

    def _is_called(self, chunk: Chunk, term: Term) -> Verdict:
        """By the checksum of the rows' own ids first; SQLite reads the texts."""
        asked = Filter(terms=(term,))
        if term.operator in ("=", "!="):
            same = self._column(chunk, HASH) == hash_id(str(term.value))
            if not same.any():
                return term.operator == "!="
            asked = Filter(terms=(Term(term.field, "=", term.value, term.position),))
        rows = [
            row[ID] for row in self._hour.columns((), self._span, asked, low=chunk.id, high=chunk.last_id + 1)
        ]
        ids = self.take(chunk, ID, None)
        found = np.isin(ids, np.concatenate(rows)) if rows else np.zeros(chunk.rows, bool)
        return ~found if term.operator == "!=" else found

    def _bounds(self, chunk: Chunk, field: str) -> tuple[str, float | None, float | None]:
        if field not in self._stats:
            self._stats[field] = {
                number: (kind, low, high) for number, kind, low, high in self._hour.bounds(field)
            }
        try:
            return self._stats[field][chunk.id]
        except KeyError as exc:
            raise StoreCorrupt(f"{self._hour.path.name}: a chunk has no column {field}") from exc

    def _column(self, chunk: Chunk, field: str) -> Array:
        if self._loaded[0] != chunk.id:
            self._loaded = (chunk.id, {})
        columns = self._loaded[1]
        if field not in columns:
            kind, low, _ = self._bounds(chunk, field)
            try:
                values = unpack(kind, low, self._data(chunk, field), chunk.rows)
            except (ValueError, TypeError) as exc:
                raise StoreCorrupt(f"{self._hour.path.name}: the column {field} is damaged") from exc
            columns[field] = values
        return columns[field]

    def take(self, chunk: Chunk, field: str, places: Array | None) -> Array:
        """A column, or what stands at some places of it."""
        if field == ARRIVED:
            found = self.take(chunk, ID, places)
            found -= self.take(chunk, "lag_us", places).astype(np.int64)
            return found
        values = self._column(chunk, field)
        if places is not None:
            values = values.take(places)
        return values.astype(np.int64) + chunk.id if field == ID else values

    def arrivals(self, chunk: Chunk) -> tuple[int, int]:
        """Between which unix microseconds a chunk's rows arrived, or a little more."""
        _, least, greatest = self._bounds(chunk, "lag_us")
        if least is None or greatest is None:
            raise StoreCorrupt(f"{self._hour.path.name}: the column lag_us is damaged")
        return chunk.id - int(greatest), chunk.last_id - int(least)

    def places(self, chunk: Chunk, ids: Array) -> Array:
        """At which of a chunk's rows these ids stand, which are all there."""
        known = self._column(chunk, ID)
        # Of the column's own type: the few are made narrower, not the many wider.
        return np.searchsorted(known, (ids - chunk.id).astype(known.dtype))

    def _data(self, chunk: Chunk, field: str) -> bytes:
        """A column as it is stored; with it, those of the next chunks are read, more each time."""
        ahead = self._ahead.get(field, {})
        if chunk.id not in ahead:
            place = self._place[chunk.id]
            some = self._order[place : place + min(2 * max(len(ahead), 1), _AHEAD_CHUNKS)]
            ahead = self._ahead[field] = self._hour.column(field, some)
        return ahead.get(chunk.id, b"")


class _ChunkPart(Part):
    def __init__(self, scan: HourScan, chunk: Chunk, passed: Array | Literal[True]) -> None:
        self._scan = scan
        self._chunk = chunk
        self._passed = passed
        self._places: Array | None = None
        self.first_id = chunk.id
        self.last_id = chunk.last_id
        self.of_rows = chunk.rows
        self.rows = chunk.rows if passed is True else int(np.count_nonzero(passed))

    def take(self, name: str) -> Array:
        if self._passed is not True and self._places is None:
            self._places = np.flatnonzero(self._passed)
        return self._scan.take(self._chunk, name, self._places)

    def arrivals(self) -> tuple[int, int]:
        return self._scan.arrivals(self._chunk)

    def passes(self, ids: Array) -> Array:
        if self._passed is True:
            return np.ones(len(ids), dtype=np.bool_)
        return self._passed[self._scan.places(self._chunk, ids)]


class _ReadPart(Part):
    """Rows that SQLite has read."""

    def __init__(self, read: Columns) -> None:
        self._read = read
        ids = read[ID]
        self.rows = self.of_rows = len(ids)
        self.first_id, self.last_id = int(ids[0]), int(ids[-1])

    def take(self, name: str) -> Array:
        if name == ARRIVED:
            return (self._read[ID] - self._read["lag_us"]).astype(np.int64)
        return self._read[name]

    def arrivals(self) -> tuple[int, int]:
        arrived = self.take(ARRIVED)
        return int(arrived.min()), int(arrived.max())

    def passes(self, ids: Array) -> Array:
        return np.isin(ids, self._read[ID])


def _known(sign: str, low: float, high: float, value: float) -> bool | None:
    """What a comparison of all numbers of [low, high] with a value comes to, None when they differ."""
    if sign in ("=", "!="):
        if not low <= value <= high:
            return sign == "!="
        return sign == "=" if low == high else None
    ends = {COMPARE[sign](low, value), COMPARE[sign](high, value)}
    return ends.pop() if len(ends) == 1 else None
