"""What an application behind the door sees and may do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from door_answers import ANSWER, answer
from doors import open_site, run
from h1_client import Reply, predict, request
from waiting import until


async def parts(scope: Any, receive: Any, send: Any) -> None:
    """Answers in pieces, some of them empty."""
    status = int(scope["path"].strip("/") or 200)
    await send({"type": "http.response.start", "status": status, "headers": [(b"X-Kind", b"parts")]})
    for piece in (b"one ", b"", b"two ", b"three"):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


def test_an_answer_of_unknown_length_comes_in_chunks(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, app=parts) as site, site.connect() as wire:
            wire.send(request(target="/") * 2)
            for _ in range(2):
                reply = await wire.reply()
                assert reply.framing == "chunked"
                assert reply.body == b"one two three"
                assert reply.headers["x-kind"] == "parts"

    run(test())


def test_without_chunks_the_end_of_the_connection_is_the_end_of_the_answer(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, app=parts) as site:
            asking = request(target="/", version="1.0", headers=[("Connection", "keep-alive")])
            reply = await site.ask(asking)
            assert reply.framing == "close"
            assert reply.closes
            assert reply.body == b"one two three"

    run(test())


@pytest.mark.parametrize(("method", "target"), [("HEAD", "/"), ("GET", "/204"), ("GET", "/304")])
def test_an_answer_that_has_no_body_gets_none(tmp_path: Path, method: str, target: str) -> None:
    async def test() -> None:
        async with open_site(tmp_path, app=parts) as site, site.connect() as wire:
            wire.send(request(method, target) + request(target="/"))
            reply = await wire.reply(method=method)
            assert "content-length" not in reply.headers
            assert (await wire.reply()).body == b"one two three"

    run(test())


def test_an_application_sees_the_request_as_it_was(tmp_path: Path) -> None:
    async def test() -> None:
        scopes: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scopes.append(scope)
            await answer(send, (await receive())["body"])

        async with open_site(tmp_path, app=app) as site:
            reply = await site.ask(request("PUT", "/a%20b/%C3%A4?x=1&y=%20", b"body", headers=[("X-Y", "z")]))
            assert reply.body == b"body"
            (scope,) = scopes
            assert scope["type"] == "http"
            assert scope["http_version"] == "1.1"
            assert (scope["method"], scope["scheme"]) == ("PUT", "http")
            assert (scope["path"], scope["raw_path"]) == ("/a b/ä", b"/a%20b/%C3%A4")
            assert (scope["query_string"], scope["root_path"]) == (b"x=1&y=%20", "")
            assert scope["headers"] == [(b"host", b"localhost"), (b"x-y", b"z"), (b"content-length", b"4")]
            assert scope["server"] == site.address
            assert scope["client"][0] == "127.0.0.1"

    run(test())


@pytest.mark.parametrize("failure", ["raises", "silent"])
def test_an_application_that_fails_gives_an_opaque_error(
    tmp_path: Path, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if failure == "raises":
            raise ValueError("a secret")

    async def test() -> None:
        async with open_site(tmp_path, app=app) as site, site.connect() as wire:
            wire.send(request(headers=[("X-Request-Id", "mine")]) + predict())
            reply = await wire.reply()
            assert reply.status == 500
            assert reply.code == "internal_error"
            assert reply.headers["mdslite-request-id"] == "mine"
            assert b"secret" not in reply.body
            assert (await wire.reply()).json == ANSWER

    run(test())
    assert ("a secret" in caplog.text) == (failure == "raises")


@pytest.mark.parametrize("failure", ["raises", "returns"])
def test_an_answer_that_breaks_off_does_not_look_complete(tmp_path: Path, failure: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"half", more=True)
        if failure == "raises":
            raise ValueError("a secret")

    async def test() -> None:
        async with open_site(tmp_path, app=app) as site, site.connect() as wire:
            wire.send(request())
            rest = await wire.rest()
            assert not rest.endswith(b"0\r\n\r\n")

    run(test())


def test_a_client_that_leaves_a_stream_ends_it(tmp_path: Path) -> None:
    async def test() -> None:
        left = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await answer(send, b"x" * 100_000, more=True)
            assert (await receive())["type"] == "http.disconnect"
            await send({"type": "http.response.body", "body": b"to nobody", "more_body": True})
            left.set()

        async with open_site(tmp_path, app=app) as site:
            async with site.connect() as wire:
                wire.send(request())
                assert (await wire.head()).status == 200
            async with asyncio.timeout(20):
                await left.wait()

    run(test())


def test_a_stream_waits_for_its_reader(tmp_path: Path) -> None:
    async def test() -> None:
        sent = 0

        async def app(scope: Any, receive: Any, send: Any) -> None:
            nonlocal sent
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(400):
                sent += 1
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            await send({"type": "http.response.body"})

        async with open_site(tmp_path, app=app) as site, site.connect() as wire:
            wire.stop_reading()
            wire.send(request())
            await until(lambda: any(one.state == "reader" for one in site.door.connections))
            assert sent < 400
            wire.read_on()
            assert len((await wire.reply()).body) == 40_000_000

    run(test())


def test_the_door_ends_its_exchanges_when_it_closes(tmp_path: Path) -> None:
    async def test() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with open_site(tmp_path, app=app) as site, site.connect() as wire:
            wire.send(request())
            await begun.wait()
            await site.door.close()
            assert ended.is_set()
            assert await wire.rest() == b""

    run(test())


def test_replies_are_the_same_type_whatever_is_asked(tmp_path: Path) -> None:
    """Every error of every layer has the contract's form."""

    async def test() -> None:
        async with open_site(tmp_path) as site:
            replies: list[Reply] = []
            for data in (
                predict("x"),
                predict(body=b""),
                predict(target="/projects/p/models/no:predict"),
                predict(headers=[("Content-Type", "x/y")]),
                request(target="/no"),
                request("POST", "/healthz"),
                request(target="/readyz?model=nobody"),
                request("POST", "/api/v1/plan", b"[]"),
                request(host="elsewhere.example"),
                request(headers=[("Origin", "http://elsewhere.example")]),
                predict(host="elsewhere.example"),
                b"nonsense\r\n\r\n",
                request(version="2.5"),
                request(host=None),
                request(target="/%0a"),
            ):
                replies.append(await site.ask(data))
            assert [reply.code for reply in replies] == [
                "invalid_request",
                "invalid_json",
                "not_found",
                "unsupported_media_type",
                "not_found",
                "method_not_allowed",
                "invalid_request",
                "invalid_request",
                "forbidden",
                "forbidden",
                "forbidden",
                "invalid_request",
                "http_version_not_supported",
                "invalid_request",
                "invalid_request",
            ]

    run(test())
