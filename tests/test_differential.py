"""One corpus of good and bad requests, asked over HTTP/1.1 and over HTTP/2 at the same port: the answers are
equal but for what names the moment (date, server-timing, ids that were generated) or the connection."""

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
import numpy as np
from doors import Deployed, Site, open_site, run
from h1_client import PREDICT, WAIT_S, Reply, gzipped, npy, predict, request
from waiting import until

JSON = ("content-type", "application/json")
NPY = ("content-type", "application/x-npy")
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


def row(*values: Any, **options: Any) -> Asked:
    return post({"instances": [list(values) or [1, 2, 3]]}, **options)


ROW = b'{"instances": [[1, 2, 3]]}'

GOOD = [
    row(),
    row(target="/projects/p/models/m/versions/v1:predict"),
    row(target="/projects/p/models/m%3Apredict?a=b&c=%20"),
    row(target="/%70rojects/p/models/m:predict"),
    post({"instances": [[1, 2, 3], [4, 5, 6]] * 100}),
    post({"inputs": {"x": [[1, 2, 3]]}}),
    post({"inputs": [[1, 2, 3]]}),
    post({"instances": [{"x": [1, 2, 3]}]}),
    post({"instances": []}),
    post({"inputs": {"x": []}}),
    post(b'{"instances": [[NaN, Infinity, -Infinity]]}'),
    post(ROW, media_type=("content-type", "text/plain")),
    post(ROW, media_type=("content-type", "application/json; charset=utf-8")),
    post(ROW, media_type=("content-type", "application/x-www-form-urlencoded")),
    Asked("POST", PREDICT, ROW),
    post(ROW, says_length=False),
    post(gzipped(ROW), ("content-encoding", "gzip")),
    post(npy(np.eye(3, dtype=np.float32)), media_type=NPY),
    post(npy(np.eye(3, dtype=">f4")), media_type=NPY),
    post({"instances": [{"a": [1, 2], "b": [3, 4]}]}, target="/projects/p/models/two:predict"),
    post({"inputs": {"a": [[1, 2]], "b": [[3, 4]]}}, target="/projects/p/models/two:predict"),
    post({"instances": [["ham"], ["spam\u00e4"]]}, target="/projects/p/models/words:predict"),
    row(7, target="/projects/p/models/gather:predict"),
    Asked(),
    Asked("HEAD"),
    Asked(target="/readyz"),
    Asked(target="/readyz?model=p/m"),
    Asked(target="/openapi.json"),
    Asked(target="/docs"),
]

BAD = [
    # tensors
    row(1, 2),
    row(1, 2, 1e39),
    post(b'{"instances": [[1, 2, -1e999]]}'),
    row("a", 2, 3),
    row(True, 2, 3),
    row([1], [2], [3]),
    post({"instances": [[1, 2, 3], [1, 2]]}),
    post({"instances": [{"y": [1, 2, 3]}]}),
    post({"instances": [{"a": [1, 2]}]}, target="/projects/p/models/two:predict"),
    post({"instances": 5}),
    post({"rows": []}),
    post({"instances": [], "inputs": {}}),
    post([1, 2, 3]),
    post(b""),
    post(b"{"),
    post(b"\xff\xfe"),
    post(b"[" * 100_000),
    post(b'{"instances": [[' + b"9" * 10_000 + b", 2, 3]]}"),
    post({"instances": [[1, 2, 3]] * 1025}),
    post(npy(np.eye(3, dtype=np.float64)), media_type=NPY),
    post(npy(np.eye(2, dtype=np.float32)), media_type=NPY),
    post(npy(np.eye(3, dtype=np.float32))[:-4], media_type=NPY),
    post(npy(np.array([None]), pickled=True), media_type=NPY),
    # bodies
    post(ROW, media_type=("content-type", "application/xml")),
    post(ROW, media_type=("content-type", "application/python-pickle")),
    post(b"not gzip", ("content-encoding", "gzip")),
    post(gzipped(ROW)[:-1], ("content-encoding", "gzip")),
    post(gzipped(ROW) * 2, ("content-encoding", "gzip")),
    post(gzipped(b" " * 200_000), ("content-encoding", "gzip")),
    post(ROW, ("content-encoding", "br")),
    post(b" " * 100_001),
    post(b" " * 100_001, says_length=False),
    post(b" " * 100_001, media_type=("content-type", "text/plain")),
    post(b" " * 300_001, media_type=NPY),
    post(b" " * 300_001, media_type=NPY, says_length=False),
    post(b" " * 100_001, target="/projects/p/models/nobody:predict"),
    post(b" " * (4 << 20 | 1), target="/api/v1/plan"),
    post(b" " * (4 << 20 | 1), target="/api/v1/plan", says_length=False),
    post(gzipped(b"{}"), ("content-encoding", "gzip"), target="/api/v1/plan"),
    post([], target="/api/v1/plan"),
    # what a model or its lane says
    row(99, target="/projects/p/models/gather:predict"),
    row(-1, target="/projects/p/models/loop:predict"),
    row(target="/projects/p/models/idle:predict"),
    # places
    row(target="/projects/p/models/nobody:predict"),
    row(target="/projects/q/models/m:predict"),
    row(target="/projects/p/models/m/versions/v9:predict"),
    row(target="/projects/p/models/m"),
    row(target="/projects/p/models/m:predict/"),
    row(target="/projects/p/models/m:explain"),
    row(target="/projects//models/m:predict"),
    row(target="/projects/p/models/..:predict"),
    row(target="/projects/p/models/" + "x" * 64 + ":predict"),
    row(target="/projects/p/models/a%2Fb:predict"),
    row(target="/projects/p%2Fmodels/m:predict"),
    row(target="/projects/p/models/%C3%A4:predict"),
    row(target="/projects/"),
    row(target="/%70rojects/p/models/nobody:predict"),
    row(target="//projects/p/models/m:predict"),
    Asked("GET", PREDICT),
    Asked("HEAD", PREDICT),
    Asked("PUT", PREDICT, ROW),
    Asked("OPTIONS", PREDICT),
    Asked("POST", "/healthz"),
    Asked("DELETE", "/healthz"),
    Asked(target="/"),
    Asked(target="/nowhere"),
    Asked(target="/healthz/"),
    Asked(target="/readyz?model=nonsense"),
    Asked(target="/readyz?model=p/nobody"),
    Asked(target="/readyz?surplus=1"),
    Asked(target="/api/v1/models/%2e%2e"),
    # what nobody may ask
    Asked(target="/healthz%00"),
    Asked(target="/healthz%0a"),
    Asked(target="/healthz?%0D"),
    row(target="/projects/p/models/m:predict?%00"),
    Asked(host="evil.example"),
    Asked(host="evil.example:80"),
    Asked(host="local host"),
    row(host="evil.example"),
    row(host="localhost:x"),
    Asked(headers=[("origin", "http://evil.example")]),
    post(ROW, ("origin", "null")),
]


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


def test_good_requests_are_answered_alike(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_corpus_site(tmp_path) as site:
            for asked in GOOD:
                answer = await compare(site, asked)
                assert answer.status == 200, asked

    run(test())


def test_bad_requests_are_answered_alike(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_corpus_site(tmp_path) as site:
            for asked in BAD:
                answer = await compare(site, asked)
                assert answer.status >= 400, asked
                if asked.method != "HEAD":
                    error = json.loads(answer.body)
                    assert error.keys() >= {"error", "code", "request_id"}, asked
                if (
                    asked.method == "POST"
                    and asked.target.startswith("/projects/")
                    and "403" not in str(answer)
                ):
                    assert answer.row or answer.status == 400, asked

    run(test())


def test_ids_that_are_given_are_echoed_alike(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_corpus_site(tmp_path) as site:
            for value in ("abc", "x" * 128, "x" * 129, "two words", "caf\xe9"):
                named = ("x-request-id", value)
                for asked in (
                    post(ROW, named),
                    post(b"{", named),
                    post(b" " * 100_001, named),
                    Asked(headers=[named]),
                    Asked(target="/nowhere", headers=[named]),
                    Asked(host="evil.example", headers=[named]),
                    post(b" " * (4 << 20 | 1), named, target="/api/v1/plan"),
                ):
                    answer = await compare(site, asked)
                    is_sane = value in ("abc", "x" * 128)
                    assert (answer.headers["mdslite-request-id"] == value) == is_sane

    run(test())


def test_a_full_queue_is_answered_alike(tmp_path: Path) -> None:
    async def test() -> None:
        loop = Deployed(models.loop(tmp_path / "loop.onnx"))
        async with open_site(tmp_path, loop) as site:
            lane = site.lane()
            async with site.connect() as running, site.connect() as queued:
                running.send(predict([[-1]]))
                await until(lambda: lane.running)
                queued.send(predict([[1]] * 1024))
                await until(lambda: lane.queue_rows == 1024)
                answer = await compare(site, post({"instances": [[1]]}))
                assert answer.status == 429
                assert answer.headers["retry-after"] == "1"

    run(test())


def test_predictions_of_clients_that_leave_are_logged_alike(tmp_path: Path) -> None:
    async def test() -> None:
        loop = Deployed(models.loop(tmp_path / "loop.onnx"))
        async with open_site(tmp_path, loop) as site:
            lane = site.lane()
            rows = []
            for ask in (ask_http1, ask_http2):
                asking = asyncio.create_task(ask(site, post({"instances": [[-1]]})))
                await until(lambda: lane.running)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                await until(lambda: not lane.running)
                row = site.logged[-1]
                rows.append({name: row[name] for name in ("status", "code", "model", "rows", "url", "reply")})
            assert rows[0] == rows[1]
            assert rows[0]["status"] == 499

    run(test())
