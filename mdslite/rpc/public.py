"""What a stranger may call: health checks, reflection and the questions that need no token. One address has
a share of calls under way, and a call whose message does not come ends, so that nobody can take all of the
server's places with requests that only begin.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from mdslite.errors import InvalidRequest, MdsliteError, RateLimited, RequestTimeout
from mdslite.http.guard import make_request_id
from mdslite.rpc.statuses import refuse

SHARE = 64  # public calls of one address under way at a time
MESSAGE_S = 10.0  # for a call's message to come, as long as HTTP gives a request's head


class PublicCalls:
    """Bounds public methods' handlers. Counts calls by the peer's address, without its port."""

    def __init__(self, *, share: int = SHARE, message_s: float = MESSAGE_S) -> None:
        self._share = share
        self._message_s = message_s
        self._open: Counter[str] = Counter()

    def bound(self, handler: Any) -> Any:
        """The same method as `handler`, as a stream of messages: of such, grpc.aio tells when it begins and
        not only when its message is there."""
        answers: Any = (
            handler.stream_unary or handler.stream_stream or handler.unary_unary or handler.unary_stream
        )
        ask = answers if handler.request_streaming else self._first(answers)
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        both_stream = handler.request_streaming and handler.response_streaming
        bounded = self._counted_stream(answers) if both_stream else self._counted(ask)
        return make(bounded, handler.request_deserializer, handler.response_serializer)

    def _first(self, answer: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def ask(requests: AsyncIterator[Any], context: Any) -> Any:
            error: MdsliteError
            try:
                async with asyncio.timeout(self._message_s):
                    request = await anext(aiter(requests))
            except TimeoutError:
                error = RequestTimeout(f"no message came within {self._message_s:g} s")
            except StopAsyncIteration:
                error = InvalidRequest("the call ended without a message; expected one")
            else:
                return await answer(request, context)
            return await refuse(context, error, make_request_id())

        return ask

    def _counted(self, answer: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def ask(requests: Any, context: Any) -> Any:
            address = await self._enter(context)
            try:
                return await answer(requests, context)
            finally:
                self._leave(address)

        return ask

    def _counted_stream(
        self, answer: Callable[[Any, Any], AsyncIterator[Any]]
    ) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def ask(requests: Any, context: Any) -> AsyncIterator[Any]:
            address = await self._enter(context)
            try:
                async for one in answer(requests, context):
                    yield one
            finally:
                self._leave(address)

        return ask

    async def _enter(self, context: Any) -> str:
        address = str(context.peer()).rpartition(":")[0]
        if self._open[address] >= self._share:
            error = RateLimited(
                f"{self._share} calls from this address that need no token are under way; expected fewer"
            )
            await refuse(context, error, make_request_id())
        self._open[address] += 1
        return address

    def _leave(self, address: str) -> None:
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]
