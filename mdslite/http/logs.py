"""The operations on the request log: pages, following, one row, histograms, top values, percentiles, export.
What they ask is worked out off the event loop. Owns no state.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from time import time
from typing import TypeVar

from mdslite.errors import NotFound
from mdslite.http.access import Grant
from mdslite.http.label_schema import label_info
from mdslite.http.log_schema import (
    FilterQuery,
    HistogramQuery,
    LogsQuery,
    LogsReply,
    RowPath,
    RowReply,
    TopQuery,
)
from mdslite.http.ndjson import Lines
from mdslite.http.operations import Answer, Call, Nothing, Operation, declare
from mdslite.http.parts import Parts
from mdslite.store.entries import Entry
from mdslite.store.filters import Filter, parse
from mdslite.store.histograms import Histogram, make_histogram
from mdslite.store.percentiles import Percentiles, find_percentiles
from mdslite.store.tops import TopValues, find_top

FOLLOW_S = 0.25  # as often as the journal writes

T = TypeVar("T")


async def list_requests(parts: Parts, call: Call[Nothing, LogsQuery, Nothing]) -> LogsReply | Answer:
    """Search the request log, newest first, or follow it as NDJSON"""
    query = call.query
    wanted = _wanted(call.caller.grant, query)
    if query.follow:
        end = await asyncio.to_thread(parts.request_log.tail, wanted)
        return Lines(_follow(parts, call.caller.grant, wanted, end.next), call.receive)
    page = await asyncio.to_thread(parts.request_log.query, wanted, limit=query.limit, before=query.before)
    return LogsReply(rows=page.rows, next=page.next, skipped=page.skipped)


async def get_request(parts: Parts, call: Call[RowPath, Nothing, Nothing]) -> RowReply:
    """One row of the request log, and those of the same request: its shadows' answers, or the primary's"""
    row, related = await asyncio.to_thread(parts.request_log.get, call.path.id)
    grant = call.caller.grant
    if not _covers(grant, row):
        raise NotFound(f"the request log has no row {call.path.id}", hint="mdslite logs")
    related = tuple(one for one in related if _covers(grant, one))
    label = await parts.labeling.find(min([row.id, *(one.id for one in related if not one.shadow)]))
    return RowReply(row=row, related=related, label=None if label is None else label_info(label))


async def get_histogram(parts: Parts, call: Call[Nothing, HistogramQuery, Nothing]) -> Histogram:
    """Requests over time, a series for each version: of the last day, or within the filter's since and until.
    The interval is the one asked for; 400 names one that works where there would be too many"""
    query = call.query
    wanted = _wanted(call.caller.grant, query)
    return await _ask(
        lambda: make_histogram(parts.request_log, wanted, interval_s=query.interval_s, by=query.by)
    )


async def get_top(parts: Parts, call: Call[Nothing, TopQuery, Nothing]) -> TopValues:
    """The most frequent values of a field, with their shares"""
    query = call.query
    wanted = _wanted(call.caller.grant, query)
    return await _ask(lambda: find_top(parts.request_log, wanted, field=query.field, limit=query.limit))


async def get_percentiles(parts: Parts, call: Call[Nothing, FilterQuery, Nothing]) -> Percentiles:
    """How many requests, how fast and how sure, by version"""
    wanted = _wanted(call.caller.grant, call.query)
    return await _ask(lambda: find_percentiles(parts.request_log, wanted))


def make_operations() -> list[Operation]:
    """Every operation under /api/v1/logs."""
    root = "/api/v1/logs"
    return [
        declare("GET", root, list_requests, group="requests", stream=Entry, reach="own"),
        declare("GET", f"{root}/histogram", get_histogram, group="requests", errors=(504,), reach="own"),
        declare("GET", f"{root}/top", get_top, group="requests", errors=(504,), reach="own"),
        declare("GET", f"{root}/percentiles", get_percentiles, group="requests", errors=(504,), reach="own"),
        declare("GET", f"{root}/{{id}}", get_request, group="requests", errors=(404, 504), reach="own"),
    ]


async def _ask(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)


def _wanted(grant: Grant, query: FilterQuery) -> Filter:
    """A filter that finds what is the grant's to know. What narrows it stands first, where nothing of the
    caller's text, such as an open quote, can take it in."""
    terms = [f"{name}={value}" for name in ("project", "model") if (value := getattr(grant, name))]
    return parse(" ".join([*terms, query.filter]), now=time())


def _covers(grant: Grant, row: Entry) -> bool:
    return all(getattr(grant, name) in (None, getattr(row, name)) for name in ("project", "model"))


async def _follow(
    parts: Parts, grant: Grant, wanted: Filter, cursor: int | None
) -> AsyncGenerator[Entry, None]:
    """Rows as they are written, until the appliance drains or the reader's token ends."""
    while not parts.draining and parts.issuer.access.holds(grant):
        page = await asyncio.to_thread(parts.request_log.tail, wanted, after=cursor)
        cursor = page.next
        for row in page.rows:
            yield row
        if not page.rows:
            await asyncio.sleep(FOLLOW_S)
