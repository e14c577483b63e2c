"""Endpoints that do not have the model, do not let us in, or are not trusted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import models
import pytest
from authority import Authority
from doors import Deployed, open_site, run
from far_sites import GATEWAY, GOOD, UNTRUSTED, gateway, lane_of, listening, oip, to, url
from h1_client import predict
from waiting import until

from mdslite.errors import LoadFailed
from mdslite.serving.remote.pool import Address
from mdslite.serving.remote.wire import Unanswered, Wires, read_trust
from mdslite.spec import EndpointInfo


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
