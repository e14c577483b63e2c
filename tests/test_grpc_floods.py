"""What becomes of clients of the gRPC port that ask for much and take little, and of their neighbours."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from h2_codes import CANCEL, ENHANCE_YOUR_CALM
from hyperframe.frame import Frame, RstStreamFrame
from rpc_doors import data, framed, raw, serving
from waiting import until

from mdslite.rpc.exchange import Exchange, Message, Method

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("options", [{"path": "/t/nothing"}, {"flags": ["END_HEADERS", "END_STREAM"]}])
async def test_calls_that_are_refused_and_reset_are_rapid_resets_too(options: Any) -> None:
    async with serving() as served, raw(served.port) as client:
        for stream_id in range(1, 2001, 2):
            client.send(client.headers(stream_id, **options), RstStreamFrame(stream_id, error_code=CANCEL))
        assert await client.goodbye() == ENHANCE_YOUR_CALM
        assert served.counted == ["rapid_reset"]


async def test_calls_that_are_refused_may_be_many() -> None:
    async with serving() as served, raw(served.port) as client:
        for stream_id in range(1, 2001, 2):
            client.ask(stream_id, path="/t/nothing")
        assert (await client.answer(1999)).fields["grpc-status"] == "12"
        assert served.counted == []


async def test_one_connection_leaves_others_their_turns() -> None:
    begun: list[int] = []  # by turn of the loop
    loop = asyncio.get_running_loop()
    ticking: asyncio.Handle

    def turn() -> None:
        nonlocal ticking
        begun.append(0)
        ticking = loop.call_soon(turn)

    def begin(exchange: Exchange, message: Message) -> None:
        begun[-1] += 1
        exchange.finish(bytes(message), b"")

    ticking = loop.call_soon(turn)
    found = {"/t/count": Method(begin=begin)}
    async with serving(found, turn_frames=8) as served, raw(served.port) as client:
        frames: list[Frame] = []
        for stream_id in range(1, 401, 2):
            frames += [client.headers(stream_id, "/t/count"), data(stream_id, framed(b"a"), ends=True)]
        client.send(*frames)
        assert (await client.answer(399)).body == framed(b"a")
    ticking.cancel()
    assert max(begun) <= 8 // 2


async def test_who_does_not_take_answers_is_not_read() -> None:
    async with serving(head_s=0.05, sweep_s=0.01) as served, raw(served.port) as client:
        client.ask(1)
        await client.answer(1)
        [connection] = served.door.connections
        connection.pause_writing()
        client.send(client.headers(3), data(3, framed(b"a")[:3]))
        await client.writer.drain()
        await serve_a_neighbour(served.port)
        assert not connection.streams
        connection.resume_writing()
        await until(lambda: connection.streams)
        client.send(data(3, framed(b"a")[3:], ends=True))
        assert (await client.answer(3)).body == framed(b"aa")


async def test_what_was_put_aside_waits_until_answers_are_taken() -> None:
    async with serving(turn_frames=2) as served, raw(served.port) as client:
        client.ask(1)
        await client.answer(1)
        [connection] = served.door.connections
        for stream_id in range(3, 43, 2):
            client.send(client.headers(stream_id), data(stream_id, framed(b"a"), ends=True))
        await client.answer(3)
        connection.pause_writing()
        await client.writer.drain()
        await serve_a_neighbour(served.port)
        seen = connection._last_id
        await serve_a_neighbour(served.port)
        assert connection._last_id == seen
        connection.resume_writing()
        assert (await client.answer(41)).body == framed(b"aa")


async def serve_a_neighbour(port: int) -> None:
    """So many calls of another client that what waits in a socket would have been read."""
    async with raw(port) as client:
        for stream_id in range(1, 41, 2):
            client.ask(stream_id)
            assert (await client.answer(stream_id)).fields["grpc-status"] == "0"
