"""Bodies at the door: their types, their forms, and how they may come."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from door_answers import ANSWER, answer
from doors import Deployed, open_site, run
from h1_client import chunked, gzipped, npy, predict, request
from waiting import until


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON ",
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
        ("text/plain;charset=UTF-8", b'{"instances": [[1, 2, 3]]}'),
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
            if media_type != "application/x-npy":
                assert "expected application/json" in reply.json["error"]
                assert reply.json["hint"] == "JSON goes as application/json, or without a content-type"

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
