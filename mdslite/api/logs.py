"""The operations on the request log: pages, following, one row, histograms, top values, percentiles, export.
Processes beside the event loop work them out. Owns no state.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from time import time
from typing import Any

import msgspec
from starlette.types import Receive, Send

from mdslite.api.label_schema import label_info
from mdslite.api.log_schema import (
    ExportQuery,
    FilterQuery,
    HistogramQuery,
    LogsQuery,
    LogsReply,
    RowPath,
    RowReply,
    SkippedLine,
    TopQuery,
)
from mdslite.api.ndjson import Lines, until_left
from mdslite.api.operations import NDJSON, Answer, Call, Nothing, Operation, Raw, declare
from mdslite.api.parts import Parts
from mdslite.errors import NotFound
from mdslite.http.access import Grant
from mdslite.store.entries import Entry
from mdslite.store.exports import MEDIA_TYPES
from mdslite.store.filters import Filter, parse
from mdslite.store.histograms import Histogram
from mdslite.store.percentiles import Percentiles
from mdslite.store.questions import Found, Question
from mdslite.store.tops import TopValues

FOLLOW_S = 0.25  # as often as the journal writes
ROWS = b"mdslite-rows"  # of an export's reply: how many there are
SKIPPED = b"mdslite-skipped"  # of an export's reply: names of files that could not be read


async def list_requests(parts: Parts, call: Call[Nothing, LogsQuery, Nothing]) -> LogsReply | Answer:
    """Search the request log, newest first, or follow it as NDJSON"""
    query = call.query
    if query.follow:
        wanted = parse(_within(call.caller.grant, query), now=time())
        end = await asyncio.to_thread(parts.request_log.tail, wanted)
        coming = _follow(parts, call.caller.grant, wanted, end.next, query)
        return Lines(coming, call.receive)
    return await _ask(
        parts, call, "page", limit=query.limit, before=query.before, after=query.after, bodies=query.bodies
    )


async def get_request(parts: Parts, call: Call[RowPath, Nothing, Nothing]) -> RowReply:
    """One row of the request log, and those of the same request: its shadows' answers, or the primary's"""
    asked = Question(kind="row", now=time(), id=call.path.id)
    found = msgspec.json.decode(await until_left(parts.searches.ask(asked), call.receive), type=Found)
    row, grant = found.row, call.caller.grant
    if not _covers(grant, row):
        raise NotFound(f"the request log has no row {row.id}", hint="mdslite logs")
    related = tuple(one for one in found.related if _covers(grant, one))
    label = await parts.labeling.find(min([row.id, *(one.id for one in related if not one.shadow)]))
    return RowReply(row=row, related=related, label=None if label is None else label_info(label))


async def get_histogram(parts: Parts, call: Call[Nothing, HistogramQuery, Nothing]) -> Histogram | Answer:
    """Requests over time, a series for each version: of the last day, or within the filter's since and until.
    The interval is the one asked for; 400 names one that works where there would be too many"""
    return await _ask(parts, call, "histogram", interval_s=call.query.interval_s, by=call.query.by)


async def get_top(parts: Parts, call: Call[Nothing, TopQuery, Nothing]) -> TopValues | Answer:
    """The most frequent values of a field, with their shares"""
    return await _ask(parts, call, "top", field=call.query.field, limit=call.query.limit)


async def get_percentiles(parts: Parts, call: Call[Nothing, FilterQuery, Nothing]) -> Percentiles | Answer:
    """How many requests, how fast and how sure, by version"""
    return await _ask(parts, call, "percentiles")


async def export_requests(parts: Parts, call: Call[Nothing, ExportQuery, Nothing]) -> Entry | Answer:
    """All rows that pass a filter, or the newest of them, as a file: JSON lines, CSV or Parquet. The header
    mdslite-rows says how many there are, mdslite-skipped which files of the log could not be read"""
    form = call.query.format
    question = Question(
        kind=form, now=time(), filter=_within(call.caller.grant, call.query), newest=call.query.limit
    )
    pieces = parts.searches.export(question)
    try:
        first = await until_left(anext(pieces), call.receive)
    except BaseException:
        await pieces.aclose()
        raise
    rows, *skipped = first.split()
    return Download(pieces, call.receive, MEDIA_TYPES[form], f"requests.{form}", rows, b", ".join(skipped))


def make_operations() -> list[Operation]:
    """Every operation under /api/v1/logs."""
    root = "/api/v1/logs"
    busy = (429, 503, 504)
    export = declare("GET", f"{root}/export", export_requests, group="requests", errors=busy, reach="own")
    return [
        declare("GET", root, list_requests, group="requests", stream=Entry, errors=busy, reach="own"),
        declare("GET", f"{root}/histogram", get_histogram, group="requests", errors=busy, reach="own"),
        declare("GET", f"{root}/top", get_top, group="requests", errors=busy, reach="own"),
        declare("GET", f"{root}/percentiles", get_percentiles, group="requests", errors=busy, reach="own"),
        dataclasses.replace(
            export,
            media_type=NDJSON,
            produces=(MEDIA_TYPES["csv"], MEDIA_TYPES["parquet"]),
            headers=(
                (ROWS.decode(), "how many rows there are"),
                (SKIPPED.decode(), "names of the log's files that could not be read, if there are such"),
            ),
        ),
        declare("GET", f"{root}/{{id}}", get_request, group="requests", errors=(404, *busy), reach="own"),
    ]


@dataclass(frozen=True, slots=True)
class Download:
    """A reply that is a file, until its end or until its reader has left."""

    pieces: AsyncGenerator[bytes, None]
    receive: Receive
    media_type: str
    name: str
    rows: bytes
    skipped: bytes = b""

    async def __call__(self, send: Send) -> None:
        headers = [
            (b"content-type", self.media_type.encode()),
            (b"content-disposition", f'attachment; filename="{self.name}"'.encode()),
            (b"cache-control", b"no-store"),
            (ROWS, self.rows),
            *([(SKIPPED, self.skipped)] if self.skipped else []),
        ]
        async with aclosing(self.pieces):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await until_left(self._write(send), self.receive)

    async def _write(self, send: Send) -> None:
        async for piece in self.pieces:
            if piece:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _ask(parts: Parts, call: Call[Nothing, Any, Nothing], kind: Any, **more: Any) -> Raw:
    """An answer as the process gave it, unless its reader leaves first."""
    question = Question(kind=kind, now=time(), filter=_within(call.caller.grant, call.query), **more)
    return Raw(await until_left(parts.searches.ask(question), call.receive))


def _within(grant: Grant, query: FilterQuery) -> str:
    """A filter that finds what is the grant's to know. What narrows it stands first, where nothing of the
    caller's text, such as an open quote, can take it in."""
    terms = [f"{name}={value}" for name in ("project", "model") if (value := getattr(grant, name))]
    return " ".join([*terms, query.filter])


def _covers(grant: Grant, row: Entry) -> bool:
    return all(getattr(grant, name) in (None, getattr(row, name)) for name in ("project", "model"))


async def _follow(
    parts: Parts, grant: Grant, wanted: Filter, cursor: int | None, query: LogsQuery
) -> AsyncGenerator[Entry | SkippedLine, None]:
    """Rows as they are written, until the appliance drains or the reader's token ends."""
    told: set[str] = set()
    while not parts.draining and parts.issuer.access.holds(grant):
        page = await asyncio.to_thread(parts.request_log.tail, wanted, after=cursor, bodies=query.bodies)
        cursor = page.next
        if query.skipped and (new := tuple(name for name in page.skipped if name not in told)):
            told.update(new)
            yield SkippedLine(skipped=new)
        for row in page.rows:
            yield row
        if not page.rows:
            await asyncio.sleep(FOLLOW_S)
