"""The end of the door: whoever asks while it drains is answered, and told that the connection ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
import pytest
from doors import Deployed, Site, open_site, run
from h1_client import ROW, WAIT_S, Wire, chunked, predict, request
from waiting import until

ANSWER = {"predictions": [ROW]}
LOOP_TURNS = 20_000  # some milliseconds of computing


@dataclass
class Client:
    """A keep-alive client under way: asks again and again until it is told that the connection ends."""

    wire: Wire
    data: bytes
    depth: int = 1  # requests in one write
    sent: int = 0
    answered: int = 0
    told: bool = False

    async def ask_until_told(self) -> None:
        while not self.told:
            self.wire.send(self.data * self.depth)
            self.sent += self.depth
            for _ in range(self.depth):
                reply = await self.wire.reply()
                assert reply.status == 200
                self.answered += 1
                self.told = reply.closes
                if self.told:
                    break
        assert await self.wire.rest() == b""
        await self.wire.close()


async def drain(site: Site, *, grace_s: float = WAIT_S, quiet_s: float = WAIT_S) -> None:
    """What the appliance does on SIGTERM, after its grace."""
    site.server.close()
    async with asyncio.timeout(WAIT_S):
        await site.door.drain(grace_s=grace_s, quiet_s=quiet_s)
    assert not site.door.connections or grace_s < 1


async def leave(wire: Wire, draining: asyncio.Task[None]) -> None:
    """Close as a client does who was told that the connection ends, and see the drain end with that."""
    assert await wire.rest() == b""
    await wire.close()
    await draining


@pytest.mark.parametrize("count", [1, 32])
def test_clients_under_load_lose_nothing(tmp_path: Path, count: int) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, asyncio.TaskGroup() as group:
            kinds = [predict(), request(target="/healthz"), predict([ROW] * 40)]
            clients = []
            for number in range(count):
                wire = await group.create_task(_open(site))
                clients.append(Client(wire, kinds[number % 3]))
            tasks = [group.create_task(client.ask_until_told()) for client in clients]
            await until(lambda: min(client.answered for client in clients) > 20)
            await drain(site)
            await asyncio.gather(*tasks)
            for client in clients:
                assert client.told
                assert client.answered == client.sent
            predicts = sum(client.answered for client in clients if client.data != kinds[1])
            assert site.statuses == [200] * predicts

    run(test())


async def _open(site: Site) -> Wire:
    return Wire(*await asyncio.open_connection(*site.address))


def test_pipelining_clients_are_answered_what_has_arrived(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            clients = [Client(await _open(site), predict(), depth=8) for _ in range(8)]
            tasks = [asyncio.create_task(client.ask_until_told()) for client in clients]
            await until(lambda: min(client.answered for client in clients) > 20)
            await drain(site)
            await asyncio.gather(*tasks)
            answered = sum(client.answered for client in clients)
            assert site.statuses == [200] * answered  # nothing was computed for nobody

    run(test())


def test_only_the_last_of_the_pipelined_answers_says_that_it_is(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.loop(tmp_path / "loop.onnx")
        async with open_site(tmp_path, Deployed(path)) as site, site.connect() as wire:
            wire.send(predict([[LOOP_TURNS]]) + predict([[1]]) * 3 + request() + predict([[2]])[:-1])
            await until(lambda: site.lane().running)
            draining = asyncio.create_task(drain(site))
            await until(lambda: site.door.closing)
            for _ in range(5):
                reply = await wire.reply()
                assert reply.status == 200
                assert not reply.closes
            wire.send(predict([[2]])[-1:])
            reply = await wire.reply()
            assert reply.json == {"predictions": [[2]]}
            assert reply.closes
            await leave(wire, draining)

    run(test())


@pytest.mark.parametrize(
    "data", [predict(), chunked(request("POST", "/projects/p/models/m:predict"), b'{"instances":[[1,2,3]]}')]
)
def test_a_request_that_is_still_arriving_is_waited_for(tmp_path: Path, data: bytes) -> None:
    async def test() -> None:
        for cut in (1, 30, len(data) - 1):
            async with open_site(tmp_path) as site, site.connect() as wire, site.connect() as quiet:
                wire.send(data[:cut])
                quiet.send(request())
                assert (await quiet.reply()).status == 200
                await until(lambda: any(one.state in ("head", "body") for one in site.door.connections))
                draining = asyncio.create_task(drain(site, quiet_s=0.05))
                assert await quiet.rest() == b""  # by now the quiet ones have been let go
                wire.send(data[cut:])
                reply = await wire.reply()
                assert reply.json == ANSWER
                assert reply.closes
                await quiet.close()
                await leave(wire, draining)

    run(test())


def test_a_request_that_comes_while_it_drains_finds_its_connection_open(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            wire.send(predict())
            assert (await wire.reply()).status == 200
            draining = asyncio.create_task(drain(site))
            await until(lambda: site.door.closing)
            wire.send(predict())
            reply = await wire.reply()
            assert reply.json == ANSWER
            assert reply.closes
            await leave(wire, draining)

    run(test())


def test_quiet_connections_are_let_go(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as used, site.connect() as unused:
            used.send(request())
            assert (await used.reply()).status == 200
            await until(lambda: len(site.door.connections) == 2)
            await drain(site, quiet_s=0.05)
            assert await used.rest() == await unused.rest() == b""

    run(test())


def test_a_stream_that_said_it_would_stay_stays_until_it_is_quiet(tmp_path: Path) -> None:
    async def test() -> None:
        finish = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            if scope["path"] == "/stream":
                await send({"type": "http.response.body", "body": b"one", "more_body": True})
                await finish.wait()
            await send({"type": "http.response.body", "body": b"end"})

        async with open_site(tmp_path, app=app) as site, site.connect() as wire:
            wire.send(request(target="/stream"))
            assert not (await wire.head()).closes
            assert await wire.chunk() == b"one"
            draining = asyncio.create_task(drain(site))
            await until(lambda: site.door.closing)
            finish.set()
            assert await wire.chunk() == b"end"
            assert await wire.chunk() == b""
            wire.send(request())
            reply = await wire.reply()
            assert reply.body == b"end"
            assert reply.closes
            await leave(wire, draining)

    run(test())


def test_what_is_not_done_when_the_grace_ends_is_cut_off(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.loop(tmp_path / "loop.onnx")
        async with open_site(tmp_path, Deployed(path)) as site, site.connect() as wire:
            wire.send(predict([[-1]]) + predict([[1]]))
            await until(lambda: site.lane().running)
            await drain(site, grace_s=0.05)
            assert await wire.rest() == b""
            await until(lambda: not site.door.connections)
            await until(lambda: not site.lane().running)
            assert site.statuses == [499]
            assert site.predictor.books.open == 0

    run(test())
