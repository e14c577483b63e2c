"""Where endpoints come from: names, peers, clusters; and mistakes in what a spec says of them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from doors import open_site, run
from far_sites import GOOD, UNTRUSTED, gateway, listening, url
from waiting import until

from mdslite.errors import LoadFailed
from mdslite.serving.remote.discovery import Wanted, find_provider
from mdslite.serving.remote.kubernetes import read_slices, watch_service
from mdslite.serving.remote.loading import check_infos
from mdslite.serving.remote.pool import Address
from mdslite.spec import EndpointInfo


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
