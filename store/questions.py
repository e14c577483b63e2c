"""What can be asked of the request log, and the answers as bytes: JSON as the admin API gives it, or a file
to keep. Owns no process; see `searcher` and `searches`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from mdslite.store.entries import Entry
from mdslite.store.exports import EXPORTS
from mdslite.store.filters import Filter, parse
from mdslite.store.histograms import By, make_histogram
from mdslite.store.percentiles import find_percentiles
from mdslite.store.requests import MAX_LIMIT, RequestLog
from mdslite.store.tops import find_top

NAMED_MAX = 100  # files that a header is to hold the names of

Kind = Literal["page", "row", "histogram", "top", "percentiles", "csv", "jsonl", "parquet"]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """`now`, in unix seconds, is what the filter's relative times count from. What a kind has no use for is
    not looked at."""

    kind: Kind
    now: float
    filter: str = ""
    limit: int = 100
    before: int | None = None
    after: int | None = None
    bodies: bool = True
    id: int = 0
    interval_s: float | None = None
    by: By = "version"
    field: str = ""
    newest: int | None = None  # so many rows of a file; all without


class Found(msgspec.Struct, frozen=True):
    """The answer to `row`."""

    row: Entry
    related: tuple[Entry, ...]


def answer(log: RequestLog, question: Question) -> Iterator[bytes]:
    """One piece of JSON; of a file, first the number of its rows in decimal digits and the names of the log's
    files that are missing in it, between blanks, then its bytes.

    :raises MdsliteError: as the log says
    """
    wanted = parse(question.filter, now=question.now)
    encode = msgspec.json.encode
    match question.kind:
        case "page":
            page = log.query(
                wanted,
                limit=question.limit,
                before=question.before,
                after=question.after,
                bodies=question.bodies,
            )
            yield encode(page)
        case "row":
            yield encode(Found(*log.get(question.id)))
        case "histogram":
            clock = float(question.now).__float__
            yield encode(
                make_histogram(log, wanted, interval_s=question.interval_s, by=question.by, clock=clock)
            )
        case "top":
            yield encode(find_top(log, wanted, field=question.field, limit=question.limit))
        case "percentiles":
            yield encode(find_percentiles(log, wanted))
        case _:
            export = EXPORTS[question.kind]()
            count, end, skipped = log.measure(wanted)
            start = 0
            if question.newest is not None and count > question.newest:
                count, start = question.newest, _nth_newest(log, wanted, question.newest, end)
            yield " ".join([str(count), *skipped[:NAMED_MAX]]).encode()
            yield from export.begin()
            for rows in log.pages(wanted, start=start, end=end):
                yield from export.add(rows)
            yield from export.end()


def _nth_newest(log: RequestLog, wanted: Filter, number: int, end: int) -> int:
    """The id of row `number`, counted back from the id `end`; there are so many."""
    before, left = end + 1, number
    while left:
        rows = log.query(wanted, limit=min(left, MAX_LIMIT), before=before, bodies=False).rows
        if not rows:
            break
        before, left = rows[-1].id, left - len(rows)
    return before
