"""What becomes of HTTP/1.1 clients that are slow, greedy or gone."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import pytest
from doors import HASTY, Deployed, Site, open_site, refused, run
from h1_client import PREDICT, Wire, chunked, predict, request
from waiting import until

ENDLESS = predict([[-1]])  # to the model of `open_loop`


def open_loop(folder: Path, **batch: Any) -> Any:
    """A site with a model that turns for ever on a negative number."""
    return open_site(folder, Deployed(models.loop(folder / "loop.onnx"), batch=batch))


# Time


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"G", "slow_head"),
        (b"P", "slow_head"),
        (b"PRI * HTTP/2.0\r\n", "slow_head"),
        (b"GET /healthz HTTP/1.1\r\nHost: local", "slow_head"),
        (predict()[:-1], "slow_body"),
        (request("POST", "/api/v1/plan", b"{}")[:-1], "slow_body"),
        (chunked(request("POST", PREDICT), b"{}")[:-1], "slow_body"),
        (request() + request()[:-1], "slow_head"),
        (predict() + predict()[:-1], "slow_body"),
        (predict("x") + request()[:-1], "slow_head"),
    ],
)
def test_a_head_or_body_that_does_not_come_is_given_up(tmp_path: Path, data: bytes, reason: str) -> None:
    async def test() -> None:
        async with open_site(tmp_path, limits=replace(HASTY, idle_s=60)) as site, site.connect() as wire:
            wire.send(data)
            for _ in range(data.count(b"HTTP/1.1") - 1):
                assert (await wire.reply()).status in (200, 400)
            reply = await wire.reply()
            assert reply.status == 408
            assert reply.code == "request_timeout"
            assert reply.closes
            assert await wire.rest() == b""
            assert site.door.closed_for == {reason: 1}

    run(test())


def test_a_head_that_trickles_in_is_given_up_all_the_same(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, limits=HASTY) as site, site.connect() as wire:
            reading = asyncio.create_task(wire.reply())
            wire.send(b"GET /healthz HTTP/1.1\r\nX: ")
            while not reading.done():
                wire.send(b"x")
                await wire.drained()
                await outlast_turns(50)
            assert (await reading).status == 408

    run(test())


def test_a_slow_body_of_a_predict_is_logged(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, limits=HASTY) as site:
            reply = await refused(site, predict(headers=[("X-Request-Id", "slow")])[:-5])
            assert reply.status == 408
            (row,) = site.logged
            assert (row["status"], row["code"]) == (408, "request_timeout")
            assert (row["request_id"], row["model"]) == ("slow", "m")

    run(test())


def test_a_body_that_keeps_coming_has_the_time_that_it_takes(tmp_path: Path) -> None:
    async def test() -> None:
        body = b'{"instances": [[1, 2, 3]]}'
        limits = replace(HASTY, min_rate_bytes_per_s=10)
        async with open_site(tmp_path, limits=limits) as site, site.connect() as wire:
            wire.send(predict(body=body)[: -len(body)])
            await until(lambda: any(one.state == "body" for one in site.door.connections))
            (connection,) = site.door.connections
            at_first = connection.deadline
            wire.send(body[:-1])  # 25 bytes buy two seconds and a half
            await until(lambda: connection.deadline > at_first + 2)
            wire.send(body[-1:])
            assert (await wire.reply()).status == 200

    run(test())


def test_a_client_that_says_nothing_is_let_go(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, limits=HASTY) as site:
            async with site.connect() as wire:
                assert await wire.rest() == b""
            async with site.connect() as wire:
                wire.send(predict() + request())
                assert (await wire.reply()).status == 200
                assert (await wire.reply()).status == 200
                assert await wire.rest() == b""
            await until(lambda: not site.door.connections)
            assert site.door.closed_for == {"idle": 2}

    run(test())


def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    async def test() -> None:
        gone = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x" * 20_000_000, "more_body": True})
            gone.set()

        limits = replace(HASTY, min_rate_bytes_per_s=1 << 30)
        async with open_site(tmp_path, limits=limits, app=app) as site, site.connect() as wire:
            wire.stop_reading()
            wire.send(request())
            await until(lambda: site.door.closed_for)
            assert site.door.closed_for == {"slow_reader": 1}
            async with asyncio.timeout(20):
                await gone.wait()
            await until(lambda: not site.door.connections)

    run(test())


def test_a_client_that_reads_slowly_and_sends_more_is_a_slow_reader(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "wide.onnx", shape=("N", None))
        limits = replace(HASTY, head_s=60, min_rate_bytes_per_s=1 << 30)
        async with open_site(tmp_path, Deployed(path), limits=limits) as site, site.connect() as wire:
            wire.stop_reading()
            body = b'{"instances": [[%b 1]]}' % (b"0.123456789," * 300_000)
            wire.send(predict(body=body) * 3 + predict()[:-1])
            await until(lambda: site.door.closed_for)
            assert site.door.closed_for == {"slow_reader": 1}
            await until(lambda: not site.door.connections)

    run(test())


@pytest.mark.parametrize("closing", [True, False])
def test_a_large_answer_reaches_a_reader_that_takes_its_time(tmp_path: Path, closing: bool) -> None:
    async def test() -> None:
        size = 20_000_000

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x" * size})

        limits = replace(HASTY, write_s=60)
        async with open_site(tmp_path, limits=limits, app=app) as site, site.connect() as wire:
            wire.stop_reading()
            wire.send(request(headers=[("Connection", "close")] * closing))
            await until(lambda: any(one.state == "reader" for one in site.door.connections))
            for _ in range(3):
                await outlast(site)
            wire.read_on()
            assert len((await wire.reply()).body) == size

    run(test())


async def outlast_turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def outlast(site: Site) -> None:
    """Let the time pass in which this site's door would find a silent client."""
    async with site.connect() as silent:
        assert await silent.rest() == b""


# Clients that leave


async def leave(site: Site, wire: Wire) -> None:
    await wire.close()
    await until(lambda: not site.door.connections)


def test_a_client_that_leaves_while_queued_frees_its_rows(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_loop(tmp_path) as site:
            lane = site.lane()
            async with site.connect() as running, site.connect() as queued:
                running.send(ENDLESS)
                await until(lambda: lane.running)
                queued.send(predict([[1]] * 100, headers=[("X-Request-Id", "gone")]))
                await until(lambda: lane.queue_rows == 100)
                await queued.close()
                await until(lambda: not lane.queue_rows)
                (row,) = site.logged
                assert (row["status"], row["code"], row["request_id"]) == (499, "client_closed", "gone")
                assert (row["rows"], row["reply"], row["compute_ms"]) == (100, None, 0)
                assert lane.running == 1
                await running.close()
                await until(lambda: not lane.running)
            assert site.statuses == [499, 499]
            assert lane.stats.cancelled == 2
            assert site.predictor.books.open == 0
            assert (await site.ask(predict([[3]]))).json == {"predictions": [[3]]}

    run(test())


def test_a_client_that_leaves_in_a_batch_leaves_its_neighbours_there(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_loop(tmp_path) as site, site.connect() as stays:
            lane = site.lane()
            async with site.connect() as first:
                first.send(ENDLESS)
                await until(lambda: lane.running)
                async with site.connect() as leaves:
                    leaves.send(predict([[1], [2]]))
                    await until(lambda: lane.queue_rows == 2)
                    stays.send(predict([[3]]))
                    await until(lambda: lane.queue_rows == 3)
                await until(lambda: lane.queue_rows == 1)
            assert (await stays.reply()).json == {"predictions": [[3]]}
            assert sorted(site.statuses) == [200, 499, 499]

    run(test())


def test_pipelined_requests_of_a_client_that_left_are_not_begun(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_loop(tmp_path) as site:
            for count in (1, 50):
                async with site.connect() as wire:
                    wire.send(ENDLESS + predict([[1]]) * count + request()[:-1])
                    await until(lambda: site.lane().running)
                await until(lambda: not site.lane().running)
                await until(lambda: not site.door.connections)
            assert site.statuses == [499, 499]

    run(test())


def test_a_client_that_closes_its_sending_side_counts_as_gone(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_loop(tmp_path) as site, site.connect() as wire:
            wire.send(ENDLESS)
            await until(lambda: site.lane().running)
            wire.shut()
            assert await wire.rest() == b""
            assert site.statuses == [499]

    run(test())


def test_a_client_that_leaves_amid_a_body_leaves_nothing_behind(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            for data in (predict()[:-1], request()[:-1], chunked(request("POST", PREDICT), b"{}")[:-1]):
                async with site.connect() as wire:
                    wire.send(data)
                    await until(lambda: any(one.state in ("head", "body") for one in site.door.connections))
                await until(lambda: not site.door.connections)
            assert not site.rows
            assert site.predictor.books.open == 0

    run(test())


# Nothing of ours gets out


def test_no_reply_says_what_it_is_made_of(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            for data in (
                b"nonsense\r\n\r\n",
                request(target="/%00"),
                predict(body=b"{"),
                predict("x"),
                request(target="/no"),
                predict(body=b"x", headers=[("Content-Encoding", "gzip")]),
            ):
                reply = await site.ask(data)
                found = reply.body.decode() + str(reply.headers)
                assert not re.search(r"Traceback|File \"|\.py|/tmp|uvloop|httptools|starlette", found, re.I)
                assert "server" not in reply.headers

    run(test())
