"""What the request log's operations take, and what they give beside the log's own structs."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from mdslite.api.label_schema import LabelInfo
from mdslite.api.schema import Given, Limit, Value
from mdslite.store.entries import Entry
from mdslite.store.histograms import By
from mdslite.store.reading import MAX_ID

Format = Literal["csv", "jsonl", "parquet"]
FilterText = Annotated[
    str,
    Meta(
        max_length=4096,
        description="conditions that must all hold, such as: model=digits status>=400 since=15m",
    ),
]


class FilterQuery(Given, frozen=True, kw_only=True):
    filter: FilterText = ""


class LogsQuery(FilterQuery, frozen=True, kw_only=True):
    limit: Limit = 100
    before: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_ID)] | None, Meta(description="`next` of the page before")
    ] = None
    after: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_ID)] | None,
        Meta(description="only rows newer than this `id`: what came since a page before"),
    ] = None
    bodies: Annotated[
        bool, Meta(description="false leaves `request` and `reply` out, as null: what a list needs")
    ] = True
    follow: Annotated[bool, Meta(description="stream rows as they are logged, as NDJSON")] = False
    skipped: Annotated[
        bool,
        Meta(
            description="of a stream: lines {skipped: [names]} too, of files of the log that cannot be read"
        ),
    ] = False


class HistogramQuery(FilterQuery, frozen=True, kw_only=True):
    interval_s: Annotated[
        float | None, Meta(description="length of an interval in seconds; by default a round one that fits")
    ] = None
    by: Annotated[By, Meta(description="what there is a series for")] = "version"


class TopQuery(FilterQuery, frozen=True, kw_only=True):
    field: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=256,
            description="a field of the filter language, such as code, url or reply.label",
        ),
    ]
    limit: Limit = 10


class ExportQuery(FilterQuery, frozen=True, kw_only=True):
    format: Annotated[Format, Meta(description="parquet needs the extra mdslite[parquet]")] = "jsonl"
    limit: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None, Meta(description="the newest so many; all without")
    ] = None


class RowPath(Given, frozen=True, kw_only=True):
    id: Annotated[int, Meta(ge=0, le=MAX_ID, description="the row's `id`")]


class LogsReply(Value, frozen=True, kw_only=True):
    """A page, newest first. `next` goes into `before` for the page after it, null on the last one; `skipped`
    names files of the log that could not be read."""

    rows: tuple[Entry, ...]
    next: int | None
    skipped: tuple[str, ...]


class SkippedLine(Value, frozen=True, kw_only=True):
    """In a stream of rows: names of files of the log that could not be read, which were not told before."""

    skipped: tuple[str, ...]


class RowReply(Value, frozen=True, kw_only=True):
    """One logged request, and those with its id: what its shadows answered, or the primary. The label is the
    request's, whichever of its rows was asked for."""

    row: Entry
    related: tuple[Entry, ...]
    label: LabelInfo | None
