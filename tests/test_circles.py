"""A request that is over is gone, with its body and its share of the budget, before any collector comes."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from circles import LIMIT_S, MIB, Witness, wide
from decorated import make, texts
from doors import Site, open_site, run
from h1_client import PREDICT, gzipped, request
from h2.stream import H2Stream
from h2_client import Answer
from h2_client import connect as connect_h2
from h2_client import data as h2_data
from hyperframe.frame import RstStreamFrame
from lanes import DataJob, FakeData, FakeGenerator, FakeJob, FakeSession, GivenRuntime, make_lane, submit
from waiting import until

import mds
from mdslite.data import DataCodec
from mdslite.door import connection, h2_connection, h2_exchange, h2_streams
from mdslite.errors import MdsliteError, ModelError, without_frames
from mdslite.http.budget import BODIES
from mdslite.npy import NPY
from mdslite.runtimes.protocol import DATA_SIGNATURE, PackageReport, ProbeReport
from mdslite.serving.loader import LoadRequest
from mdslite.spec import Spec

LETTERS = "/projects/p/models/e:predict"
JSON = "application/json"


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch, without_collector: None) -> None:
    """Bodies of 8 MiB together."""
    monkeypatch.setattr(BODIES, "most_bytes", BODIES.used_bytes + 8 * MIB)


async def serve(site: Site, folder: Path, session: FakeData, *, streams: bool = False) -> None:
    """Serve what a fake answers as `p/e`."""
    site.fleet._loader.runtimes["PYTHON"] = GivenRuntime(session)  # type: ignore[index]
    package = PackageReport("e", "v1", "Model", streams=streams)
    report = ProbeReport(DATA_SIGNATURE, 0, 0.0, False, package)
    wanted = LoadRequest("p", "e", "v1", Spec(uri="/e"), "sha256:00", folder, report, "PYTHON", "MDS")
    site.fleet.switch(added=[await site.fleet.load(wanted)])


Fields = list[tuple[str, str]]

BAD: dict[str, tuple[str, Fields, bytes]] = {
    "npy": (PREDICT, [("content-type", NPY.decode())], b"x" * (3 * MIB // 2)),
    "npy of another shape": (PREDICT, [("content-type", NPY.decode())], b"\x93NUMPY\x01\x00" + b"x" * MIB),
    "gzip": (PREDICT, [("content-type", NPY.decode()), ("content-encoding", "gzip")], b"x" * (3 * MIB // 2)),
    "gzip of no npy": (
        PREDICT,
        [("content-type", NPY.decode()), ("content-encoding", "gzip")],
        gzipped(np.random.default_rng(0).bytes(2 * MIB)),
    ),
    "JSON": (PREDICT, [("content-type", JSON)], b"[" + b"1," * MIB),
    "JSON of no text": (PREDICT, [("content-type", JSON)], b'{"instances": [["\xff' + b"x" * MIB + b'"]]}'),
    "tensors": ("/v2/models/p.m/infer", [("content-type", JSON)], b"{" + b" " * (2 * MIB)),
    "binary tensors": (
        "/v2/models/p.m/infer",
        [("inference-header-content-length", "9"), ("content-type", "application/octet-stream")],
        b'{"inputs"' + b"x" * (2 * MIB),
    ),
    "data": (LETTERS, [("content-type", JSON)], b'{"instances": [' + b"1," * MIB),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_refused_body_is_let_go(tmp_path: Path, kind: str) -> None:
    target, fields, body = BAD[kind]

    async def over_http1(site: Site) -> None:
        async with site.connect() as wire:
            for _ in range(6):
                wire.send(request("POST", target, body, headers=fields))
                assert (await wire.reply()).status in (400, 413)

    async def over_http2(site: Site) -> None:
        async with connect_h2(site.address) as client:
            for _ in range(6):
                head = client.head(target, method="POST", headers=fields, end=False)
                pieces = [
                    h2_data(head.stream_id, body[at : at + 16_384]) for at in range(0, len(body), 16_384)
                ]
                client.send(head, *pieces, h2_data(head.stream_id, end=True))
                assert (await client.answer(head.stream_id)).status in (400, 413)

    async def later(site: Site) -> None:
        await site.deferrals.start()
        for _ in range(6):
            asked = request("POST", target, body, headers=[*fields, ("prefer", "respond-async")])
            assert (await site.ask(asked)).status == 202

    async def test(ask: Callable[[Site], Awaitable[None]]) -> None:
        async with open_site(tmp_path, wide(tmp_path), books=(books := Witness())) as site:
            await serve(site, tmp_path, FakeData())
            await ask(site)
            await books.all_gone(6)

    run(test(over_http1))
    run(test(over_http2))
    if not target.startswith("/v2"):
        run(test(later))


# Answers in pieces


def test_an_answer_in_pieces_lets_go_of_its_question(tmp_path: Path) -> None:
    class Brief(FakeGenerator):
        def stream(self, feeds: Any, handle: Any, emit: Callable[[bytes], None]) -> Any:
            return super().stream({"data": [b"abc"]}, handle, emit)  # type: ignore[typeddict-item]

    fields = [("content-type", "application/octet-stream")]

    async def test(session: FakeGenerator) -> None:
        async with open_site(tmp_path, wide(tmp_path), books=(books := Witness())) as site:
            await serve(site, tmp_path, session, streams=True)
            async with site.connect() as wire:
                for _ in range(3):
                    wire.send(request("POST", LETTERS, bytes(2 * MIB), headers=fields))
                    assert b"data: b" in (await wire.reply()).body
            async with connect_h2(site.address) as client:
                for _ in range(3):
                    head = client.head(LETTERS, method="POST", headers=fields, end=False)
                    client.send(head, h2_data(head.stream_id, bytes(16_384), end=True))
                    assert b"data: b" in (await client.answer(head.stream_id)).body
                await books.all_gone(6)

    run(test(Brief()))
    run(test(Brief(failure=ModelError("out of words"))))


def begun(answer: Answer) -> bool:
    return b"data: a" in answer.body


def test_an_answer_in_pieces_that_nobody_waits_for_lets_go_of_its_question(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, wide(tmp_path), books=(books := Witness())) as site:
            for reads in (1, 2):
                await serve(site, tmp_path, session := FakeGenerator(), streams=True)
                session.hold.clear()
                async with connect_h2(site.address) as client:
                    fields = [("content-type", "application/octet-stream")]
                    head = client.head(LETTERS, method="POST", headers=fields, end=False)
                    client.send(head, h2_data(head.stream_id, b"abc", end=True))
                    answer = client.answers[head.stream_id]
                    await client.until(partial(begun, answer))
                await books.all_gone(reads)

    run(test())


def test_a_client_that_leaves_before_its_answer_leaves_nothing(tmp_path: Path) -> None:
    body, fields = bytes(2 * MIB), [("content-type", "application/octet-stream")]

    class Forgetful(FakeData):
        def run(self, feeds: Any, handle: Any = None) -> Any:
            found = super().run(feeds, handle)
            self.batches.clear()
            return found

    async def over_http1(site: Site, entered: Callable[[], Any]) -> None:
        async with site.connect() as wire:
            wire.send(request("POST", LETTERS, body, headers=fields))
            await until(entered)

    async def over_http2(site: Site, entered: Callable[[], Any]) -> None:
        async with connect_h2(site.address) as client:
            head = client.head(LETTERS, method="POST", headers=fields, end=False)
            client.send(head, h2_data(head.stream_id, body[:16_384], end=True))
            await until(entered)
            client.send(RstStreamFrame(head.stream_id, 8))
            assert (await client.get("/healthz")).status == 200

    async def test(ask: Callable[[Site, Callable[[], Any]], Awaitable[None]]) -> None:
        async with open_site(tmp_path, wide(tmp_path), books=(books := Witness())) as site:
            await serve(site, tmp_path, session := Forgetful())
            session.hold.clear()
            await ask(site, session.entered.is_set)
            await until(lambda: books.started == 1 and not books.open, limit_s=LIMIT_S)
            session.hold.set()
            await books.all_gone(1)

    run(test(over_http1))
    run(test(over_http2))


def test_a_connection_of_http_2_that_is_over_leaves_nothing(tmp_path: Path) -> None:
    kinds = (
        connection.Connection,
        h2_connection.Connection,
        h2_streams.Streams,
        h2_exchange.Exchange,
        H2Stream,
    )

    def left() -> set[int]:
        # By their types: `isinstance` asks objects of their class, and one of PyTorch's warns of that.
        return {id(one) for one in gc.get_objects() if issubclass(type(one), kinds)}

    async def test() -> None:
        async with open_site(tmp_path) as site:
            before = left()
            async with connect_h2(site.address) as client:
                for _ in range(3):
                    assert (await client.get("/healthz")).status == 200
                assert len(left() - before) >= 2
            await until(lambda: left() <= before, limit_s=LIMIT_S)

    run(test())


# Lanes


class Stranger(Exception):
    """Nothing that a model's runtime is expected to raise."""


def test_a_batch_that_failed_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(rows: Any) -> None:
        try:
            raise Stranger
        except Stranger as exc:
            raise (ModelError("poison") if rows[0, 0] > 0 else Stranger()) from exc

    async def test() -> None:
        lane = make_lane(FakeSession(fail=fail), batch_size=4)
        jobs = [FakeJob([[value, 0.0]]) for value in (1.0, 1.0, 1.0, 0.0)]
        submit(lane, *jobs)
        await until(lambda: all(job.times_resolved for job in jobs), limit_s=LIMIT_S)
        seen = [weakref.ref(job) for job in jobs]
        errors = [job.error for job in jobs]  # which somebody may keep
        jobs.clear()
        await until(lambda: not any(one() for one in seen), limit_s=LIMIT_S)
        assert [type(error) for error in errors] == [ModelError] * 3 + [MdsliteError]
        lane.close()

    # What is captured of a log keeps the frames that a test may want to see.
    monkeypatch.setattr(logging.getLogger("mdslite.serving.outcomes"), "disabled", True)
    asyncio.run(test())


def test_a_stream_is_let_go_with_its_job() -> None:
    async def test() -> None:
        lane = make_lane(FakeGenerator(), codec=DataCodec(streams=True), batch_size=1)
        job = DataJob(b"abc")
        submit(lane, job)
        await job.ended()
        seen = weakref.ref(job)
        del job
        await until(lambda: seen() is None, limit_s=LIMIT_S)
        lane.close()

    asyncio.run(test())


# Errors


class Stiff(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class Held:
    """Something of a request."""


def test_an_error_without_frames_keeps_its_causes_and_nothing_else() -> None:
    def meet() -> tuple[MdsliteError, weakref.ref[Held]]:
        held = Held()
        try:
            try:
                try:
                    raise Stiff
                except Stiff:
                    raise KeyError("second")  # noqa: B904 - a context
            except KeyError as exc:
                raise ModelError("third") from exc
        except ModelError as exc:
            return without_frames(exc), weakref.ref(held)

    error, held = meet()
    assert held() is None
    cause = error.__cause__
    assert isinstance(cause, KeyError) and isinstance(cause.__context__, Stiff)
    assert error.__traceback__ is cause.__traceback__ is cause.__context__.__traceback__ is None


def test_errors_in_a_circle_and_many_of_them_end() -> None:
    first, second = ModelError("first"), ModelError("second")
    first.__cause__, second.__context__ = second, first
    assert without_frames(first) is first
    last: MdsliteError = first
    for number in range(1000):
        one = ModelError(str(number))
        one.__cause__, last = last, one
    assert without_frames(last) is last
    first.__cause__ = None


# Python packages


class Datum(dict[str, Any]):
    """What becomes of a body."""


def test_rows_that_user_code_refused_are_let_go() -> None:
    seen: list[weakref.ref[Datum]] = []

    class Picky:
        @mds.pre
        def open(self, data: Any) -> Any:
            found = Datum(data)
            seen.append(weakref.ref(found))
            return found

        @mds.predict
        @mds.batch(batch_size=4)
        def predict(self, data: list[Any]) -> list[Any]:
            try:
                return [one["x"] for one in data]
            except KeyError as exc:
                raise ValueError("no x") from exc

    answers = make(Picky).run(texts({"x": 1}, {"y": 1}, {"x": 2}, {"y": 2}))
    assert [type(one) for one in answers] == [bytes, ModelError, bytes, ModelError]
    assert len(seen) == 4
    assert not any(one() for one in seen)
