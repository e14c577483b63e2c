"""Bodies above the limit, bombs, and connections above the limit."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from doors import open_site, run
from h1_client import PREDICT, ROW, chunked, gzipped, predict, request
from waiting import until

from mdslite.door.door import Limits


@pytest.mark.parametrize(
    ("target", "media_type", "limit", "hint"),
    [
        (PREDICT, "application/json", 1000, "application/x-npy"),
        (PREDICT, "application/x-www-form-urlencoded", 1000, "application/x-npy"),
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


@pytest.mark.parametrize("cookie_bytes", [17_000, 60_000, 200_000])
@pytest.mark.parametrize("before", [b"", predict()])
def test_a_head_that_is_too_long_is_refused_however_it_comes(
    tmp_path: Path, cookie_bytes: int, before: bytes
) -> None:
    async def test() -> None:
        data = predict(headers=[("Cookie", "y" * cookie_bytes)])
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send(before + data)
            if before:
                assert (await wire.reply()).status == 200
            reply = await wire.reply()
            assert (reply.status, reply.code) == (431, "head_too_long")

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
    ("media_type", "hint"),
    [
        (
            "application/json",
            "send large tensors in binary, as application/x-npy or application/octet-stream",
        ),
        ("application/x-npy", "send it as it is, without compression"),
    ],
)
def test_what_is_too_large_when_inflated_is_told_how_to_come(
    tmp_path: Path, media_type: str, hint: str
) -> None:
    async def test() -> None:
        headers = [("Content-Type", media_type), ("Content-Encoding", "gzip")]
        async with open_site(tmp_path) as site:
            reply = await site.ask(predict(body=gzipped(bytes(17 << 20)), headers=headers))
            assert (reply.status, reply.code) == (413, "too_large")
            assert reply.json["hint"].startswith(hint)

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
