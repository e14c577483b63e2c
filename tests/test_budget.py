"""Bodies of HTTP and gRPC together take no more memory than there is for them."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from alike import ask_http1, ask_http2, post
from doors import Deployed, Site, open_site, run
from h1_client import PREDICT, chunked, request
from lanes import FakeData, GivenRuntime
from rpc_doors import data, framed, raw, serving
from waiting import until

from mdslite.api.app import PredictEndpoint
from mdslite.api.reading import read_body
from mdslite.door.door import Limits
from mdslite.errors import ClientClosed, Unavailable
from mdslite.http.budget import BODIES, COUNTED_BYTES, Budget, claim_body
from mdslite.rpc.exchange import Exchange, Message, Method
from mdslite.runtimes.protocol import DATA_SIGNATURE, Answers, PackageReport, ProbeReport
from mdslite.serving.loader import LoadRequest
from mdslite.spec import Spec

MIB = 1024 * 1024
HINT = "mdslite up --body-budget SIZE"
OCTETS = (b"content-type", b"application/octet-stream")
HEADERS = [("content-type", "application/octet-stream"), ("accept", "application/octet-stream")]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    monkeypatch.setattr(BODIES, "most_bytes", BODIES.used_bytes + 8 * MIB)


def free() -> int:
    return BODIES.most_bytes - BODIES.used_bytes


def body_of(size_bytes: int) -> bytes:
    return request("POST", PREDICT, np.ones((1, size_bytes // 4), np.float32).tobytes(), headers=HEADERS)


def split(message: bytes) -> tuple[bytes, bytes]:
    head, _, body = message.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", body


def in_chunks(message: bytes, size_bytes: int) -> bytes:
    head, body = split(message)
    lines = [one for one in head.split(b"\r\n") if not one.lower().startswith(b"content-length")]
    pieces = (body[at : at + size_bytes] for at in range(0, len(body), size_bytes))
    return chunked(b"\r\n".join(lines), *pieces)


def test_http_and_grpc_share_one_budget_and_small_bodies_are_let_in(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx", shape=("N", "L"))
        async with (
            open_site(tmp_path, Deployed(path)) as site,
            serving(max_message_bytes=16 * MIB) as rpc,
            raw(rpc.port) as client,
        ):
            async with site.connect() as first:
                head, body = split(body_of(6 * MIB))
                first.send(head + body[: 5 * MIB])
                await first.drained()
                await until(lambda: free() == 3 * MIB)
                reply = await site.ask(body_of(4 * MIB))
                assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "unavailable", "1")
                client.send(client.headers(1), data(1, framed(bytes(4 * MIB))[:1000]))
                answer = await client.answer(1)
                assert (answer.fields["grpc-status"], answer.fields["retry-after"]) == ("8", "1")
                assert (await site.ask(body_of(MIB // 2))).status == 200
            await until(lambda: gc.collect() >= 0 and free() == 8 * MIB)
            assert (await site.ask(body_of(4 * MIB))).status == 200

    run(test())


def test_a_body_counts_as_it_comes_and_is_refused_where_the_memory_ends(tmp_path: Path) -> None:
    async def test(whole: bytes, pieces: list[bytes]) -> None:
        path = models.identity(tmp_path / "m.onnx", shape=("N", "L"))
        async with open_site(tmp_path, Deployed(path)) as site, site.connect() as one:
            head, body = split(whole)
            one.send(head)
            await one.drained()
            assert free() == 8 * MIB
            other = claim_body(7 * MIB)
            assert other is not None
            other.grow(7 * MIB)
            for piece in pieces or [body]:
                one.send(piece)
            reply = await one.reply()
            assert (reply.status, reply.code) == (503, "unavailable")
            other.close()
        await until(lambda: gc.collect() >= 0 and free() == 8 * MIB)

    run(test(body_of(3 * MIB), []))
    run(test(in_chunks(body_of(3 * MIB), MIB), []))


def test_a_refused_body_is_logged_over_both_kinds_of_http(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx", shape=("N", "L"))
        async with open_site(tmp_path, Deployed(path)) as site:
            other = claim_body(7 * MIB)
            assert other is not None
            other.grow(7 * MIB)
            for ask in (ask_http1, ask_http2):
                site.rows.clear()
                answered = (await ask(site, post(bytes(3 * MIB), media_type=HEADERS[0]))).status
                assert (answered, [(row["status"], row["model"]) for row in site.logged]) == (
                    503,
                    [(503, "m")],
                )
            other.close()

    run(test())


def test_grpc_messages_give_back_what_they_took() -> None:
    async def measure(message: Message, exchange: Exchange) -> bytes:
        assert free() == 2 * MIB
        assert bytes(message[:2]) == b"xx"
        return b"%d" % len(message)

    async def test() -> None:
        method: dict[str, Any] = {"/t/double": Method(measure)}
        async with serving(method, max_message_bytes=16 * MIB, sweep_s=0.02) as rpc:
            for _ in range(3):
                async with raw(rpc.port) as client:
                    client.ask(1, b"x" * (6 * MIB))
                    answer = await client.answer(1)
                    assert answer.body[5:] == b"%d" % (6 * MIB), answer
                await until(lambda: gc.collect() >= 0 and free() == 8 * MIB)
            async with raw(rpc.port) as client:  # one that leaves in the midst
                whole = framed(bytes(6 * MIB))
                client.send(client.headers(1), *(data(1, whole[at : at + 65536]) for at in (0, 65536)))
                await until(lambda: free() < 8 * MIB)
            await until(lambda: gc.collect() >= 0 and free() == 8 * MIB)

    asyncio.run(test())


def test_a_body_that_would_never_fit_is_not_told_to_come_again(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx", shape=("N", "L"))
        async with open_site(tmp_path, Deployed(path)) as site:
            whole = body_of(12 * MIB)
            reply = await site.ask(whole)
            assert (reply.status, reply.code, reply.json["hint"]) == (413, "too_large", HINT)
            assert "retry-after" not in reply.headers
            assert (await site.ask(in_chunks(whole, MIB))).status == 413
        async with serving(max_message_bytes=16 * MIB) as rpc, raw(rpc.port) as client:
            client.send(client.headers(1), data(1, framed(bytes(12 * MIB))[:1000]))
            answer = await client.answer(1)
            assert answer.fields["grpc-status"] == "8"
            assert "12582912 bytes or more" in answer.fields["grpc-message"]

    run(test())


def test_who_is_refused_makes_room_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx", shape=("N", "L"))
        async with open_site(tmp_path, Deployed(path)) as site, site.connect() as first:
            head, body = split(body_of(6 * MIB))
            first.send(head + body[: 5 * MIB])
            await first.drained()
            await until(lambda: free() == 3 * MIB)
            assert (await site.ask(head + body)).status == 503
            assert free() == 3 * MIB
            first.send(body[5 * MIB :])
            assert (await first.reply()).status == 200

    gc.disable()
    try:
        run(test())
    finally:
        gc.enable()


def test_an_error_that_somebody_keeps_holds_no_body() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(MIB), "more_body": True}

    async def test() -> None:
        with pytest.raises(Unavailable) as kept:
            await read_body({"headers": []}, receive, limit_bytes=7 * MIB)
        assert free() == 4 * MIB
        assert kept.value.retry_after_s

    other = claim_body(4 * MIB)
    assert other is not None
    other.grow(4 * MIB)
    asyncio.run(test())


class Counting(FakeData):
    """Answers a datum with its length, once it may."""

    def run(self, feeds: Any, handle: Any = None) -> list[Answers]:
        super().run(feeds, handle)
        return [Answers(b"%d" % len(datum) for datum in feeds["data"])]


async def serve_counting(site: Site, folder: Path, session: Counting) -> None:
    site.fleet._loader.runtimes["PYTHON"] = GivenRuntime(session)  # type: ignore[index]
    report = ProbeReport(DATA_SIGNATURE, 0, 0.0, False, PackageReport("e", "v1", "Model"))
    wanted = LoadRequest("p", "e", "v1", Spec(uri="/e"), "sha256:00", folder, report, "PYTHON", "MDS")
    site.fleet.switch(added=[await site.fleet.load(wanted)])


@pytest.mark.parametrize("leaves", [False, True])
def test_a_body_that_the_application_reads_counts_until_its_prediction_is_done(
    tmp_path: Path, leaves: bool
) -> None:
    async def test() -> None:
        session, left = Counting(), asyncio.Event()
        session.hold.clear()
        pieces = [bytes(MIB)] * 5
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if pieces:
                return {"type": "http.request", "body": pieces.pop(), "more_body": bool(pieces)}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append((message, free()))

        async with open_site(tmp_path) as site:
            await serve_counting(site, tmp_path, session)
            target = b"/projects/p/models/e:predict"
            scope = {"type": "http", "raw_path": target, "query_string": b"", "headers": [OCTETS]}
            endpoint = PredictEndpoint(site.predictor, site.deferrals)
            asked = asyncio.create_task(endpoint(scope, receive, send))
            await until(session.entered.is_set)
            assert free() == 3 * MIB
            if leaves:
                left.set()
                with suppress(ClientClosed):
                    await asked
            session.hold.set()
            await asyncio.wait([asked])
            assert free() == 8 * MIB
            if not leaves:
                (start, room), (body, _) = sent
                assert (start["status"], room, body["body"]) == (200, 8 * MIB, b"5242880")

    run(test())


def test_a_body_in_chunks_counts_until_its_prediction_is_done(tmp_path: Path) -> None:
    async def test() -> None:
        session = Counting()
        session.hold.clear()
        async with open_site(tmp_path) as site:
            await serve_counting(site, tmp_path, session)
            head = request("POST", "/projects/p/models/e:predict", headers=HEADERS[:1])
            asked = asyncio.create_task(site.ask(chunked(head, *([bytes(MIB)] * 5))))
            await until(session.entered.is_set)
            assert free() == 3 * MIB
            session.hold.set()
            assert (await asked).body == b"5242880"

    run(test())


def test_a_body_that_is_answered_later_counts_once(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx", shape=("N", "L"))
        async with open_site(tmp_path, Deployed(path)) as site:
            await site.deferrals.start()
            headers = [("content-type", "application/octet-stream"), ("prefer", "respond-async")]
            body = np.ones((1, 5 * MIB // 4), np.float32).tobytes()
            for _ in range(3):
                reply = await site.ask(request("POST", PREDICT, body, headers=headers))
                assert reply.status == 202
            await until(lambda: gc.collect() >= 0 and free() == 8 * MIB)

    run(test())


def test_a_kept_connection_and_an_idle_replica_keep_no_body(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx", shape=("N", "L"))
        async with open_site(tmp_path, Deployed(path)) as site, site.connect() as one:
            for _ in range(3):
                one.send(body_of(7 * MIB))
                assert (await one.reply()).status == 200
                site.rows.clear()  # the real log lets go of bodies
                await until(lambda: gc.collect() >= 0 and free() == 8 * MIB)

    run(test())


# Small ones


def test_small_bodies_count_until_they_are_whole(tmp_path: Path) -> None:
    async def measure(message: Message, exchange: Exchange) -> bytes:
        return b"%d" % len(message)

    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx", shape=("N", "L"))
        async with (
            open_site(tmp_path, Deployed(path)) as site,
            serving({"/t/double": Method(measure)}) as rpc,
            raw(rpc.port) as client,
        ):
            for whole in (body_of(MIB // 2), in_chunks(body_of(MIB // 2), 100_000)):
                async with site.connect() as one:
                    one.send(whole[:-1000])
                    await until(lambda: free() < 8 * MIB - 400_000)
                    one.send(whole[-1000:])
                    assert (await one.reply()).status == 200
                    assert free() == 8 * MIB
            message = framed(bytes(MIB // 2))
            pieces = [message[at : at + 65_536] for at in range(0, len(message), 65_536)]
            client.send(client.headers(1), *(data(1, one) for one in pieces))
            await until(lambda: free() == 8 * MIB - MIB // 2)  # whole, but for the word that it is all
            client.send(data(1, b"", ends=True))
            assert (await client.answer(1)).fields["grpc-status"] == "0"
            assert free() == 8 * MIB

    run(test())


def test_small_bodies_that_are_never_whole_are_bounded_and_find_room_beside_large_ones() -> None:
    def stall(size_bytes: int) -> Any:
        pieces = [bytes(16_384)] * (size_bytes // 16_384)

        async def receive() -> dict[str, Any]:
            if not pieces:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": pieces.pop(), "more_body": True}

        return read_body({"headers": []}, receive, limit_bytes=MIB)

    async def test() -> None:
        stalled = [asyncio.create_task(stall(MIB // 2)) for _ in range(16)]
        await until(lambda: free() == 0)
        with pytest.raises(Unavailable):
            claim_body(MIB)
        stalled += [asyncio.create_task(stall(MIB // 2)) for _ in range(4)]
        await until(lambda: free() == -2 * MIB)
        with pytest.raises(Unavailable, match="bodies under way"):
            await stall(MIB // 2)
        for one in stalled:
            one.cancel()
        await asyncio.wait(stalled)
        assert free() == 8 * MIB

    asyncio.run(test())


def test_what_many_bodies_leave_is_given_back_to_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed: list[int] = []
    monkeypatch.setattr("mdslite.http.budget.trim", lambda: trimmed.append(1))

    async def test() -> None:
        async with open_site(tmp_path, limits=Limits(sweep_s=0.01)):
            assert BODIES.is_untidy() is False
            claim = claim_body(2 * MIB)
            assert claim is not None
            claim.grow(2 * MIB)
            claim.close()
            await until(lambda: bool(trimmed))

    run(test())


def test_small_bodies_are_not_counted_and_claims_end_with_who_holds_them() -> None:
    assert claim_body(COUNTED_BYTES - 1) is None
    budget = Budget(10)
    claim = budget.open(10)
    claim.grow(10)
    assert budget.used_bytes == 10
    del claim
    assert (budget.used_bytes, budget.is_untidy(), budget.is_untidy()) == (0, True, False)
