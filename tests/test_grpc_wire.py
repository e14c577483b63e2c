"""The gRPC port's own HTTP/2, frame by frame: what it takes, what it refuses, and whom it cuts off."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import hpack
import pytest
import rpc_doors
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from rpc_doors import data, framed, raw, serving

from mdslite.http.policing import PREFACE
from mdslite.rpc.exchange import Exchange, Message, Method
from mdslite.rpc.heads import Heads

pytestmark = pytest.mark.anyio

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 0, 1, 3, 5, 6
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 7, 8, 9, 11
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5


def bare(kind: int, stream_id: int, payload: bytes, *, flags: int = 0) -> bytes:
    """A frame that no library would make."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream_id.to_bytes(4) + payload


def resets(client: rpc_doors.RawClient) -> list[int]:
    return [one.error_code for one in client.frames if isinstance(one, RstStreamFrame)]


# What it takes


async def test_a_call_is_answered_with_its_status() -> None:
    async with serving() as served, raw(served.port) as client:
        for stream_id in (1, 3, 5):  # the first header fills the table, the third is remembered
            client.ask(stream_id)
            answer = await client.answer(stream_id)
            assert answer.body == framed(b"abab")
            assert answer.fields["grpc-status"] == "0"
            assert answer.fields["content-type"] == "application/grpc"


async def test_a_header_is_not_taken_for_another_one_after_the_table_changed() -> None:
    async with serving() as served, raw(served.port) as client:
        for stream_id in range(1, 60, 2):
            path = "/t/double" if stream_id % 4 == 1 else f"/t/{'x' * stream_id}"
            client.ask(stream_id, path=path, more=[("x-number", str(stream_id))] if stream_id % 3 else [])
        for stream_id in range(1, 60, 2):
            status = (await client.answer(stream_id)).fields["grpc-status"]
            assert status == ("0" if stream_id % 4 == 1 else "12")


def test_remembered_headers_mean_what_the_table_says() -> None:
    encoder, heads = hpack.Encoder(), Heads()
    fields = [(":method", "POST"), (":path", "/a/b"), ("content-type", "application/grpc")]
    for number in range(300):
        more = [("x-more", str(number % 7 * 500))]
        wanted = fields + (more if number % 3 else [])
        if number % 50 == 49:
            encoder.header_table_size = 4096 if number % 100 == 99 else 200
        found = heads.read(encoder.encode(wanted))
        assert [(name.decode(), value.decode()) for name, value in found.metadata] == wanted[2:]


async def test_messages_may_come_in_any_pieces() -> None:
    text = bytes(range(256)) * 3
    async with serving() as served, raw(served.port) as client:
        whole = framed(text)
        client.send(client.headers(1))
        for at in range(0, len(whole), 7):
            client.send(data(1, whole[at : at + 7], ends=at + 7 >= len(whole)))
        assert (await client.answer(1)).body == framed(text * 2)
        padded = DataFrame(3, whole, pad_length=200, flags=["PADDED", "END_STREAM"])
        client.send(client.headers(3), padded)
        assert (await client.answer(3)).body == framed(text * 2)
        frames = client.headers(5).serialize() + data(5, whole, ends=True).serialize()
        for at in range(len(frames)):
            client.writer.write(frames[at : at + 1])
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.answer(5)).body == framed(text * 2)
        client.send(client.headers(7), data(7, whole), client.headers(7, flags=("END_HEADERS", "END_STREAM")))
        assert (await client.answer(7)).body == framed(text * 2)


async def test_headers_may_go_on_in_other_frames() -> None:
    async with serving() as served, raw(served.port) as client:
        first = client.headers(1, more=[("x-long", "y" * 300)], flags=())
        block = first.data
        client.send(HeadersFrame(1, block[:10]), ContinuationFrame(1, block[10:200]))
        client.send(
            ContinuationFrame(1, block[200:], flags=["END_HEADERS"]), data(1, framed(b"c"), ends=True)
        )
        assert (await client.answer(1)).body == framed(b"cc")


async def test_long_answers_keep_within_the_clients_windows() -> None:
    text = bytes(200_000)
    async with serving() as served, raw(served.port, settings={INITIAL_WINDOW_SIZE: 1000}) as client:
        client.ask(1, text)
        for stream_id, amount in ((1, 9_000), (1, 400_000), (0, 400_000)):
            await asyncio.sleep(0)
            client.send(WindowUpdateFrame(stream_id, amount))
        answer = await client.answer(1)
        assert answer.body == framed(text * 2)
        assert answer.fields["grpc-status"] == "0"
        sizes = [len(one.data) for one in client.frames if isinstance(one, DataFrame)]
        assert max(sizes) <= 16_384
        # The window of later streams is what the settings say by then, of open ones what they change it by.
        client.send(client.headers(3), SettingsFrame(0, settings={INITIAL_WINDOW_SIZE: 100_000}))
        client.send(WindowUpdateFrame(0, 100_000), data(3, framed(bytes(40_000)), ends=True))
        assert (await client.answer(3)).body == framed(bytes(80_000))


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_compressed_messages_are_inflated_within_bounds(coding: str) -> None:
    squeeze = {"gzip": gzip.compress, "deflate": zlib.compress}[coding]
    async with serving(max_inflated_bytes=100_000) as served, raw(served.port) as client:

        async def ask(stream_id: int, payload: bytes, path: str = "/t/double") -> rpc_doors.Answer:
            client.send(client.headers(stream_id, path=path, more=[("grpc-encoding", coding)]))
            client.send(data(stream_id, payload, ends=True))
            return await client.answer(stream_id)

        assert (await ask(1, framed(squeeze(b"ab"), compressed=True))).body == framed(b"abab")
        assert (await ask(3, framed(squeeze(b"ab"), compressed=True), "/t/echo")).body == framed(b"ab")
        bomb = await ask(5, framed(squeeze(bytes(10_000_000)), compressed=True))
        assert bomb.fields["grpc-status"] == "8"
        assert "longer than 100000 bytes when decompressed" in bomb.fields["grpc-message"]
        assert (await ask(7, framed(b"no such", compressed=True))).fields["grpc-status"] == "3"


async def test_a_deadline_ends_what_takes_longer() -> None:
    async with serving() as served, raw(served.port) as client:
        client.ask(1, path="/t/watch", more=[("grpc-timeout", "50m")])
        answer = await client.answer(1)
        assert (answer.body, answer.fields["grpc-status"]) == (framed(b"ab"), "4")


async def test_a_goodbye_lets_what_is_under_way_end() -> None:
    release = asyncio.Event()

    async def wait(message: Message, exchange: Exchange) -> bytes:
        await release.wait()
        return b"late"

    async with serving({"/t/wait": Method(wait)}) as served, raw(served.port) as client:
        client.ask(1, path="/t/wait")
        while not isinstance(await client.read(), SettingsFrame):
            pass
        closing = asyncio.create_task(served.door.close(grace_s=20))
        while not (isinstance(found := await client.read(), PingFrame) and "ACK" not in found.flags):
            assert found is not None
        client.send(PingFrame(0, found.opaque_data, flags=["ACK"]))
        release.set()
        assert (await client.answer(1)).body == framed(b"late")
        assert await client.goodbye() == NO_ERROR
        await closing


# What it refuses


@pytest.mark.parametrize(
    "first", [PingFrame(0, bytes(8)), SettingsFrame(0, flags=["ACK"]), WindowUpdateFrame(0, 5), data(1, b"")]
)
async def test_the_settings_come_first(first: Frame) -> None:
    async with serving() as served, raw(served.port, first=first) as client:
        client.send(SettingsFrame(0))
        assert await client.goodbye() == PROTOCOL_ERROR
        assert served.counted == ["protocol_error"]


async def test_the_settings_may_come_in_pieces() -> None:
    async with serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        client = rpc_doors.RawClient(reader, writer)
        for byte in PREFACE + SettingsFrame(0, settings={MAX_FRAME_SIZE: 16_384}).serialize():
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0)
        client.ask(1)
        assert (await client.answer(1)).body == framed(b"abab")
        client.close()


@pytest.mark.parametrize("path", ["/t/double", "/t/echo"])
@pytest.mark.parametrize("parts", [1, 3])
async def test_a_call_of_another_length_than_it_announces_is_malformed(path: str, parts: int) -> None:
    whole = framed(b"ab" * 30)
    size = len(whole)
    async with serving() as served, raw(served.port) as client:

        async def ask(stream_id: int, length: str, *, pad: int = 0) -> rpc_doors.Answer:
            client.send(client.headers(stream_id, path=path, more=[("content-length", length)]))
            step = -(-size // parts)
            for at in range(0, size, step):
                piece = data(stream_id, whole[at : at + step], ends=at + step >= size)
                if pad:
                    piece.flags.add("PADDED")
                    piece.pad_length = pad
                client.send(piece)
            return await client.answer(stream_id)

        assert (await ask(1, str(size))).fields["grpc-status"] == "0"
        assert (await ask(3, str(size), pad=9)).fields["grpc-status"] == "0"
        for stream_id, length in ((5, size - 1), (7, size + 1), (9, 0), (11, 10**17)):
            assert (await ask(stream_id, str(length))).error_code == PROTOCOL_ERROR, length
        assert (await ask(13, str(size))).fields["grpc-status"] == "0"


async def test_a_call_that_ends_with_fields_has_the_length_that_it_announces() -> None:
    ends = ("END_HEADERS", "END_STREAM")
    whole = framed(b"ab")
    async with serving() as served, raw(served.port) as client:
        client.send(client.headers(1, more=[("content-length", "9")], flags=ends))
        assert (await client.answer(1)).error_code == PROTOCOL_ERROR
        client.send(client.headers(3, more=[("content-length", "9")]), data(3, whole))
        client.send(client.headers(3, flags=ends))
        assert (await client.answer(3)).error_code == PROTOCOL_ERROR
        client.send(client.headers(5, more=[("content-length", "7")]), data(5, whole))
        client.send(client.headers(5, flags=ends))
        assert (await client.answer(5)).body == framed(b"abab")


@pytest.mark.parametrize("lengths", [["+7"], ["seven"], [""], ["9" * 5000], ["7", "8"]])
async def test_a_length_that_is_none_is_malformed(lengths: list[str]) -> None:
    async with serving() as served, raw(served.port) as client:
        client.ask(1, more=[("content-length", one) for one in lengths])
        assert (await client.answer(1)).error_code == PROTOCOL_ERROR
        client.ask(3, more=[("content-length", "7"), ("content-length", "7")])
        assert (await client.answer(3)).fields["grpc-status"] == "0"


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ({"path": "/t/none"}, "12", "no method /t/none"),
        ({"method": "GET"}, "3", "expected the method POST"),
        ({"content_type": "application/json"}, "3", "application/grpc"),
        ({"content_type": "application/grpc-web"}, "3", "application/grpc"),
        ({"more": [("grpc-timeout", "soon")]}, "3", "grpc-timeout"),
        ({"more": [("grpc-timeout", "1S"), ("grpc-timeout", "2S")]}, "3", "one grpc-timeout, got 2"),
        ({"more": [("authorization", "a"), ("authorization", "b")]}, "3", "one Authorization header, got 2"),
        ({"more": [("grpc-encoding", "snappy")]}, "3", "identity, gzip or deflate"),
        ({"more": [(f"x-{number}", "1") for number in range(100)]}, "3", "at most 100"),
    ],
)
async def test_calls_that_are_wrong_are_told_so(options: dict[str, Any], status: str, says: str) -> None:
    async with serving() as served, raw(served.port) as client:
        client.ask(1, **options)
        answer = await client.answer(1)
        assert answer.fields["grpc-status"] == status
        assert says.replace("%", "%25") in answer.fields["grpc-message"]
        client.ask(3)
        assert (await client.answer(3)).fields["grpc-status"] == "0"


@pytest.mark.parametrize(
    ("payload", "status", "says"),
    [
        (b"", "3", "without a message"),
        (framed(b"a") + framed(b"b"), "3", "another message"),
        (framed(b"abc")[:6], "3", "in the midst of a message"),
        (b"\x02\x00\x00\x00\x00", "3", "neither 0 nor 1"),
        (b"\x00\xff\xff\xff\xff", "8", "expected at most"),
        (framed(b"ab", compressed=True), "3", "no grpc-encoding"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
async def test_messages_that_are_wrong_are_told_so(
    payload: bytes, status: str, says: str, whole: bool
) -> None:
    async with serving() as served, raw(served.port) as client:
        if whole:
            client.send(client.headers(1), data(1, payload, ends=True))
        else:
            client.send(client.headers(1), data(1, payload), data(1, b"", ends=True))
        answer = await client.answer(1)
        assert (answer.fields["grpc-status"], says in answer.fields["grpc-message"]) == (status, True)


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


async def test_a_client_that_speaks_http_1_is_told_what_this_port_is() -> None:
    async with serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(20):
            said = await reader.read()
        assert said.startswith(b"HTTP/1.1 400 ")
        assert said.endswith(b"this port speaks gRPC\n")
        writer.close()


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
        (lambda client: SettingsFrame(0, settings={INITIAL_WINDOW_SIZE: 2**31}), FLOW_CONTROL_ERROR),
        (lambda client: data(1, bytes(129 * 1024)), FRAME_SIZE_ERROR),
        (lambda client: client.headers(1, more=[("x", "y" * 17_000)]), ENHANCE_YOUR_CALM),
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
        async with raw(served.port, settings={INITIAL_WINDOW_SIZE: 10}) as client:
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

    for leave in (lambda client: client.send(RstStreamFrame(1)), lambda client: client.close()):
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
