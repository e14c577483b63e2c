"""An HTTP/1.1 client that sends what it is told, byte by byte."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from waiting import drained

from mdslite.hosts import short_path

WAIT_S = 20.0
PREDICT = (
    "/projects/p/models/m:predict"  # of the model that `doors.open_site` serves when it is not told another
)
ROW = [1.0, 2.0, 3.0]  # an instance of it


@dataclass
class Reply:
    """One answer over HTTP/1.1; `framing` is how its end was known."""

    status: int
    headers: dict[str, str]
    body: bytes
    framing: str = ""
    names: list[str] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> Any:
        """The error's code, once its form is known to be the contract's."""
        error = self.json
        assert self.headers["content-type"] == "application/json"
        assert isinstance(error["error"], str) and error["error"]
        assert error["request_id"] == self.headers["mdslite-request-id"]
        return error["code"]

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


class Wire:
    """One connection. `closed` says whether the server has ended it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def drained(self) -> None:
        """Wait until what was sent has left this process, or the connection has ended."""
        await drained(self._writer, limit_s=WAIT_S)

    async def reply(self, *, method: str = "GET") -> Reply:
        """The next answer, complete; `method` is that of the request that it answers."""
        async with asyncio.timeout(WAIT_S):
            reply = await self.head()
            if method == "HEAD" or reply.status in (100, 204, 304):
                reply.framing = "none"
            elif "transfer-encoding" in reply.headers:
                assert "content-length" not in reply.headers
                reply.framing = "chunked"
                chunks = []
                while chunk := await self.chunk():
                    chunks.append(chunk)
                reply.body = b"".join(chunks)
            elif "content-length" in reply.headers:
                reply.framing = "length"
                reply.body = await self._reader.readexactly(int(reply.headers["content-length"]))
            else:
                reply.framing = "close"
                reply.body = await self._reader.read()
        return reply

    async def head(self) -> Reply:
        """The head of the next answer."""
        async with asyncio.timeout(WAIT_S):
            raw = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [line.split(": ", 1) for line in lines]
        names = [name for name, _ in pairs]
        assert len(set(names)) == len(names), f"repeated fields: {names}"
        return Reply(int(status), dict(pairs), b"", names=names)

    async def chunk(self) -> bytes:
        """The next chunk, b"" for the last one."""
        async with asyncio.timeout(WAIT_S):
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            data = await self._reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(WAIT_S):
            return await self._reader.readexactly(size)

    async def rest(self) -> bytes:
        """All that still comes until the server ends the connection, in whatever way."""
        found = b""
        async with asyncio.timeout(WAIT_S):
            try:
                while data := await self._reader.read(65536):
                    found += data
            except ConnectionResetError:
                pass
        return found

    def stop_reading(self) -> None:
        """Leave what the server sends in the socket."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def read_on(self) -> None:
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    def shut(self) -> None:
        """Close the sending side."""
        self._writer.write_eof()

    async def close(self) -> None:
        self._writer.transport.abort()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


@asynccontextmanager
async def connect(address: tuple[str, int], *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    name = "localhost" if tls else None
    wire = Wire(*await asyncio.open_connection(*address, limit=1 << 20, ssl=tls, server_hostname=name))
    try:
        yield wire
    finally:
        await wire.close()


async def speak(path: Path, data: bytes) -> Reply:
    """Send one request on a connection of its own to a socket that is a file."""
    with short_path(path) as short:
        wire = Wire(*await asyncio.open_unix_connection(short))
    try:
        wire.send(data)
        return await wire.reply()
    finally:
        await wire.close()


def request(
    method: str = "GET",
    target: str = "/healthz",
    body: bytes = b"",
    *,
    headers: Iterable[tuple[str, str]] = (),
    version: str = "1.1",
    host: str | None = "localhost",
) -> bytes:
    """A proper request, as far as its arguments are."""
    lines = [f"{method} {target} HTTP/{version}"]
    lines += [f"Host: {host}"] if host is not None else []
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def predict(
    instances: Any = (ROW,),
    *,
    target: str = PREDICT,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
    **options: Any,
) -> bytes:
    """A predict request over JSON."""
    if body is None:
        body = json.dumps({"instances": instances}).encode()
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers = [("Content-Type", "application/json"), *headers]
    return request("POST", target, body, headers=headers, **options)


def chunked(head: bytes, *chunks: bytes) -> bytes:
    """Give a request without a body one in chunks, the last one included."""
    head = head.removesuffix(b"\r\n") + b"Transfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def npy(array: Any, *, pickled: bool = False) -> bytes:
    """An array as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def gzipped(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)
