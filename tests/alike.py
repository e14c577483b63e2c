"""The same request over HTTP/1.1 and HTTP/2, to a site with models of all kinds, and its answers compared."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import h2.config
import h2.connection
import h2.events
import models
from doors import Deployed, Site, open_site
from h1_client import PREDICT, WAIT_S, Reply, request

JSON = ("content-type", "application/json")


# What belongs to the moment or to the connection.
OWN = frozenset({"date", "server-timing", "connection"})


@dataclass(frozen=True)
class Asked:
    method: str = "GET"
    target: str = "/healthz"
    body: bytes = b""
    headers: Sequence[tuple[str, str]] = ()
    host: str | None = "localhost"
    says_length: bool = True


def post(
    instances: Any,
    *headers: tuple[str, str],
    target: str = PREDICT,
    media_type: tuple[str, str] = JSON,
    **options: Any,
) -> Asked:
    body = instances if isinstance(instances, bytes) else json.dumps(instances).encode()
    return Asked("POST", target, body, (media_type, *headers), **options)


@asynccontextmanager
async def open_corpus_site(folder: Path) -> AsyncIterator[Site]:
    identity = models.identity(folder / "m.onnx")
    loop = models.loop(folder / "loop.onnx")
    async with open_site(
        folder,
        Deployed(identity),
        Deployed(identity, model="idle", weight=0),
        Deployed(models.add(folder / "two.onnx"), model="two"),
        Deployed(models.words(folder / "words.onnx"), model="words"),
        Deployed(models.gather(folder / "gather.onnx"), model="gather"),
        Deployed(loop, model="loop", batch={"prediction_time_ms": 50}),
        max_json_bytes=100_000,
        max_body_bytes=300_000,
    ) as site:
        yield site


async def ask_http1(site: Site, asked: Asked) -> Reply:
    headers = list(asked.headers)
    data = request(asked.method, asked.target, headers=headers, host=asked.host)
    if not asked.says_length:
        data = data.removesuffix(b"\r\n") + b"transfer-encoding: chunked\r\n\r\n"
        data += b"%x\r\n%b\r\n0\r\n\r\n" % (len(asked.body), asked.body)
    elif asked.method == "POST" or asked.body:
        data = data.removesuffix(b"\r\n") + b"content-length: %d\r\n\r\n" % len(asked.body) + asked.body
    async with site.connect() as wire:
        wire.send(data)
        return await wire.reply(method=asked.method)


async def ask_http2(site: Site, asked: Asked) -> Reply:
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection(*site.address)
        try:
            return await _ask_http2(reader, writer, asked)
        finally:
            writer.transport.abort()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def _ask_http2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Asked) -> Reply:
    config = h2.config.H2Configuration(validate_outbound_headers=False, header_encoding="latin-1")
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    head = [(":method", asked.method), (":path", asked.target), (":scheme", "http")]
    head += [(":authority", asked.host)] if asked.host is not None else []
    head += [*asked.headers]
    has_body = asked.method == "POST" or bool(asked.body)
    if has_body and asked.says_length:
        head.append(("content-length", str(len(asked.body))))
    connection.send_headers(1, head, end_stream=not has_body)
    unsent = memoryview(asked.body)
    ended = not has_body
    reply = Reply(0, {}, b"")
    while True:
        while not ended:
            size = min(
                connection.local_flow_control_window(1), connection.max_outbound_frame_size, len(unsent)
            )
            if not size and unsent:
                break
            ended = size == len(unsent)
            connection.send_data(1, unsent[:size].tobytes(), end_stream=ended)
            unsent = unsent[size:]
        writer.write(connection.data_to_send())
        data = await reader.read(65536)
        assert data, "the connection ended before the answer"
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                reply.headers = dict(cast(Any, event.headers))
                reply.status = int(reply.headers.pop(":status"))
                assert len(reply.headers) == len(event.headers) - 1
            elif isinstance(event, h2.events.DataReceived):
                reply.body += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, h2.events.StreamEnded):
                return reply
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                raise AssertionError(f"no whole answer: {event}")


@dataclass
class Plain:
    """An answer without what is allowed to differ."""

    status: int
    headers: dict[str, str]
    body: Any
    row: dict[str, Any] = field(default_factory=dict)


def plain(reply: Reply, asked: Asked, logged: list[dict[str, Any]]) -> Plain:
    headers = {name: value for name, value in reply.headers.items() if name not in OWN}
    found = headers["mdslite-request-id"]
    given = dict(asked.headers).get("x-request-id")
    if found != given:
        assert len(found) == 24
        headers["mdslite-request-id"] = "generated"
    body: Any = reply.body.replace(found.encode(), headers["mdslite-request-id"].encode())
    names = ("project", "model", "version", "url", "status", "code", "rows", "request")
    return Plain(reply.status, headers, body, {name: logged[0][name] for name in names} if logged else {})


async def compare(site: Site, asked: Asked) -> Plain:
    """Ask both ways; what differs fails the test, with the request that did it."""
    answers = []
    for ask in (ask_http1, ask_http2):
        site.rows.clear()
        reply = await ask(site, asked)
        assert len(site.rows) <= 1
        answers.append(plain(reply, asked, site.logged))
        assert ("server-timing" in reply.headers) == bool(site.rows)
        assert "date" in reply.headers
    first, second = answers
    assert first == second, asked
    return first
