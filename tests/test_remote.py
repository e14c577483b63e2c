"""Versions that are served elsewhere: asking them, and doing without those that do not answer."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from authority import Authority, Signed
from doors import ROW, Deployed, Site, npy, open_site, predict, request, run
from waiting import until

from mdslite.errors import LoadFailed, Overloaded
from mdslite.runtimes.protocol import DATA_SIGNATURE, ProbeReport
from mdslite.serving.fleet import Served
from mdslite.serving.loader import LoadRequest
from mdslite.serving.remote.discovery import Wanted, find_provider
from mdslite.serving.remote.kubernetes import read_slices, watch_service
from mdslite.serving.remote.lane import RemoteLane
from mdslite.serving.remote.loading import check_infos
from mdslite.serving.remote.pool import Address
from mdslite.serving.remote.wire import Unanswered, Wires, read_trust
from mdslite.spec import Confidence, EndpointInfo, ServiceInfo, Spec

GATEWAY = "/projects/p/models/far:predict"


@asynccontextmanager
async def gateway(
    folder: Path, *infos: EndpointInfo, confidence: Confidence | None = None, health_s: float = 1.0
) -> AsyncIterator[tuple[Site, Served]]:
    """A site with one version that is served elsewhere: p/far v1."""
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    async with open_site(folder) as site:
        spec = Spec(uri="/x", service_info=ServiceInfo(endpoints_infos=infos), confidence=confidence)
        report = ProbeReport(DATA_SIGNATURE, 0, 0.0, False)
        wanted = LoadRequest("p", "far", "v1", spec, "remote", Path(), report, "REMOTE", "REMOTE")
        served = await site.fleet.load(wanted)
        assert isinstance(served.lane, RemoteLane)
        served.lane._health_s = health_s
        site.fleet.switch(added=[served])
        yield site, served


def url(site: Site) -> str:
    return f"http://127.0.0.1:{site.address[1]}"


def lane_of(served: Served) -> RemoteLane:
    assert isinstance(served.lane, RemoteLane)
    return served.lane


def to(site: Site, **options: Any) -> EndpointInfo:
    return EndpointInfo(url=url(site), options={"model": "m", **options})


def oip(site: Site, **options: Any) -> EndpointInfo:
    return EndpointInfo(url=url(site), protocol="OIP", options={"model": "p.m", **options})


# Asking


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


# Endpoints that do not answer


@asynccontextmanager
async def listening(
    answer: Callable[[], tuple[int, bytes] | None],
    *,
    ready: bool = True,
    admission: Callable[[], int] = lambda: 404,
    host: str = "127.0.0.1",
    signed: Signed | None = None,
) -> AsyncIterator[int]:
    """A server that answers what it is told, or ends the connection; `ready` is whether it knows /readyz,
    `admission` what it answers who asks for a model. It speaks TLS where it is `signed`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            await reader.readexactly(int(length or b"0"))
            found = (200, b"ok") if head.startswith(b"GET") else answer()
            if not ready and head.startswith(b"GET /readyz"):
                found = (404, b"what?")
            if head.startswith(b"GET /v2/models/"):
                found = (admission(), b"")
            if found is not None:
                status, body = found
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    tls = None
    if signed is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(signed.both)
    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


GOOD = b'{"predictions": [1]}'


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


def test_an_endpoint_without_the_model_is_left_for_another_until_it_has_it(tmp_path: Path) -> None:
    """Its health check passes all the while, and the request may be sent once more though it is not safe to
    repeat: nothing was computed."""

    async def test(make: Callable[..., EndpointInfo], folder: Path) -> None:
        async with (
            open_site(folder) as far,
            open_site(folder, Deployed(models.identity(folder / "n.onnx"), model="n")) as lacking,
            gateway(
                folder / "near", make(far, idempotent=False), make(lacking, idempotent=False), health_s=0.01
            ) as (near, served),
        ):
            pool = lane_of(served).pool
            replies = [await near.ask(predict(target=GATEWAY)) for _ in range(12)]
            assert {one.status for one in replies} == {200}
            bad = next(one for one in pool.endpoints if one.url == url(lacking))
            assert (bad.requests, bad.reason, bad.lacking) == (1, "it has no such model", True)
            until_s = bad.ejected_until
            await until(lambda: bad.ejected_until > until_s)  # it was asked for the model, time and again
            assert bad.requests == 1
            [served_far] = far.fleet.all()
            lacking.fleet.switch(added=[served_far])
            await until(lambda: not bad.lacking and pool.available == 2)
            assert {(await near.ask(predict(target=GATEWAY))).status for _ in range(4)} == {200}
            assert bad.requests > 1

    for make in (to, oip):
        folder = tmp_path / make.__name__
        folder.mkdir()
        run(test(make, folder))


def test_where_nobody_has_the_model_the_first_who_gets_it_takes_it(tmp_path: Path) -> None:
    async def test() -> None:
        told = (404, b'{"error": "no such thing"}')
        async with listening(lambda: told, ready=False) as one, listening(lambda: told, ready=False) as other:
            infos = [EndpointInfo(url=f"http://127.0.0.1:{port}") for port in (one, other)]
            async with gateway(tmp_path / "near", *infos, health_s=0.05) as (near, served):
                for _ in range(3):
                    reply = await near.ask(predict(["x"], target=GATEWAY))
                    assert (reply.status, reply.code) == (503, "unavailable")
                    assert "retry-after" in reply.headers
                await until(lambda: served.state == "unhealthy")
                told = (200, GOOD)
                await until(lambda: served.state == "ready")
                assert (await near.ask(predict(["x"], target=GATEWAY))).status == 200

    run(test())


def test_an_endpoint_that_refuses_our_token_is_left_for_another_until_it_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_TOKEN", "secret")

    async def test() -> None:
        status = 401
        refused = b'{"error": "no such token"}'
        async with (
            listening(
                lambda: (status, refused if status == 401 else GOOD), admission=lambda: status
            ) as strict,
            listening(lambda: (200, GOOD)) as good,
        ):
            options = {"idempotent": False, "token_env": "FAR_TOKEN"}
            infos = [EndpointInfo(url=f"http://127.0.0.1:{port}", options=options) for port in (strict, good)]
            async with gateway(tmp_path / "near", *infos, health_s=0.01) as (near, served):
                replies = [await near.ask(predict(["x"], target=GATEWAY)) for _ in range(8)]
                assert {one.status for one in replies} == {200}
                pool = lane_of(served).pool
                bad = pool.endpoints[0]
                assert (bad.requests, bad.reason) == (1, "it refuses the token of FAR_TOKEN (401)")
                until_s = bad.ejected_until
                await until(lambda: bad.ejected_until > until_s)  # it was asked again, and not with a request
                assert bad.requests == 1
                status = 200
                await until(lambda: not bad.refusing and pool.available == 2)
                assert {(await near.ask(predict(["x"], target=GATEWAY))).status for _ in range(4)} == {200}
                assert bad.requests > 1

    run(test())


def test_where_all_refuse_our_token_the_version_is_unhealthy_and_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        told = (403, b'{"error": "predict is not in its scopes"}')
        async with listening(lambda: told) as one, listening(lambda: told) as other:
            infos = [EndpointInfo(url=f"http://127.0.0.1:{port}") for port in (one, other)]
            async with gateway(tmp_path / "near", *infos) as (near, served):
                reply = await near.ask(predict(["x"], target=GATEWAY))
                assert (reply.status, reply.code) == (503, "unavailable")
                assert served.state == "unhealthy"
                assert served.reason == (
                    "no endpoint can take requests: it lets nobody in without a token (403): "
                    "options: {token_env: NAME} says where one is"
                )

    run(test())


def test_what_one_request_is_forbidden_says_little_of_its_endpoint(tmp_path: Path) -> None:
    """A filter between the two may dislike what somebody sends, who must not be able to part us that way."""

    async def test() -> None:
        answers = iter([(200, GOOD), (403, b"{}"), (403, b"{}"), (200, GOOD)])
        async with listening(lambda: next(answers)) as port:
            info = EndpointInfo(url=f"http://127.0.0.1:{port}")
            async with gateway(tmp_path / "near", info) as (near, served):
                found = [(await near.ask(predict(["x"], target=GATEWAY))).status for _ in range(4)]
                assert (found, served.state) == ([200, 503, 503, 200], "ready")

    run(test())


UNTRUSTED = (
    "its certificate is not trusted (unable to get local issuer certificate): "
    "options: {ca: FILE} says whom to trust"
)


def test_a_certificate_that_is_not_trusted_is_named_and_trusted_where_the_spec_says_so(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)

    async def test() -> None:
        async with listening(lambda: (200, GOOD), signed=authority.sign("far")) as port:
            info = EndpointInfo(url=f"https://127.0.0.1:{port}")
            async with gateway(tmp_path / "near", info, health_s=0.01) as (near, served):
                assert (await near.ask(predict(["x"], target=GATEWAY))).status == 503
                await until(lambda: served.state == "unhealthy")
                assert served.reason == f"no endpoint can take requests: {UNTRUSTED}"
            trusting = EndpointInfo(url=info.url, options={"ca": str(authority.cert)})
            async with gateway(tmp_path / "trusting", trusting) as (near, _):
                assert (await near.ask(predict(["x"], target=GATEWAY))).status == 200
            asking = EndpointInfo(url=info.url, protocol="OIP")
            with pytest.raises(LoadFailed, match=re.escape(UNTRUSTED)) as told:
                async with gateway(tmp_path / "asking", asking):
                    pass
            assert told.value.hint is None  # what the model is called there is not what is wrong

    run(test())


@pytest.mark.parametrize(
    ("host", "hours", "reason"),
    [
        ("127.0.0.2", 48, "its certificate is for another name than its URL has"),
        ("127.0.0.1", -1, "its certificate is not valid now (certificate has expired)"),
    ],
)
def test_what_tls_finds_wrong_is_told(tmp_path: Path, host: str, hours: float, reason: str) -> None:
    authority = Authority(tmp_path)

    async def test() -> None:
        signed = authority.sign("far", hours=hours)
        async with listening(lambda: (200, GOOD), host=host, signed=signed) as port:
            wires = Wires(tls=read_trust({"ca": str(authority.cert)}))
            with pytest.raises(Unanswered) as told:
                await wires.get(Address(f"https://{host}:{port}"), "/healthz")
            wires.close()
            assert (told.value.reason, told.value.sent) == (reason, False)

    run(test())


def test_an_endpoint_that_speaks_no_tls_is_told_of() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    async def test() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            wires = Wires()
            with pytest.raises(Unanswered, match=r"TLS with it fails \(wrong version number\)"):
                await wires.get(
                    Address(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"), "/healthz"
                )
            wires.close()

    run(test())


def test_a_variable_that_is_to_hold_a_token_has_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FAR_TOKEN", raising=False)

    async def test() -> None:
        info = EndpointInfo(url="http://127.0.0.1:1", options={"token_env": "FAR_TOKEN"})
        with pytest.raises(LoadFailed, match="FAR_TOKEN is not set"):
            async with gateway(tmp_path, info):
                pass

    run(test())


def test_a_refused_question_for_what_a_model_takes_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        async with listening(lambda: (200, GOOD), admission=lambda: 401) as port:
            info = EndpointInfo(url=f"http://127.0.0.1:{port}", protocol="OIP")
            with pytest.raises(LoadFailed, match=r"lets nobody in without a token \(401\)"):
                async with gateway(tmp_path, info):
                    pass

    run(test())


# Discovery


def wanted(url: str, **options: Any) -> Wanted:
    return Wanted(url, options, "p", "m", "v1")


async def first_of(name: str, target: Wanted) -> list[Address]:
    watch = find_provider(name)(target)
    try:
        async with asyncio.timeout(20):
            return list(await anext(watch))
    finally:
        await watch.aclose()  # type: ignore[attr-defined]


def test_a_name_is_resolved_to_all_its_addresses() -> None:
    found = asyncio.run(first_of("dns", wanted("http://localhost:81/base")))
    assert Address("http://127.0.0.1:81/base", "localhost:81") in found


def test_a_peer_is_an_endpoint_while_it_has_the_model_ready(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as far:
            target = wanted(url(far))
            assert await first_of("mdslite", target) == [Address(url(far))]
            assert await first_of("mdslite", wanted(url(far), model="other")) == []
        assert await first_of("mdslite", target) == []

    run(test())


def test_a_peer_that_is_not_found_is_told_of(tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    async def test() -> None:
        async with listening(lambda: (200, GOOD), signed=authority.sign("far")) as port:
            options = {"every_s": 0.01}
            info = EndpointInfo(url=f"https://127.0.0.1:{port}", provider="mdslite", options=options)
            async with gateway(tmp_path / "near", info, health_s=0.01) as (_, served):
                await until(lambda: served.state == "unhealthy")
                assert served.reason == f"no endpoint can take requests: none was found: {UNTRUSTED}"
            trusting = wanted(info.url, ca=str(authority.cert))
            assert await first_of("mdslite", trusting) == [Address(info.url)]

    run(test())


def test_a_peer_says_why_it_is_no_endpoint(tmp_path: Path) -> None:
    async def test() -> None:
        told: list[str] = []
        async with open_site(tmp_path) as far:
            for target in (wanted(url(far)), wanted(url(far), model="other")):
                await first_of("mdslite", replace(target, tell=told.append))
        assert told == ["", "it does not have the model ready"]

    run(test())


def test_a_provider_that_cannot_begin_is_told_of_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    async def test() -> None:
        info = EndpointInfo(url="http://models.shop:8500", provider="kubernetes")
        with pytest.raises(LoadFailed, match="no Kubernetes cluster"):
            async with gateway(tmp_path, info):
                pass

    run(test())


SLICES = {
    "items": [
        {
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8500}, {"name": "metrics", "port": 9000}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": True}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": False}},
                {"addresses": ["10.0.0.3"], "conditions": {}},
            ],
        },
        {"addressType": "FQDN", "ports": [{"port": 1}], "endpoints": [{"addresses": ["x"]}]},
        {"addressType": "IPv6", "ports": [{"port": 8500}], "endpoints": None},
    ]
}


def test_the_ready_addresses_of_endpoint_slices_are_found() -> None:
    body = json.dumps(SLICES).encode()
    assert read_slices(body, port=8500) == [("10.0.0.1", 8500), ("10.0.0.3", 8500)]
    assert read_slices(body, port=None, port_name="metrics") == [("10.0.0.1", 9000), ("10.0.0.3", 9000)]


def test_a_cluster_s_api_is_asked_with_the_pod_s_account(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        body = json.dumps(SLICES).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    async def test() -> None:
        (tmp_path / "token").write_text("secret\n")
        (tmp_path / "namespace").write_text("shop")
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            api = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            watch = watch_service(
                "models", None, port=8500, options={"api": api}, every_s=60, account=tmp_path
            )
            async with asyncio.timeout(20):
                assert await anext(watch) == [("10.0.0.1", 8500), ("10.0.0.3", 8500)]
            await watch.aclose()  # type: ignore[attr-defined]
        assert (
            b"/namespaces/shop/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dmodels" in heads[0]
        )
        assert b"authorization: Bearer secret" in heads[0].replace(b"Authorization", b"authorization")

    run(test())


def test_outside_of_a_cluster_its_api_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(LoadFailed, match="no Kubernetes cluster"):
        asyncio.run(first_of("kubernetes", wanted("http://models.shop:8500")))


def test_an_unknown_provider_is_refused_with_those_there_are() -> None:
    with pytest.raises(LoadFailed, match="expected one of dns, kubernetes, mdslite, static"):
        find_provider("consul")


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (EndpointInfo(url="ftp://x"), "expected an http"),
        (EndpointInfo(url="http://u:p@x"), "without user"),
        (EndpointInfo(url="http://x?y=1"), "without user or query"),
        (EndpointInfo(url="http://169.254.169.254/latest"), "is a link-local address"),
        (EndpointInfo(url="http://2852039166:80"), "is a link-local address"),
        (EndpointInfo(url="http://[::ffff:169.254.169.254]"), "is a link-local address"),
        (EndpointInfo(url="http://[fe80::1]"), "is a link-local address"),
        (EndpointInfo(url="http://x", options={"ballance": "x"}), "unknown option 'ballance'"),
        (EndpointInfo(url="http://x", options={"balance": "random"}), "expected round_robin or least_loaded"),
        (EndpointInfo(url="http://x", options={"idempotent": "no"}), "option idempotent: got 'no'"),
    ],
)
def test_mistakes_in_endpoints_are_named(info: EndpointInfo, words: str) -> None:
    with pytest.raises(LoadFailed, match=words):
        check_infos((info,))


def test_the_endpoints_of_a_version_speak_one_protocol() -> None:
    with pytest.raises(LoadFailed, match="one protocol"):
        check_infos((EndpointInfo(url="http://x"), EndpointInfo(url="http://y", protocol="OIP")))
