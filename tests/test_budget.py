"""Large bodies of HTTP and gRPC together take no more memory than there is for them."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from doors import Deployed, chunked, open_site, request, run
from lanes import FakeData, GivenRuntime
from rpc_doors import data, framed, raw, serving
from waiting import until

from mdslite.api.app import PredictEndpoint
from mdslite.api.reading import read_body
from mdslite.errors import ClientClosed, Unavailable
from mdslite.http.budget import BODIES, LEAST_BYTES, Budget, claim_large
from mdslite.rpc.exchange import Exchange, Message, Method
from mdslite.runtimes.protocol import DATA_SIGNATURE, Answers, PackageReport, ProbeReport
from mdslite.serving.loader import LoadRequest
from mdslite.spec import Spec

MIB = 1024 * 1024
HINT = "mdslite up --body-budget SIZE"
PREDICT = "/projects/p/models/m:predict"
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
            other = claim_large(7 * MIB)
            assert other is not None
            other.grow(7 * MIB)
            for piece in pieces or [body]:
                one.send(piece)
            reply = await one.reply()
            assert (reply.status, reply.code) == (503, "unavailable")
            other.close()
        await until(lambda: gc.collect() >= 0 and free() == 8 * MIB)

    run(test(body_of(3 * MIB), []))
    head, body = split(body_of(3 * MIB))
    lines = [one for one in head.split(b"\r\n") if not one.lower().startswith(b"content-length")]
    run(test(chunked(b"\r\n".join(lines), *(body[at : at + MIB] for at in range(0, 3 * MIB, MIB))), []))


def test_grpc_messages_give_back_what_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = []
    monkeypatch.setattr("mdslite.rpc.door.trim", lambda: trimmed.append(1))

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
            await until(lambda: bool(trimmed))

    asyncio.run(test())


def test_a_body_that_would_never_fit_is_not_told_to_come_again(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx", shape=("N", "L"))
        async with open_site(tmp_path, Deployed(path)) as site:
            whole = body_of(12 * MIB)
            reply = await site.ask(whole)
            assert (reply.status, reply.code, reply.json["hint"]) == (413, "too_large", HINT)
            assert "retry-after" not in reply.headers
            head, body = split(whole)
            lines = [one for one in head.split(b"\r\n") if not one.lower().startswith(b"content-length")]
            pieces = (body[at : at + MIB] for at in range(0, len(body), MIB))
            assert (await site.ask(chunked(b"\r\n".join(lines), *pieces))).status == 413
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

    other = claim_large(4 * MIB)
    assert other is not None
    other.grow(4 * MIB)
    asyncio.run(test())


class Counting(FakeData):
    """Answers a datum with its length, once it may."""

    def run(self, feeds: Any, handle: Any = None) -> list[Answers]:
        super().run(feeds, handle)
        return [Answers(b"%d" % len(datum) for datum in feeds["data"])]


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
            site.fleet._loader.runtimes["PYTHON"] = GivenRuntime(session)  # type: ignore[index]
            report = ProbeReport(DATA_SIGNATURE, 0, 0.0, False, PackageReport("e", "v1", "Model"))
            wanted = LoadRequest(
                "p", "e", "v1", Spec(uri="/e"), "sha256:00", tmp_path, report, "PYTHON", "MDS"
            )
            site.fleet.switch(added=[await site.fleet.load(wanted)])
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


def test_small_bodies_are_not_counted_and_claims_end_with_who_holds_them() -> None:
    assert claim_large(LEAST_BYTES - 1) is None
    budget = Budget(10)
    claim = budget.open(10)
    claim.grow(10)
    assert budget.used_bytes == 10
    del claim
    assert (budget.used_bytes, budget.is_untidy(), budget.is_untidy()) == (0, True, False)
