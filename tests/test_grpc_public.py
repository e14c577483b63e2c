"""What strangers may call over gRPC has bounds: in number by address, and in time until a message comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

grpc = pytest.importorskip("grpc")
from mdslite.rpc.public import PublicCalls  # noqa: E402

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def double(request: bytes, context: Any) -> bytes:
    return request * 2


async def watch(request: bytes, context: Any) -> None:
    await context.write(request)
    await asyncio.Event().wait()


async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for one in requests:
        yield one


@asynccontextmanager
async def serving(calls: PublicCalls) -> AsyncIterator[Any]:
    """A channel to a server of the three methods."""
    methods = {
        "/t/double": grpc.unary_unary_rpc_method_handler(double),
        "/t/watch": grpc.unary_stream_rpc_method_handler(watch),
        "/t/echo": grpc.stream_stream_rpc_method_handler(echo),
    }
    bounded = {path: calls.bound(handler) for path, handler in methods.items()}

    class Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, handler_call_details: Any) -> Any:
            return bounded.get(handler_call_details.method)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Methods(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


async def refusal(call: Any) -> tuple[str, str]:
    async with asyncio.timeout(20):
        return (await call.code()).name, await call.details()


async def test_they_answer_as_before() -> None:
    async with serving(PublicCalls(share=1)) as channel:
        for _ in range(3):
            assert await channel.unary_unary("/t/double")(b"ab") == b"abab"
        watching = channel.unary_stream("/t/watch")(b"x")
        assert await watching.read() == b"x"
        watching.cancel()
    async with serving(PublicCalls(share=1)) as channel:
        both = channel.stream_stream("/t/echo")()
        for text in (b"y", b"z"):
            await both.write(text)
            assert await both.read() == text


async def test_a_message_that_does_not_come_ends_the_call() -> None:
    async with serving(PublicCalls(message_s=0.05)) as channel:
        silent = channel.stream_unary("/t/double")()
        assert await refusal(silent) == ("DEADLINE_EXCEEDED", "no message came within 0.05 s")
        empty = channel.stream_unary("/t/double")()
        await empty.done_writing()
        code, said = await refusal(empty)
        assert code == "INVALID_ARGUMENT", said
        assert "without a message" in said


@pytest.mark.parametrize("method", ["double", "watch", "echo"])
async def test_an_address_has_a_share_of_the_places(method: str) -> None:
    async with serving(PublicCalls(share=2)) as channel:
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
