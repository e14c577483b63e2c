"""What well-behaved HTTP/1.1 clients get at the door, over real sockets."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from doors import (
    ROW,
    Deployed,
    Reply,
    chunked,
    gzipped,
    npy,
    open_site,
    predict,
    request,
    run,
)
from waiting import until

ANSWER = {"predictions": [ROW]}
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


# Bodies


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON ",
        "text/plain",
        "application/x-www-form-urlencoded",  # what curl -d says
        "",
    ],
)
def test_json_is_read_whatever_a_careless_client_calls_it(tmp_path: Path, media_type: str) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            reply = await site.ask(predict(headers=[("Content-Type", media_type)]))
            assert reply.json == ANSWER

    run(test())


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("application/xml", b"<x/>"),
        ("multipart/form-data; boundary=x", b"--x--"),
        ("application/python-pickle", b"\x80\x04N."),
        ("application/x-npy", npy(np.array([{"a": 1}], dtype=object), pickled=True)),
    ],
)
def test_what_is_not_read_is_said_to_be_of_the_wrong_type(
    tmp_path: Path, media_type: str, body: bytes
) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            reply = await site.ask(predict(body=body, headers=[("Content-Type", media_type)]))
            assert reply.status == 415
            assert reply.code == "unsupported_media_type"

    run(test())


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZip ", "identity"])
def test_a_compressed_body_is_read(tmp_path: Path, encoding: str) -> None:
    async def test() -> None:
        body = b'{"instances": [[1, 2, 3]]}'
        async with open_site(tmp_path) as site:
            sent = body if encoding == "identity" else gzipped(body)
            reply = await site.ask(predict(body=sent, headers=[("Content-Encoding", encoding)]))
            assert reply.json == ANSWER
            assert site.logged[0]["request"] == body

    run(test())


def test_a_large_binary_body_is_read(tmp_path: Path) -> None:
    async def test() -> None:
        rows = np.arange(3 * 512, dtype=np.float32).reshape(512, 3)
        wide = np.arange(400_000, dtype=np.float32).reshape(1, -1)
        paths = models.identity(tmp_path / "a.onnx"), models.identity(tmp_path / "b.onnx", shape=("N", None))
        async with (
            open_site(tmp_path, Deployed(paths[0]), Deployed(paths[1], model="wide")) as site,
            site.connect() as wire,
        ):
            for target, array in [("m", rows), ("wide", wide), ("m", rows)]:
                url = f"/projects/p/models/{target}:predict"
                wire.send(
                    predict(target=url, body=npy(array), headers=[("Content-Type", "application/x-npy")])
                )
                reply = await wire.reply()
                assert reply.json == {"outputs": {"y": array.tolist()}}

    run(test())


def test_a_body_may_come_in_chunks(tmp_path: Path) -> None:
    async def test() -> None:
        body = b'{"instances": [[1, 2, 3]]}'
        pieces = [body[at : at + 5] for at in range(0, len(body), 5)]
        head = request("POST", "/projects/p/models/m:predict")
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send(chunked(head, *pieces) + chunked(head, body))
            assert (await wire.reply()).json == ANSWER
            assert (await wire.reply()).json == ANSWER

    run(test())


def test_a_body_in_a_hundred_thousand_chunks_is_one_body(tmp_path: Path) -> None:
    async def test() -> None:
        body = b'{"instances": [[1, 2, 3]]}' + b" " * 100_000
        pieces = [body[at : at + 1] for at in range(len(body))]
        async with open_site(tmp_path) as site:
            reply = await site.ask(chunked(request("POST", "/projects/p/models/m:predict"), *pieces))
            assert reply.json == ANSWER

    run(test())


def test_the_fields_of_a_trailer_are_no_headers(tmp_path: Path) -> None:
    async def test() -> None:
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append((scope["headers"], (await receive())["body"]))
            await answer(send, b"ok")

        data = chunked(request("POST", "/x"), b"abc").removesuffix(b"\r\n")
        data += b"Host: evil\r\nX-Request-Id: late\r\n\r\n"
        async with open_site(tmp_path, app=app) as site, site.connect() as wire:
            wire.send(data + data)
            for _ in range(2):
                assert (await wire.reply()).status == 200
            assert seen == [([(b"host", b"localhost"), (b"transfer-encoding", b"chunked")], b"abc")] * 2

    run(test())


def test_a_request_may_come_byte_by_byte(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            for data in (predict(), b"\r\n" + request(), predict()):
                for at in range(len(data)):
                    wire.send(data[at : at + 1])
                    await asyncio.sleep(0)
                assert (await wire.reply()).status == 200

    run(test())


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_client_that_asks_first_is_told_to_continue(tmp_path: Path, framing: str) -> None:
    async def test() -> None:
        body = b'{"instances": [[1, 2, 3]]}'
        headers = [("Expect", "100-continue")]
        if framing == "length":
            whole = predict(body=body, headers=headers)
        else:
            whole = chunked(request("POST", "/projects/p/models/m:predict", headers=headers), body)
        head, _, rest = whole.partition(b"\r\n\r\n")
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send(head + b"\r\n\r\n")
            go_on = await wire.reply()
            assert (go_on.status, go_on.headers) == (100, {})
            wire.send(rest)
            assert (await wire.reply()).json == ANSWER
            # One that does not wait for the answer needs none.
            wire.send(whole)
            assert (await wire.reply()).json == ANSWER

    run(test())


def test_a_client_that_asks_first_behind_another_request_is_told_in_its_turn(tmp_path: Path) -> None:
    async def test() -> None:
        begun, release = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            body = (await receive())["body"]
            if not body:
                begun.set()
                await release.wait()
            await answer(send, body or b"first")

        head, _, body = request("POST", "/x", b"second", headers=[("Expect", "100-continue")]).partition(
            b"\r\n\r\n"
        )
        async with open_site(tmp_path, app=app) as site, site.connect() as wire:
            wire.send(request() + head + b"\r\n\r\n")
            await begun.wait()
            release.set()
            assert (await wire.reply()).body == b"first"
            assert (await wire.reply()).status == 100
            wire.send(body)
            assert (await wire.reply()).body == b"second"

    run(test())


def test_a_client_of_http_1_0_is_not_told_to_continue(tmp_path: Path) -> None:
    async def test() -> None:
        head, _, body = predict(headers=[("Expect", "100-continue")], version="1.0").partition(b"\r\n\r\n")
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send(head + b"\r\n\r\n")
            await until(lambda: any(one.state == "body" for one in site.door.connections))
            wire.send(body)
            assert (await wire.reply()).json == ANSWER

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


# Applications behind the door


async def answer(send: Any, body: bytes, *, status: int = 200, more: bool = False) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": more})


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
