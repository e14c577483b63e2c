"""The gRPC port's own HTTP/2, frame by frame: what it takes, and what of a call it refuses."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable
from typing import Any

import hpack
import pytest
import rpc_doors
from h2_codes import INITIAL_WINDOW, MAX_FRAME_SIZE, NO_ERROR, PROTOCOL_ERROR
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from rpc_doors import data, framed, raw, serving

from mdslite.http.policing import PREFACE
from mdslite.rpc.exchange import Exchange, Message, Method
from mdslite.rpc.heads import Heads

pytestmark = pytest.mark.anyio


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
    async with serving() as served, raw(served.port, settings={INITIAL_WINDOW: 1000}) as client:
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
        client.send(client.headers(3), SettingsFrame(0, settings={INITIAL_WINDOW: 100_000}))
        client.send(WindowUpdateFrame(0, 100_000), data(3, framed(bytes(40_000)), ends=True))
        assert (await client.answer(3)).body == framed(bytes(80_000))


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_compressed_messages_are_inflated_within_bounds(coding: str) -> None:
    squeeze: Callable[[bytes], bytes] = gzip.compress if coding == "gzip" else zlib.compress
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


async def test_nothing_is_answered_behind_the_end() -> None:
    async with serving() as served, raw(served.port) as client:
        client.ask(1)
        await client.answer(1)
        closing = asyncio.create_task(served.door.close(grace_s=20))
        while not (isinstance(found := await client.read(), PingFrame) and "ACK" not in found.flags):
            assert found is not None
        # The first ends the connection, and the second would be answered.
        client.send(PingFrame(0, found.opaque_data, flags=["ACK"]), PingFrame(0, b"too late"))
        assert await client.goodbye() == NO_ERROR
        await closing
        assert not any(isinstance(one, PingFrame) and "ACK" in one.flags for one in client.frames)


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
        (
            {"more": [(f"x-{number}", "1") for number in range(100)]},
            "8",
            "longer than 16384 bytes",
        ),
        ({"more": [("x-long", "y" * 16_384)]}, "8", "longer than 16384 bytes"),
        ({"more": [("x-long", "y" * 30_000)]}, "8", "longer than 16384 bytes"),
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


async def test_a_client_that_speaks_http_1_is_told_what_this_port_is() -> None:
    async with serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(20):
            said = await reader.read()
        assert said.startswith(b"HTTP/1.1 400 ")
        assert said.endswith(b"this port speaks gRPC\n")
        writer.close()
