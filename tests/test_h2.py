"""HTTP/2 over real sockets: what well-behaved clients get, and those that leave."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess

import httpx2
import pytest
from h2_client import PREFACE, data, reset
from h2_codes import INITIAL_WINDOW
from h2_server import client_tls, on_loop, serving
from hyperframe.frame import SettingsFrame

from mdslite.http.policing import Limits

INTERNAL_ERROR = 0x2


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
