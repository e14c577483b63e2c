"""An HTTP/2 server on real sockets and an application that does what it is asked for."""

from __future__ import annotations

import asyncio
import inspect
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop
from h2_client import Client, connect
from waiting import until

from mdslite.door.h2 import Http2Bridge
from mdslite.http.policing import Limits
from mdslite.http.tls import server_context

PAIR = Path(__file__).parent / "data" / "tls"

Address = tuple[str, int]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Door(asyncio.Protocol):
    """Hands each connection over at once: with TLS when the handshake is done, else with the first bytes."""

    def __init__(self, bridge: Http2Bridge) -> None:
        self._bridge = bridge

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if transport.get_extra_info("ssl_object") is not None:
            self._bridge.adopt(transport)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        self._bridge.adopt(self._transport, data)  # type: ignore[arg-type]


class App:
    """An application with a path for each way to behave; says what it met."""

    def __init__(self) -> None:
        self.met: Counter[str] = Counter()
        self.changed = asyncio.Condition()
        self.gate = asyncio.Event()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await self.note("started")
        try:
            await getattr(self, scope["path"].strip("/") or "echo")(scope, receive, send)
        except asyncio.CancelledError:
            await self.note("cancelled")
            raise

    async def note(self, what: str) -> None:
        async with self.changed:
            self.met[what] += 1
            self.changed.notify_all()

    async def until(self, what: str, count: int = 1) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: self.met[what] >= count)

    async def echo(self, scope: Any, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        if body is None:
            await self.note("left")
            return
        scope = {key: scope[key] for key in ("method", "path", "scheme", "http_version")}
        await reply(send, json.dumps({"bytes": len(body), **scope}).encode())

    async def wait(self, scope: Any, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await self.note("waiting")
        await self.gate.wait()
        await reply(send, b"at last")
        await self.note("answered")

    async def listen(self, scope: Any, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        assert (await receive())["type"] == "http.disconnect"
        await self.note("left")

    async def large(self, scope: Any, receive: Receive, send: Send) -> None:
        await reply(send, b"x" * 3_000_000)
        await self.note("sent")

    async def deaf(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answers without reading the body."""
        await self.note("waiting")
        await self.gate.wait()
        await reply(send, b"too large", status=413)

    async def fail(self, scope: Any, receive: Receive, send: Send) -> None:
        raise ValueError("a secret")

    async def break_off(self, scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("a secret")

    async def silent(self, scope: Any, receive: Receive, send: Send) -> None:
        """Returns without an answer."""


async def read_body(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message["body"]
        if not message["more_body"]:
            return bytes(body)


async def reply(send: Send, body: bytes, *, status: int = 200) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Server:
    """A bridge behind a door, and what it said about its clients."""

    def __init__(self, *, secure: bool, **options: Any) -> None:
        self.app = App()
        self.policed: list[str] = []
        self.bridge = Http2Bridge(self.app, on_policed=self.policed.append, **options)
        self.address: Address = ("", 0)
        self.listener: asyncio.Server
        self.secure = secure

    def connect(self, **options: Any) -> AbstractAsyncContextManager[Client]:
        return connect(self.address, tls=client_tls() if self.secure else None, **options)

    async def until_alone(self) -> None:
        """Wait until no connection is left."""
        await until(lambda: not self.bridge.connections)


@asynccontextmanager
async def serving(
    *, secure: bool = False, limits: Limits | None = None, **options: Any
) -> AsyncIterator[Server]:
    server = Server(secure=secure, limits=limits or Limits(linger_s=0.2), **options)
    server.listener = await asyncio.get_running_loop().create_server(
        lambda: Door(server.bridge), "127.0.0.1", 0, ssl=server_tls() if secure else None
    )
    server.address = server.listener.sockets[0].getsockname()[:2]
    try:
        yield server
    finally:
        server.listener.close()
        server.app.gate.set()
        await server.bridge.close(5)
        assert server.bridge.connections == 0
        assert not server.bridge._tasks


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test on uvloop, and look for tasks that nobody owned."""

    def run(**fixtures: Any) -> None:
        async def whole() -> None:
            await test(**fixtures)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left

        uvloop.run(whole())

    run.__name__ = test.__name__
    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


def server_tls() -> ssl.SSLContext:
    return server_context(PAIR / "localhost.pem", key=PAIR / "localhost.key")


def client_tls() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=PAIR / "localhost.pem")
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context
