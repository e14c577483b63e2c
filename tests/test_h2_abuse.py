"""HTTP/2 over real sockets: what becomes of clients that are slow, flood the door or send nonsense."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from h2_client import PREFACE, Client, data, reset, window
from h2_codes import CANCEL, ENHANCE_YOUR_CALM, INITIAL_WINDOW, MAX_STREAMS, NO_ERROR, REFUSED_STREAM
from h2_server import on_loop, serving
from hyperframe.frame import ContinuationFrame, Frame, HeadersFrame, PingFrame, PriorityFrame, SettingsFrame

from mdslite.http.policing import Allowance, Limits

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
async def test_too_many_header_fields_get_a_431() -> None:
    async with serving() as server, server.connect() as client:
        request = client.head(headers=[("a", "b")] * 100)
        client.send(request)
        assert (await client.answer(request.stream_id)).status == 431
        assert (await client.get()).status == 200


@pytest.mark.parametrize("count", [17, 20, 30])
@on_loop
async def test_a_head_that_is_too_long_is_refused_alone(count: int) -> None:
    async with serving() as server, server.connect() as client:
        request = client.head("/echo", method="POST", headers=[("a", "b" * 1000)] * count, end=False)
        client.send(request, data(request.stream_id, b"its body"))
        answer = await client.answer(request.stream_id)
        assert (answer.status, json.loads(answer.body)["code"]) == (431, "head_too_long")
        assert (await client.get()).status == 200
        assert server.policed == []


@on_loop
async def test_a_header_list_that_unpacks_far_too_large_ends_the_connection() -> None:
    async with serving() as server, server.connect() as client:
        client.send(client.head(headers=[("a", "b" * 1000)] * 40))
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
