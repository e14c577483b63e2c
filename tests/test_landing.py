"""Large bodies at the door are read to where the runtime reads them, and nothing around them is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from doors import HASTY, Deployed, Site, open_site, run
from h1_client import PREDICT, Reply, chunked, npy, predict, request
from waiting import until

from mdslite.door.landing import ALIGNMENT, Landing
from mdslite.door.receiver import LANDING_BYTES

INFER = "/v2/models/p.m/infer"
SIZE = 200_000  # numbers: 800 kB


def numbers(*, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random((1, SIZE), np.float32)


def infer(array: np.ndarray[Any, Any], *, pad: int = 0) -> bytes:
    shape, size = list(array.shape), {"binary_data_size": array.nbytes}
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": size}
    message = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    head = json.dumps(message).encode() + b" " * pad
    headers = [("inference-header-content-length", str(len(head)))]
    return request("POST", INFER, head + array.tobytes(), headers=headers)


def raw(array: np.ndarray[Any, Any]) -> bytes:
    headers = [("content-type", "application/octet-stream"), ("accept", "application/octet-stream")]
    return request("POST", PREDICT, array.tobytes(), headers=headers)


def in_npy(array: np.ndarray[Any, Any]) -> bytes:
    headers = [("content-type", "application/x-npy"), ("accept", "application/octet-stream")]
    return request("POST", PREDICT, npy(array), headers=headers)


def answer(reply: Reply) -> np.ndarray[Any, Any]:
    assert reply.status == 200, reply.body
    head_bytes = int(reply.headers.get("inference-header-content-length", 0))
    return np.frombuffer(reply.body[head_bytes:], np.float32).reshape(1, -1)


class Spy:
    """A session that keeps what it was given."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.seen: list[np.ndarray[Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, feeds: Any, handle: Any = None) -> Any:
        self.seen.append(feeds["x"])
        return self._session.run(feeds, handle)


@asynccontextmanager
async def open_wide_site(folder: Path, **options: Any) -> AsyncIterator[Site]:
    """A model that answers with what it was given, of any length."""
    path = models.identity(folder / "m.onnx", shape=("N", "L"))
    async with open_site(folder, Deployed(path), **options) as site:
        yield site


def spy_on(site: Site) -> Spy:
    (replica,) = site.lane().replicas
    spy = Spy(replica.session)
    replica.session = spy
    return spy


@pytest.mark.parametrize("pad", [0, 1, 2, 3, 61])
@pytest.mark.parametrize("make", [infer, raw, in_npy])
def test_a_large_tensor_reaches_the_runtime_without_a_copy(
    tmp_path: Path, make: Callable[..., bytes], pad: int
) -> None:
    async def test() -> None:
        async with open_wide_site(tmp_path) as site, site.connect() as wire:
            spy = spy_on(site)
            array = numbers()
            wire.send(infer(array, pad=pad) if make is infer else make(array))
            np.testing.assert_array_equal(answer(await wire.reply()), array)
            (seen,) = spy.seen
            body = site.logged[0]["request"]  # what came down
            assert isinstance(body, memoryview)
            assert np.shares_memory(seen, np.frombuffer(body, np.uint8))
            assert seen.ctypes.data % ALIGNMENT == 0

    run(test())


def test_large_and_small_requests_alternate_on_one_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_wide_site(tmp_path) as site, site.connect() as wire:
            for seed in range(4):
                array = numbers(seed=seed)
                wire.send(infer(array))
                np.testing.assert_array_equal(answer(await wire.reply()), array)
                wire.send(predict([[1, 2]]))
                assert (await wire.reply()).json == {"predictions": [[1, 2]]}

    run(test())


def test_what_is_pipelined_around_a_large_request_is_answered_in_order(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_wide_site(tmp_path) as site, site.connect() as wire:
            arrays = [numbers(seed=seed) for seed in range(3)]
            small = predict([[1, 2]])
            wire.send(
                small + infer(arrays[0]) + small + infer(arrays[1]) + infer(arrays[2]) + small + request()
            )
            assert (await wire.reply()).json == {"predictions": [[1, 2]]}
            np.testing.assert_array_equal(answer(await wire.reply()), arrays[0])
            assert (await wire.reply()).json == {"predictions": [[1, 2]]}
            for array in arrays[1:]:
                np.testing.assert_array_equal(answer(await wire.reply()), array)
            assert (await wire.reply()).json == {"predictions": [[1, 2]]}
            assert (await wire.reply()).json == {"status": "ok"}

    run(test())


@pytest.mark.parametrize("cuts", [[1], [10, 150], [200, 65_536], [65_700, 131_072], [799_000]])
def test_it_matters_not_how_a_large_body_is_cut(tmp_path: Path, cuts: list[int]) -> None:
    async def test() -> None:
        async with open_wide_site(tmp_path) as site, site.connect() as wire:
            array = numbers()
            data = infer(array) + predict([[1, 2]])
            for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
                wire.send(data[start:stop])
                await wire.drained()
                for _ in range(20):  # so that the server reads the pieces one by one
                    await asyncio.sleep(0)
            np.testing.assert_array_equal(answer(await wire.reply()), array)
            assert (await wire.reply()).json == {"predictions": [[1, 2]]}

    run(test())


def test_large_bodies_land_behind_tls(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_wide_site(tmp_path, secure=True) as site, site.connect() as wire:
            for seed in range(3):
                array = numbers(seed=seed)
                wire.send(infer(array) + predict([[1, 2]]))
                np.testing.assert_array_equal(answer(await wire.reply()), array)
                assert (await wire.reply()).json == {"predictions": [[1, 2]]}

    run(test())


def test_large_json_and_large_chunked_bodies_are_read_as_ever(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_wide_site(tmp_path) as site, site.connect() as wire:
            row = list(range(30_000))
            wire.send(predict([row]))
            assert (await wire.reply()).json == {"predictions": [row]}
            array = numbers()
            head, _, body = raw(array).partition(b"\r\n\r\n")
            lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
            wire.send(chunked(b"\r\n".join(lines) + b"\r\n\r\n", body[:1000], body[1000:]))
            np.testing.assert_array_equal(answer(await wire.reply()), array)

    run(test())


def test_a_client_that_waits_for_it_is_told_to_send_its_large_body(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_wide_site(tmp_path) as site, site.connect() as wire:
            array = numbers()
            head, _, body = raw(array).partition(b"\r\n\r\n")
            wire.send(head + b"\r\nExpect: 100-continue\r\n\r\n")
            assert (await wire.head()).status == 100
            wire.send(body)
            np.testing.assert_array_equal(answer(await wire.reply()), array)

    run(test())


def test_a_large_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_wide_site(tmp_path, limits=HASTY) as site, site.connect() as wire:
            wire.send(infer(numbers())[:70_000])
            reply = await wire.reply()
            assert (reply.status, reply.code) == (408, "request_timeout")
            assert reply.closes
            wire.send(b"x" * 200_000)  # nobody wants it any more
            await wire.rest()
            await until(lambda: not site.door.connections)

    run(test())


def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_wide_site(tmp_path) as site:
            async with site.connect() as wire:
                wire.send(infer(numbers())[:100_000])
                await wire.drained()
                await until(lambda: any(one._landing is not None for one in site.door.connections))
                (connection,) = site.door.connections
            await until(lambda: not site.door.connections)
            assert connection._landing is None
            assert not site.rows

    run(test())


def test_a_large_request_behind_one_in_progress_waits_for_it(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx", shape=("N", "L"))
        loop = models.loop(tmp_path / "loop.onnx")
        slow = Deployed(loop, model="loop", batch={"prediction_time_ms": 50})
        async with open_site(tmp_path, Deployed(path), slow) as site, site.connect() as wire:
            array = numbers()
            wire.send(predict([[-1]], target="/projects/p/models/loop:predict") + infer(array))
            assert (await wire.reply()).status == 504
            np.testing.assert_array_equal(answer(await wire.reply()), array)

    run(test())


def test_what_cannot_be_held_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(size_bytes: int) -> Any:
        raise MemoryError

    async def test() -> None:
        async with open_wide_site(tmp_path) as site, site.connect() as wire:
            wire.send(infer(numbers()))
            reply = await wire.reply()
            assert (reply.status, reply.code) == (503, "unavailable")
            assert reply.headers["retry-after"] == "1"

    monkeypatch.setattr("mdslite.door.landing.make_space", fail)
    run(test())


@pytest.mark.parametrize("size_bytes", [1, LANDING_BYTES + 1, 5 * 1024 * 1024 + 3])
@pytest.mark.parametrize("aligned_at", [0, 1, 63, 64, 177])
def test_a_landing_is_as_large_and_as_aligned_as_it_should_be(size_bytes: int, aligned_at: int) -> None:
    landing = Landing(None, size_bytes, aligned_at=aligned_at)  # type: ignore[arg-type]
    assert landing.missing_bytes == size_bytes
    assert landing.put(b"a" * (size_bytes + 5)) == size_bytes
    assert landing.missing_bytes == 0
    body = landing.take()
    assert bytes(body) == b"a" * size_bytes
    assert (np.frombuffer(body, np.uint8).ctypes.data + aligned_at) % ALIGNMENT == 0
