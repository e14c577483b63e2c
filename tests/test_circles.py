"""A request that is over is gone, with its body and its share of the budget, before any collector comes."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from decorated import make, texts
from doors import Deployed, Site, open_site, run
from h1_client import PREDICT, gzipped, request
from h2_client import connect as connect_h2
from h2_client import data as h2_data
from hyperframe.frame import RstStreamFrame
from lanes import DataJob, FakeData, FakeGenerator, FakeJob, FakeSession, GivenRuntime, make_lane, submit
from rpc_doors import RawClient, data, framed, raw, serving
from waiting import until

import mds
from mdslite.data import DataCodec
from mdslite.errors import MdsliteError, ModelError, without_frames
from mdslite.http.budget import BODIES
from mdslite.npy import NPY
from mdslite.predict.books import Books
from mdslite.predict.call import Call
from mdslite.rpc.exchange import Method
from mdslite.runtimes.protocol import DATA_SIGNATURE, PackageReport, ProbeReport
from mdslite.serving.loader import LoadRequest
from mdslite.spec import Spec

MIB = 1024 * 1024
LIMIT_S = 10.0
LETTERS = "/projects/p/models/e:predict"
JSON = "application/json"


@pytest.fixture(autouse=True)
def without_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bodies of 8 MiB together, and nothing that is in a circle goes."""
    gc.collect()
    monkeypatch.setattr(BODIES, "most_bytes", BODIES.used_bytes + 8 * MIB)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Witness(Books):
    """Remembers the calls without keeping them."""

    def __init__(self) -> None:
        super().__init__(None)
        self.seen: list[weakref.ref[Call]] = []

    def record(self, call: Call, status: int, code: str | None, reply: bytes | None) -> None:
        self.seen.append(weakref.ref(call))
        super().record(call, status, code, reply)

    async def all_gone(self, count: int) -> None:
        """Wait until so many calls have ended, of which nothing is left."""
        await until(lambda: len(self.seen) >= count, limit_s=LIMIT_S)
        await until(lambda: not any(one() for one in self.seen) and free() == 8 * MIB, limit_s=LIMIT_S)
        assert len(self.seen) == count


def free() -> int:
    return BODIES.most_bytes - BODIES.used_bytes


def wide(folder: Path) -> Deployed:
    """x FP32 [N, L] → y FP32 [N]: large bodies, small answers."""
    return Deployed(models.sixth(folder / "m.onnx"))


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


# gRPC


def question(schema: Any, *, size_bytes: int = 2 * MIB, missing_bytes: int = 0, model: str = "p.m") -> bytes:
    asked = schema.InferRequest(model_name=model)
    asked.inputs.add(name="x", datatype="FP32", shape=[1, size_bytes // 4])
    asked.raw_input_contents.append(bytes(size_bytes - missing_bytes))
    written: bytes = asked.SerializeToString()
    return written


@pytest.fixture
def schema() -> Any:
    pytest.importorskip("google.protobuf")
    from mdslite.rpc.schema import Schema

    return Schema([])


def rpcs(site: Site, schema: Any) -> dict[str, Method]:
    from mdslite.rpc.calls import InferService

    service = InferService(site.predictor, schema)
    return {"/t/infer": Method(begin=service.infer), "/t/stream": Method(service.stream, reads=True)}


def pieces_of(message: bytes, stream_id: int, *, ends: bool) -> Iterator[Any]:
    whole = framed(message)
    for at in range(0, len(whole), 100_000):
        yield data(stream_id, whole[at : at + 100_000], ends=ends and at + 100_000 >= len(whole))


async def answered(client: RawClient, count: int, stream_id: int) -> None:
    """Wait until a stream has had so many messages."""
    async with asyncio.timeout(LIMIT_S):
        while len(messages(client.answers[stream_id].body if stream_id in client.answers else b"")) < count:
            assert await client.read() is not None


def messages(body: bytes) -> list[bytes]:
    found = []
    while body:
        size = 5 + int.from_bytes(body[1:5])
        found.append(body[5:size])
        body = body[size:]
    return found


@pytest.mark.parametrize("missing_bytes", [0, 4])
def test_each_message_of_a_stream_is_let_go_while_the_stream_goes_on(
    tmp_path: Path, schema: Any, missing_bytes: int
) -> None:
    async def test() -> None:
        async with (
            open_site(tmp_path, wide(tmp_path), books=(books := Witness())) as site,
            serving(rpcs(site, schema), max_message_bytes=4 * MIB) as rpc,
            raw(rpc.port) as client,
        ):
            client.send(client.headers(1, "/t/stream"))
            for count in range(1, 7):
                client.send(*pieces_of(question(schema, missing_bytes=missing_bytes), 1, ends=False))
                await answered(client, count, 1)
                await books.all_gone(count)
            assert (b"bytes" in messages(client.answers[1].body)[-1]) == bool(missing_bytes)

    run(test())


@pytest.mark.parametrize("ends_later", [False, True])
def test_a_stream_that_is_reset_lets_go_of_what_came_whole(
    tmp_path: Path, schema: Any, ends_later: bool
) -> None:
    async def test() -> None:
        async with (
            open_site(tmp_path, wide(tmp_path), books=(books := Witness())) as site,
            serving(rpcs(site, schema), max_message_bytes=4 * MIB) as rpc,
            raw(rpc.port) as client,
        ):
            for stream_id, path in ((1, "/t/stream"), (3, "/t/infer"), (5, "/t/stream")):
                client.send(client.headers(stream_id, path))
                client.send(*pieces_of(question(schema), stream_id, ends=path == "/t/infer"))
                if ends_later:  # its call has begun by then
                    await until(lambda begun=stream_id // 2: books.started > begun, limit_s=LIMIT_S)
                client.send(RstStreamFrame(stream_id, 8))
            last = question(schema, size_bytes=64)
            client.send(client.headers(7, "/t/infer"), *pieces_of(last, 7, ends=True))
            await client.answer(7)  # all that came before was read
            await until(lambda: not books.open, limit_s=LIMIT_S)
            await books.all_gone(books.started)

    run(test())


@pytest.mark.parametrize("missing_bytes", [0, 4])
def test_a_call_of_one_message_lets_go_of_it(tmp_path: Path, schema: Any, missing_bytes: int) -> None:
    async def test() -> None:
        async with (
            open_site(tmp_path, wide(tmp_path), books=(books := Witness())) as site,
            serving(rpcs(site, schema), max_message_bytes=4 * MIB) as rpc,
            raw(rpc.port) as client,
        ):
            for stream_id in range(1, 13, 2):
                asked = question(schema, missing_bytes=missing_bytes)
                client.send(client.headers(stream_id, "/t/infer"), *pieces_of(asked, stream_id, ends=True))
                fields = (await client.answer(stream_id)).fields
                assert (fields["grpc-status"] == "0") != bool(missing_bytes)
            await books.all_gone(6)

    run(test())


def test_what_is_no_message_of_the_protocol_is_let_go(tmp_path: Path, schema: Any) -> None:
    async def test() -> None:
        async with (
            open_site(tmp_path, wide(tmp_path), books=(books := Witness())) as site,
            serving(rpcs(site, schema), max_message_bytes=4 * MIB) as rpc,
            raw(rpc.port) as client,
        ):
            for stream_id, path in zip(range(1, 13, 2), ("/t/infer", "/t/stream") * 3, strict=True):
                client.send(
                    client.headers(stream_id, path), *pieces_of(b"\xff" * (2 * MIB), stream_id, ends=True)
                )
                await client.answer(stream_id)
            await books.all_gone(6)

    run(test())


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
                    await client.until(lambda answer=answer: b"data: a" in answer.body)
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
    monkeypatch.setattr(logging.getLogger("mdslite.serving.lane"), "disabled", True)
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
