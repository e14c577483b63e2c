"""Tokens at the door: predictions over HTTP/1.1 and HTTP/2, what is read of strangers, the owner's socket."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pwd
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h2_client
import msgspec
import pytest
from doors import Site, open_site, run
from h1_client import PREDICT, ROW, Reply, Wire, predict, request
from minted import bearer, make_token
from waiting import until

from mdslite.client import Client
from mdslite.door.local import LocalListener
from mdslite.errors import InvalidRequest, Unauthorized, Unavailable
from mdslite.hosts import SOCKET_NAME, short_path
from mdslite.predict.books import Books
from mdslite.serving.samples import Samples
from mdslite.store.rows import Run
from mdslite.store.tokens import Rate, Token

BODY = json.dumps({"instances": [ROW]}).encode()
LARGE = BODY + b" " * 200_000
PROTOCOLS = ("http/1.1", "h2")


@dataclass
class Heard:
    status: int
    headers: dict[str, str]
    json: Any


async def ask(
    site: Site,
    protocol: str,
    target: str = PREDICT,
    *,
    fields: Sequence[tuple[str, str]] = (),
    body: bytes = BODY,
) -> Heard:
    """A POST on a connection of its own."""
    fields = [("content-type", "application/json"), *fields]
    if protocol == "http/1.1":
        async with site.connect() as wire:
            wire.send(request("POST", target, body, headers=fields))
            reply = await wire.reply()
            return Heard(reply.status, reply.headers, msgspec.json.decode(reply.body))
    async with h2_client.connect(site.address) as client:
        head = client.head(target, method="POST", headers=fields, end=False)
        pieces = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
        client.send(head, *(h2_client.data(head.stream_id, piece) for piece in pieces))
        client.send(h2_client.data(head.stream_id, end=True))
        answer = await client.answer(head.stream_id)
        return Heard(answer.status, answer.headers, msgspec.json.decode(answer.body))


# Predictions


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_prediction_takes_a_token_once_there_is_one(tmp_path: Path, protocol: str) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            assert (await ask(site, protocol)).status == 200
            token, text = make_token()
            site.predictor.access.replace([token], {})
            heard = await ask(site, protocol)
            assert heard.status == 401
            assert heard.json["code"] == "unauthorized"
            assert heard.json["request_id"] == heard.headers["mdslite-request-id"]
            assert heard.headers["www-authenticate"] == 'Bearer realm="mdslite"'
            assert (await ask(site, protocol, fields=bearer(text[:-1] + "!"))).status == 401
            assert (await ask(site, protocol, fields=bearer(text))).status == 200

    run(test())


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("token", "words"),
    [
        (make_token("read"), "the scope predict"),
        (make_token(project="other"), "is for other alone, not for p/m"),
        (make_token(project="p", model="n"), "is for p/n alone, not for p/m"),
    ],
)
def test_a_token_for_something_else_is_told_so(
    tmp_path: Path, protocol: str, token: tuple[Token, str], words: str
) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            site.predictor.access.replace([token[0]], {})
            for target in (
                PREDICT,
                "/projects/p/models/m/versions/v1:predict",
                "/projects/%70/models/m:predict?x",
            ):
                heard = await ask(site, protocol, target, fields=bearer(token[1]))
                assert (heard.status, heard.json["code"]) == (403, "forbidden")
                assert words in heard.json["error"]

    run(test())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_token_that_comes_too_often_is_told_when_to_come_back(tmp_path: Path, protocol: str) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            token, text = make_token(rate=Rate(2, "h"))
            site.predictor.access.replace([token], {})
            statuses = [(await ask(site, protocol, fields=bearer(text))).status for _ in range(2)]
            heard = await ask(site, protocol, fields=bearer(text))
            assert [*statuses, heard.status] == [200, 200, 429]
            assert heard.json["code"] == "rate_limited"
            assert 1790 <= int(heard.headers["retry-after"]) <= 1800

    run(test())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_limited_model_refuses_anybody_and_its_neighbour_nobody(tmp_path: Path, protocol: str) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            site.predictor.access.replace([], {("p", "m"): Rate(1, "h"), ("q", "m"): Rate(1, "h")})
            assert [(await ask(site, protocol)).status for _ in range(2)] == [200, 429]
            refused = site.logged[-1]
            assert (refused["project"], refused["model"], refused["version"]) == ("p", "m", None)
            assert (refused["status"], refused["code"]) == (429, "rate_limited")

    run(test())


def test_requests_that_are_refused_do_not_count_for_the_weights(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            token, text = make_token()
            site.predictor.access.replace([token], {})
            route = site.predictor.router.get(PREDICT.encode())
            assert route is not None
            await ask(site, "http/1.1", fields=bearer(text))
            before = route._at
            for fields in ([], bearer("nonsense")):
                await ask(site, "http/1.1", fields=fields)
            assert route._at == before

    run(test())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_of_a_token_or_of_a_strangers_body_is_logged_or_answered(
    tmp_path: Path, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            token, text = make_token()
            site.predictor.access.replace([token], {})
            heard = [
                await ask(site, protocol, fields=bearer(text)),
                await ask(site, protocol, fields=bearer(text + "x"), body=b'"a stranger wrote this"'),
                await ask(site, protocol, "/projects/p/models/none:predict", fields=bearer(text)),
                await ask(site, protocol, "/metrics", fields=bearer(text)),
                await ask(site, protocol, fields=[*bearer(text), ("content-type", "application/x-unknown")]),
            ]
            said = f"{site.logged} {heard} {site.issuer.acts}"
            assert text.rpartition("_")[2] not in said
            assert "stranger wrote" not in said
            assert [row["status"] for row in site.logged].count(401) == 1

    with caplog.at_level(logging.DEBUG):
        run(test())
    assert "mdslite_" not in caplog.text


def test_a_version_that_was_asked_with_a_token_keeps_its_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            token, text = make_token()
            site.predictor.access.replace([token], {})
            for fields, status in ((bearer(text), 200), ([], 401), (bearer(text), 200)):
                wire.send(predict(headers=fields))
                reply = await wire.reply()
                assert (reply.status, reply.closes) == (status, False)

    run(test())


# What is read of strangers


@pytest.mark.parametrize("target", [PREDICT, "/api/v1/apply"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_no_large_body_is_read_of_a_stranger(tmp_path: Path, target: str, framing: str) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            site.predictor.access.replace([make_token()[0]], {})
            fields = [("Content-Type", "application/x-npy")]
            if framing == "length":
                wire.send(request("POST", target, headers=[*fields, ("Content-Length", str(1 << 27))]))
            else:
                wire.send(request("POST", target, headers=[*fields, ("Transfer-Encoding", "chunked")]))
                for _ in range(5):
                    wire.send(b"4000\r\n" + bytes(0x4000) + b"\r\n")
            reply = await wire.reply()
            assert (reply.status, reply.code, reply.closes) == (401, "unauthorized", True)

    run(test())


def test_a_large_body_with_a_token_is_read(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            token, text = make_token()
            site.predictor.access.replace([token], {})
            assert (await ask(site, "http/1.1", fields=bearer(text), body=LARGE)).status == 200

    run(test())


def test_over_http_2_a_stranger_is_answered_before_its_body_comes(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, h2_client.connect(site.address) as client:
            site.predictor.access.replace([make_token()[0]], {})
            for target in (PREDICT, "/api/v1/apply"):
                head = client.head(target, method="POST", end=False)
                client.send(head)
                assert (await client.answer(head.stream_id)).status == 401

    run(test())


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("field", "values", "status"),
    [
        ("authorization", ("Bearer a", "Bearer b"), 400),
        ("content-type", ("application/json", "application/x-npy"), 400),
        ("content-encoding", ("gzip", "gzip"), 415),
        ("content-encoding", ("gzip", "identity"), 415),
    ],
)
@pytest.mark.parametrize("target", [PREDICT, "/api/v1/plan"])
def test_a_field_that_two_readers_could_read_apart_comes_once(
    tmp_path: Path, protocol: str, field: str, values: tuple[str, str], status: int, target: str
) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            fields = [(field, value) for value in values]
            if protocol == "http/1.1":
                async with site.connect() as wire:
                    wire.send(request("POST", target, BODY, headers=fields))
                    assert (await wire.reply()).status == status
                return
            async with h2_client.connect(site.address) as client:
                head = client.head(target, method="POST", headers=fields, end=False)
                client.send(head, h2_client.data(head.stream_id, BODY, end=True))
                assert (await client.answer(head.stream_id)).status == status

    run(test())


# The owner's socket


@asynccontextmanager
async def owned(folder: Path) -> AsyncIterator[tuple[Site, Path]]:
    """A site that takes tokens, with the owner's socket in a store's folder."""
    async with open_site(folder) as site:
        site.predictor.access.replace([make_token()[0]], {})
        local = LocalListener(folder, site.door, site.predictor.access)
        await local.start()
        try:
            yield site, folder / SOCKET_NAME
        finally:
            local.close()
            assert not (folder / SOCKET_NAME).exists()


async def speak(path: Path, data: bytes) -> Reply:
    with short_path(path) as short:
        wire = Wire(*await asyncio.open_unix_connection(short))
    try:
        wire.send(data)
        return await wire.reply()
    finally:
        await wire.close()


def test_the_owner_needs_no_token(tmp_path: Path) -> None:
    async def test() -> None:
        async with owned(tmp_path) as (site, path):
            assert (await speak(path, predict())).status == 200
            assert (await speak(path, request(target="/metrics"))).status == 200
            assert (await site.ask(request(target="/metrics"))).status == 401

    run(test())


def test_the_owner_is_known_by_the_socket_whatever_the_request_says(tmp_path: Path) -> None:
    async def test() -> None:
        async with owned(tmp_path) as (site, path):
            for fields in (
                [("Authorization", "Bearer nonsense")],
                [("authorization", "x"), ("Authorization", "y")],
            ):
                assert (await speak(path, predict(headers=fields))).status == 200
            # What the appliance tells such callers apart by opens nothing to anybody else.
            made = site.predictor.access._headers
            assert list(made) == [f"local user {pwd.getpwuid(os.getuid()).pw_name}"]
            for name in ("Local x", "Local ", "local user root"):
                assert (await site.ask(predict(headers=[("Authorization", name)]))).status == 401

    run(test())


def test_a_large_body_and_an_upgrade_of_the_owner_are_read(tmp_path: Path) -> None:
    async def test() -> None:
        async with owned(tmp_path) as (_, path):
            assert (await speak(path, predict(body=LARGE))).status == 200
            upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Authorization", "x")]
            assert (await speak(path, request(target="/metrics", headers=upgrade))).status == 200

    run(test())


def test_the_owners_socket_speaks_no_http_2(tmp_path: Path) -> None:
    async def test() -> None:
        async with owned(tmp_path) as (_, path):
            wire = Wire(*await asyncio.open_unix_connection(str(path)))
            wire.send(h2_client.PREFACE)
            assert await wire.rest() == b""
            await wire.close()

    run(test())


def test_only_the_owner_may_open_the_socket(tmp_path: Path) -> None:
    async def test() -> None:
        async with owned(tmp_path) as (_, path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    run(test())


def test_the_socket_of_a_dead_appliance_is_replaced(tmp_path: Path) -> None:
    async def test() -> None:
        async with owned(tmp_path) as (site, path):
            second = LocalListener(tmp_path, site.door, site.predictor.access)
            await second.start()
            assert (await speak(path, request())).status == 200
            second.close()

    run(test())


def test_a_store_deep_in_the_file_system_has_its_socket_too(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20)
    folder.mkdir(parents=True)

    async def test() -> None:
        async with owned(folder) as (_, path):
            assert len(str(path)) > 150
            assert (await speak(path, request(target="/metrics"))).status == 200

            def read() -> str:
                with Client(f"unix:{folder}") as client, client._http as http:
                    return http.get("/metrics").text

            assert "mdslite" in await asyncio.to_thread(read)

    run(test())


def test_where_no_socket_can_be_the_appliance_serves_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / SOCKET_NAME).mkdir()

    async def test() -> None:
        async with open_site(tmp_path) as site:
            local = LocalListener(tmp_path, site.door, site.predictor.access)
            await local.start()
            local.close()

    with caplog.at_level(logging.WARNING):
        run(test())
    assert "no socket for the owner" in caplog.text


def test_a_client_of_a_socket_that_is_not_there_is_told_whose_it_would_be(tmp_path: Path) -> None:
    for url in (f"unix:{tmp_path}", f"unix:{tmp_path}/none.sock", f"unix:{tmp_path}/{'x' * 200}/none.sock"):
        with pytest.raises(Unavailable) as caught, Client(url) as client:
            client.status()
        assert "the user that runs it" in (caught.value.hint or "")


def test_a_client_shows_a_certificate_from_one_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for name in (str(empty), str(tmp_path / "absent.pem")):
        with pytest.raises(InvalidRequest, match="no certificate with its key"):
            Client("https://127.0.0.1:1", cert_file=name)


def test_a_client_without_a_good_token_is_told_where_it_belongs(tmp_path: Path) -> None:
    async def test() -> None:
        async with owned(tmp_path) as (site, _):

            def fail() -> Unauthorized:
                with Client(f"http://127.0.0.1:{site.address[1]}", token="nonsense") as client:
                    with pytest.raises(Unauthorized) as caught:
                        client.status()
                    return caught.value

            error = await asyncio.to_thread(fail)
            assert "MDSLITE_TOKEN" in (error.hint or "")
            assert "unix:DIR" in (error.hint or "")
            await until(lambda: site.issuer.acts)

    run(test())


# The request log


def test_the_log_names_whose_token_it_was(tmp_path: Path) -> None:
    runs: list[Run] = []

    async def test() -> None:
        rows: list[Any] = []
        books = Books(rows.append, runs.append, strays=Samples(good=0, failed=0))
        async with open_site(tmp_path, books=books) as site:
            (one, first), (other, second) = make_token(name="one"), make_token(name="other")
            site.predictor.access.replace([one, other], {})
            for served in site.fleet.all():
                served.samples = Samples(good=0, failed=0)
            async with site.connect() as wire:
                wire.send(b"".join(predict(headers=bearer(text)) for text in (first, second, first)))
                assert [(await wire.reply()).status for _ in range(3)] == [200] * 3
            await ask(site, "http/1.1", fields=bearer(second), body=b"{")
            await until(lambda: sum(len(run.calls) for run in runs) == 3)
            (row,) = rows
            assert (row[-2], row[7]) == ("other", 400)

    run(test())
    assert {entry.labels.client for entry in runs} == {"one", "other"}


def test_a_flood_of_strangers_does_not_fill_the_log_and_is_counted(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            site.predictor.access.replace([make_token()[0]], {})
            async with site.connect() as wire:
                for _ in range(40):
                    wire.send(predict() * 25)
                    assert [(await wire.reply()).status for _ in range(25)] == [401] * 25
            assert 600 <= len(site.rows) < 900
            assert site.predictor.access.refused == 1000
            assert site.predictor.books.open == 0

    run(test())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_to_be_answered_later_takes_a_token_and_a_body_that_is_whole(tmp_path: Path, protocol: str) -> None:
    later = ("prefer", "respond-async")

    async def test() -> None:
        async with open_site(tmp_path, max_json_bytes=1000) as site:
            token, text = make_token()
            site.predictor.access.replace([token], {})
            assert (await ask(site, protocol, fields=[later])).status == 401
            assert (await ask(site, protocol, fields=[later], body=LARGE)).status == 401
            assert (await ask(site, protocol, fields=[later, *bearer(text)], body=LARGE)).status == 413

    run(test())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_was_let_in_is_answered_later_without_the_token(tmp_path: Path, protocol: str) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            await site.deferrals.start()
            token, text = make_token("predict", rate=Rate(2, "h"))
            site.predictor.access.replace([token], {})
            accepted = await ask(site, protocol, fields=[("prefer", "respond-async"), *bearer(text)])
            assert accepted.status == 202
            reply = await site.ask(
                request("GET", f"{accepted.headers['location']}?wait_s=20", headers=bearer(text))
            )
            assert (reply.status, reply.json) == (200, {"predictions": [ROW]})

    run(test())
