"""What becomes of HTTP/1.1 clients that are malformed, slow, greedy or gone."""

from __future__ import annotations

import asyncio
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import pytest
from doors import HASTY, Deployed, Site, open_site, run
from h1_client import PREDICT, ROW, Reply, Wire, chunked, gzipped, predict, request
from waiting import until

from mdslite.door.door import Limits

ENDLESS = predict([[-1]])  # to the model of `open_loop`


async def refused(site: Site, data: bytes) -> Reply:
    """The answer to what is no proper request: it ends the connection."""
    async with site.connect() as wire:
        wire.send(data)
        reply = await wire.reply()
        assert reply.closes
        assert await wire.rest() == b""
        return reply


def open_loop(folder: Path, **batch: Any) -> Any:
    """A site with a model that turns for ever on a negative number."""
    return open_site(folder, Deployed(models.loop(folder / "loop.onnx"), batch=batch))


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
            assert not site.rows

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


@pytest.mark.parametrize(
    "bad", [b"nonsense\r\n\r\n", request(target="/%00"), predict(host="evil.example"), request(version="2.5")]
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
    ["/" + "x" * 70_000, "/healthz", "/projects/p/models/m:predict"],
    ids=["url", "check", "predict"],
)
@pytest.mark.parametrize("kind", ["one", "many", "endless"])
def test_a_head_that_is_too_long_is_refused(tmp_path: Path, target: str, kind: str) -> None:
    async def test() -> None:
        data = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n".encode()
        if kind == "one":
            data += b"X: " + b"x" * 70_000 + b"\r\n\r\n"
        elif kind == "many":
            data += b"X: %b\r\n" % (b"x" * 1000) * 70 + b"\r\n"
        else:
            data += b"X: " + b"x" * 400_000
        async with open_site(tmp_path) as site:
            reply = await refused(site, data)
            assert reply.status == 413
            assert reply.code == "too_large"
            assert not site.rows

    run(test())


def test_a_head_of_almost_64_kib_is_served_wherever_the_reads_cut_it(tmp_path: Path) -> None:
    async def test() -> None:
        long = request(headers=[("X", "x" * 65_300)])
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
            assert (await refused(site, request(headers=[*many, ("X", "")]))).status == 413

    run(test())


def test_a_trailer_without_end_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        head = request("POST", PREDICT).removesuffix(b"\r\n") + b"Transfer-Encoding: chunked\r\n\r\n"
        for flood in (b"X: %b\r\n" % (b"x" * 1000) * 400, b"X: " + b"x" * 400_000):
            async with open_site(tmp_path) as site:
                assert (await refused(site, head + b"2\r\n{}\r\n0\r\n" + flood)).status == 413

    run(test())


@pytest.mark.parametrize(
    ("target", "media_type", "limit", "hint"),
    [
        (PREDICT, "application/json", 1000, "application/x-npy"),
        (PREDICT, "text/plain", 1000, "application/x-npy"),
        (PREDICT, "application/x-npy", 300_000, None),
        ("/api/v1/plan", "application/json", 4 << 20, None),
    ],
)
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_body_above_the_limit_is_refused_before_it_is_read(
    tmp_path: Path, target: str, media_type: str, limit: int, hint: str | None, framing: str
) -> None:
    async def test() -> None:
        head = request("POST", target, headers=[("Content-Type", media_type), ("X-Request-Id", "big")])
        head = head.removesuffix(b"\r\n")
        async with (
            open_site(tmp_path, max_json_bytes=1000, max_body_bytes=300_000) as site,
            site.connect() as wire,
        ):
            if framing == "length":
                wire.send(head + b"Content-Length: %d\r\n\r\n" % (limit + 1))
            else:
                chunk = b"%x\r\n%b\r\n" % (limit // 10 + 1, b" " * (limit // 10 + 1))
                wire.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 10)
            # Nobody reads what still comes, and the answer arrives all the same.
            for _ in range(100):
                wire.send(b" " * 10_000)
            reply = await wire.reply()
            assert reply.status == 413
            assert reply.code == "too_large"
            assert reply.closes
            assert str(limit) in reply.json["error"]
            assert reply.headers["mdslite-request-id"] == "big"
            assert (hint or "") in reply.json.get("hint", "")
            assert ("hint" in reply.json) == (hint is not None)
            if target == PREDICT:
                assert [(row["status"], row["model"], row["request"]) for row in site.logged] == [
                    (413, "m", b"")
                ]

    run(test())


def test_a_body_of_just_the_limit_is_read(tmp_path: Path) -> None:
    async def test() -> None:
        body = b'{"instances": [[1, 2, 3]]}'.ljust(1000)
        async with open_site(tmp_path, max_json_bytes=1000) as site:
            for data in (predict(body=body), chunked(request("POST", PREDICT), body[:500], body[500:])):
                assert (await site.ask(data)).json == {"predictions": [ROW]}

    run(test())


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path, encoding: str) -> None:
    async def test() -> None:
        plain = b'{"instances": [' + b"[1, 2, 3]," * 2_000_000 + b"[1, 2, 3]]}"
        bomb = gzipped(plain) if encoding == "gzip" else zlib.compress(plain)
        assert len(bomb) < 200_000
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send(predict(body=bomb, headers=[("Content-Encoding", encoding)]) + predict())
            reply = await wire.reply()
            assert reply.status == 413
            assert reply.code == "too_large"
            assert (await wire.reply()).status == 200
            assert len(site.logged[0]["request"]) == len(bomb)

    run(test())


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", b"nothing like it", 400),
        ("gzip", gzipped(b"{}")[:-4], 400),
        ("gzip", gzipped(b'{"instances": []}')[:-8] + b"\0" * 8, 400),
        ("gzip", gzipped(b"{") + gzipped(b"}"), 400),
        ("gzip", b"", 400),
        ("deflate", gzipped(b"{}"), 400),
        ("br", b"{}", 415),
        ("gzip, gzip", gzipped(gzipped(b"{}")), 415),
    ],
)
def test_a_compressed_body_that_is_corrupt_or_of_another_kind_is_refused(
    tmp_path: Path, encoding: str, body: bytes, status: int
) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send(predict(body=body, headers=[("Content-Encoding", encoding)]) + predict())
            reply = await wire.reply()
            assert reply.status == status
            assert reply.code == {400: "invalid_request", 415: "unsupported_media_type"}[status]
            assert (await wire.reply()).status == 200

    run(test())


def test_connections_above_the_limit_are_told_to_come_back(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, limits=Limits(connections=2)) as site:
            async with site.connect() as first, site.connect() as second:
                for wire in (first, second):
                    wire.send(request())
                    assert (await wire.reply()).status == 200
                async with site.connect() as third:
                    reply = await third.reply()
                    assert reply.status == 503
                    assert reply.code == "unavailable"
                    assert reply.headers["retry-after"] == "1"
                    assert await third.rest() == b""
                first.send(predict())
                assert (await first.reply()).status == 200
            await until(lambda: not site.door.connections)
            assert (await site.ask(request())).status == 200
            assert site.door.closed_for == {"too_many": 1}

    run(test())


# Time


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"G", "slow_head"),
        (b"P", "slow_head"),
        (b"PRI * HTTP/2.0\r\n", "slow_head"),
        (b"GET /healthz HTTP/1.1\r\nHost: local", "slow_head"),
        (predict()[:-1], "slow_body"),
        (request("POST", "/api/v1/plan", b"{}")[:-1], "slow_body"),
        (chunked(request("POST", PREDICT), b"{}")[:-1], "slow_body"),
        (request() + request()[:-1], "slow_head"),
        (predict() + predict()[:-1], "slow_body"),
        (predict("x") + request()[:-1], "slow_head"),
    ],
)
def test_a_head_or_body_that_does_not_come_is_given_up(tmp_path: Path, data: bytes, reason: str) -> None:
    async def test() -> None:
        async with open_site(tmp_path, limits=replace(HASTY, idle_s=60)) as site, site.connect() as wire:
            wire.send(data)
            for _ in range(data.count(b"HTTP/1.1") - 1):
                assert (await wire.reply()).status in (200, 400)
            reply = await wire.reply()
            assert reply.status == 408
            assert reply.code == "request_timeout"
            assert reply.closes
            assert await wire.rest() == b""
            assert site.door.closed_for == {reason: 1}

    run(test())


def test_a_head_that_trickles_in_is_given_up_all_the_same(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, limits=HASTY) as site, site.connect() as wire:
            reading = asyncio.create_task(wire.reply())
            wire.send(b"GET /healthz HTTP/1.1\r\nX: ")
            while not reading.done():
                wire.send(b"x")
                await wire.drained()
                await outlast_turns(50)
            assert (await reading).status == 408

    run(test())


def test_a_slow_body_of_a_predict_is_logged(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, limits=HASTY) as site:
            reply = await refused(site, predict(headers=[("X-Request-Id", "slow")])[:-5])
            assert reply.status == 408
            (row,) = site.logged
            assert (row["status"], row["code"]) == (408, "request_timeout")
            assert (row["request_id"], row["model"]) == ("slow", "m")

    run(test())


def test_a_body_that_keeps_coming_has_the_time_that_it_takes(tmp_path: Path) -> None:
    async def test() -> None:
        body = b'{"instances": [[1, 2, 3]]}'
        limits = replace(HASTY, min_rate_bytes_per_s=10)
        async with open_site(tmp_path, limits=limits) as site, site.connect() as wire:
            wire.send(predict(body=body)[: -len(body)])
            await until(lambda: any(one.state == "body" for one in site.door.connections))
            (connection,) = site.door.connections
            at_first = connection.deadline
            wire.send(body[:-1])  # 25 bytes buy two seconds and a half
            await until(lambda: connection.deadline > at_first + 2)
            wire.send(body[-1:])
            assert (await wire.reply()).status == 200

    run(test())


def test_a_client_that_says_nothing_is_let_go(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, limits=HASTY) as site:
            async with site.connect() as wire:
                assert await wire.rest() == b""
            async with site.connect() as wire:
                wire.send(predict() + request())
                assert (await wire.reply()).status == 200
                assert (await wire.reply()).status == 200
                assert await wire.rest() == b""
            await until(lambda: not site.door.connections)
            assert site.door.closed_for == {"idle": 2}

    run(test())


def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    async def test() -> None:
        gone = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x" * 20_000_000, "more_body": True})
            gone.set()

        limits = replace(HASTY, min_rate_bytes_per_s=1 << 30)
        async with open_site(tmp_path, limits=limits, app=app) as site, site.connect() as wire:
            wire.stop_reading()
            wire.send(request())
            await until(lambda: site.door.closed_for)
            assert site.door.closed_for == {"slow_reader": 1}
            async with asyncio.timeout(20):
                await gone.wait()
            await until(lambda: not site.door.connections)

    run(test())


def test_a_client_that_reads_slowly_and_sends_more_is_a_slow_reader(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "wide.onnx", shape=("N", None))
        limits = replace(HASTY, head_s=60, min_rate_bytes_per_s=1 << 30)
        async with open_site(tmp_path, Deployed(path), limits=limits) as site, site.connect() as wire:
            wire.stop_reading()
            body = b'{"instances": [[%b 1]]}' % (b"0.123456789," * 300_000)
            wire.send(predict(body=body) * 3 + predict()[:-1])
            await until(lambda: site.door.closed_for)
            assert site.door.closed_for == {"slow_reader": 1}
            await until(lambda: not site.door.connections)

    run(test())


@pytest.mark.parametrize("closing", [True, False])
def test_a_large_answer_reaches_a_reader_that_takes_its_time(tmp_path: Path, closing: bool) -> None:
    async def test() -> None:
        size = 20_000_000

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x" * size})

        limits = replace(HASTY, write_s=60)
        async with open_site(tmp_path, limits=limits, app=app) as site, site.connect() as wire:
            wire.stop_reading()
            wire.send(request(headers=[("Connection", "close")] * closing))
            await until(lambda: any(one.state == "reader" for one in site.door.connections))
            for _ in range(3):
                await outlast(site)
            wire.read_on()
            assert len((await wire.reply()).body) == size

    run(test())


async def outlast_turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def outlast(site: Site) -> None:
    """Let the time pass in which this site's door would find a silent client."""
    async with site.connect() as silent:
        assert await silent.rest() == b""


# Clients that leave


async def leave(site: Site, wire: Wire) -> None:
    await wire.close()
    await until(lambda: not site.door.connections)


def test_a_client_that_leaves_while_queued_frees_its_rows(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_loop(tmp_path) as site:
            lane = site.lane()
            async with site.connect() as running, site.connect() as queued:
                running.send(ENDLESS)
                await until(lambda: lane.running)
                queued.send(predict([[1]] * 100, headers=[("X-Request-Id", "gone")]))
                await until(lambda: lane.queue_rows == 100)
                await queued.close()
                await until(lambda: not lane.queue_rows)
                (row,) = site.logged
                assert (row["status"], row["code"], row["request_id"]) == (499, "client_closed", "gone")
                assert (row["rows"], row["reply"], row["compute_ms"]) == (100, None, 0)
                assert lane.running == 1
                await running.close()
                await until(lambda: not lane.running)
            assert site.statuses == [499, 499]
            assert lane.stats.cancelled == 2
            assert site.predictor.books.open == 0
            assert (await site.ask(predict([[3]]))).json == {"predictions": [[3]]}

    run(test())


def test_a_client_that_leaves_in_a_batch_leaves_its_neighbours_there(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_loop(tmp_path) as site, site.connect() as stays:
            lane = site.lane()
            async with site.connect() as first:
                first.send(ENDLESS)
                await until(lambda: lane.running)
                async with site.connect() as leaves:
                    leaves.send(predict([[1], [2]]))
                    await until(lambda: lane.queue_rows == 2)
                    stays.send(predict([[3]]))
                    await until(lambda: lane.queue_rows == 3)
                await until(lambda: lane.queue_rows == 1)
            assert (await stays.reply()).json == {"predictions": [[3]]}
            assert sorted(site.statuses) == [200, 499, 499]

    run(test())


def test_pipelined_requests_of_a_client_that_left_are_not_begun(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_loop(tmp_path) as site:
            for count in (1, 50):
                async with site.connect() as wire:
                    wire.send(ENDLESS + predict([[1]]) * count + request()[:-1])
                    await until(lambda: site.lane().running)
                await until(lambda: not site.lane().running)
                await until(lambda: not site.door.connections)
            assert site.statuses == [499, 499]

    run(test())


def test_a_client_that_closes_its_sending_side_counts_as_gone(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_loop(tmp_path) as site, site.connect() as wire:
            wire.send(ENDLESS)
            await until(lambda: site.lane().running)
            wire.shut()
            assert await wire.rest() == b""
            assert site.statuses == [499]

    run(test())


def test_a_client_that_leaves_amid_a_body_leaves_nothing_behind(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            for data in (predict()[:-1], request()[:-1], chunked(request("POST", PREDICT), b"{}")[:-1]):
                async with site.connect() as wire:
                    wire.send(data)
                    await until(lambda: any(one.state in ("head", "body") for one in site.door.connections))
                await until(lambda: not site.door.connections)
            assert not site.rows
            assert site.predictor.books.open == 0

    run(test())


# Nothing of ours gets out


def test_no_reply_says_what_it_is_made_of(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            for data in (
                b"nonsense\r\n\r\n",
                request(target="/%00"),
                predict(body=b"{"),
                predict("x"),
                request(target="/no"),
                predict(body=b"x", headers=[("Content-Encoding", "gzip")]),
            ):
                reply = await site.ask(data)
                found = reply.body.decode() + str(reply.headers)
                assert not re.search(r"Traceback|File \"|\.py|/tmp|uvloop|httptools|starlette", found, re.I)
                assert "server" not in reply.headers

    run(test())
