"""Answers that come line by line, as NDJSON, and noticing that their reader has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.types import Receive, Send

from mdslite.api.operations import NDJSON
from mdslite.errors import ClientClosed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lines:
    """A reply of one JSON value a line, until `values` end or their reader has left."""

    values: AsyncGenerator[Any, None]
    receive: Receive

    async def __call__(self, send: Send) -> None:
        headers = [(b"content-type", NDJSON.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # Servers hold the head back until there is a body: a reader must not wait for the first value to
        # learn that it is being served.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await until_left(self._write(send), self.receive)

    async def _write(self, send: Send) -> None:
        encode = msgspec.json.Encoder().encode
        async with aclosing(self.values) as values:
            async for value in values:
                await send({"type": "http.response.body", "body": encode(value) + b"\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def until_left(work: Awaitable[T], receive: Receive) -> T:
    """Do `work`, and cancel it when the client leaves first.

    :raises ClientClosed: the client left
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientClosed("the client left before its answer")
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
