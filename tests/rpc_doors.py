"""A gRPC door of its own for a test, and clients that speak HTTP/2 frame by frame."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import hpack
from hyperframe.frame import DataFrame, Frame, HeadersFrame, RstStreamFrame, SettingsFrame

from mdslite.http.policing import PREFACE
from mdslite.rpc.door import RpcDoor
from mdslite.rpc.exchange import Exchange, Message, Method
from mdslite.rpc.limits import RpcLimits


async def double(message: Message, exchange: Exchange) -> bytes:
    return bytes(message) * 2


async def watch(message: Message, exchange: Exchange) -> None:
    await exchange.write(bytes(message))
    await asyncio.Event().wait()


async def echo(exchange: Exchange) -> None:
    async for message in exchange.messages():
        await exchange.write(bytes(message))


def methods(*, public: bool = False) -> dict[str, Method]:
    return {
        "/t/double": Method(double, public=public),
        "/t/watch": Method(watch, public=public),
        "/t/echo": Method(echo, reads=True, public=public),
    }


@dataclass
class Served:
    door: RpcDoor
    port: int
    counted: list[str]


@asynccontextmanager
async def serving(found: Mapping[str, Method] | None = None, **limits: Any) -> AsyncIterator[Served]:
    """A door on a port of its own."""
    counted: list[str] = []
    door = RpcDoor(found or methods(), limits=RpcLimits(**limits), count=counted.append)
    server = await asyncio.get_running_loop().create_server(door.connection, "127.0.0.1", 0)
    try:
        yield Served(door, server.sockets[0].getsockname()[1], counted)
    finally:
        server.close()
        await door.close(grace_s=5)


@dataclass
class Answer:
    """What came for one stream: its header fields, the first and the last ones, and its messages' bytes."""

    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    error_code: int | None = None
    ended: bool = False


class RawClient:
    """Writes what frames it likes, and reads what comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self.answers: dict[int, Answer] = {}
        self.frames: list[Frame] = []

    @classmethod
    async def connect(
        cls, port: int, *, settings: Mapping[int, int] | None = None, first: Frame | None = None
    ) -> RawClient:
        """`first` is what comes in the place of the settings."""
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        first = first or SettingsFrame(0, settings=dict(settings or {}))
        client.writer.write(PREFACE + first.serialize())
        return client

    def send(self, *sent: Frame) -> None:
        self.writer.write(b"".join(one.serialize() for one in sent))

    def headers(
        self,
        stream_id: int,
        path: str = "/t/double",
        more: Iterable[tuple[str, str]] = (),
        *,
        flags: Iterable[str] = ("END_HEADERS",),
        method: str = "POST",
        content_type: str = "application/grpc",
    ) -> HeadersFrame:
        fields = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "localhost")]
        fields += [("content-type", content_type), ("te", "trailers"), *more]
        return HeadersFrame(stream_id, self._encoder.encode(fields), flags=list(flags))

    def ask(self, stream_id: int, message: bytes = b"ab", **options: Any) -> None:
        """A whole call."""
        self.send(self.headers(stream_id, **options))
        whole = framed(message)
        for at in range(0, len(whole), 100_000):
            self.send(data(stream_id, whole[at : at + 100_000], ends=at + 100_000 >= len(whole)))

    async def read(self) -> Frame | None:
        """The next frame, taken note of; None at the connection's end."""
        try:
            head = await self._reader.readexactly(9)
            found, length = Frame.parse_frame_header(memoryview(head))
            found.parse_body(memoryview(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self.frames.append(found)
        answer = self.answers.setdefault(found.stream_id, Answer())
        if isinstance(found, HeadersFrame):
            fields = self._decoder.decode(found.data, raw=True)
            answer.fields |= {name.decode(): value.decode() for name, value in fields}
        if isinstance(found, DataFrame):
            answer.body += found.data
        answer.ended = answer.ended or "END_STREAM" in found.flags
        if type(found).__name__ == "RstStreamFrame":
            answer.error_code = found.error_code  # type: ignore[attr-defined]
            answer.ended = True
        return found

    async def answer(self, stream_id: int) -> Answer:
        """What a stream ends with."""
        async with asyncio.timeout(20):
            while not (stream_id in self.answers and self.answers[stream_id].ended):
                assert await self.read() is not None, self.frames
        return self.answers[stream_id]

    async def goodbye(self) -> int:
        """The error code that the connection ends with."""
        async with asyncio.timeout(20):
            while (found := await self.read()) is not None:
                pass
        del found
        last = [one for one in self.frames if type(one).__name__ == "GoAwayFrame"]
        assert last, self.frames
        return int(last[-1].error_code)  # type: ignore[attr-defined]

    def close(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def raw(port: int, **options: Any) -> AsyncIterator[RawClient]:
    client = await RawClient.connect(port, **options)
    try:
        yield client
    finally:
        client.close()


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    return bytes((compressed,)) + len(message).to_bytes(4) + message


def data(stream_id: int, payload: bytes, *, ends: bool = False) -> DataFrame:
    return DataFrame(stream_id, payload, flags=["END_STREAM"] if ends else [])


def bare(kind: int, stream_id: int, payload: bytes, *, flags: int = 0) -> bytes:
    """A frame that no library would make."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream_id.to_bytes(4) + payload


def resets(client: RawClient) -> list[int]:
    return [one.error_code for one in client.frames if isinstance(one, RstStreamFrame)]
