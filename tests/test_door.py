"""What well-behaved HTTP/1.1 clients get at the door, over real sockets."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime
from pathlib import Path

import models
import pytest
from door_answers import ANSWER
from doors import Deployed, open_site, run
from h1_client import chunked, predict, request
from waiting import until

UPGRADE = (("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQ"))


def test_a_prediction_is_answered_with_the_contracts_headers(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            reply = await site.ask(predict(headers=[("X-Request-Id", "abc-1")]))
            assert reply.status == 200
            assert reply.json == ANSWER
            assert sorted(reply.names) == [
                "content-length",
                "content-type",
                "date",
                "mdslite-request-id",
                "mdslite-version",
                "server-timing",
            ]
            assert reply.headers["content-type"] == "application/json"
            assert reply.headers["mdslite-request-id"] == "abc-1"
            assert reply.headers["mdslite-version"] == "v1"
            names = [part.partition(";dur=")[0] for part in reply.headers["server-timing"].split(", ")]
            assert names == ["queue", "compute", "total"]
            assert parsedate_to_datetime(reply.headers["date"]).tzinfo is not None

    run(test())


def test_a_connection_serves_predictions_checks_and_metrics_in_any_order(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            for data, status in [
                (predict(), 200),
                (request(target="/healthz"), 200),
                (predict(), 200),
                (request(target="/metrics"), 200),
                (request(target="/readyz"), 200),
                (request(target="/nothing"), 404),
                (predict(body=b"{"), 400),
                (predict(target="/projects/p/models/other:predict"), 404),
                (request("DELETE", "/healthz"), 405),
                (predict(), 200),
            ]:
                wire.send(data)
                reply = await wire.reply()
                assert reply.status == status
                assert not reply.closes
            assert reply.json == ANSWER
            assert len(site.door.connections) == 1

    run(test())


def test_a_head_gets_what_a_get_would_without_its_body(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send(request("GET") + request("HEAD") + request("GET"))
            whole = await wire.reply()
            bare = await wire.reply(method="HEAD")
            assert bare.headers["content-length"] == str(len(whole.body))
            assert (await wire.reply()).body == whole.body

    run(test())


@pytest.mark.parametrize(
    ("target", "version"),
    [
        ("/projects/p/models/m/versions/v2:predict", "v2"),
        ("/projects/p/models/m/versions/v1%3Apredict", "v1"),
        ("/projects/p/models/m%3apredict", "v1"),
        ("/projects/p/models/m:predict?trace=1&note=%20", "v1"),
        ("/%70rojects/p/models/%6D:predict", "v1"),
    ],
)
def test_a_predict_url_may_name_a_version_be_encoded_and_have_a_query(
    tmp_path: Path, target: str, version: str
) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx")
        async with open_site(tmp_path, Deployed(path), Deployed(path, version="v2", weight=0)) as site:
            reply = await site.ask(predict(target=target))
            assert reply.status == 200
            assert reply.headers["mdslite-version"] == version

    run(test())


@pytest.mark.parametrize(
    ("target", "status", "says"),
    [
        ("/projects/p/models/m/versions/v9:predict", 404, "p/m has no version v9: it has v1"),
        ("/projects/p/models/other:predict", 404, "no model p/other is deployed: there is p/m"),
        ("/projects/q/models/m:predict", 404, "no model q/m is deployed: there is p/m"),
        ("/projects/p/models/m", 404, "expected /projects/PROJECT/models/MODEL"),
        ("/projects/p/models/m:predict/", 404, "expected /projects/PROJECT/models/MODEL"),
        ("/projects/p/versions/v1:predict", 404, "expected /projects/PROJECT/models/MODEL"),
        ("/projects/", 404, "expected /projects/PROJECT/models/MODEL"),
        ("/projects/p/models/..:predict", 400, "'..' is no name"),
        ("/projects/p/models/a%2Fb:predict", 400, "'a/b' is no name"),
        ("/projects/p%2Fmodels/m:predict", 404, "expected /projects/PROJECT/models/MODEL"),
        ("/projects/p/models/m/versions/:predict", 400, "'' is no name"),
        ("/elsewhere", 404, "nothing at /elsewhere"),
    ],
)
def test_an_unknown_url_is_answered_with_what_exists(
    tmp_path: Path, target: str, status: int, says: str
) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            reply = await site.ask(predict(target=target))
            assert reply.status == status
            assert reply.code == {400: "invalid_request", 404: "not_found"}[status]
            assert says in reply.json["error"]
            assert not reply.closes

    run(test())


@pytest.mark.parametrize(
    ("given", "echoed"),
    [
        ("a", True),
        ("x" * 128, True),
        ("!~", True),
        ("  padded  ", True),
        ("x" * 129, False),
        ("two words", False),
        ("caf\xe9", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("data", ["predict", "check", "broken"])
def test_a_sane_request_id_is_echoed_and_any_other_replaced(
    tmp_path: Path, given: str, echoed: bool, data: str
) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            headers = [("X-Request-Id", given)]
            reply = await site.ask(
                {
                    "predict": predict(headers=headers),
                    "check": request(headers=headers),
                    "broken": request(target="/%00", headers=headers),
                }[data]
            )
            found = reply.headers["mdslite-request-id"]
            if echoed:
                assert found == given.strip()
            else:
                assert len(found) == 24
                assert int(found, 16) >= 0

    run(test())


# Connections


def test_http_1_0_closes_unless_it_asks_to_stay(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            for data in (predict(version="1.0"), request(version="1.0", host=None)):
                async with site.connect() as wire:
                    wire.send(data)
                    reply = await wire.reply()
                    assert reply.status == 200
                    assert reply.closes
                    assert await wire.rest() == b""
            async with site.connect() as wire:
                keep = [("Connection", "keep-alive")]
                for data in (predict(version="1.0", headers=keep), request(version="1.0", headers=keep)) * 2:
                    wire.send(data)
                    reply = await wire.reply()
                    assert reply.status == 200
                    assert reply.headers["connection"] == "keep-alive"

    run(test())


@pytest.mark.parametrize(
    "data", [predict(headers=[("Connection", "close")]), request(headers=[("Connection", "close")])]
)
def test_a_client_that_wants_to_leave_is_answered_and_let_go(tmp_path: Path, data: bytes) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send(data)
            reply = await wire.reply()
            assert reply.status == 200
            assert reply.closes
            assert await wire.rest() == b""

    run(test())


def test_a_thousand_requests_in_one_write_are_answered_in_order(tmp_path: Path) -> None:
    async def test() -> None:
        kinds = []
        data = b""
        for number in range(1000):
            mark = [("X-Request-Id", f"n{number}")]
            kind = ("predict", "check", "wrong")[number % 7 % 3]
            kinds.append((kind, number))
            if kind == "predict":
                data += predict([[number, 0, 0]], headers=mark)
            else:
                data += request(headers=mark) if kind == "check" else predict("x", headers=mark)
        assert len(data) > 2 * 65536
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send(data)
            for kind, number in kinds:
                reply = await wire.reply()
                assert reply.headers["mdslite-request-id"] == f"n{number}"
                assert reply.status == (400 if kind == "wrong" else 200)
                if kind == "predict":
                    assert reply.json == {"predictions": [[number, 0, 0]]}

    run(test())


@pytest.mark.parametrize("follower", [predict(), request(headers=UPGRADE), predict(headers=UPGRADE)])
@pytest.mark.parametrize(
    "data",
    [
        request(headers=UPGRADE),
        predict(headers=UPGRADE),
        chunked(request("POST", "/projects/p/models/m:predict", headers=UPGRADE), b'{"instances":', b" []}"),
        request(headers=[("Upgrade", "h2c")]),
        request(
            headers=[("Connection", "upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
        ),
    ],
)
def test_an_upgrade_is_ignored(tmp_path: Path, data: bytes, follower: bytes) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send(data + follower + data)
            for _ in range(3):
                assert (await wire.reply()).status == 200
            for at in range(0, len(data), 7):
                wire.send(data[at : at + 7])
                await asyncio.sleep(0)
            assert (await wire.reply()).status == 200
            assert not {row["status"] for row in site.logged} - {200}

    run(test())


def test_the_body_of_an_ignored_upgrade_is_no_request(tmp_path: Path) -> None:
    async def test() -> None:
        smuggled = predict([[6, 6, 6]])
        data = request("POST", "/projects/p/models/m:predict", smuggled, headers=UPGRADE)
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send(data + request())
            assert (await wire.reply()).code == "invalid_json"
            assert (await wire.reply()).status == 200
            assert site.statuses == [400]

    run(test())


def test_a_thousand_upgrades_in_one_write_are_ignored_one_by_one(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send(predict(headers=UPGRADE) * 1000)
            for _ in range(1000):
                assert (await wire.reply()).status == 200

    run(test())


@pytest.mark.parametrize("step", [1, 5, 24, 100])
def test_what_opens_with_the_preface_of_http_2_is_handed_over_whole(tmp_path: Path, step: int) -> None:
    async def test() -> None:
        taken: list[tuple[asyncio.Transport, bytes]] = []

        def adopt(transport: asyncio.Transport, data: bytes) -> None:
            transport.pause_reading()
            taken.append((transport, data))

        hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
        async with open_site(tmp_path, adopt=adopt) as site, site.connect() as wire:
            for at in range(0, len(hello), step):
                wire.send(hello[at : at + step])
                await wire.drained()
                await asyncio.sleep(0)
            await until(lambda: taken)
            transport, data = taken[0]
            assert hello.startswith(data)
            assert len(data) >= 24
            assert not site.door.connections
            transport.abort()

    run(test())
