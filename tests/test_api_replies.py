"""What every reply of the admin API has, whom it answers, and what it makes of bodies and parameters."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest
from applying import PREDICT
from box import Box, Caller

from mdslite.api import schema
from mdslite.api.app import create_app

pytestmark = pytest.mark.anyio


# What every reply has


async def test_the_process_says_that_it_is_alive(caller: Caller) -> None:
    heard = await caller.get("/healthz")
    assert (heard.status, heard.json) == (200, {"status": "ok"})


async def test_a_reply_names_its_request(caller: Caller) -> None:
    first = (await caller.get("/healthz")).headers["mdslite-request-id"]
    second = (await caller.get("/healthz")).headers["mdslite-request-id"]
    assert first and first != second


async def test_a_sane_request_id_is_echoed(caller: Caller) -> None:
    heard = await caller.get("/nowhere", **{"x-request-id": "trace/7"})
    assert heard.headers["mdslite-request-id"] == heard.json["request_id"] == "trace/7"


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "tab\t"])
async def test_another_request_id_is_replaced(caller: Caller, given: str) -> None:
    heard = await caller.get("/healthz", **{"x-request-id": given})
    assert heard.headers["mdslite-request-id"] not in ("", given)


async def test_an_unknown_url_is_404_in_the_form_of_all_errors(caller: Caller) -> None:
    heard = await caller.get("/api/v1/nothing")
    assert heard.status == 404
    assert heard.headers["content-type"] == "application/json"
    assert heard.json["code"] == "not_found"
    assert heard.json["request_id"] == heard.headers["mdslite-request-id"]
    msgspec.convert(heard.json, schema.ErrorReply)


async def test_who_opens_the_address_that_up_prints_gets_to_the_documentation(caller: Caller) -> None:
    heard = await caller.get("/")
    assert (heard.status, heard.headers["location"]) == (307, "docs")
    assert heard.json["docs"] == "/docs"
    for url in heard.json.values():
        assert (await caller.get(url)).status == 200


@pytest.mark.parametrize("url", ["/docs/", "/api/v1", "/api/v1/models/"])
async def test_no_url_redirects(caller: Caller, url: str) -> None:
    assert (await caller.get(url)).status == 404


@pytest.mark.parametrize(
    ("method", "url", "allowed"),
    [
        ("DELETE", "/api/v1/models", {"GET", "HEAD"}),
        ("GET", "/api/v1/apply", {"POST"}),
        ("GET", PREDICT, {"POST"}),
        ("POST", "/healthz", {"GET", "HEAD"}),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    caller: Caller, method: str, url: str, allowed: set[str]
) -> None:
    heard = await caller.ask(method, url)
    assert (heard.status, heard.json["code"]) == (405, "method_not_allowed")
    assert {one.strip() for one in heard.headers["allow"].split(",")} == allowed


async def test_head_gets_the_head_alone(caller: Caller) -> None:
    heard = await caller.ask("HEAD", "/healthz")
    assert (heard.status, heard.body) == (200, b"")
    assert int(heard.headers["content-length"]) > 0


async def test_what_nobody_expected_is_an_opaque_500_and_a_line_in_the_log(
    box: Box, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def render(self, *, open_metrics: bool = False) -> bytes:
            raise RuntimeError("secret internals")

    box.metrics = Broken()  # type: ignore[assignment]
    with caplog.at_level(logging.ERROR):
        heard = await caller.get("/metrics", **{"x-request-id": "r-1"})
    assert (heard.status, heard.json["code"]) == (500, "internal_error")
    assert b"secret" not in heard.body
    assert "secret internals" in caplog.text
    assert "r-1" in caplog.text


async def test_a_websocket_is_refused(box: Box) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await box.app({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == ["websocket.close"]


# Hosts and origins


@pytest.mark.parametrize("host", ["localhost:8500", "127.0.0.1", "[::1]:8500", "LOCALHOST"])
async def test_loopback_names_are_served(caller: Caller, host: str) -> None:
    assert (await caller.get("/healthz", host=host)).status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8500", "127.0.0.1.evil.example", "10.0.0.1"])
async def test_another_host_is_refused(caller: Caller, host: str) -> None:
    heard = await caller.get("/api/v1/models", host=host)
    assert (heard.status, heard.json["code"]) == (403, "forbidden")
    assert "--allow-host" in heard.json["hint"]


@pytest.mark.parametrize("host", ["a b", "a/b", "user@localhost", "localhost:x", ""])
async def test_a_malformed_host_is_a_bad_request(caller: Caller, host: str) -> None:
    assert (await caller.get("/healthz", host=host)).status == 400


async def test_a_host_that_was_allowed_is_served(box: Box) -> None:
    box.settings.allow_hosts = ("box.example", "other.example:9000")
    caller = Caller(create_app(box))
    assert (await caller.get("/healthz", host="Box.Example:8500")).status == 200
    assert (await caller.get("/healthz", host="other.example:9000")).status == 200
    assert (await caller.get("/healthz", host="other.example:1")).status == 403
    assert (await caller.get("/healthz", origin="https://box.example")).status == 200


async def test_bound_to_every_address_any_literal_one_is_served_and_no_name(box: Box) -> None:
    box.settings.host = "0.0.0.0"
    caller = Caller(create_app(box))
    assert (await caller.get("/healthz", host="10.1.2.3:8500")).status == 200
    assert (await caller.get("/healthz", host="evil.example:8500")).status == 403


async def test_a_page_of_the_same_host_may_ask(caller: Caller) -> None:
    assert (await caller.get("/healthz", origin="http://127.0.0.1:8500")).status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:3000", "http://"])
async def test_a_page_of_another_host_may_not(caller: Caller, origin: str) -> None:
    heard = await caller.get("/api/v1/models", origin=origin)
    assert (heard.status, heard.json["code"]) == (403, "forbidden")


# Bodies and parameters


@pytest.mark.parametrize(
    "wrong", [b"{", b"nonsense", b'{"source": "\xff"}', b'{"source": "' + b"\\ud800" + b'"}', b"{} {}"]
)
async def test_a_body_that_is_no_json_is_400(caller: Caller, wrong: bytes) -> None:
    heard = await caller.post("/api/v1/plan", wrong)
    assert (heard.status, heard.json["code"]) == (400, "invalid_json")
    assert heard.json["hint"] == "/docs lists what it takes"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (b"[]", "expected an object, got a list"),
        (b'{"source": 5}', "source: expected text"),
        (b'{"sauce": "x"}', "sauce: unknown key"),
        (b'{"revision": -1}', "revision"),
        (b'{"revision": "last"}', "revision"),
        (b'{"revision": 1, "expect_revision": true}', "expect_revision: expected"),
        (b"{}", "expected one of source, revision, weights, remove; got none of them"),
        (b'{"source": "", "revision": 1}', "got source and revision"),
        (b'{"source": ""}', "base: expected the absolute path"),
        (b'{"source": "", "base": "here"}', "base: expected the absolute path"),
        (b'{"source": "", "base": "/a\\u0000"}', "base: expected the absolute path"),
        (b'{"revision": 9223372036854775808}', "revision: expected a whole number <= 9223372036854775807"),
        (b'{"revision": ' + b"[" * 100_000 + b"}", "revision"),
        (b'{"revision": ' + b"9" * 10_000 + b"}", "revision: integer value out of range"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
async def test_a_body_of_another_shape_is_400_and_says_where(
    caller: Caller, wrong: bytes, words: str
) -> None:
    heard = await caller.post("/api/v1/apply", wrong)
    assert (heard.status, heard.json["code"]) == (400, "invalid_request")
    assert words in heard.json["error"]
    if (field := heard.json.get("field")) is not None:
        assert heard.json["error"].startswith(f"{field}: ")


async def test_an_error_names_its_field_in_one_of_its_own(caller: Caller) -> None:
    asked = await caller.get("/api/v1/revisions?limit=0")
    assert asked.json["field"] == "limit"
    sent = await caller.post("/api/v1/apply", b'{"revision": -1}')
    assert sent.json["field"] == "revision"


async def test_a_body_that_says_it_is_too_large_is_not_read(caller: Caller) -> None:
    heard = await caller.ask("POST", "/api/v1/plan", headers={"content-length": "999999999"})
    assert (heard.status, heard.json["code"]) == (413, "too_large")


async def test_a_body_that_turns_out_too_large_is_not_read_to_its_end(caller: Caller) -> None:
    chunks = [b" " * 1_000_000] * 50
    heard = await caller.ask("POST", "/api/v1/plan", chunks=chunks)
    assert heard.status == 413


async def test_a_compressed_body_is_refused(caller: Caller) -> None:
    heard = await caller.post("/api/v1/plan", b"x", **{"content-encoding": "gzip"})
    assert (heard.status, heard.json["code"]) == (415, "unsupported_media_type")


async def test_a_client_that_leaves_before_its_body_is_complete_gets_nothing(caller: Caller) -> None:
    caller.leaving.set()
    heard = await caller.ask("POST", "/api/v1/plan", chunks=[])
    assert heard.status == 0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("/api/v1/revisions?limit=0", "limit: expected a whole number >= 1; got '0'"),
        ("/api/v1/revisions?limit=1001", "limit: expected a whole number <= 1000; got '1001'"),
        ("/api/v1/revisions?limit=many", "limit: expected a whole number"),
        ("/api/v1/revisions?before=0", "before"),
        ("/api/v1/revisions?before=9223372036854775808", "before: expected a whole number <="),
        ("/api/v1/revisions?limit=1&limit=2", "limit: given twice"),
        ("/api/v1/revisions?lim=1", "lim: unknown parameter; this URL takes: limit, before"),
        ("/api/v1/models?project=../x", "project: expected"),
        ("/api/v1/models?project=%ff", "percent-encoding"),
        ("/api/v1/status?x=1", "this URL takes: none"),
        ("/api/v1/logs?filter=stat=4", "1"),
        ("/api/v1/logs?filter=model%3Dm%20status%3E%3Dx", "status"),
        ("/api/v1/logs?follow=perhaps", "follow: expected true or false; got 'perhaps'"),
        ("/api/v1/projects/p/models/m?at=yesterday", "'yesterday' is no moment"),
        ("/api/v1/projects/..%2Fx/models/m", "project: expected 1 to 63 letters"),
        ("/api/v1/projects/p%0a/models/m", "project: expected 1 to 63 letters"),
        ("/api/v1/projects/-x/models/m", "project: expected"),
        ("/api/v1/projects/p/models/" + "m" * 64, "model: expected"),
        ("/api/v1/revisions/zero", "revision: expected a whole number"),
        ("/api/v1/revisions/0", "revision: expected a whole number >= 1"),
        ("/api/v1/revisions/9223372036854775808", "revision: expected a whole number <="),
        ("/readyz?model=p", "model: expected PROJECT/MODEL"),
        ("/readyz?model=p/../m", "model: expected PROJECT/MODEL"),
    ],
)
async def test_a_wrong_parameter_is_400_and_named(caller: Caller, url: str, words: str) -> None:
    heard = await caller.get(url)
    assert (heard.status, heard.json["code"]) == (400, "invalid_request"), heard.body
    assert words in heard.json["error"]
