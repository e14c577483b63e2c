"""Models served from a process of their own: they answer as in the appliance, and end alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import models
import numpy as np
import odd_models
import orjson
import pytest
from hazardous_models import LEAST, division, growing, recurrent
from waiting import until

from mdslite.errors import DeadlineExceeded, InvalidTensor, LoadFailed, ModelError, Unavailable
from mdslite.predict.books import Books
from mdslite.predict.predictor import Predictor
from mdslite.runtimes.confined import ConfinedRuntime, ConfinedSession
from mdslite.runtimes.devices import Devices
from mdslite.runtimes.onnx import OnnxRuntime
from mdslite.runtimes.prober import Prober
from mdslite.runtimes.protocol import LoadOptions
from mdslite.serving.fleet import Fleet, Served
from mdslite.serving.loader import LoadRequest
from mdslite.spec import Spec
from mdslite.tensors import Codec

POISON = {"a": np.array([[LEAST, 9]]), "b": np.array([[-1, 3]])}
PLAIN = {"a": np.array([[8, 9]]), "b": np.array([[2, 3]])}


@contextmanager
def confined(path: Path, **options: Any) -> Iterator[ConfinedSession]:
    session = ConfinedRuntime("ONNXRUNTIME").open(path, LoadOptions(label="p/m v1", **options))
    try:
        yield session
    finally:
        session.close()


def texts(*values: str) -> np.ndarray[Any, Any]:
    return np.array([[value] for value in values], dtype=object)


@pytest.mark.parametrize(
    ("build", "feeds"),
    [
        (models.mlp, {"x": np.ones((3, 4), np.float32)}),
        (models.mlp, {"x": np.ones((0, 4), np.float32)}),
        (models.classifier, {"x": np.array([[1, 0], [0, 1]], np.float32)}),
        (models.words, {"text": texts("a b", "é", "")}),
        (models.bfloat, {"x": np.ones((2, 2), np.uint16)}),
        (models.total, {"x": np.ones(3, np.float32)}),
        (odd_models.sequence, {"x": np.ones((2, 2), np.float32)}),
    ],
)  # fmt: skip
def test_it_answers_as_the_appliance_would(
    tmp_path: Path, build: Callable[[Path], Path], feeds: dict[str, Any]
) -> None:
    path = build(tmp_path / "m.onnx")
    own = OnnxRuntime().open(path, LoadOptions())
    feeds = dict(zip((one.name for one in own.signature.inputs), feeds.values(), strict=True))
    with confined(path) as session:
        assert (session.signature, session.threads) == (own.signature, own.threads)
        assert session.provider == "CPUExecutionProvider in its own process"
        for found, expected in zip(session.run(feeds), own.run(feeds), strict=True):
            assert type(found) is type(expected)
            assert np.array_equal(found, expected)
            assert getattr(found, "dtype", None) == getattr(expected, "dtype", None)
    own.close()


def test_an_input_that_it_refuses_is_an_error_and_ends_nothing(tmp_path: Path) -> None:
    with confined(division(tmp_path / "m.onnx")) as session:
        with pytest.raises(ModelError, match="Integer division by zero"):
            session.run(PLAIN | {"b": np.zeros((1, 2), np.int64)})
        assert session.run(PLAIN)[0].tolist() == [[4, 3]]  # type: ignore[union-attr]


def test_an_input_that_crashes_it_ends_its_process_alone(tmp_path: Path) -> None:
    with confined(division(tmp_path / "m.onnx")) as session:
        with pytest.raises(Unavailable, match=r"p/m v1: its process was killed by signal 8 \(SIGFPE\)"):
            session.run(POISON)
        with pytest.raises(Unavailable, match="SIGFPE"):
            session.run(PLAIN)


def test_what_takes_too_much_memory_is_ended_before_the_machine_has_none(tmp_path: Path) -> None:
    with confined(growing(tmp_path / "m.onnx"), memory_limit_bytes=300 << 20) as session:
        assert float(session.run({"n": np.array([1000])})[0]) == 1024000  # type: ignore[arg-type]
        with pytest.raises(Unavailable, match="used more than the 300 MiB"):
            session.run({"n": np.array([1_000_000])})


def test_a_run_that_is_stopped_ends_its_process(tmp_path: Path) -> None:
    async def test() -> None:
        with confined(models.loop(tmp_path / "m.onnx", endless=True)) as session:
            handle = session.handle()
            run = asyncio.create_task(asyncio.to_thread(session.run, {"turns": np.array([[1]])}, handle))
            await until(lambda: session._dialogue._running)
            handle.terminate()
            with pytest.raises(Unavailable, match="did not answer in time"):
                await run
            with pytest.raises(DeadlineExceeded):
                session.run({"turns": np.array([[1]])}, handle)

    asyncio.run(test())


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(LoadFailed, match="onnxruntime refused the model"),
        confined(odd_models.unknown_operator(tmp_path / "m.onnx")),
    ):
        pass


# In the fleet


class Box:
    """Models served as an appliance serves them, by their names."""

    def __init__(self) -> None:
        devices = Devices(reason="tests compute on the CPU")
        self.fleet = Fleet(
            runtimes={"ONNXRUNTIME": OnnxRuntime()}, devices=devices, cores=2, rebuild_delays_s=(0.0,)
        )
        self.predictor = Predictor(self.fleet.router, books=Books(None))
        self.prober = Prober()

    async def load(self, path: Path, **spec: Any) -> Served:
        options = LoadOptions()
        report = await asyncio.to_thread(self.prober.probe, "ONNXRUNTIME", path, options, timeout_s=30)
        names = ("p", path.stem, "v1")
        served = await self.fleet.load(
            LoadRequest(*names, Spec(uri=str(path), **spec), "sha256:1", path, report)
        )
        self.fleet.switch(added=[served])
        return served

    async def ask(self, model: str, **inputs: Any) -> tuple[int, Any]:
        target = f"/projects/p/models/{model}:predict".encode()
        reply = await self.predictor.respond(target=target, headers=(), body=orjson.dumps({"inputs": inputs}))
        return reply.status, orjson.loads(reply.body)


@asynccontextmanager
async def serving() -> AsyncIterator[Box]:
    box = Box()
    try:
        yield box
    finally:
        box.prober.close()
        await box.fleet.close(grace_s=10)


def test_a_request_that_crashes_its_model_costs_no_other_model_anything_and_it_comes_back(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        async with serving() as box:
            served = await box.load(division(tmp_path / "div.onnx"))
            await box.load(models.identity(tmp_path / "same.onnx"))
            assert await box.ask("div", a=[[8, 9]], b=[[2, 3]]) == (200, {"outputs": {"c": [[4, 3]]}})
            status, body = await box.ask("div", a=[[LEAST, 9]], b=[[-1, 3]])
            assert (status, body["code"]) == (503, "unavailable")
            assert body["error"] == "p/div v1: its process was killed by signal 8 (SIGFPE)"
            assert (await box.ask("same", x=[[1, 2, 3]]))[0] == 200
            await until(lambda: served.state == "ready")
            assert (await box.ask("div", a=[[8, 9]], b=[[2, 3]]))[0] == 200

    asyncio.run(test())


@pytest.mark.parametrize(
    ("build", "isolation", "apart"),
    [
        (models.mlp, None, False), (models.mlp, "process", True),
        (growing, None, True), (growing, "inline", False),
        (recurrent, None, False),
    ],
)  # fmt: skip
def test_a_model_gets_a_process_of_its_own_when_a_request_could_end_it_or_the_spec_says_so(
    tmp_path: Path, build: Callable[[Path], Path], isolation: Any, apart: bool
) -> None:
    async def test() -> None:
        async with serving() as box:
            served = await box.load(build(tmp_path / "m.onnx"), isolation=isolation)
            assert ("own process" in served.provider) is apart

    asyncio.run(test())


def test_an_input_without_elements_is_refused_for_an_operator_that_does_not_survive_it(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        async with serving() as box:
            served = await box.load(recurrent(tmp_path / "m.onnx"))
            codec = served.codec
            assert isinstance(codec, Codec)
            with pytest.raises(
                InvalidTensor, match=r"a row of shape \[0,2\] has no elements.* its GRU needs"
            ):
                codec.from_arrays({"x": np.ones((3, 0, 2), np.float32)})
            assert codec.from_arrays({"x": np.ones((3, 1, 2), np.float32)}).rows == 3
            assert not codec.from_arrays({"x": np.ones((0, 1, 2), np.float32)}).rows

    asyncio.run(test())
