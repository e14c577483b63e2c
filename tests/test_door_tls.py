"""The door behind TLS, where nobody can half-close: what is answered arrives all the same."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doors import HASTY, open_site, run
from h1_client import ROW, WAIT_S, predict, request
from waiting import until

ANSWER = {"predictions": [ROW]}


def test_requests_are_answered_and_the_application_knows_that_they_were_safe(tmp_path: Path) -> None:
    async def test() -> None:
        schemes = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            schemes.append(scope["scheme"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

        async with open_site(tmp_path, secure=True, app=app) as site, site.connect() as wire:
            wire.send(predict() + request() + predict())
            assert (await wire.reply()).json == ANSWER
            assert (await wire.reply()).body == b"ok"
            assert (await wire.reply()).json == ANSWER
            assert schemes == ["https"]

    run(test())


@pytest.mark.parametrize("data", [predict(headers=[("Connection", "close")]), b"nonsense\r\n\r\n"])
def test_a_connection_that_ends_ends_with_its_reply(tmp_path: Path, data: bytes) -> None:
    async def test() -> None:
        async with open_site(tmp_path, secure=True, limits=HASTY) as site, site.connect() as wire:
            wire.send(data)
            reply = await wire.reply()
            assert reply.status in (200, 400)
            assert reply.closes
            assert await wire.rest() == b""
            await until(lambda: not site.door.connections)

    run(test())


def test_the_refusal_of_a_body_arrives_while_the_client_still_sends_it(tmp_path: Path) -> None:
    async def test() -> None:
        head = request("POST", "/projects/p/models/m:predict").removesuffix(b"\r\n")
        async with open_site(tmp_path, secure=True, max_json_bytes=1000) as site, site.connect() as wire:
            wire.send(head + b"Content-Length: 5000000\r\n\r\n")
            for _ in range(50):
                wire.send(b" " * 100_000)
            reply = await wire.reply()
            assert reply.status == 413
            assert reply.code == "too_large"

    run(test())


def test_a_client_that_does_not_say_goodbye_is_cut_off(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, secure=True, limits=HASTY) as site, site.connect() as wire:
            wire.send(request())
            assert (await wire.reply()).status == 200
            wire.stop_reading()
            await until(lambda: not site.door.connections)
            assert site.door.closed_for == {"idle": 1}

    run(test())


def test_a_slow_body_and_a_slow_reader_are_given_up(tmp_path: Path) -> None:
    async def test() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x" * 20_000_000})

        limits = replace(HASTY, min_rate_bytes_per_s=1 << 30)
        async with open_site(tmp_path, secure=True, limits=limits, app=app) as site:
            async with site.connect() as wire:
                wire.send(predict()[:-1])
                assert (await wire.reply()).status == 408
            async with site.connect() as wire:
                wire.stop_reading()
                wire.send(request())
                await until(lambda: "slow_reader" in site.door.closed_for)
                await until(lambda: not site.door.connections)

    run(test())


def test_a_client_that_chooses_http_2_in_the_handshake_is_handed_over(tmp_path: Path) -> None:
    async def test() -> None:
        taken: list[tuple[asyncio.Transport, bytes]] = []
        async with open_site(tmp_path, secure=True, adopt=lambda *args: taken.append(args)) as site:
            assert site.tls is not None
            site.tls.set_alpn_protocols(["h2", "http/1.1"])
            async with site.connect():
                await until(lambda: taken)
                transport, data = taken[0]
                assert data == b""
                assert not site.door.connections
                transport.abort()

    run(test())


def test_a_draining_door_answers_and_closes(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, secure=True) as site:
            async with site.connect() as wire:
                wire.send(predict())
                assert (await wire.reply()).status == 200
                draining = asyncio.create_task(site.door.drain(grace_s=WAIT_S, quiet_s=WAIT_S))
                await until(lambda: site.door.closing)
                wire.send(predict())
                reply = await wire.reply()
                assert reply.json == ANSWER
                assert reply.closes
                assert await wire.rest() == b""
            await draining

    run(test())


def test_a_draining_door_lets_the_quiet_go(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, secure=True) as site, site.connect() as wire:
            wire.send(predict())
            assert (await wire.reply()).status == 200
            await site.door.drain(grace_s=WAIT_S, quiet_s=0.05)
            assert await wire.rest() == b""

    run(test())
