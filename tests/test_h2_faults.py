"""What is wrong with a request is answered over HTTP/2 as over HTTP/1.1: the same faults, the same words."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import h2_client
import models
import msgspec
import pytest
from doors import Deployed, Site, open_site, run
from h1_client import PREDICT, ROW, gzipped
from h2_client import Answer, Client, data
from hyperframe.frame import HeadersFrame
from waiting import until

BODY = json.dumps({"instances": [ROW]}).encode()
JSON = ("content-type", "application/json")


def connect(site: Site) -> AbstractAsyncContextManager[Client]:
    return h2_client.connect(site.address)


async def post(
    client: Client, target: str = PREDICT, body: bytes = BODY, *, fields: Sequence[tuple[str, str]] = (JSON,)
) -> Answer:
    head = client.head(target, method="POST", headers=fields, end=False)
    client.send(head, *(data(head.stream_id, body[at : at + 16_384]) for at in range(0, len(body), 16_384)))
    client.send(data(head.stream_id, b"", end=True))
    return await client.answer(head.stream_id)


def raw_head(client: Client, fields: Sequence[tuple[str, str]]) -> HeadersFrame:
    """A head of these fields and no others, on a new stream."""
    stream_id = client._next_id
    client._next_id += 2
    client.answers[stream_id] = Answer()
    frame = HeadersFrame(stream_id, client._encoder.encode(list(fields)))
    frame.flags.add("END_HEADERS")
    return frame


def error_of(answer: Answer) -> Any:
    """The error's code, once its form is known to be the contract's."""
    error = msgspec.json.decode(answer.body)
    assert answer.headers["content-type"] == "application/json"
    assert error["request_id"] == answer.headers["mdslite-request-id"]
    assert isinstance(error["error"], str) and error["error"]
    return error["code"]


# Framing


@pytest.mark.parametrize(
    "fields",
    [
        [("transfer-encoding", "chunked")],
        [("transfer-encoding", "chunked"), ("content-length", str(len(BODY)))],
        [("connection", "keep-alive")],
        [("content-length", str(len(BODY) - 1))],
        [("content-length", str(len(BODY) + 1))],
        [("content-length", "3"), ("content-length", "33")],
        [("content-length", "-1")],
    ],
)
def test_what_would_smuggle_a_request_through_a_proxy_is_no_request(
    tmp_path: Path, fields: list[tuple[str, str]]
) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            async with connect(site) as client:
                head = client.head(PREDICT, method="POST", headers=[JSON, *fields], end=False)
                client.send(head, data(head.stream_id, BODY, end=True))
                answer = await client.answer(head.stream_id)
                assert answer.reset is not None or client.closed or answer.status == 400
            assert 200 not in site.statuses
            async with connect(site) as client:
                assert (await post(client)).status == 200

    run(test())


def test_who_leaves_after_our_goodbye_is_nothing_to_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            async with connect(site) as client:
                client.send(b"\x00\x00\x00\x04\x00\x00\x00\x00\x01")
                await client.until(lambda: client.closed)
            await until(lambda: not site.bridge.connections)
            async with connect(site) as client:
                assert (await post(client)).status == 200

    run(test())
    assert not caplog.records


def test_a_request_that_ends_with_its_head_announces_no_body(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, connect(site) as client:
            for fields, is_cut in (([("content-length", "5")], True), ([("content-length", "0")], False)):
                head = client.head("/healthz", headers=fields, end=True)
                client.send(head)
                answer = await client.answer(head.stream_id)
                assert (answer.reset is not None) == is_cut
                assert is_cut or answer.status == 200

    run(test())


GET, TO, PLAIN, HERE = (
    (":method", "GET"),
    (":path", "/healthz"),
    (":scheme", "http"),
    (":authority", "localhost"),
)


@pytest.mark.parametrize(
    "fields",
    [
        [GET, PLAIN, HERE],
        [GET, TO, PLAIN, (":authority", "a"), (":authority", "b")],
        [GET, TO, (":path", "/metrics"), PLAIN, HERE],
        [TO, PLAIN, HERE],
        [GET, (":path", ""), PLAIN, HERE],
        [GET, (":path", "healthz"), PLAIN, HERE],
        [GET, (":path", "http://localhost/healthz"), PLAIN, HERE],
        [("x", "y"), GET, TO, PLAIN, HERE],
    ],
)
def test_a_head_that_is_none_is_refused(tmp_path: Path, fields: list[tuple[str, str]]) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, connect(site) as client:
            frame = raw_head(client, fields)
            frame.flags.add("END_STREAM")
            client.send(frame)
            answer = await client.answer(frame.stream_id)
            assert answer.reset is not None or client.closed or answer.status == 400

    run(test())


# Who is asked, and by which page


@pytest.mark.parametrize(
    ("authority", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:8500", 200),
        ("[::1]:8500", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("10.0.0.1", 403),
        ("user@localhost", 400),
        ("localhost/path", 400),
        ("[::1", 400),
    ],
)
@pytest.mark.parametrize("target", [PREDICT, "/healthz"])
def test_a_host_that_is_malformed_or_foreign_is_refused(
    tmp_path: Path, authority: str, status: int, target: str
) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, connect(site) as client:
            method = "POST" if target == PREDICT else "GET"
            fields = [(":method", method), (":path", target), PLAIN, (":authority", authority), JSON]
            frame = raw_head(client, fields)
            client.send(frame, data(frame.stream_id, BODY if target == PREDICT else b"", end=True))
            answer = await client.answer(frame.stream_id)
            assert answer.status == status
            if status != 200:
                assert error_of(answer) == {400: "invalid_request", 403: "forbidden"}[status]
                assert not site.rows

    run(test())


def test_a_host_beside_the_authority_is_the_same_or_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, connect(site) as client:
            for host, good in (("localhost", True), ("evil.example", False)):
                frame = client.head("/healthz", headers=[("host", host)])
                client.send(frame)
                answer = await client.answer(frame.stream_id)
                assert (answer.reset is None and not client.closed and answer.status == 200) is good
                if client.closed:
                    break

    run(test())


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost.evil.example"])
@pytest.mark.parametrize("target", [PREDICT, "/api/v1/apply"])
def test_a_page_of_another_site_is_refused(tmp_path: Path, origin: str, target: str) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, connect(site) as client:
            answer = await post(client, target, fields=[JSON, ("origin", origin)])
            assert (answer.status, error_of(answer)) == (403, "forbidden")
            assert not site.rows

    run(test())


# Names


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/projects/../models/m:predict", 400),
        ("/projects/%2e%2e/models/m:predict", 400),
        ("/projects/p/models/..%2fm:predict", 400),
        ("/projects/p%00/models/m:predict", 400),
        ("/projects/p/models/m/versions/..:predict", 400),
        ("/projects/p/models/none:predict", 404),
        ("/projects/p/models:predict", 404),
    ],
)
def test_a_name_that_leads_elsewhere_leads_nowhere(tmp_path: Path, target: str, status: int) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, connect(site) as client:
            answer = await post(client, target)
            assert answer.status == status
            assert error_of(answer) == {400: "invalid_request", 404: "not_found"}[status]

    run(test())


# Bodies


def test_a_body_above_its_types_limit_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, max_json_bytes=1000) as site, connect(site) as client:
            answer = await post(client, body=b" " * 2000 + BODY)
            assert (answer.status, error_of(answer)) == (413, "too_large")
            assert (await post(client)).status == 200

    run(test())


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path, encoding: str) -> None:
    plain = b'{"instances": [' + b"[1, 2, 3]," * 6_000_000
    bomb = gzipped(plain) if encoding == "gzip" else zlib.compress(plain)
    assert len(bomb) < 300_000

    async def test() -> None:
        async with open_site(tmp_path) as site, connect(site) as client:
            answer = await post(client, body=bomb, fields=[JSON, ("content-encoding", encoding)])
            assert (answer.status, error_of(answer)) == (413, "too_large")
            assert (await post(client)).status == 200

    run(test())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b'{"instances": [[1, 2]]}', 400, "invalid_tensor"),
        (b'{"instances": [[1' + b"0" * 10_000 + b", 2, 3]]}", 400, None),
    ],
)
def test_a_body_that_is_none_is_refused(tmp_path: Path, body: bytes, status: int, code: str | None) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, connect(site) as client:
            answer = await post(client, body=body)
            assert answer.status == status
            assert code is None or error_of(answer) == code

    run(test())


# Clients that leave


@pytest.mark.parametrize("leave", ["reset", "close"])
def test_a_client_that_leaves_frees_its_rows_and_is_counted(tmp_path: Path, leave: str) -> None:
    async def test() -> None:
        loop = models.loop(tmp_path / "loop.onnx")
        deployed = Deployed(loop, batch={"prediction_time_ms": 60_000})
        async with open_site(tmp_path, deployed) as site:
            lane = site.lane()
            async with connect(site) as client:
                head = client.head(PREDICT, method="POST", headers=[JSON], end=False)
                endless = json.dumps({"instances": [[-1]]}).encode()
                client.send(head, data(head.stream_id, endless, end=True))
                await until(lambda: lane.running)
                if leave == "reset":
                    client.send(h2_client.reset(head.stream_id))
                else:
                    await client.close()
                await until(lambda: site.statuses == [499])
                await until(lambda: not lane.running)

    run(test())
