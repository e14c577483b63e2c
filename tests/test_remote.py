"""Versions that are served elsewhere: asking them, and doing without those that do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from doors import Deployed, open_site, run
from far_sites import GATEWAY, GOOD, gateway, lane_of, listening, oip, to, url
from h1_client import ROW, npy, predict, request
from waiting import until

from mdslite.errors import LoadFailed, Overloaded
from mdslite.serving.remote import pool, wire
from mdslite.spec import Confidence, EndpointInfo


@pytest.mark.parametrize("make", [to, oip])
def test_a_remote_version_answers_as_a_local_one_would(
    tmp_path: Path, make: Callable[..., EndpointInfo]
) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as far, gateway(tmp_path / "near", make(far)) as (near, _):
            reply = await near.ask(predict([ROW, [4.0, 5.0, 6.0]], target=GATEWAY))
            assert reply.json == {"predictions": [ROW, [4.0, 5.0, 6.0]]}
            assert reply.headers["mdslite-version"] == "v1"
            array = npy(np.array([ROW], np.float32))
            reply = await near.ask(
                request("POST", GATEWAY, array, headers=[("content-type", "application/x-npy")])
            )
            assert reply.json == {"outputs": {"y": [ROW]}}
            [first, _] = near.logged
            assert first["endpoint"] == url(far)
            assert first["upstream_ms"] > 0
            assert len(far.rows) == 2

    run(test())


@pytest.mark.parametrize("make", [to, oip])
def test_what_the_endpoint_refuses_is_refused_here(tmp_path: Path, make: Callable[..., EndpointInfo]) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as far, gateway(tmp_path / "near", make(far)) as (near, _):
            reply = await near.ask(predict([[1.0]], target=GATEWAY))
            assert (reply.status, reply.json["code"]) in [(400, "invalid_request"), (400, "invalid_tensor")]
            assert "expected" in reply.json["error"]

    run(test())


def test_other_json_and_columns_pass_as_they_came(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as far, gateway(tmp_path / "near", to(far)) as (near, _):
            reply = await near.ask(predict(body=b'{"inputs": {"x": [[1, 2, 3]]}}', target=GATEWAY))
            assert reply.json == {"outputs": {"y": [ROW]}}

    run(test())


def test_texts_go_to_an_infer_endpoint_and_back(tmp_path: Path) -> None:
    async def test() -> None:
        strings = Deployed(models.words(tmp_path / "words.onnx"))
        async with open_site(tmp_path, strings) as far, gateway(tmp_path / "near", oip(far)) as (near, _):
            reply = await near.ask(predict([["spam"], ["é"]], target=GATEWAY))
            assert reply.json == {"predictions": [[1], [-1]]}

    run(test())


def test_an_endpoint_that_does_not_say_what_it_takes_is_not_loaded(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as far:
            with pytest.raises(LoadFailed, match=r"no endpoint says what the model p\.none takes") as told:
                async with gateway(tmp_path / "near", oip(far, model="p.none")):
                    pass
            assert "options: {model: PROJECT.MODEL}" in str(told.value.hint)

    run(test())


def test_the_confidence_is_read_from_the_answer(tmp_path: Path) -> None:
    async def test() -> None:
        told = b'{"predictions": [{"label": "a", "score": 0.75}]}'
        async with (
            listening(lambda: (200, told)) as port,
            gateway(
                tmp_path / "near",
                EndpointInfo(url=f"http://127.0.0.1:{port}", options={}),
                confidence=Confidence(field="score"),
            ) as (near, _),
        ):
            assert (await near.ask(predict(["x"], target=GATEWAY))).status == 200
            assert near.logged[0]["confidence"] == 0.75

    run(test())


def test_no_request_is_lost_when_one_of_four_endpoints_dies(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncExitStack() as stack:
            far = [await stack.enter_async_context(open_site(tmp_path)) for _ in range(3)]
            dying = AsyncExitStack()
            await stack.enter_async_context(dying)
            last = await dying.enter_async_context(open_site(tmp_path))
            near, served = await stack.enter_async_context(
                gateway(tmp_path / "near", *(to(one) for one in (*far, last)))
            )
            lane = lane_of(served)

            async def ask() -> int:
                return (await near.ask(predict(target=GATEWAY))).status

            assert {await ask() for _ in range(8)} == {200}
            asking = [asyncio.create_task(ask()) for _ in range(40)]
            last.server.close()
            for connection in list(last.door.connections):
                connection.abort()
            assert {await one for one in asking} == {200}
            assert {await ask() for _ in range(20)} == {200}
            assert lane.pool.available == 3
            failed = next(one for one in lane.pool.endpoints if one.url == url(last))
            server = await asyncio.get_running_loop().create_server(
                last.door.connection, "127.0.0.1", last.address[1]
            )
            last.server = server
            await until(lambda: lane.pool.available == 4)
            before = failed.requests
            assert {await ask() for _ in range(8)} == {200}
            assert failed.requests > before

    run(test())


def test_a_connection_that_breaks_off_is_repeated_only_where_that_is_safe(tmp_path: Path) -> None:
    async def test(idempotent: bool, status: int) -> None:
        async with (
            listening(lambda: None) as broken,
            listening(lambda: (200, GOOD)) as good,
            gateway(
                tmp_path / "near",
                EndpointInfo(url=f"http://127.0.0.1:{broken}", options={"idempotent": idempotent}),
                EndpointInfo(url=f"http://127.0.0.1:{good}"),
            ) as (near, _),
        ):
            statuses = {(await near.ask(predict(["x"], target=GATEWAY))).status for _ in range(2)}
            assert statuses == {200, status}

    run(test(True, 200))
    run(test(False, 503))


def test_an_endpoint_that_answers_503_is_left_for_another_and_4xx_is_not(tmp_path: Path) -> None:
    async def test() -> None:
        asked = []

        def refuse() -> tuple[int, bytes]:
            asked.append(1)
            return 422, b'{"error": "no"}'

        async with (
            listening(lambda: (503, b"")) as busy,
            listening(lambda: (200, GOOD)) as good,
            listening(refuse) as strict,
        ):
            infos = [EndpointInfo(url=f"http://127.0.0.1:{port}") for port in (busy, good)]
            async with gateway(tmp_path / "near", *infos) as (near, _):
                assert {(await near.ask(predict(["x"], target=GATEWAY))).status for _ in range(4)} == {200}
            info = EndpointInfo(url=f"http://127.0.0.1:{strict}")
            async with gateway(tmp_path / "near", info) as (near, _):
                reply = await near.ask(predict(["x"], target=GATEWAY))
                assert (reply.status, reply.json["error"], len(asked)) == (422, "no", 1)

    run(test())


def test_a_version_whose_only_endpoint_is_gone_is_unhealthy_until_it_is_back(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as far:
            port = far.address[1]
            async with gateway(tmp_path / "near", to(far), health_s=0.01) as (near, served):
                far.server.close()
                for connection in list(far.door.connections):
                    connection.abort()
                await until(lambda: served.state == "unhealthy")
                assert (served.reason or "").startswith("no endpoint can take requests: ")
                assert (await near.ask(predict(target=GATEWAY))).status == 503
                far.server = await asyncio.get_running_loop().create_server(
                    far.door.connection, "127.0.0.1", port
                )
                await until(lambda: served.state == "ready")
                assert (await near.ask(predict(target=GATEWAY))).status == 200

    run(test())


def test_what_is_under_way_is_bounded_and_ends_in_time(tmp_path: Path) -> None:
    async def test() -> None:
        hold = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await hold.wait()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            info = EndpointInfo(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            async with gateway(tmp_path / "near", info) as (near, served):
                lane = lane_of(served)
                with pytest.raises(Overloaded):
                    lane._rows = 1024
                    lane.make_room()
                lane._rows = 0
                lane.knobs = replace(lane.knobs, prediction_s=0.05)
                reply = await near.ask(predict(["x"], target=GATEWAY))
                assert (reply.status, reply.code) == (504, "deadline_exceeded")
                assert lane.running == lane.queue_rows == 0
            hold.set()

    run(test())


def test_want_of_a_connection_of_our_own_is_not_the_endpoints_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "CONNECTIONS_MAX", 2)
    monkeypatch.setattr(wire, "CONNECT_S", 0.5)

    async def test() -> None:
        hold = asyncio.Event()
        heard = {"GET": 0, "POST": 0}

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            method = (await reader.readuntil(b"\r\n\r\n")).split()[0].decode()
            heard[method] += 1
            if method == "POST":
                await hold.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(GOOD), GOOD))
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            info = EndpointInfo(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            async with gateway(tmp_path / "near", info, health_s=0.01) as (near, served):
                lane = lane_of(served)
                asked = [asyncio.create_task(near.ask(predict(["x"], target=GATEWAY))) for _ in range(6)]
                await until(lambda: lane.running == 6 and heard["POST"] == 2)
                checked = heard["GET"]
                await until(lambda: heard["GET"] > checked + 3)
                assert lane.running == 6  # all still wait
                knobs, lane.knobs = lane.knobs, replace(lane.knobs, prediction_s=1.0)
                late = await near.ask(predict(["x"], target=GATEWAY))
                assert (late.status, late.code) == (504, "deadline_exceeded")
                lane.knobs = knobs
                assert heard["POST"] == 2
                assert lane.pool.endpoints[0].failures == 0
                hold.set()
                assert [reply.status for reply in await asyncio.gather(*asked)] == [200] * 6
                assert heard["POST"] == 6

    run(test())


@pytest.mark.parametrize("balance", ["round_robin", "least_loaded"])
def test_a_slow_endpoint_takes_its_share_of_the_connections_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, balance: str
) -> None:
    monkeypatch.setattr(pool, "CONNECTIONS_MAX", 4)

    async def test() -> None:
        hold, held = asyncio.Event(), 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal held
            if (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST"):
                held += 1
                await hold.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(GOOD), GOOD))
            writer.close()

        async with (
            await asyncio.start_server(serve, "127.0.0.1", 0) as slow,
            listening(lambda: (200, GOOD)) as quick,
        ):
            ports = [slow.sockets[0].getsockname()[1], quick]
            infos = [
                EndpointInfo(url=f"http://127.0.0.1:{port}", options={"balance": balance}) for port in ports
            ]
            async with gateway(tmp_path / "near", *infos) as (near, served):
                lane = lane_of(served)
                asked = [asyncio.create_task(near.ask(predict(["x"], target=GATEWAY))) for _ in range(12)]
                await until(lambda: sum(task.done() for task in asked) == 10)
                assert (held, lane.running) == (2, 2)
                assert (await near.ask(predict(["x"], target=GATEWAY))).status == 200
                hold.set()
                assert {reply.status for reply in await asyncio.gather(*asked)} == {200}

    run(test())


def test_answers_of_another_number_or_form_are_errors(tmp_path: Path) -> None:
    async def test() -> None:
        for told in (b'{"predictions": [1, 2]}', b"{}", b"nonsense"):
            async with (
                listening(lambda told=told: (200, told)) as port,  # type: ignore[misc]
                gateway(tmp_path / "near", EndpointInfo(url=f"http://127.0.0.1:{port}")) as (near, _),
            ):
                reply = await near.ask(predict(["x"], target=GATEWAY))
                assert (reply.status, reply.code) == (500, "model_error")

    run(test())


def test_what_is_no_json_or_no_success_is_never_passed_on(tmp_path: Path) -> None:
    """A body that is one datum passes as it came, so nothing else would look at what comes back."""
    told: Any = None

    async def test() -> None:
        nonlocal told
        async with (
            listening(lambda: told) as port,
            gateway(tmp_path, EndpointInfo(url=f"http://127.0.0.1:{port}")) as (near, _),
        ):

            async def ask(answer: tuple[int, bytes], body: bytes = b'{"x": 1}') -> Any:
                nonlocal told
                told = answer
                return await near.ask(predict(body=body, target=GATEWAY))

            assert (await ask((200, b'{"y": [1, null]}'))).json == {"y": [1, None]}
            for nonsense in (b"", b"{not json", b"<html>hi</html>", b'{"y": 1} z', b'"\xff"'):
                reply = await ask((200, nonsense))
                assert (reply.status, reply.code) == (500, "model_error"), nonsense
                assert reply.json["error"] == "the endpoint did not answer with JSON"
            reply = await ask((200, b'{"predictions": ["\xff"]}'), b'{"instances": [1]}')
            assert (reply.status, reply.code) == (500, "model_error")
            for body in (b'{"x": 1}', b'{"instances": [1]}'):
                reply = await ask((302, b""), body)
                assert (reply.status, reply.code) == (500, "model_error")
                assert "answered 302" in reply.json["error"]
            reply = await ask((500, b"<html>oops</html>"))
            assert reply.json["error"] == "the endpoint answered 500 and did not say why"

    run(test())
