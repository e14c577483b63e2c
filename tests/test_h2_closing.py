"""HTTP/2 over real sockets: how the door closes, and what is answered until then."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress

import httpx2
import pytest
from h2_client import Answer
from h2_codes import NO_ERROR, REFUSED_STREAM
from h2_server import on_loop, serving
from hyperframe.frame import PingFrame

from mdslite.http.policing import Allowance, Limits


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
