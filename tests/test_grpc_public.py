"""What strangers may call over gRPC has bounds: in number by address, and in time until a message comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import rpc_doors

grpc = pytest.importorskip("grpc")

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def channel_to(**limits: Any) -> AsyncIterator[Any]:
    """A channel to a server of the three methods, open to everybody."""
    async with AsyncExitStack() as stack:
        serving = rpc_doors.serving(rpc_doors.methods(public=True), sweep_s=0.02, **limits)
        served = await stack.enter_async_context(serving)
        yield await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{served.port}"))


async def refusal(call: Any) -> tuple[str, str]:
    async with asyncio.timeout(20):
        return (await call.code()).name, await call.details()


async def test_they_answer_as_often_as_they_are_asked() -> None:
    async with channel_to(share=1) as channel:
        for _ in range(3):
            assert await channel.unary_unary("/t/double")(b"ab") == b"abab"
        watching = channel.unary_stream("/t/watch")(b"x")
        assert await watching.read() == b"x"
        watching.cancel()
    async with channel_to(share=1) as channel:
        both = channel.stream_stream("/t/echo")()
        for text in (b"y", b"z"):
            await both.write(text)
            assert await both.read() == text
        await both.done_writing()
        assert (await refusal(both))[0] == "OK"


async def test_a_message_that_does_not_come_ends_the_call() -> None:
    async with channel_to(head_s=0.05) as channel:
        silent = channel.stream_unary("/t/double")()
        assert await refusal(silent) == ("DEADLINE_EXCEEDED", "no whole message came in time")
        empty = channel.stream_unary("/t/double")()
        await empty.done_writing()
        code, said = await refusal(empty)
        assert code == "INVALID_ARGUMENT", said
        assert "without a message" in said


@pytest.mark.parametrize("method", ["double", "watch", "echo"])
async def test_an_address_has_a_share_of_the_places(method: str) -> None:
    async with channel_to(share=2) as channel:
        open_streams = [channel.stream_stream(f"/t/{method}")() for _ in range(8)]
        over = [asyncio.create_task(refusal(one)) for one in open_streams]
        for first in asyncio.as_completed(over):
            code, said = await first
            assert code == "RESOURCE_EXHAUSTED", said
            assert said.startswith("2 calls from this address")
            if sum(one.done() for one in over) == 6:
                break
        held = [one for one, task in zip(open_streams, over, strict=True) if not task.done()]
        assert len(held) == 2
        for one in held:
            one.cancel()
        await asyncio.gather(*over, return_exceptions=True)
        while True:  # the server hears of the cancels when it does
            try:
                assert await channel.unary_unary("/t/double")(b"ab") == b"abab"
            except grpc.RpcError as exc:
                assert exc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            else:
                break
