"""Tokens at the door: predictions over HTTP/1.1 and HTTP/2, what is read of strangers, what is logged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h2_client
import pytest
from door_tokens import BODY, LARGE, PROTOCOLS, ask
from doors import open_site, run
from h1_client import PREDICT, ROW, predict, request
from minted import bearer, make_token
from waiting import until

from mdslite.predict.books import Books
from mdslite.serving.samples import Samples
from mdslite.store.rows import Run
from mdslite.store.tokens import Rate, Token

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
