"""The gRPC port's own HTTP/2, frame by frame: what it resets, and whom it cuts off."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from h2_codes import (
    CANCEL,
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    INITIAL_WINDOW,
    MAX_FRAME_SIZE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
)
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from rpc_doors import RawClient, bare, data, framed, raw, resets, serving

from mdslite.rpc.exchange import Exchange, Message, Method

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "more",
    [
        [(":path", "/t/echo")],
        [(":status", "200")],
        [("connection", "close")],
        [("keep-alive", "timeout=5")],
        [("proxy-connection", "close")],
        [("transfer-encoding", "chunked")],
        [("upgrade", "h2c")],
        [("te", "gzip")],
        [("X-Name", "1")],
        [("x name", "1")],
        [("x-line", "a\nb")],
        [("x-space", " a")],
    ],
)
async def test_requests_that_http_2_forbids_are_reset_and_others_go_on(more: list[tuple[str, str]]) -> None:
    async with serving() as served, raw(served.port) as client:
        client.ask(1, more=more)
        client.ask(3)
        assert (await client.answer(3)).fields["grpc-status"] == "0"
        assert resets(client) == [PROTOCOL_ERROR]
        assert client.answers[1].fields == {}


@pytest.mark.parametrize(("amount", "error_code"), [(0, PROTOCOL_ERROR), (2**31 - 1, FLOW_CONTROL_ERROR)])
async def test_a_window_that_cannot_be_ends_its_stream_alone(amount: int, error_code: int) -> None:
    async with serving() as served, raw(served.port) as client:
        update = bare(0x8, 1, amount.to_bytes(4))  # hyperframe makes none of 0
        client.send(client.headers(1))
        client.writer.write(update)
        client.ask(3)
        assert (await client.answer(3)).fields["grpc-status"] == "0"
        assert resets(client) == [error_code]


# Whom it cuts off


@pytest.mark.parametrize(
    ("frame", "error_code"),
    [
        (lambda client: data(9, b"x"), PROTOCOL_ERROR),
        (lambda client: client.headers(2), PROTOCOL_ERROR),
        (lambda client: HeadersFrame(1, b"\xff\xff\xff\xff\xff", flags=["END_HEADERS"]), COMPRESSION_ERROR),
        (lambda client: ContinuationFrame(1, b"", flags=["END_HEADERS"]), PROTOCOL_ERROR),
        (lambda client: RstStreamFrame(5), PROTOCOL_ERROR),
        (lambda client: WindowUpdateFrame(0, 2**31 - 1), FLOW_CONTROL_ERROR),
        (lambda client: SettingsFrame(0, settings={MAX_FRAME_SIZE: 5}), PROTOCOL_ERROR),
        (lambda client: SettingsFrame(0, settings={INITIAL_WINDOW: 2**31}), FLOW_CONTROL_ERROR),
        (lambda client: data(1, bytes(129 * 1024)), FRAME_SIZE_ERROR),
        (lambda client: client.headers(1, more=[("x", "y" * 40_000)]), ENHANCE_YOUR_CALM),
    ],
)
async def test_frames_that_break_the_protocol_end_the_connection(frame: Any, error_code: int) -> None:
    async with serving() as served, raw(served.port) as client:
        client.send(frame(client))
        assert await client.goodbye() == error_code
        assert len(served.counted) == 1


@pytest.mark.parametrize(
    ("frame", "error_code"),
    [
        (bare(0x5, 1, bytes(4)), PROTOCOL_ERROR),  # PUSH_PROMISE
        (bare(0x0, 1, b"", flags=0x8), FRAME_SIZE_ERROR),  # DATA, padded
        (bare(0x2, 1, bytes(4)), FRAME_SIZE_ERROR),  # PRIORITY
        (bare(0x2, 0, bytes(5)), PROTOCOL_ERROR),
        (bare(0x3, 1, bytes(3)), FRAME_SIZE_ERROR),  # RST_STREAM
        (bare(0x3, 0, bytes(4)), PROTOCOL_ERROR),
        (bare(0x4, 0, bytes(5)), FRAME_SIZE_ERROR),  # SETTINGS
        (bare(0x4, 0, bytes(6), flags=0x1), FRAME_SIZE_ERROR),
        (bare(0x4, 0, bytes(16_386)), FRAME_SIZE_ERROR),
        (bare(0x4, 1, bytes(6)), PROTOCOL_ERROR),
        (bare(0x4, 0, bytes((0, 2, 0, 0, 0, 2))), PROTOCOL_ERROR),  # ENABLE_PUSH=2
        (bare(0x6, 0, bytes(7)), FRAME_SIZE_ERROR),  # PING
        (bare(0x6, 1, bytes(8)), PROTOCOL_ERROR),
        (bare(0x7, 0, bytes(7)), FRAME_SIZE_ERROR),  # GOAWAY
        (bare(0x7, 1, bytes(8)), PROTOCOL_ERROR),
        (bare(0x8, 0, bytes(3)), FRAME_SIZE_ERROR),  # WINDOW_UPDATE
        (bare(0x8, 0, bytes(4)), PROTOCOL_ERROR),
        (bare(0x8, 9, (1).to_bytes(4)), PROTOCOL_ERROR),
    ],
)
async def test_frames_of_a_wrong_size_or_place_end_the_connection(frame: bytes, error_code: int) -> None:
    async with serving() as served, raw(served.port) as client:
        client.send(client.headers(1))
        client.writer.write(frame)
        assert await client.goodbye() == error_code


@pytest.mark.parametrize("again", [lambda client: data(1, b"x"), lambda client: client.headers(1)])
async def test_who_goes_on_after_the_end_of_a_message_is_cut_off(again: Any) -> None:
    async def hold(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    async with serving({"/t/hold": Method(hold)}) as served, raw(served.port) as client:
        client.ask(1, path="/t/hold")
        client.send(again(client))
        assert await client.goodbye() == STREAM_CLOSED


async def test_more_than_the_window_ends_the_connection() -> None:
    stopped = asyncio.Event()

    async def hold(exchange: Exchange) -> None:
        await stopped.wait()

    async with serving({"/t/hold": Method(hold, reads=True)}, stream_window_bytes=65_536) as served:
        async with raw(served.port) as client:
            client.send(client.headers(1, path="/t/hold"))
            client.send(*(data(1, framed(bytes(16_000))) for _ in range(5)))
            assert await client.goodbye() == FLOW_CONTROL_ERROR
        stopped.set()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda number: PingFrame(0, b"12345678"), "ping_flood"),
        (lambda number: SettingsFrame(0), "settings_flood"),
        (lambda number: PriorityFrame(1, depends_on=3), "frame_flood"),
        (lambda number: ExtensionFrame(0x40, 0, body=b""), "frame_flood"),
        (lambda number: WindowUpdateFrame(1, 1), "window_update_flood"),
        (lambda number: data(1, b""), "tiny_data_flood"),
        (lambda number: data(1, b"\0"), "tiny_data_flood"),
        (lambda number: DataFrame(1, b"", pad_length=255, flags=["PADDED"]), "tiny_data_flood"),
    ],
)
async def test_floods_are_cut_off(make: Any, reason: str) -> None:
    async with serving() as served, raw(served.port) as client:
        client.send(client.headers(1, path="/t/echo"), data(1, framed(bytes(60_000))[:5]))
        for number in range(3000):
            client.writer.write(make(number).serialize())
        assert await client.goodbye() == ENHANCE_YOUR_CALM
        assert served.counted == [reason]


async def test_rapid_resets_are_cut_off() -> None:
    async with serving() as served, raw(served.port) as client:
        for stream_id in range(1, 2001, 2):
            client.send(client.headers(stream_id), RstStreamFrame(stream_id, error_code=CANCEL))
        assert await client.goodbye() == ENHANCE_YOUR_CALM
        assert served.counted == ["rapid_reset"]


async def test_a_client_that_resets_now_and_then_is_not() -> None:
    async with serving() as served, raw(served.port) as client:
        for stream_id in range(1, 1601, 4):
            client.ask(stream_id)
            client.ask(stream_id + 2)
            client.send(RstStreamFrame(stream_id + 2, error_code=CANCEL))
            assert (await client.answer(stream_id)).fields["grpc-status"] == "0"
        assert served.counted == []


async def test_streams_above_the_limit_are_refused_and_may_be_tried_again() -> None:
    async with serving(streams=4) as served, raw(served.port) as client:
        for stream_id in range(1, 13, 2):
            client.send(client.headers(stream_id))
        assert (await client.answer(9)).error_code == REFUSED_STREAM
        assert (await client.answer(11)).error_code == REFUSED_STREAM
        client.send(data(1, framed(b"a"), ends=True))
        assert (await client.answer(1)).body == framed(b"aa")
        client.ask(13)
        assert (await client.answer(13)).body == framed(b"abab")
        for stream_id in range(15, 1215, 2):
            client.send(client.headers(stream_id))
        assert await client.goodbye() == ENHANCE_YOUR_CALM


async def test_messages_that_come_too_slowly_end_their_calls_and_no_others() -> None:
    async with serving(message_s=0.05, sweep_s=0.02) as served, raw(served.port) as client:
        client.send(client.headers(1), client.headers(3), data(3, framed(b"abc")[:6]))
        client.send(client.headers(5, path="/t/echo"), data(5, framed(b"a")))
        for stream_id in (1, 3):
            answer = await client.answer(stream_id)
            assert answer.fields["grpc-status"] == "4"
            assert "no whole message" in answer.fields["grpc-message"]
        client.send(data(5, framed(b"b")), data(5, framed(b"cd")[:6]))
        assert (await client.answer(5)).body == framed(b"a") + framed(b"b")
        assert client.answers[5].fields["grpc-status"] == "4"
        client.ask(7)
        assert (await client.answer(7)).fields["grpc-status"] == "0"
        assert served.counted == ["slow_body"] * 3


async def test_silence_and_headers_that_do_not_end_are_cut_off() -> None:
    async with serving(head_s=0.05, sweep_s=0.02) as served:
        waiting, silent = await asyncio.open_connection("127.0.0.1", served.port)
        async with raw(served.port) as halved, raw(served.port) as unfinished:
            halved.writer.write(halved.headers(1).serialize()[:12])
            unfinished.send(unfinished.headers(1, flags=()))
            assert await halved.goodbye() == ENHANCE_YOUR_CALM
            assert await unfinished.goodbye() == ENHANCE_YOUR_CALM
        async with asyncio.timeout(20):
            assert (await waiting.read())[-4:] == ENHANCE_YOUR_CALM.to_bytes(4)
        assert served.counted == ["slow_headers"] * 3
        silent.close()


async def test_a_client_that_does_not_read_its_answer_loses_it() -> None:
    async with serving(write_s=0.05, sweep_s=0.02) as served:
        async with raw(served.port, settings={INITIAL_WINDOW: 10}) as client:
            client.ask(1, bytes(1000))
            assert (await client.answer(1)).error_code == CANCEL
            client.ask(3, b"a")
            assert (await client.answer(3)).fields["grpc-status"] == "0"
        assert served.counted == ["slow_reader"]


async def test_a_client_that_is_gone_without_a_word_is_noticed() -> None:
    async with serving(quiet_s=0.05, pong_s=0.05, sweep_s=0.02) as served, raw(served.port) as client:
        async with asyncio.timeout(20):
            while (found := await client.read()) is not None:
                if isinstance(found, PingFrame) and len(client.frames) < 12:
                    client.send(PingFrame(0, found.opaque_data, flags=["ACK"]))
        assert sum(isinstance(one, PingFrame) for one in client.frames) > 2


async def test_who_leaves_frees_what_was_under_way() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang(message: Message, exchange: Exchange) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def reset(client: RawClient) -> None:
        client.send(RstStreamFrame(1))

    for leave in (reset, RawClient.close):
        begun.clear()
        ended.clear()
        async with serving({"/t/hang": Method(hang)}) as served, raw(served.port) as client:
            client.ask(1, path="/t/hang")
            async with asyncio.timeout(20):
                await begun.wait()
                leave(client)
                await ended.wait()


async def test_connections_and_calls_have_bounds() -> None:
    async with serving(connections=1, calls=2) as served, raw(served.port) as client:
        client.send(*(client.headers(stream_id) for stream_id in (1, 3, 5)))
        answer = await client.answer(5)
        assert (answer.fields["grpc-status"], answer.fields["retry-after"]) == ("8", "1")
        async with raw(served.port) as other:
            assert await other.read() is None
        assert served.counted == ["too_many_connections"]
