"""A message over gRPC that is done with is gone, before any collector comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from circles import LIMIT_S, MIB, Witness, wide
from doors import Site, open_site, run
from hyperframe.frame import RstStreamFrame
from rpc_doors import RawClient, data, framed, raw, serving
from waiting import until

from mdslite.http.budget import BODIES
from mdslite.rpc.exchange import Method


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch, without_collector: None) -> None:
    """Bodies of 8 MiB together."""
    monkeypatch.setattr(BODIES, "most_bytes", BODIES.used_bytes + 8 * MIB)


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


@asynccontextmanager
async def calling(folder: Path, schema: Any) -> AsyncIterator[tuple[RawClient, Witness]]:
    """A client of what serves `wide`, and who watches."""
    async with (
        open_site(folder, wide(folder), books=(books := Witness())) as site,
        serving(rpcs(site, schema), max_message_bytes=4 * MIB) as rpc,
        raw(rpc.port) as client,
    ):
        yield client, books


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
        async with calling(tmp_path, schema) as (client, books):
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
        async with calling(tmp_path, schema) as (client, books):

            def started_after(begun: int) -> bool:
                return books.started > begun

            for stream_id, path in ((1, "/t/stream"), (3, "/t/infer"), (5, "/t/stream")):
                client.send(client.headers(stream_id, path))
                client.send(*pieces_of(question(schema), stream_id, ends=path == "/t/infer"))
                if ends_later:  # its call has begun by then
                    await until(partial(started_after, stream_id // 2), limit_s=LIMIT_S)
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
        async with calling(tmp_path, schema) as (client, books):
            for stream_id in range(1, 13, 2):
                asked = question(schema, missing_bytes=missing_bytes)
                client.send(client.headers(stream_id, "/t/infer"), *pieces_of(asked, stream_id, ends=True))
                fields = (await client.answer(stream_id)).fields
                assert (fields["grpc-status"] == "0") != bool(missing_bytes)
            await books.all_gone(6)

    run(test())


def test_what_is_no_message_of_the_protocol_is_let_go(tmp_path: Path, schema: Any) -> None:
    async def test() -> None:
        async with calling(tmp_path, schema) as (client, books):
            for stream_id, path in zip(range(1, 13, 2), ("/t/infer", "/t/stream") * 3, strict=True):
                client.send(
                    client.headers(stream_id, path), *pieces_of(b"\xff" * (2 * MIB), stream_id, ends=True)
                )
                await client.answer(stream_id)
            await books.all_gone(6)

    run(test())
