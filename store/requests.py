"""The request log's reading end: pages, following, histograms over all hour files. Owns no connection for
longer than a query, so that nothing holds a file which the journal seals or retention removes.

Methods block and may be called from several threads at a time. A file that cannot be read is left out and
named in the answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from mdslite.errors import InvalidRequest, NotFound, StoreError
from mdslite.store.entries import Entry, LoggedBody, NodeSpan, make_entries
from mdslite.store.evidence import Evidence, join, read_hour
from mdslite.store.filters import Filter, Term
from mdslite.store.hours import list_hours
from mdslite.store.readers import Readers, State, file_state
from mdslite.store.reading import MAX_ID, HourReader, Span
from mdslite.store.scan import HourScan

__all__ = ["MAX_LIMIT", "Entry", "LoggedBody", "NodeSpan", "Page", "RequestLog"]

MAX_LIMIT = 10_000
MAX_RELATED = 20
RELATED_S = 600.0  # how far before or after a request its copies are looked for
_SETTLED_S = 2.0  # a file changed within this time may change again without its times and sizes showing it


class Page(msgspec.Struct, frozen=True):
    """`next` is the cursor to go on with: `before` of `query` (None at the end), `after` of `tail`."""

    rows: tuple[Entry, ...]
    next: int | None
    skipped: tuple[str, ...] = ()  # names of the files that could not be read


class RequestLog:
    """`timeout_s` bounds one query, `stopped` ends it early: it is asked now and then. `mapped` as of
    `HourReader`, `kept` as of `Readers`."""

    def __init__(
        self,
        folder: Path,
        *,
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        stopped: Callable[[], bool] = bool,
        mapped: bool = False,
        kept: int = 0,
    ) -> None:
        self._folder = folder
        self._stopped = stopped
        self._readers = Readers(mapped=mapped, kept=kept)
        self._timeout_s = timeout_s
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._spans: dict[Path, tuple[State, Span | None]] = {}

    def query(
        self,
        wanted: Filter,
        *,
        limit: int = 100,
        before: int | None = None,
        after: int | None = None,
        bodies: bool = True,
    ) -> Page:
        """The newest `limit` rows that pass the filter and have ids between `after` and `before`, or without
        these bounds. Not reading bodies leaves them out.

        :raises InvalidRequest: the limit is out of bounds
        :raises DeadlineExceeded: the query took longer than the bound
        """
        _check_limit(limit)
        late, skipped = self._deadline(), _Skipped()
        low, high = 0 if after is None else after, MAX_ID if before is None else before
        found: list[Entry] = []
        spans = self._matching(wanted, late, skipped)
        for span in sorted(spans, key=lambda span: span.max_id, reverse=True):
            if span.min_id >= high or span.max_id <= low:
                continue
            # Files overlap in ids only after a clock jump; then rows of several are merged.
            if len(found) == limit and span.max_id < found[-1].id:
                break
            with skipped.catch(span.path), self._open(span.path, late, bodies=bodies) as hour:
                now = hour.span() or span  # of this snapshot, which may hold more by now
                scan = HourScan(hour, now, wanted, after=low, before=high)
                rows = scan.page(limit=limit, newest=True)
                found += make_entries(rows, hour.labels() if rows else {})
                found = sorted(found, key=lambda entry: entry.id, reverse=True)[:limit]
        return Page(tuple(found), found[-1].id if len(found) == limit else None, skipped.names)

    def tail(
        self, wanted: Filter, *, after: int | None = None, limit: int = 1000, bodies: bool = True
    ) -> Page:
        """The oldest `limit` rows that pass the filter and came after the cursor.

        Without a cursor: no rows, and the cursor of the log's end. Call again with the page's `next`; no row
        is missed and none comes twice.

        :raises InvalidRequest: the limit is out of bounds
        :raises DeadlineExceeded: the query took longer than the bound
        """
        _check_limit(limit)
        late, skipped = self._deadline(), _Skipped()
        spans = list(self._all_spans(late, skipped))
        if after is None:
            return Page((), max((span.max_id for span in spans), default=0), skipped.names)
        found: list[Entry] = []
        end = after
        for span in sorted(spans, key=lambda span: span.min_id):
            if span.max_id <= after:
                continue
            if len(found) > limit and span.min_id > found[limit].id:
                break
            with skipped.catch(span.path), self._open(span.path, late, bodies=bodies) as hour:
                now = hour.span() or span
                rows = HourScan(hour, now, wanted, after=after).page(limit=limit + 1, newest=False)
                found += make_entries(rows, hour.labels() if rows else {})
                end = max(end, now.max_id)
            found.sort(key=lambda entry: entry.id)
        if len(found) > limit:
            found = found[:limit]
            end = found[-1].id
        return Page(tuple(found), end, skipped.names)

    def measure(self, wanted: Filter) -> tuple[int, int, tuple[str, ...]]:
        """How many rows pass, an id that none of them is above, and the files that could not be read.

        :raises DeadlineExceeded: the query took longer than the bound
        """
        end = count = 0

        def visit(hour: HourReader, span: Span) -> None:
            nonlocal end, count
            end = max(end, span.max_id)
            count += sum(part.rows for part in HourScan(hour, span, wanted).parts())

        skipped = self.each(visit, since=wanted.since, until=wanted.until)
        return count, end, skipped

    def pages(
        self, wanted: Filter, *, end: int, start: int = 0, limit: int = 2000
    ) -> Iterator[tuple[Entry, ...]]:
        """All rows of the ids [start, end] that pass, file by file, the oldest first, some at a time. Files
        that cannot be read are left out.

        :raises DeadlineExceeded: a page took longer than the bound
        """
        spans = self._matching(wanted, self._deadline(), _Skipped())
        for span in sorted(spans, key=lambda span: span.min_id):
            after, more = max(span.min_id, start) - 1, span.max_id >= start
            while more:
                rows: list[tuple[Any, ...]] = []
                found: list[Entry] = []
                # Opened anew for each page: whoever takes them may be slow, and files are not held for that.
                with _Skipped().catch(span.path), self._open(span.path, self._deadline()) as hour:
                    scan = HourScan(hour, hour.span() or span, wanted, after=after, before=end + 1)
                    rows = scan.page(limit=limit, newest=False)
                    found = make_entries(rows, hour.labels() if rows else {})
                more = len(rows) == limit
                if found:
                    after = found[-1].id
                    yield tuple(found)

    def get(self, number: int) -> tuple[Entry, tuple[Entry, ...]]:
        """One row by its id, and those of the same request: what its shadows answered, or its primary.

        :raises NotFound: there is none, or retention removed it
        :raises DeadlineExceeded: the query took longer than the bound
        """
        page = self.tail(Filter(), after=number - 1, limit=1)
        if not page.rows or page.rows[0].id != number:
            raise NotFound(f"the request log has no row {number}", hint="mdslite logs")
        (row,) = page.rows
        same = Filter(
            terms=(Term("request_id", "=", row.request_id, 1),),
            since=row.time - RELATED_S,
            until=row.time + RELATED_S,
        )
        related = self.query(same, limit=MAX_RELATED + 1).rows
        return row, tuple(other for other in related if other.id != number)[:MAX_RELATED]

    def each(
        self, visit: Callable[[HourReader, Span], None], *, since: float | None, until: float | None
    ) -> tuple[str, ...]:
        """Have every file visited that may hold arrivals of [since, until), the oldest first; the names of
        those that could not be read.

        :raises DeadlineExceeded: the query took longer than the bound
        """
        late, skipped = self._deadline(), _Skipped()
        for span in self._all_spans(late, skipped):
            if span.meets(since, until):
                with skipped.catch(span.path), self._open(span.path, late) as hour:
                    visit(hour, hour.span() or span)
        return skipped.names

    def first_time(self) -> float | None:
        """When the oldest row arrived, to the second; None for an empty log."""
        spans = list(self._all_spans(self._deadline(), _Skipped()))
        return min((float(span.since) for span in spans), default=None)

    def evidence(self, project: str, model: str, *, since: float, until: float) -> list[Evidence]:
        """What the log tells of a model's versions and shadows in [since, until), to the second.

        :raises DeadlineExceeded: the query took longer than the bound
        """
        late, skipped = self._deadline(), _Skipped()
        found: list[Evidence] = []
        for span in self._all_spans(late, skipped):
            if span.meets(since, until):
                with skipped.catch(span.path), self._open(span.path, late) as hour:
                    found += read_hour(hour, project, model, since=since, until=until)
        return join(found)

    @property
    def kept(self) -> frozenset[Path]:
        """The files that are open while nothing is asked."""
        return self._readers.kept

    def rest(self) -> None:
        """Let go of all files, for as long as nothing is asked."""
        self._readers.keep_only(())

    def _matching(self, wanted: Filter, late: Callable[[], bool], skipped: _Skipped) -> list[Span]:
        return [span for span in self._all_spans(late, skipped) if span.meets(wanted.since, wanted.until)]

    def _all_spans(self, late: Callable[[], bool], skipped: _Skipped) -> Iterator[Span]:
        """Each file's span; those of files that no longer change are remembered."""
        paths = [hour.path for hour in list_hours(self._folder) if not hour.set_aside]
        self._readers.keep_only(paths)
        with self._lock:
            self._spans = {path: known for path, known in self._spans.items() if path in set(paths)}
        for path in paths:
            state = file_state(path)
            with self._lock:
                known = self._spans.get(path)
            if known is not None and known[0] == state:
                span = known[1]
            else:
                span = None
                with skipped.catch(path), self._open(path, late) as hour:
                    span = hour.span()
                    if state and self._clock() - max(state[0::3]) / 1e9 > _SETTLED_S:
                        with self._lock:
                            self._spans[path] = (state, span)
            if span is not None:
                yield span

    def _deadline(self) -> Callable[[], bool]:
        end_s = self._monotonic() + self._timeout_s
        return lambda: self._monotonic() > end_s or self._stopped()

    def _open(
        self, path: Path, late: Callable[[], bool], *, bodies: bool = True
    ) -> AbstractContextManager[HourReader]:
        return self._readers.open(path, late, bodies=bodies)


class _Skipped:
    """Names the files that could not be read; one that retention removed meanwhile is no loss."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()

    def catch(self, path: Path) -> _Catch:
        return _Catch(self, path)


class _Catch:
    def __init__(self, skipped: _Skipped, path: Path) -> None:
        self._skipped = skipped
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> bool:
        if not isinstance(exc, StoreError):
            return False
        if self._path.exists() and self._path.name not in self._skipped.names:
            self._skipped.names = (*self._skipped.names, self._path.name)
        return True


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequest(f"limit is {limit}, expected 1 to {MAX_LIMIT}")
