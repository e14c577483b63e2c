"""HTTP/1.1 requests that are malformed or too long, and what their clients are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from doors import open_site, refused, run
from h1_client import PREDICT, chunked, predict, request

from mdslite.http.request import HEAD_BYTES

# Framing


@pytest.mark.parametrize(
    "fields",
    [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: +3",
        "Content-Length: -3",
        "Content-Length: 3, 3",
        "Content-Length: 0x3",
        "Content-Length:",
        "Content-Length: 99999999999999999999999",
        "Content-Length : 3",
    ],
)
@pytest.mark.parametrize("target", [PREDICT, "/api/v1/plan"])
def test_a_body_whose_length_is_in_doubt_is_refused(tmp_path: Path, fields: str, target: str) -> None:
    async def test() -> None:
        smuggled = b"0\r\n\r\n" + predict()
        data = f"POST {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n".encode() + smuggled
        async with open_site(tmp_path) as site:
            reply = await refused(site, data)
            assert reply.status == 400
            assert reply.code == "invalid_request"
            assert 200 not in site.statuses

    run(test())


@pytest.mark.parametrize("step", [1, 2, 7, 5000])
def test_empty_lines_may_come_before_a_request_but_not_without_end(tmp_path: Path, step: int) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            for _ in range(3):
                data = b"\r\n" * 500 + predict()
                for at in range(0, len(data), step):
                    wire.send(data[at : at + step])
                    await wire.drained()
                assert (await wire.reply()).status == 200
            wire.send(b"\r\n" * 513)
            reply = await wire.reply()
            assert (reply.status, reply.closes) == (400, True)
            assert "empty lines" in reply.json["error"]

    run(test())


def test_chunks_are_refused_of_http_1_0(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            reply = await refused(site, chunked(request("POST", PREDICT, version="1.0"), b"{}"))
            assert reply.status == 400

    run(test())


@pytest.mark.parametrize(
    "data",
    [
        b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\n",
        b"GET /healthz HTTP/1.1\rHost: localhost\r\r",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n Host: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX y: a\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n: a\r\n\r\n",
        b"GET /healthz\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health z HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xc3\xa4 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"get /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"FETCH /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /projects/p/models/m:predict HTTP/1.1\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
        b"POST /projects/p/models/m:predict HTTP/1.1\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"POST /projects/p/models/m:predict HTTP/1.1\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"POST /projects/p/models/m:predict HTTP/1.1\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n",
    ],
)
def test_what_is_no_http_is_refused(tmp_path: Path, data: bytes) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            reply = await refused(site, data)
            assert reply.status == 400
            assert reply.code == "invalid_request"
            assert (await site.ask(predict())).status == 200

    run(test())


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "2.5", "3.0"])
def test_an_unknown_version_of_http_is_refused(tmp_path: Path, version: str) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            for data in (request(version=version), predict(version=version)):
                reply = await refused(site, data)
                assert reply.status == 505
                assert reply.code == "http_version_not_supported"
                assert "expected 1.0, 1.1 or 2" in reply.json["error"]
            assert not site.rows

    run(test())


@pytest.mark.parametrize("step", [1000, 7, 1])
@pytest.mark.parametrize("version", ["RTSP/1.0", "RTSP/1.1", "RTSP/2.0"])
def test_what_only_looks_like_http_is_refused(tmp_path: Path, version: str, step: int) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send(predict())
            assert (await wire.reply()).status == 200
            data = predict(headers=[("Upgrade", "x"), ("Connection", "upgrade")])
            data = data.replace(b"HTTP/1.1", version.encode())
            for start in range(0, len(data), step):
                wire.send(data[start : start + step])
                await wire.drained()
            reply = await wire.reply()
            assert (reply.status, reply.code) == (505, "http_version_not_supported")
            assert await wire.rest() == b""
            assert site.statuses == [200, 505]

    run(test())


def test_a_field_may_speak_of_another_protocol(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            said = [("X-Line", f"POST {PREDICT} RTSP/1.0"), ("Via", "RTSP/1.0 x, ICE/1.0 y")]
            assert (await site.ask(predict(headers=said))).status == 200

    run(test())


@pytest.mark.parametrize("make", [request, predict])
@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        ([], 400),
        (["localhost", "localhost"], 400),
        (["localhost", "evil.example"], 400),
        ([""], 400),
        (["local host"], 400),
        (["localhost:"], 400),
        (["localhost:x"], 400),
        (["localhost:65536"], 400),
        (["user@localhost"], 400),
        (["localhost/path"], 400),
        (["[::1"], 400),
        (["evil.example"], 403),
        (["localhost.evil.example"], 403),
        (["127.0.0.1.evil.example:8500"], 403),
        (["10.0.0.1"], 403),
    ],
)
def test_a_host_that_is_missing_double_malformed_or_foreign_is_refused(
    tmp_path: Path, make: Any, hosts: list[str], status: int
) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            reply = await refused(site, make(host=None, headers=[("Host", host) for host in hosts]))
            assert reply.status == status
            assert reply.code == {400: "invalid_request", 403: "forbidden"}[status]
            assert len(hosts) != 1 or repr(hosts[0]) in reply.json["error"]
            assert not site.rows

    run(test())


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8500", "127.0.0.1", "[::1]:8500", " localhost  "])
def test_the_names_of_this_machine_are_served(tmp_path: Path, host: str) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            assert (await site.ask(predict(host=host))).status == 200
            assert (await site.ask(request(host=host))).status == 200

    run(test())


@pytest.mark.parametrize(
    "target",
    [
        "/healthz%00",
        "/healthz%0a",
        "/healthz%0A",
        "/healthz?x=%0d",
        "/projects/p/models/m%00:predict",
        "/projects/p/models/m:predict?x=%0A",
        "http://localhost/healthz",
        "http://localhost/projects/p/models/m:predict",
        "*",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_target_that_is_no_plain_path_is_refused(tmp_path: Path, method: str, target: str) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            assert (await refused(site, request(method, target))).status == 400
            assert not site.rows

    run(test())


def test_what_follows_a_connect_is_not_read(tmp_path: Path) -> None:
    async def test() -> None:
        data = b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
        async with open_site(tmp_path) as site:
            assert (await refused(site, data + predict())).status == 400
            async with site.connect() as wire:
                wire.send(request() + data + predict())
                assert (await wire.reply()).status == 200
                assert (await wire.reply()).status == 400
                assert await wire.rest() == b""
            assert not site.rows

    run(test())


UPGRADED = [("Upgrade", "h2c"), ("Connection", "upgrade"), ("Transfer-Encoding", "gzip, chunked")]


@pytest.mark.parametrize(
    "bad",
    [
        b"nonsense\r\n\r\n",
        request(target="/%00"),
        predict(host="evil.example"),
        request(version="2.5"),
        request("POST", "/api/v1/plan", headers=UPGRADED),
    ],
)
def test_a_bad_request_behind_good_ones_is_answered_in_its_turn(tmp_path: Path, bad: bytes) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send((request() + predict()) * 20 + bad + predict() * 3)
            for _ in range(40):
                reply = await wire.reply()
                assert reply.status == 200
                assert not reply.closes
            reply = await wire.reply()
            assert reply.status in (400, 403, 505)
            assert reply.closes
            assert await wire.rest() == b""
            assert site.statuses == [200] * 20

    run(test())


# Size


@pytest.mark.parametrize(
    "target",
    ["/" + "x" * 20_000, "/healthz", "/projects/p/models/m:predict"],
    ids=["url", "check", "predict"],
)
@pytest.mark.parametrize("kind", ["one", "many", "endless"])
def test_a_head_that_is_too_long_is_refused(tmp_path: Path, target: str, kind: str) -> None:
    async def test() -> None:
        data = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n".encode()
        if kind == "one":
            data += b"X: " + b"x" * 20_000 + b"\r\n\r\n"
        elif kind == "many":
            data += b"X: %b\r\n" % (b"x" * 1000) * 20 + b"\r\n"
        else:
            data += b"X: " + b"x" * 400_000
        async with open_site(tmp_path) as site:
            reply = await refused(site, data)
            assert reply.status == 431
            assert reply.code == "head_too_long"
            assert not site.rows

    run(test())


def test_a_head_of_almost_16_kib_is_served_wherever_the_reads_cut_it(tmp_path: Path) -> None:
    async def test() -> None:
        long = request(headers=[("X", "x" * (HEAD_BYTES - 200))])
        async with open_site(tmp_path) as site, site.connect() as wire:
            for before in (b"", request(), predict() * 300, request() * 999):
                wire.send(before + long)
                for _ in range(before.count(b"Host:") + 1):
                    assert (await wire.reply()).status == 200

    run(test())


def test_too_many_fields_are_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            many = [(f"X-{number}", "") for number in range(99)]
            assert (await site.ask(request(headers=many))).status == 200
            assert (await refused(site, request(headers=[*many, ("X", "")]))).status == 431

    run(test())


def test_a_trailer_without_end_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        head = request("POST", PREDICT).removesuffix(b"\r\n") + b"Transfer-Encoding: chunked\r\n\r\n"
        for flood in (b"X: %b\r\n" % (b"x" * 1000) * 400, b"X: " + b"x" * 400_000):
            async with open_site(tmp_path) as site:
                assert (await refused(site, head + b"2\r\n{}\r\n0\r\n" + flood)).status == 431

    run(test())
