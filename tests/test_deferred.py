"""Predictions that are answered later: accepted, kept over restarts, asked for, told, forgotten."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import h2_client
import pytest
from doors import Deployed, Site, open_site, run
from h1_client import ROW, Reply, predict, request
from minted import make_token
from waiting import until

from mdslite.errors import InvalidRequest, Overloaded, Unavailable
from mdslite.predict.deferred import wait_s, wants_later
from mdslite.store.deferred import Deferred, DeferredStore, Result
from mdslite.store.webhooks import Webhooks

LATER = [("Prefer", "respond-async")]


@asynccontextmanager
async def serving(folder: Path, *deployed: Deployed) -> AsyncIterator[Site]:
    async with open_site(folder, *deployed) as site:
        await site.deferrals.start()
        yield site


async def accept(site: Site, *headers: tuple[str, str], **options: Any) -> str:
    """Have a prediction accepted; gives the URL to ask at."""
    reply = await site.ask(predict(headers=[*LATER, *headers], **options))
    assert (reply.status, reply.headers["preference-applied"]) == (202, "respond-async")
    assert reply.json["state"] == "waiting"
    return reply.headers["location"]


async def answer(site: Site, url: str) -> Reply:
    return await site.ask(request("GET", f"{url}?wait_s=20"))


# Accepting and asking


def test_an_accepted_prediction_is_answered_as_it_would_have_been_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as site:
            url = await accept(site)
            reply = await answer(site, url)
            assert (reply.status, reply.json) == (200, {"predictions": [ROW]})
            assert reply.headers["mdslite-version"] == "v1"
            assert (await answer(site, url)).json == {"predictions": [ROW]}
            assert site.statuses == [200]

    run(test())


def test_what_is_wrong_with_the_request_is_its_answer(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as site:
            reply = await answer(site, await accept(site, body=b'{"instances": "x"}'))
            assert (reply.status, reply.json["code"]) == (400, "invalid_request")

    run(test())


def test_what_is_not_deployed_is_not_accepted(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as site:
            reply = await site.ask(predict(target="/projects/p/models/none:predict", headers=LATER))
            assert (reply.status, reply.code) == (404, "not_found")

    run(test())


def test_who_does_not_wait_is_told_that_it_is_not_ready(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:  # whose deferred predictions are not begun
            await site.deferrals._worker.call(site.deferrals._store.open)
            url = await accept(site)
            reply = await site.ask(request("GET", url))
            assert (reply.status, reply.json["state"]) == (202, "waiting")
            assert reply.headers["retry-after"] == "1"

    run(test())


def test_http_2_defers_as_well(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as site, h2_client.connect(site.address) as client:
            body = b'{"instances": [[1, 2, 3]]}'
            head = client.head(
                "/projects/p/models/m:predict",
                method="POST",
                headers=[("prefer", "respond-async")],
                end=False,
            )
            client.send(head, h2_client.data(head.stream_id, body, end=True))
            accepted = await client.answer(head.stream_id)
            assert accepted.status == 202
            found = await client.get(f"{accepted.headers['location']}?wait_s=20")
            assert json.loads(found.body) == {"predictions": [[1.0, 2.0, 3.0]]}

    run(test())


@pytest.mark.parametrize(
    ("prefer", "later", "wait"),
    [
        (b"respond-async", True, 0.0),
        (b"Respond-Async, wait=7", True, 7.0),
        (b"wait=7", False, 7.0),
        (b"respond-async; x=1, wait=999", True, 60.0),
        (b"wait=x", False, 0.0),
        (b"return=minimal", False, 0.0),
    ],
)
def test_preferences_are_read_as_the_standard_writes_them(prefer: bytes, later: bool, wait: float) -> None:
    assert wants_later({b"prefer": prefer}) is later
    assert wait_s({b"prefer": prefer}) == wait


# Keeping


def test_what_was_accepted_is_answered_after_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            await site.deferrals._worker.call(site.deferrals._store.open)
            url = await accept(site, ("x-request-id", "mine"))
        async with serving(tmp_path) as again:
            assert (await answer(again, url)).json == {"predictions": [ROW]}
            assert again.logged[0]["request_id"] == "mine"
        async with serving(tmp_path) as third:
            assert (await answer(third, url)).json == {"predictions": [ROW]}
            assert third.rows == []

    run(test())


def test_a_model_that_is_away_is_waited_for(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as site:
            served = site.fleet.find("p", "m", "v1")
            assert served is not None
            served.state = "unhealthy"
            site.fleet._route()
            url = await accept(site)
            asked = asyncio.create_task(answer(site, url))
            await until(lambda: 503 in site.statuses)
            served.state = "ready"
            site.fleet._route()
            assert (await asked).json == {"predictions": [ROW]}

    run(test())


def test_a_forgotten_prediction_is_gone(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as site:
            url = await accept(site)
            await answer(site, url)
            assert (await site.ask(request("DELETE", url))).status == 200
            assert (await site.ask(request("GET", url))).code == "not_found"
            assert (await site.ask(request("DELETE", url))).code == "not_found"

    run(test())


def make_store(path: Path, **bounds: int) -> DeferredStore:
    store = DeferredStore(path / "deferred.db", **bounds)
    assert store.open() == []
    return store


def test_the_log_names_who_asked_for_a_later_answer(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as site:
            token, text = make_token(name="nightly", project="p")
            site.predictor.access.replace([token], {})
            shown = ("Authorization", f"Bearer {text}")
            url = await accept(site, shown)
            reply = await site.ask(request("GET", f"{url}?wait_s=20", headers=[shown]))
            assert reply.status == 200
            assert [row["client"] for row in site.logged] == ["nightly"]

    run(test())


def test_a_store_of_before_takes_requests_with_their_sender(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.add(deferred())
    store.close()
    with closing(sqlite3.connect(tmp_path / "deferred.db")) as db:
        db.execute("alter table predictions drop column client")
    store = DeferredStore(tmp_path / "deferred.db")
    assert store.open() == ["id0"]
    store.add(deferred(1, client="nightly"))
    kept = [store.get("id0"), store.get("id1")]
    assert [one.request.client for one in kept if one is not None] == [None, "nightly"]
    store.close()


def deferred(number: int = 0, body: bytes = b"12345", **options: Any) -> Deferred:
    return Deferred(f"id{number}", "p", "m", b"/x", {b"a": b"\xff"}, body, float(number), **options)


def test_requests_and_answers_come_back_as_they_were_and_are_let_go_in_time(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.add(deferred())
    entry = store.get("id0")
    assert entry is not None
    assert (entry.request, entry.state, entry.result) == (deferred(), "waiting", None)
    result = Result(200, [(b"content-type", b"a/b")], b"\x00\xff", 100.0)
    store.finish("id0", result)
    entry = store.get("id0")
    assert entry is not None
    assert (entry.state, entry.result, entry.request.body) == ("done", result, b"")
    assert store.sweep(100.0) == 0
    assert store.sweep(100.1) == 1
    assert store.get("id0") is None
    store.close()


def test_what_is_kept_is_bounded_in_number_and_bytes(tmp_path: Path) -> None:
    store = make_store(tmp_path, count_max=2, bytes_max=12)
    store.add(deferred(0))
    store.add(deferred(1))
    with pytest.raises(Overloaded):
        store.add(deferred(2))
    store.cancel("id0", 1.0)
    assert store.sweep(2.0) == 1
    with pytest.raises(Overloaded):
        store.add(deferred(2, b"12345678"))
    store.add(deferred(2, b"1234567"))
    store.finish("id1", Result(200, [], b"", 3.0))
    store.close()
    again = DeferredStore(tmp_path / "deferred.db")
    assert again.open() == ["id2"]
    again.close()


def test_an_answer_that_comes_after_it_was_forgotten_is_not_kept(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.add(deferred())
    store.cancel("id0", 1.0)
    store.finish("id0", Result(200, [], b"late", 2.0))
    entry = store.get("id0")
    assert entry is not None
    assert (entry.state, entry.result) == ("cancelled", None)
    store.close()


# Webhooks


class Listener:
    """A server that remembers what it is told and answers with the statuses that it was given."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        self.told.put_nowait(json.loads(await reader.readexactly(length)))
        status = self.statuses.pop(0) if self.statuses else 200
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def listening(*statuses: int) -> AsyncIterator[Listener]:
    listener = Listener(*statuses)
    server = await asyncio.start_server(listener.answer, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    async with server:
        yield listener


def test_a_webhook_is_told_the_answer_again_until_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdslite.predict.deferred._TELL_DELAYS_S", (0.0, 0.0, 0.0))

    async def test() -> None:
        async with listening(500, 302) as listener, serving(tmp_path) as site:
            url = await accept(site, ("mdslite-webhook", f"http://127.0.0.1:{listener.port}/done"))
            async with asyncio.timeout(20):
                told = [await listener.told.get() for _ in range(3)]
            assert told[0] == told[1] == told[2]
            assert (told[0]["status"], told[0]["reply"]) == (200, {"predictions": [ROW]})
            assert told[0]["url"] == url

    run(test())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://10.0.0.1/x", "internal address"),
        ("ftp://example.com/", r"expected an http\(s\) URL"),
        ("http://user:secret@example.com/", "password"),
        ("nonsense", "expected an http"),
        ("http://[::1]:1/", "internal address"),
    ],
)
def test_a_webhook_is_checked_as_the_address_of_a_model_is(url: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        Webhooks().check(url)


def test_an_address_that_turns_internal_later_is_not_called() -> None:
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    hooks = Webhooks(resolve=lambda host, port: answers.pop(0))
    hooks.check("http://example.com/")
    with pytest.raises(Unavailable, match="internal address"):
        hooks.post("http://example.com/", b"{}")


def test_a_wrong_webhook_is_refused_before_anything_is_accepted(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as site:
            reply = await site.ask(predict(headers=[*LATER, ("mdslite-webhook", "http://10.0.0.1/")]))
            assert (reply.status, reply.code) == (400, "invalid_request")
            assert site.deferrals.waiting == 0

    run(test())
