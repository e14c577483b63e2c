"""Answers to who watches how something is done: what it tells on the way, line by line, and as the last line
what came of it. Does nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec
from starlette.types import Receive

from mdslite.api.ndjson import Lines, until_left
from mdslite.api.plan_schema import DiffInfo, ResultEvent
from mdslite.deploy.events import Feed
from mdslite.deploy.orders import Outcome
from mdslite.deploy.plan import to_plain


async def tell(
    task: asyncio.Task[Any],
    feed: Feed,
    receive: Receive,
    *,
    last: Callable[[], Awaitable[Any]],
    goes_on: bool,
) -> Lines:
    """What `feed` is told of `task` until that ends, and then the `last` line. When the reader leaves, the
    task `goes_on` or is cancelled.

    :raises MdsliteError: the task was refused before anything was told: that is answered with its status
    :raises ClientClosed: the reader left before anything was told
    """
    task.add_done_callback(lambda _: feed.end())
    try:
        if not await until_left(feed.wait_begun(), receive):
            await asyncio.shield(task)
    except BaseException:
        if not goes_on:
            task.cancel()
        raise
    return Lines(_lines(task, feed, last, goes_on=goes_on), receive)


async def _lines(
    task: asyncio.Task[Any], feed: Feed, last: Callable[[], Awaitable[Any]], *, goes_on: bool
) -> AsyncGenerator[Any, None]:
    try:
        async for event in feed:
            yield event
        yield await last()
    finally:
        if not goes_on:
            task.cancel()


def result_event(outcome: Outcome) -> ResultEvent:
    """How an apply ended, or a plan that could not be made."""
    error, plan = outcome.error, outcome.plan
    seconds = round(outcome.seconds, 3)
    if error is None:
        return ResultEvent(revision=outcome.revision, state=outcome.state, seconds=seconds)
    details = {
        name: value for name, value in error.details().items() if name in ResultEvent.__struct_fields__
    }
    return ResultEvent(
        revision=outcome.revision,
        state=outcome.state,
        seconds=seconds,
        error=error.message,
        code=error.code,
        status=error.status,
        diff=msgspec.convert(to_plain(plan), DiffInfo) if plan is not None and plan.models else None,
        **details,
    )
