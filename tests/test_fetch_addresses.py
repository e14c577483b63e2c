"""Downloads reach only where they may, whatever redirects, names and certificates say."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator

import pytest
from downloads import BODY, TLS, read, refusal, resolving
from file_server import FileServer, serving_files

from mdslite.errors import InvalidRequest
from mdslite.store import fetch
from mdslite.store.addresses import AllowList, is_internal
from mdslite.store.fetch import Network

# Redirects


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
)
def test_redirects_are_followed(web: FileServer, status: str) -> None:
    web.say("/start", status=status, location="/a/../next?x=1")
    web.say("/next?x=1", status=status, location=f"{web.url}/end")
    web.say("/end", BODY)
    assert read(f"{web.url}/start") == BODY


def test_redirects_end_somewhere(web: FileServer) -> None:
    web.say("/loop", status="302 Found", location="/loop")
    web.say("/blank", status="302 Found")
    web.say("/ftp", status="302 Found", location="ftp://host/x")
    web.say("/odd", status="302 Found", location="http://[::1")
    assert "redirects more than" in refusal(f"{web.url}/loop").message
    assert len(web.requests) == fetch.MAX_HOPS
    assert "redirects to nowhere" in refusal(f"{web.url}/blank").message
    assert "expected http" in refusal(f"{web.url}/ftp").message
    refusal(f"{web.url}/odd")


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "100.100.100.200", "192.0.0.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1",
        "255.255.255.255", "168.63.129.16", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
        "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "::127.0.0.1", "::a9fe:a9fe", "::ffff:0:7f00:1", "::ffff:0:10.0.0.1",
        "2002:7f00:1::", "2002:a00:1::1", "2001:db8::1", "2001:0:7f00:1::",
    ],
)  # fmt: skip
def test_an_internal_address_is_known(address: str) -> None:
    assert is_internal(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "93.184.216.34",
        "2606:2800:220:1::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "::ffff:0:808:808",
    ],
)
def test_a_public_address_is_known(address: str) -> None:
    assert not is_internal(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:7f00:1]"]
)
def test_this_machine_is_refused_however_it_is_spelled(web: FileServer, host: str) -> None:
    error = refusal(f"http://{host}:{web.port}/m.onnx", allow=())
    assert "internal address" in error.message
    assert f"mdslite up --allow-internal {host}:{web.port}" in (error.hint or "")
    assert web.connections == 0


@pytest.mark.parametrize("addresses", ["10.1.2.3", "93.184.216.34 10.1.2.3"])
def test_a_name_is_judged_by_all_its_addresses(addresses: str) -> None:
    error = refusal("http://models.test/m.onnx", allow=(), network=resolving(models_test=addresses))
    assert "models.test:80 at the internal address 10.1.2.3" in error.message


def test_a_redirect_to_an_internal_address_is_refused(web: FileServer) -> None:
    with serving_files() as internal:
        internal.say("/secret", b"secret")
        web.say("/m.onnx", status="302 Found", location=f"{internal.url}/secret")
        error = refusal(f"{web.url}/m.onnx", allow=[web.host])
        assert f"--allow-internal {internal.host}" in (error.hint or "")
        assert internal.connections == 0
        assert read(f"{web.url}/m.onnx", allow=[web.host, internal.host]) == b"secret"


def test_what_was_checked_is_what_is_connected_to(web: FileServer) -> None:
    """A name that answers with another address the second time is never asked a second time."""
    web.say("/m.onnx", BODY)
    answers = iter([["127.0.0.1"], ["203.0.113.1"]])
    network = Network(resolve=lambda host, port: next(answers))
    url = f"http://rebinding.test:{web.port}/m.onnx"
    assert read(url, allow=["rebinding.test"], network=network) == BODY
    assert web.requests[0].headers["host"] == f"rebinding.test:{web.port}"
    assert next(answers) == ["203.0.113.1"]


def test_every_hop_is_checked_anew(web: FileServer) -> None:
    web.say("/m.onnx", status="302 Found", location="/again")
    web.say("/again", BODY)
    answers = iter([["127.0.0.1"], ["10.9.9.9"]])
    network = Network(resolve=lambda host, port: next(answers))
    allow = [f"first.test:{web.port}"]
    web.say("/m.onnx", status="302 Found", location=f"http://second.test:{web.port}/again")
    error = refusal(f"http://first.test:{web.port}/m.onnx", allow=allow, network=network)
    assert "10.9.9.9" in error.message


def test_the_next_address_is_tried_when_one_does_not_answer(web: FileServer) -> None:
    web.say("/m.onnx", BODY)
    network = resolving(models_test="127.0.0.2 127.0.0.1")
    assert read(f"http://models.test:{web.port}/m.onnx", allow=["models.test"], network=network) == BODY


def test_a_proxy_from_the_environment_is_not_used(web: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    web.say("/m.onnx", BODY)
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert read(f"{web.url}/m.onnx") == BODY


def test_the_allow_list_is_read() -> None:
    allowed = AllowList.parse(["Models.LAN", "10.0.0.7:8080", "[::1]:9000", "[fe80::1]", "nas.lan.:1"])
    assert allowed.covers("models.lan", 1) and allowed.covers("MODELS.lan.", 443)
    assert allowed.covers("10.0.0.7", 8080) and not allowed.covers("10.0.0.7", 80)
    assert allowed.covers("::1", 9000) and not allowed.covers("::1", 80)
    assert allowed.covers("fe80::1", 80) and allowed.covers("nas.lan", 1)
    assert not allowed.covers("evil-models.lan", 1)
    for text in (
        "",
        "http://models.lan",
        "a b",
        "models.lan:",
        "models.lan:0",
        "models.lan:70000",
        "::1",
        "a@b",
    ):
        with pytest.raises(InvalidRequest, match="expected HOST or HOST:PORT"):
            AllowList.parse([text])


def test_addresses_are_compared_by_value() -> None:
    for text in ("::ffff:192.168.0.1", "192.168.0.1"):
        assert ipaddress.ip_address(text) and is_internal(text)


# TLS


@pytest.fixture
def tls_server() -> Iterator[FileServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "localhost.pem", TLS / "localhost.key")
    with serving_files(tls=context) as web:
        web.say("/m.onnx", BODY)
        yield web


def test_the_certificate_is_checked_against_the_name_and_not_the_address(tls_server: FileServer) -> None:
    trust = ssl.create_default_context(cafile=TLS / "localhost.pem")
    local = Network(tls=trust, resolve=lambda host, port: ["127.0.0.1"])
    port = tls_server.port
    assert read(f"https://localhost:{port}/m.onnx", allow=["localhost"], network=local) == BODY
    error = refusal(f"https://other.test:{port}/m.onnx", allow=["other.test"], network=local)
    assert "certificate" in error.message.lower()


def test_an_untrusted_certificate_is_refused(tls_server: FileServer) -> None:
    error = refusal(f"https://localhost:{tls_server.port}/m.onnx", allow=["localhost"])
    assert "certificate" in error.message.lower()


def test_a_redirect_away_from_https_is_refused(tls_server: FileServer, web: FileServer) -> None:
    trust = ssl.create_default_context(cafile=TLS / "localhost.pem")
    tls_server.say("/away", status="302 Found", location=f"{web.url}/m.onnx")
    network = Network(tls=trust)
    error = refusal(
        f"https://localhost:{tls_server.port}/away", allow=["localhost", "127.0.0.1"], network=network
    )
    assert "from https to http" in error.message
    assert web.connections == 0
