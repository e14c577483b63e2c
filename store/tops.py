"""The most frequent values of a field, with their shares. Owns no file."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import compress
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from mdslite.errors import InvalidRequest, quoted
from mdslite.store.bodyfields import Scalar, make_path, read_values
from mdslite.store.columns import ID, Array
from mdslite.store.filters import FIELDS, Filter, FilterField, find_field
from mdslite.store.reading import HourReader, Span
from mdslite.store.requests import RequestLog
from mdslite.store.scan import HourScan, Part

DEFAULT_LIMIT = 10
MAX_TEXTS = 200_000  # request ids, and distinct values of a body's field, that are held at once
_MAX_COUNTED = 1 << 20  # whole numbers below it are counted in a table
# Bodies in a row, for each that counts: reading past the others is quicker than looking it up.
_READ_ANYWAY = 2
_UNCOUNTED = frozenset({"body", "moment"})


class TopValue(msgspec.Struct, frozen=True):
    """`share` is that of the rows which have a value."""

    value: str | int | float | bool | None
    count: int
    share: float


class TopValues(msgspec.Struct, frozen=True):
    """`rows` pass the filter, of which `missing` have no value; `other` have values that are not listed. A
    row with a list in its body counts once for each distinct value. `skipped` names files that could not be
    read."""

    field: str
    rows: int
    missing: int
    values: tuple[TopValue, ...]
    other: int
    skipped: tuple[str, ...]


class _Counting(Protocol):
    """Counts one kind of field, hour by hour; `there` is how many rows had a value."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def there(self) -> int: ...

    def add(self, hour: HourReader, part: Part) -> None: ...

    def end_hour(self, hour: HourReader) -> None: ...

    def counts(self) -> list[tuple[Any, int]]: ...


def find_top(log: RequestLog, wanted: Filter, *, field: str, limit: int = DEFAULT_LIMIT) -> TopValues:
    """Count the values of `field`, a name of the filter language, in the rows that pass.

    :raises InvalidRequest: the field has no values to count, or too many different ones
    :raises DeadlineExceeded: the query took longer than the log's bound
    """
    of = find_field(field)
    if of is None or of.kind in _UNCOUNTED:
        known = [name for name, one in FIELDS.items() if one.kind not in _UNCOUNTED]
        raise InvalidRequest(
            f"{quoted(field)} has no values to count",
            field="field",
            hint=f"fields: {' '.join(known)} request.NAME reply.NAME",
        )
    counting = _counting(field, of)
    rows = 0

    def visit(hour: HourReader, span: Span) -> None:
        nonlocal rows
        for part in HourScan(hour, span, wanted).parts(*counting.columns):
            rows += part.rows
            counting.add(hour, part)
        counting.end_hour(hour)

    skipped = log.each(visit, since=wanted.since, until=wanted.until)
    counts = counting.counts()
    ranked = heapq.nsmallest(limit, counts, key=lambda item: (-item[1], str(item[0])))
    listed = sum(count for _, count in ranked)
    return TopValues(
        field=field,
        rows=rows,
        missing=rows - counting.there,
        values=tuple(
            TopValue(_plain(value), count, count / max(counting.there, 1)) for value, count in ranked
        ),
        other=sum(count for _, count in counts) - listed,
        skipped=skipped,
    )


def _counting(name: str, of: FilterField) -> _Counting:
    if of.kind == "path":
        return _BodyValues("request" if of.column == "request" else "reply", name.partition(".")[2])
    if of.kind == "trace":
        return _Traces()
    if of.table == "series":
        return _Listed("series_id", lambda hour: _labels(hour, of.column))
    if of.table == "urls":
        return _Listed("url_id", lambda hour: dict(hour.all("SELECT id, url FROM urls")))
    return _RequestIds() if name == "request_id" else _Numbers(of.column, of.scale)


def _labels(hour: HourReader, column: str) -> dict[int, Any]:
    return {number: getattr(labels, column) for number, labels in hour.labels().items()}


class _Listed:
    """What a dictionary of the file has the texts of."""

    def __init__(self, column: str, texts: Callable[[HourReader], dict[int, Any]]) -> None:
        self.columns = (column,)
        self._texts = texts
        self._hour = np.zeros(0, dtype=np.int64)
        self._absent: list[int] = []
        self._known: dict[int, Any] = {}
        self._found: Counter[Any] = Counter()
        self.there = 0

    def add(self, hour: HourReader, part: Part) -> None:
        if not self._known:
            self._known = self._texts(hour)
            self._hour = np.zeros(max(self._known, default=0) + 1, dtype=np.int64)
            self._absent = [number for number, text in self._known.items() if text is None]
        counts = np.bincount(part.take(self.columns[0]).astype(np.intp), minlength=len(self._hour))
        self._hour += counts
        self.there += int(counts.sum() - counts[self._absent].sum())

    def end_hour(self, hour: HourReader) -> None:
        for number in np.flatnonzero(self._hour).tolist():
            if self._known[number] is not None:
                self._found[self._known[number]] += int(self._hour[number])
        self._known = {}
        self._hour = np.zeros(0, dtype=np.int64)

    def counts(self) -> list[tuple[Any, int]]:
        return list(self._found.items())


class _Numbers:
    """Numbers of a column; small whole ones in a table, others sorted."""

    def __init__(self, column: str, scale: float) -> None:
        self.columns = (column,)
        self._scale = scale
        self._table = np.zeros(0, dtype=np.int64)
        self._parts: list[Array] = []
        self._values = np.zeros(0)
        self._counts = np.zeros(0, dtype=np.int64)
        self.there = 0

    def add(self, hour: HourReader, part: Part) -> None:
        values = part.take(self.columns[0])
        if values.dtype.kind == "f":
            values = values[~np.isnan(values)]
        self.there += len(values)
        if not len(values):
            return
        if values.dtype.kind == "f" and not (values == np.rint(values)).all():
            self._parts.append(values.astype(np.float64, copy=False))
            return
        small = (values >= 0) & (values < _MAX_COUNTED)
        if not small.all():
            self._parts.append(values[~small].astype(np.float64))
        counts = np.bincount(values[small].astype(np.intp))
        if len(counts) > len(self._table):
            self._table = np.concatenate([self._table, np.zeros(len(counts) - len(self._table), np.int64)])
        self._table[: len(counts)] += counts

    def end_hour(self, hour: HourReader) -> None:
        if not self._parts:
            return
        values, counts = np.unique(np.concatenate(self._parts), return_counts=True)
        self._parts = []
        self._values, self._counts = _merge((self._values, values), (self._counts, counts))

    def counts(self) -> list[tuple[Any, int]]:
        whole = np.flatnonzero(self._table)
        # A whole number may be among the others too, where it stood beside broken ones.
        values, counts = _merge((whole, self._values), (self._table[whole], self._counts))
        return list(zip((values / self._scale).tolist(), counts.tolist(), strict=True))


def _merge(values: tuple[Array, Array], counts: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two lists of values and how often each was found, as one."""
    distinct, places = np.unique(np.concatenate(values), return_inverse=True)
    return distinct, np.bincount(places, weights=np.concatenate(counts)).astype(np.int64)


class _RequestIds:
    columns = (ID,)

    def __init__(self) -> None:
        self._found: Counter[Any] = Counter()
        self.there = 0

    def add(self, hour: HourReader, part: Part) -> None:
        self.there += part.rows
        _check_room(self.there)
        self._found.update(hour.request_ids(part.take(ID)))

    def end_hour(self, hour: HourReader) -> None:
        """Nothing is kept by hour."""

    def counts(self) -> list[tuple[Any, int]]:
        return list(self._found.items())


class _Traces:
    """Few requests have one; those of a pipeline's nodes elsewhere, or sent again, share one."""

    columns = ()

    def __init__(self) -> None:
        self._found: Counter[Any] = Counter()
        self.there = 0

    def add(self, hour: HourReader, part: Part) -> None:
        for some in hour.traces(first_id=part.first_id, last_id=part.last_id):
            ids = np.fromiter((number for number, _ in some), np.int64, len(some))
            passing = list(compress(some, part.passes(ids).tolist()))
            self._found.update(trace_id for _, trace_id in passing)
            self.there += len(passing)
            _check_room(len(self._found))

    def end_hour(self, hour: HourReader) -> None:
        """Nothing is kept by hour."""

    def counts(self) -> list[tuple[Any, int]]:
        return [(trace_id.hex(), count) for trace_id, count in self._found.items()]


class _BodyValues:
    """What stands under a path of bodies; each row counts once for each distinct value."""

    columns = ()

    def __init__(self, body: Literal["request", "reply"], path: str) -> None:
        self._body = body
        self._path = make_path(path)
        self._having: Array | None = None  # the hour's rows that have bodies
        self._found: Counter[Scalar] = Counter()
        self._flags: Counter[Scalar] = Counter()  # apart from numbers: True equals 1
        self.there = 0

    def add(self, hour: HourReader, part: Part) -> None:
        first_id, last_id = part.first_id, part.last_id
        if part.of_rows <= _READ_ANYWAY * part.rows:
            for some in hour.bodies(self._body, first_id=first_id, last_id=last_id):
                ids = np.fromiter((number for number, _ in some), np.int64, len(some))
                self._count(compress(some, part.passes(ids).tolist()))
            return
        if self._having is None:
            self._having = hour.body_ids()
        here = self._having[slice(*np.searchsorted(self._having, (first_id, last_id + 1)))]
        for some in hour.bodies_of(self._body, here[part.passes(here)].tolist()):
            self._count(some)

    def end_hour(self, hour: HourReader) -> None:
        self._having = None

    def counts(self) -> list[tuple[Any, int]]:
        del self._found[None]
        return [*self._found.items(), *self._flags.items()]

    def _count(self, bodies: Iterable[tuple[int, str | bytes | None]]) -> None:
        values: list[Scalar] = []
        for _, body in bodies:
            found = read_values(body, self._path) if body is not None else ()
            if len(found) == 1 and type(found[0]) is not bool:
                values += found
                self.there += found[0] is not None
            elif found:
                distinct = {one for one in found if type(one) is not bool} - {None}
                flags = {one for one in found if type(one) is bool}
                values += distinct
                self._flags.update(flags)
                self.there += bool(distinct or flags)
        self._found.update(values)
        _check_room(len(self._found))


def _check_room(count: int) -> None:
    if count > MAX_TEXTS:
        raise InvalidRequest(
            f"the field has more than {MAX_TEXTS} values",
            hint="narrow the filter, for example with since=15m",
        )


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
