"""HTTP/2 over real sockets: what well-behaved clients get, and what becomes of the others."""

from __future__ import annotations

import asyncio
import inspect
import json
import shutil
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvloop
from h2_client import PREFACE, Answer, Client, connect, data, reset, window
from hyperframe.frame import (
    ContinuationFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    SettingsFrame,
)
from waiting import until

from mdslite.door.h2 import Http2Bridge
from mdslite.http.policing import Allowance, Limits
from mdslite.http.tls import server_context

PAIR = Path(__file__).parent / "data" / "tls"
MAX_STREAMS, INITIAL_WINDOW = 0x3, 0x4  # of SETTINGS
NO_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0x0, 0x7, 0x8, 0xB
INTERNAL_ERROR = 0x2

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
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message["body"]
        if not message["more_body"]:
            return body


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


# Good clients


@on_loop
async def test_requests_are_answered_over_plain_tcp() -> None:
    async with serving() as server, server.connect() as client:
        answer = await client.post("/echo", b"x" * 3_000_000)
        assert answer.status == 200
        assert json.loads(answer.body) == {
            "bytes": 3_000_000,
            "method": "POST",
            "path": "/echo",
            "scheme": "http",
            "http_version": "2",
        }
        assert "date" in answer.headers
        assert "server" not in answer.headers
        assert server.bridge.connections == 1


@on_loop
async def test_requests_are_answered_over_tls() -> None:
    async with serving(secure=True) as server, server.connect() as client:
        answer = await client.post("/echo", b"x" * 300_000)
        assert json.loads(answer.body)["scheme"] == "https"
        large = await client.get("/large")
        assert len(large.body) == 3_000_000


@on_loop
async def test_a_client_that_nobody_here_wrote_is_served() -> None:
    async with (
        serving(secure=True) as server,
        httpx2.AsyncClient(http1=False, http2=True, verify=client_tls()) as client,
    ):
        url = f"https://localhost:{server.address[1]}"
        answers = await asyncio.gather(
            *(client.post(f"{url}/echo", content=b"x" * size) for size in (0, 10, 100_000, 1_000_000)),
            client.get(f"{url}/large"),
        )
        assert [answer.status_code for answer in answers] == [200] * 5
        assert {answer.http_version for answer in answers} == {"HTTP/2"}
        assert [answer.json()["bytes"] for answer in answers[:4]] == [0, 10, 100_000, 1_000_000]
        assert len(answers[4].content) == 3_000_000


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
@on_loop
async def test_a_load_of_parallel_requests_is_answered_to_the_last() -> None:
    async with serving() as server:
        load = await asyncio.create_subprocess_exec(
            *("h2load", "-n", "2000", "-c", "4", "-m", "50", f"http://127.0.0.1:{server.address[1]}/echo"),
            stdout=subprocess.PIPE,
        )
        out, _ = await load.communicate()
        assert b"2000 succeeded, 0 failed, 0 errored" in out
        assert not server.policed


@on_loop
async def test_the_request_may_come_with_the_preface_in_one_read_or_in_many() -> None:
    async with serving() as server:
        async with server.connect(first=[]) as client:
            client.send(PREFACE, SettingsFrame(0), client.head())
            assert (await client.answer(1)).status == 200
        async with server.connect(first=[]) as client:
            for byte in PREFACE + SettingsFrame(0).serialize() + client.head().serialize():
                client.send(bytes([byte]))
                await client.drained()
            assert (await client.answer(1)).status == 200


@on_loop
async def test_an_application_that_raises_is_an_opaque_500(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server, server.connect() as client:
        for path in ("/fail", "/silent"):
            answer = await client.get(path)
            assert answer.status == 500
            said = json.loads(answer.body)
            assert said["code"] == "internal_error"
            assert said["request_id"] == answer.headers["mdslite-request-id"]
            assert "secret" not in str(answer)
    assert "a secret" in caplog.text


@on_loop
async def test_an_answer_that_breaks_off_is_seen_to_break_off(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server, server.connect() as client:
        answer = await client.get("/break_off")
        assert answer.body == b"half"
        assert answer.reset == INTERNAL_ERROR
        assert (await client.get()).status == 200


# Clients that leave


@on_loop
async def test_a_reset_tells_the_application() -> None:
    async with serving() as server, server.connect() as client:
        request = client.head("/listen")
        client.send(request)
        await server.app.until("started")
        client.send(reset(request.stream_id))
        await server.app.until("left")
        assert (await client.get()).status == 200


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@on_loop
async def test_a_lost_connection_tells_the_application(secure: bool) -> None:
    async with serving(secure=secure) as server:
        async with server.connect() as client:
            client.send(client.head("/listen"), client.head("/echo", method="POST", end=False))
            await server.app.until("started", 2)
        await server.app.until("left", 2)
        await server.until_alone()


@pytest.mark.parametrize("leave", ["reset", "close"])
@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@on_loop
async def test_work_that_is_to_be_cancelled_is(leave: str, secure: bool) -> None:
    async with serving(secure=secure, cancels=lambda scope: scope["path"] == "/wait") as server:
        async with server.connect() as client:
            request = client.head("/wait")
            client.send(request)
            await server.app.until("waiting")
            if leave == "reset":
                client.send(reset(request.stream_id))
                await server.app.until("cancelled")
                assert (await client.get()).status == 200
        await server.app.until("cancelled")


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@on_loop
async def test_an_application_that_waits_to_write_is_freed_when_its_client_leaves(secure: bool) -> None:
    async with serving(secure=secure) as server:
        async with server.connect() as client:
            client.reads = False
            client.send(client.head("/large"))
            await client.until(lambda: client.answers[1].body)
        await server.app.until("sent")


# Bodies


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@on_loop
async def test_an_early_answer_drops_the_rest_of_its_body_and_harms_nobody(secure: bool) -> None:
    async with serving(secure=secure) as server, server.connect() as client:
        slow = client.head("/wait")
        request = client.head("/deaf", method="POST", end=False)
        client.send(slow, request)
        await server.app.until("waiting", 2)
        client.send(*(data(request.stream_id, b"x" * 1000) for _ in range(60)))
        server.app.gate.set()
        answer = await client.answer(request.stream_id)
        assert (answer.status, answer.body) == (413, b"too large")
        client.send(*(data(request.stream_id, b"x" * 1000) for _ in range(60)))
        client.send(data(request.stream_id, end=True))
        assert (await client.answer(slow.stream_id)).body == b"at last"
        assert json.loads((await client.post("/echo", b"x" * 200_000)).body)["bytes"] == 200_000


@on_loop
async def test_a_body_that_nobody_reads_stops_at_its_window() -> None:
    limits = Limits(stream_window_bytes=100_000, linger_s=0.2)
    async with serving(limits=limits) as server, server.connect() as client:
        await client.until(lambda: client.settings)
        assert client.settings[INITIAL_WINDOW] == 100_000
        request = client.head("/deaf", method="POST", end=False)
        client.send(request, *(data(request.stream_id, b"x" * 10_000) for _ in range(10)))
        assert (await client.get()).status == 200  # what came before it has been read by then
        assert not [frame for frame in client.frames if frame.stream_id == request.stream_id]
        server.app.gate.set()
        assert (await client.answer(request.stream_id)).status == 413


@on_loop
async def test_a_body_above_the_bound_is_cut_there() -> None:
    limits = Limits(max_body_bytes=200_000, linger_s=0.2)
    async with serving(limits=limits) as server, server.connect() as client:
        answer = await client.post("/echo", b"x" * 500_000)
        assert answer.status == 413
        assert json.loads(answer.body)["code"] == "too_large"
        assert server.policed == ["body_too_large"]
        await server.app.until("left")
        assert (await client.get()).status == 200


@on_loop
async def test_a_body_that_comes_by_drops_is_whole_and_holds_nobody_up() -> None:
    async with serving() as server, server.connect() as client:
        request = client.head("/echo", method="POST", end=False)
        client.send(request)
        for _ in range(50):
            client.send(data(request.stream_id, b"x"))
            assert (await client.get()).status == 200  # what is no drop goes on at once, drops before it too
        client.send(*(data(request.stream_id, b"y") for _ in range(50)))
        client.send(data(request.stream_id, b"z", end=True))
        assert json.loads((await client.answer(request.stream_id)).body)["bytes"] == 101


@on_loop
async def test_a_body_that_stalls_gets_a_408_and_its_neighbours_go_on() -> None:
    limits = Limits(body_timeout_s=0.1, linger_s=0.2)
    async with serving(limits=limits) as server, server.connect() as client:
        neighbour = client.head("/wait")
        request = client.head("/echo", method="POST", end=False)
        client.send(neighbour, request, data(request.stream_id, b"x" * 10))
        answer = await client.answer(request.stream_id)
        assert answer.status == 408
        assert json.loads(answer.body)["code"] == "request_timeout"
        await server.app.until("left")
        server.app.gate.set()
        assert (await client.answer(neighbour.stream_id)).body == b"at last"
        assert server.policed == ["slow_body"]


@on_loop
async def test_a_body_that_the_application_leaves_unread_is_not_its_clients_fault() -> None:
    limits = Limits(body_timeout_s=0.05, linger_s=0.2)
    async with serving(limits=limits) as server, server.connect() as client:
        request = client.head("/deaf", method="POST", end=False)
        client.send(request, data(request.stream_id, b"x" * 10))
        for _ in range(20):
            assert (await client.get()).status == 200
            await asyncio.sleep(0.01)
        assert not server.policed
        server.app.gate.set()
        assert (await client.answer(request.stream_id)).status == 413


# Slow and stubborn clients


@pytest.mark.parametrize(
    "said",
    [
        [PREFACE],
        [PREFACE, SettingsFrame(0), HeadersFrame(1, b"\x82").serialize()],
        [PREFACE, SettingsFrame(0), HeadersFrame(1, b"\x82\x84", flags=["END_HEADERS"]).serialize()[:-1]],
    ],
    ids=["no settings", "an open header block", "half a frame"],
)
@on_loop
async def test_slow_headers_are_cut_off(said: list[Frame | bytes]) -> None:
    limits = Limits(header_timeout_s=0.1, linger_s=0.2)
    async with serving(limits=limits) as server, server.connect(first=said) as client:
        client.acks = False
        await client.until(lambda: client.closed)
        assert [frame.error_code for frame in client.goaways] == [ENHANCE_YOUR_CALM]
        assert server.policed == ["slow_headers"]


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@on_loop
async def test_an_idle_connection_gets_a_goodbye_and_is_closed(secure: bool) -> None:
    limits = Limits(idle_timeout_s=0.1, linger_s=0.2)
    async with serving(secure=secure, limits=limits) as server, server.connect() as client:
        assert (await client.get()).status == 200
        await client.until(lambda: client.closed)
        assert [(frame.last_stream_id, frame.error_code) for frame in client.goaways] == [(1, NO_ERROR)]
        assert not server.policed


@on_loop
async def test_an_answer_that_its_window_holds_back_is_reset_and_the_connection_lives() -> None:
    limits = Limits(write_timeout_s=0.1, linger_s=0.2)
    async with (
        serving(limits=limits) as server,
        server.connect(settings={INITIAL_WINDOW: 0}) as client,
    ):
        client.reads = False
        answer = await client.get("/large")
        assert answer.reset == CANCEL
        await server.app.until("sent")
        assert server.policed == ["slow_reader"]
        request = client.head()
        client.send(request, window(request.stream_id, 1000))
        assert (await client.answer(request.stream_id)).status == 200


@on_loop
async def test_a_client_that_takes_single_bytes_is_a_slow_reader_too() -> None:
    limits = Limits(write_timeout_s=0.1, linger_s=0.2)
    async with (
        serving(limits=limits) as server,
        server.connect(settings={INITIAL_WINDOW: 0}) as client,
    ):
        client.reads = False
        request = client.head("/large")
        client.send(request)
        while client.answers[request.stream_id].reset is None:
            client.send(window(request.stream_id, 1))
            await asyncio.sleep(0.01)
        assert server.policed == ["slow_reader"]


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@on_loop
async def test_a_client_that_leaves_everything_in_its_socket_is_cut_off(secure: bool) -> None:
    limits = Limits(write_timeout_s=0.1, linger_s=0.2)
    async with serving(secure=secure, limits=limits) as server:
        huge = {INITIAL_WINDOW: 2**31 - 1}
        async with server.connect(settings=huge) as client:
            client.send(window(0, 2**30))
            client.stop_reading()
            for _ in range(20):
                client.send(client.head("/large"))
            await server.app.until("started")
            await server.until_alone()
            await server.app.until("sent", server.app.met["started"])
            assert "slow_reader" in server.policed


# Floods


async def flood(client: Client, make: Callable[[int], list[Frame | bytes]], count: int) -> None:
    """Send as fast as it goes, until it is done or the server has had enough."""
    for at in range(count):
        client.send(*make(at))
        if at % 500 == 499:
            await client.drained()
            await asyncio.sleep(0)
            if client.closed:
                return


FLOODS: dict[str, Callable[[Client, int], list[Frame | bytes]]] = {
    "rapid_reset": lambda client, at: [client.head("/listen"), reset(2 * at + 1)],
    "settings_flood": lambda client, at: [SettingsFrame(0, {INITIAL_WINDOW: 1000 + at % 2})],
    "ping_flood": lambda client, at: [PingFrame(0, b"are you?")],
    "priority_flood": lambda client, at: [PriorityFrame(2 * at + 1, depends_on=0, stream_weight=1)],
    "window_update_flood": lambda client, at: [window(0, 1)],
    "tiny_data_flood": lambda client, at: [data(1)] if at else [client.head("/deaf", end=False)],
    "continuation_flood": lambda client, at: (
        [ContinuationFrame(1, b"")] if at else [HeadersFrame(1, b"\x82")]
    ),
}


@pytest.mark.parametrize("reason", FLOODS)
@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@on_loop
async def test_a_flood_ends_its_connection_and_no_other(reason: str, secure: bool) -> None:
    async with serving(secure=secure) as server, server.connect() as good:
        assert (await good.get()).status == 200
        async with server.connect() as bad:
            await asyncio.gather(
                flood(bad, lambda at: FLOODS[reason](bad, at), 10_000),
                *(good.get() for _ in range(20)),
            )
            await bad.until(lambda: bad.closed)
            assert server.policed == [reason]
            with suppress(AssertionError):  # a client that still writes may lose the goodbye to a reset
                assert [frame.error_code for frame in bad.goaways] == [ENHANCE_YOUR_CALM]
        assert (await good.get()).status == 200
        assert not good.goaways


@on_loop
async def test_a_rapid_reset_starts_few_requests_and_leaves_none_behind() -> None:
    async with serving() as server, server.connect() as client:
        assert (await client.get()).status == 200
        await flood(client, lambda at: [request := client.head("/wait"), reset(request.stream_id)], 10_000)
        await client.until(lambda: client.closed)
        assert server.app.met["started"] <= 1 + server.bridge.limits.resets.burst


@on_loop
async def test_a_request_that_is_reset_in_the_same_read_never_starts() -> None:
    async with serving() as server, server.connect() as client:
        assert (await client.get()).status == 200
        client.send(b"".join((client.head("/wait").serialize(), reset(3).serialize())))
        assert (await client.get()).status == 200
        assert server.app.met["started"] == 2


@on_loop
async def test_streams_that_nobody_answers_are_refused_above_the_limit() -> None:
    limits = Limits(max_streams=10, linger_s=0.2)
    async with serving(limits=limits) as server, server.connect() as client:
        requests = [client.head("/wait") for _ in range(15)]
        client.send(*requests)
        refused = [await client.answer(request.stream_id) for request in requests[10:]]
        assert {answer.reset for answer in refused} == {REFUSED_STREAM}
        assert client.settings[MAX_STREAMS] == 10
        assert server.app.met["started"] == 10
        server.app.gate.set()
        answers = [await client.answer(request.stream_id) for request in requests[:10]]
        assert {answer.body for answer in answers} == {b"at last"}


@on_loop
async def test_streams_far_above_the_limit_end_the_connection() -> None:
    limits = Limits(max_streams=10, linger_s=0.2)
    async with serving(limits=limits) as server, server.connect() as client:
        client.send(*(client.head("/wait") for _ in range(30)))
        await client.until(lambda: client.closed)
        assert server.policed == ["too_many_streams"]
        assert [frame.error_code for frame in client.goaways] == [ENHANCE_YOUR_CALM]


@on_loop
async def test_requests_that_outlive_their_resets_count_as_running() -> None:
    limits = Limits(max_streams=5, resets=Allowance(100, 1), linger_s=0.2)
    async with serving(limits=limits) as server, server.connect() as client:
        for at in range(10):
            request = client.head("/wait")
            client.send(request)
            await server.app.until("waiting", at + 1)
            client.send(reset(request.stream_id))
        assert (await client.get()).reset == REFUSED_STREAM
        assert server.app.met["started"] == 10
        server.app.gate.set()
        await server.app.until("answered", 10)
        assert (await client.get()).status == 200


@on_loop
async def test_a_connection_lives_through_any_number_of_cancelled_requests() -> None:
    limits = Limits(resets=Allowance(10_000, 1), linger_s=0.2)
    async with serving(limits=limits, cancels=lambda scope: True) as server, server.connect() as client:
        for path in ("/wait", "/listen", "/echo", "/deaf"):
            for at in range(400):
                request = client.head(path, method="POST", end=at % 2 == 0)
                client.send(request, data(request.stream_id, b"x" * 200) if at % 2 else b"")
                if at % 3 == 0:
                    await asyncio.sleep(0)
                client.send(reset(request.stream_id))
            assert (await client.get()).status == 200
        assert len((await client.post("/echo", b"x" * 5_000_000)).body) > 0
        assert not server.policed


@on_loop
async def test_connections_above_the_limit_are_turned_away() -> None:
    async with serving(max_connections=2) as server:
        async with server.connect() as first, server.connect() as second:
            assert (await first.get()).status == 200
            assert (await second.get()).status == 200
            async with server.connect() as third:
                await third.until(lambda: third.closed)
            assert server.policed == ["too_many_connections"]
        await server.until_alone()
        async with server.connect() as fourth:
            assert (await fourth.get()).status == 200


# Malformed requests


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/a%00b", 400),
        ("GET", "/a%0Ab", 400),
        ("GET", "http://elsewhere/", 400),
        ("OPTIONS", "*", 400),
        ("GET", "/caf\u00e9", 400),
        ("get", "/", 400),
    ],
)
@on_loop
async def test_malformed_requests_do_not_reach_the_application(method: str, path: str, status: int) -> None:
    async with serving() as server, server.connect() as client:
        request = client.head(path, method=method)
        client.send(request)
        answer = await client.answer(request.stream_id)
        assert answer.status == status
        assert json.loads(answer.body)["code"] == "invalid_request"
        assert not server.app.met["started"]
        assert (await client.get()).status == 200


@on_loop
async def test_too_many_header_fields_get_a_413() -> None:
    async with serving() as server, server.connect() as client:
        request = client.head(headers=[("a", "b")] * 100)
        client.send(request)
        assert (await client.answer(request.stream_id)).status == 413
        assert (await client.get()).status == 200


@on_loop
async def test_a_header_list_that_unpacks_too_large_ends_the_connection() -> None:
    async with serving() as server, server.connect() as client:
        client.send(client.head(headers=[("a", "b" * 1000)] * 70))
        await client.until(lambda: client.closed)
        assert server.policed == ["headers_too_large"]
        assert [frame.error_code for frame in client.goaways] == [ENHANCE_YOUR_CALM]


@on_loop
async def test_bytes_that_are_no_http2_are_refused() -> None:
    async with serving() as server:
        async with server.connect(first=[b"GET / HTTP/1.1\r\n\r\n"]) as client:
            await client.until(lambda: client.closed)
        async with server.connect() as client:
            client.send(data(1, b"on a stream that is not open"))
            await client.until(lambda: client.closed)
        assert server.policed == ["protocol_error", "protocol_error"]


# The end


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@on_loop
async def test_closing_says_goodbye_with_the_last_answer(secure: bool) -> None:
    async with serving(secure=secure) as server, server.connect() as client:
        requests = [client.head("/wait") for _ in range(3)]
        client.send(*requests)
        await server.app.until("waiting", 3)
        closing = asyncio.create_task(server.bridge.close(10))
        assert (await client.get()).status == 200  # not the last to be answered
        assert not client.goaways
        server.app.gate.set()
        await client.until(lambda: client.closed)
        assert {client.answers[request.stream_id].body for request in requests} == {b"at last"}
        assert [(frame.last_stream_id, frame.error_code) for frame in client.goaways] == [(7, NO_ERROR)]
        await closing


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@on_loop
async def test_closing_a_busy_connection_takes_what_was_on_its_way_and_refuses_more(secure: bool) -> None:
    limits = Limits(patience_s=0, linger_s=0.2)
    async with serving(secure=secure, limits=limits) as server, server.connect() as client:
        client.acks = False
        before = client.head("/wait")
        client.send(before)
        await server.app.until("waiting")
        closing = asyncio.create_task(server.bridge.close(10))
        await client.until(lambda: client.goaways)
        assert client.goaways[0].last_stream_id == 2**31 - 1
        crossing = client.head("/wait")
        client.send(crossing, PingFrame(0, b"goodbye!", flags=["ACK"]))
        await client.until(lambda: len(client.goaways) == 2)
        assert client.goaways[1].last_stream_id == crossing.stream_id
        late = client.head("/wait")
        client.send(late)
        assert (await client.answer(late.stream_id)).reset == REFUSED_STREAM
        server.app.gate.set()
        assert (await client.answer(before.stream_id)).body == b"at last"
        assert (await client.answer(crossing.stream_id)).body == b"at last"
        await client.until(lambda: client.closed)
        await closing


@on_loop
async def test_closing_under_load_answers_all_that_reached_the_application() -> None:
    async with serving() as server:
        url = f"http://127.0.0.1:{server.address[1]}/echo"
        answered = 0

        async def work(client: httpx2.AsyncClient) -> None:
            nonlocal answered
            with suppress(httpx2.TransportError):  # also what this client never sent, for it was closing
                while True:
                    assert (await client.post(url, content=b"x" * 2000)).status_code == 200
                    answered += 1

        async with (
            httpx2.AsyncClient(http1=False, http2=True) as one,
            httpx2.AsyncClient(http1=False, http2=True) as other,
        ):
            working = [asyncio.create_task(work(client)) for client in (one, one, one, other, other)]
            await server.app.until("started", 100)
            server.listener.close()
            await server.bridge.close(10)
            await asyncio.gather(*working)
        assert answered == server.app.met["started"]


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@on_loop
async def test_closing_cuts_what_is_not_done_in_time(secure: bool) -> None:
    async with serving(secure=secure) as server, server.connect() as client:
        client.send(client.head("/wait"))
        await server.app.until("waiting")
        await server.bridge.close(0.05)
        await client.until(lambda: client.closed)
        await server.app.until("cancelled")


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@on_loop
async def test_a_connection_that_comes_after_the_close_is_turned_away(secure: bool) -> None:
    async with serving(secure=secure) as server:
        await server.bridge.close(1)
        async with server.connect() as client:
            await client.until(lambda: client.closed)
        assert server.bridge.connections == 0


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@on_loop
async def test_the_last_words_arrive_though_the_client_goes_on_talking(secure: bool) -> None:
    limits = Limits(pings=Allowance(10**9, 1), linger_s=0.2)
    async with serving(secure=secure, limits=limits) as server, server.connect() as client:
        answers: list[Answer] = []
        for _ in range(20):
            answers.append(await client.get())
        closing = asyncio.create_task(server.bridge.close(10))
        while not client.closed:
            client.send(PingFrame(0, b"and then"))
            await asyncio.sleep(0)
        await closing
        assert len(client.goaways) == 2


def test_the_engine_is_loaded_when_the_first_connection_needs_it() -> None:
    code = "import sys, mdslite.door.h2, mdslite.http.policing; print('hypercorn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
