"""An HTTP/2 client that does as it is told, rude things too: frames by hyperframe and hpack, on asyncio."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import hpack
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from waiting import drained

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WAIT_S = 20.0


@dataclass
class Answer:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        return int(self.headers[":status"])


class Client:
    """One connection. `reads` says whether it gives back the windows that answers use up, `acks` whether it
    acknowledges settings and pings."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.answers: dict[int, Answer] = {}
        self.goaways: list[GoAwayFrame] = []
        self.settings: dict[int, int] = {}
        self.reads = True
        self.acks = True
        self.closed = False
        self.frames: list[Frame] = []
        self._reader = reader
        self._writer = writer
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._next_id = 1
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._read())

    def send(self, *frames: Frame | bytes) -> None:
        """Write frames, or bytes that are none."""
        data = b"".join(frame if isinstance(frame, bytes) else frame.serialize() for frame in frames)
        self._writer.write(data)

    def head(
        self,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        end: bool = True,
        stream_id: int | None = None,
    ) -> HeadersFrame:
        """The HEADERS frame of a request on a new stream."""
        if stream_id is None:
            stream_id = self._next_id
            self._next_id += 2
        pseudo = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "localhost")]
        frame = HeadersFrame(stream_id, self._encoder.encode([*pseudo, *headers]))
        frame.flags.add("END_HEADERS")
        if end:
            frame.flags.add("END_STREAM")
        self.answers[stream_id] = Answer()
        return frame

    async def get(self, path: str = "/") -> Answer:
        frame = self.head(path)
        self.send(frame)
        return await self.answer(frame.stream_id)

    async def post(self, path: str, body: bytes) -> Answer:
        frame = self.head(path, method="POST", end=False)
        pieces = [body[at : at + 16_384] for at in range(0, len(body), 16_384)] or [b""]
        self.send(frame, *(data(frame.stream_id, piece) for piece in pieces[:-1]))
        self.send(data(frame.stream_id, pieces[-1], end=True))
        return await self.answer(frame.stream_id)

    async def answer(self, stream_id: int) -> Answer:
        """Wait until a stream has ended, one way or the other."""
        answer = self.answers[stream_id]
        await self.until(lambda: answer.ended or answer.reset is not None or self.closed)
        return answer

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until a condition on what came back holds."""
        async with asyncio.timeout(WAIT_S), self._changed:
            await self._changed.wait_for(condition)

    async def drained(self) -> None:
        """Wait until what was sent has left this process, or the connection has ended."""
        await drained(self._writer, limit_s=WAIT_S)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)

    def stop_reading(self) -> None:
        """Leave what the server sends in the socket."""
        self._task.cancel()

    async def _read(self) -> None:
        try:
            while True:
                frame, length = Frame.parse_frame_header(memoryview(await self._reader.readexactly(9)))
                frame.parse_body(memoryview(await self._reader.readexactly(length)))
                async with self._changed:
                    self._handle(frame)
                    self._changed.notify_all()
        except (OSError, asyncio.IncompleteReadError):
            pass
        async with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _handle(self, frame: Frame) -> None:
        self.frames.append(frame)
        answer = self.answers.get(frame.stream_id, Answer())
        if isinstance(frame, HeadersFrame):
            fields = self._decoder.decode(frame.data, raw=True)
            answer.headers |= {name.decode(): value.decode() for name, value in fields}
        elif isinstance(frame, DataFrame):
            answer.body += frame.data
            if self.reads and frame.data:
                self.send(window(0, len(frame.data)), window(frame.stream_id, len(frame.data)))
        elif isinstance(frame, RstStreamFrame):
            answer.reset = frame.error_code
        elif isinstance(frame, GoAwayFrame):
            self.goaways.append(frame)
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.settings |= frame.settings
            if self.acks:
                self.send(SettingsFrame(0, flags=["ACK"]))
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags and self.acks:
            self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
        answer.ended = answer.ended or "END_STREAM" in frame.flags


@asynccontextmanager
async def connect(
    address: tuple[str, int],
    *,
    tls: ssl.SSLContext | None = None,
    settings: dict[int, int] | None = None,
    first: Sequence[Frame | bytes] | None = None,
) -> AsyncIterator[Client]:
    """A connection that has said hello, or sent just `first`."""
    reader, writer = await asyncio.open_connection(
        *address, ssl=tls, server_hostname="localhost" if tls else None
    )
    client = Client(reader, writer)
    client.send(*(first if first is not None else (PREFACE, SettingsFrame(0, settings or {}))))
    try:
        yield client
    finally:
        await client.close()


def data(stream_id: int, payload: bytes = b"", *, end: bool = False) -> DataFrame:
    return DataFrame(stream_id, payload, flags=["END_STREAM"] if end else [])


def window(stream_id: int, size: int) -> WindowUpdateFrame:
    return WindowUpdateFrame(stream_id, size)


def reset(stream_id: int) -> RstStreamFrame:
    return RstStreamFrame(stream_id, 8)
