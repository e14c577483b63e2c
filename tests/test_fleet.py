from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from lanes import DOUBLER, FakeJob, FakeSession, lane_of
from waiting import until

from mdslite.errors import LoadFailed, Unavailable
from mdslite.runtimes.devices import Devices
from mdslite.runtimes.protocol import LoadOptions, ProbeReport, Session, Signature
from mdslite.serving.calibrate import Warm, open_warm
from mdslite.serving.fleet import Fleet, Served
from mdslite.serving.loader import TWICE_BYTES, LoadRequest
from mdslite.spec import Batch, Compare, Confidence, Resource, ServiceInfo, Spec

Test = Callable[[Fleet, "FakeRuntime"], Coroutine[Any, Any, None]]


class FakeRuntime:
    """Opens fake sessions and remembers them; `failures` are raised first, one an opening."""

    name = "ONNXRUNTIME"

    def __init__(self) -> None:
        self.sessions: list[FakeSession] = []
        self.failures: list[Exception] = []
        self.fail: Callable[[np.ndarray[Any, Any]], None] | None = None

    def open(self, path: Path, options: LoadOptions) -> Session:
        if self.failures:
            raise self.failures.pop(0)
        session = FakeSession(fail=self.fail)
        self.sessions.append(session)
        return session


def run(test: Test) -> None:
    async def wrapped() -> None:
        async with a_fleet() as (fleet, runtime):
            await test(fleet, runtime)

    asyncio.run(wrapped())


@asynccontextmanager
async def a_fleet(*, inline: bool = False) -> AsyncIterator[tuple[Fleet, FakeRuntime]]:
    runtime = FakeRuntime()
    devices = Devices(reason="tests compute on the CPU")
    fleet = Fleet(
        runtimes={"ONNXRUNTIME": runtime},
        devices=devices,
        cores=2,
        inline=inline,
        rebuild_delays_s=(0.0,) * 5,
    )
    try:
        yield fleet, runtime
    finally:
        await fleet.close(grace_s=10)


def request(version: str = "v1", *, spec: Spec | None = None, memory_bytes: int = 0) -> LoadRequest:
    return LoadRequest(
        project="p",
        model="m",
        version=version,
        spec=spec or Spec(uri="/model.onnx"),
        digest=f"sha256:{version}",
        path=Path("/model.onnx"),
        report=ProbeReport(signature=DOUBLER, memory_bytes=memory_bytes, load_s=0.0, bounded=True),
    )


def weighted(weight: float, **service_info: Any) -> Spec:
    return Spec(uri="/model.onnx", service_info=ServiceInfo(weight=weight, **service_info))


async def ask(served: Served, row: list[float] | None = None) -> list[list[float]]:
    job = FakeJob([row or [1.0]])
    served.lane.submit(job, perf_counter())
    return await job.answer()


def picks(fleet: Fleet, count: int = 10) -> list[str]:
    route = fleet.router.find("p", "m", None)
    return [route.pick().version for _ in range(count)]


def test_a_loaded_version_takes_no_traffic_until_it_is_switched_in() -> None:
    async def test(fleet: Fleet, runtime: FakeRuntime) -> None:
        served = await fleet.load(request())
        assert fleet.all() == []
        assert fleet.router.get(b"/projects/p/models/m:predict") is None
        fleet.switch(added=[served])
        assert picks(fleet, 1) == ["v1"]
        assert await ask(served) == [[2.0]]

    run(test)


def test_a_switch_changes_all_routes_at_once_and_the_replaced_version_answers_what_it_has() -> None:
    async def test(fleet: Fleet, runtime: FakeRuntime) -> None:
        old = await fleet.load(request(spec=weighted(80)))
        fleet.switch(added=[old])
        session = runtime.sessions[0]
        session.hold.clear()
        job = FakeJob([[3.0]])
        old.lane.submit(job, perf_counter())
        new, second = (
            await fleet.load(request(spec=weighted(50))),
            await fleet.load(request("v2", spec=weighted(50))),
        )
        fleet.switch(added=[new, second])
        assert picks(fleet) == ["v1", "v2"] * 5
        assert old.state == "draining"
        assert old in fleet.all()
        session.hold.set()
        assert await job.answer() == [[6.0]]
        await until(lambda: session.closed)

    run(test)


def test_a_weight_change_keeps_the_sessions() -> None:
    async def test(fleet: Fleet, runtime: FakeRuntime) -> None:
        one, two = (
            await fleet.load(request(spec=weighted(1))),
            await fleet.load(request("v2", spec=weighted(1))),
        )
        fleet.switch(added=[one, two])
        fleet.switch(respecced=[(one.key, weighted(3))])
        assert picks(fleet, 4).count("v1") == 3
        assert len(runtime.sessions) == 2
        assert not any(session.closed for session in runtime.sessions)

    run(test)


def test_batch_knobs_and_confidence_change_without_loading_again() -> None:
    async def test(fleet: Fleet, runtime: FakeRuntime) -> None:
        served = await fleet.load(request())
        fleet.switch(added=[served])
        spec = Spec(
            uri="/model.onnx",
            batch=Batch(batch_size=4, prediction_time_ms=100),
            confidence=Confidence(output="y", field=0),
        )
        fleet.switch(respecced=[(served.key, spec)])
        assert served.lane.knobs.batch_size == 4
        assert served.lane.knobs.prediction_s == pytest.approx(0.1)
        job = FakeJob([[0.2]])
        served.lane.submit(job, perf_counter())
        await job.answer()
        assert job.confidence == pytest.approx(0.4)
        for wrong in (
            Spec(uri="/model.onnx", confidence=Confidence(output="z")),
            Spec(uri="/model.onnx", compare=Compare(output="z")),
        ):
            with pytest.raises(LoadFailed, match='no output "z"'):
                served.check(wrong)
        served.check(Spec(uri="/model.onnx", compare=Compare(output="y")))

    run(test)


def test_a_rule_that_a_loaded_version_has_already_keeps_no_weight_back() -> None:
    async def test(fleet: Fleet, runtime: FakeRuntime) -> None:
        rule = Compare(output="z")
        served = await fleet.load(request(spec=Spec(uri="/model.onnx", compare=rule)))
        fleet.switch(added=[served])
        served.check(Spec(uri="/model.onnx", compare=rule, service_info=ServiceInfo(weight=1)))

    run(test)


def test_weight_zero_and_shadows_take_no_model_level_traffic_but_answer_by_name() -> None:
    async def test(fleet: Fleet, runtime: FakeRuntime) -> None:
        versions = [
            await fleet.load(request("v1", spec=weighted(1))),
            await fleet.load(request("v2", spec=weighted(0))),
            await fleet.load(request("v3", spec=weighted(0, shadow=True))),
        ]
        fleet.switch(added=versions)
        assert set(picks(fleet)) == {"v1"}
        for served in versions:
            assert fleet.router.find("p", "m", served.version).pick() is served

    run(test)


def test_a_removed_version_is_gone_at_once_and_closed_after_its_work() -> None:
    async def test(fleet: Fleet, runtime: FakeRuntime) -> None:
        served = await fleet.load(request())
        fleet.switch(added=[served])
        fleet.switch(removed=[served.key])
        assert fleet.router.get(b"/projects/p/models/m:predict") is None
        assert fleet.find("p", "m", "v1") is None
        await until(lambda: runtime.sessions[0].closed)

    run(test)


def test_a_failed_load_closes_what_it_had_opened() -> None:
    async def test(fleet: Fleet, runtime: FakeRuntime) -> None:
        spec = weighted(1, replicas=3)
        original = runtime.open

        def open_twice(path: Path, options: LoadOptions) -> Session:
            if len(runtime.sessions) == 2:
                raise LoadFailed("no third one")
            return original(path, options)

        runtime.open = open_twice  # type: ignore[method-assign]
        with pytest.raises(LoadFailed, match="no third one"):
            await fleet.load(request(spec=spec))
        assert [session.closed for session in runtime.sessions] == [True, True]

    run(test)


@pytest.mark.parametrize(
    ("memory_bytes", "replicas", "inline", "twice"),
    [
        pytest.param(TWICE_BYTES, 1, True, True, id="small and alone"),
        pytest.param(TWICE_BYTES + 1, 1, True, False, id="too large"),
        pytest.param(0, 2, True, False, id="of two replicas each has a session"),
        pytest.param(0, 1, False, False, id="nothing runs on the loop"),
    ],
)
def test_only_a_small_model_that_the_loop_may_run_is_open_twice(
    memory_bytes: int, replicas: int, inline: bool, twice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_fitting(
        open_session: Callable[[int | None], Session], *, signature: Signature, rows_max: int, twice: bool
    ) -> Warm:
        warm = open_warm(lambda: open_session(None), signature=signature, rows_max=rows_max)
        return replace(warm, beside=open_session(1)) if twice else warm

    monkeypatch.setattr("mdslite.serving.loader.open_fitting", open_fitting)

    async def test() -> None:
        async with a_fleet(inline=inline) as (fleet, runtime):
            spec = weighted(1, replicas=replicas)
            served = await fleet.load(request(spec=spec, memory_bytes=memory_bytes))
            fleet.switch(added=[served])
            assert [one.beside is not None for one in lane_of(served).replicas] == [twice] * replicas
            assert len(runtime.sessions) == replicas + twice
        assert all(session.closed for session in runtime.sessions)

    asyncio.run(test())


def test_a_version_that_could_not_be_loaded_is_listed_with_its_reason_and_answers_503() -> None:
    async def test(fleet: Fleet, runtime: FakeRuntime) -> None:
        fleet.mark(("p", "m", "v1"), weighted(1), "sha256:x", state="failed", reason="no such operator")
        (served,) = fleet.all()
        assert (served.state, served.reason) == ("failed", "no such operator")
        for version in (None, "v1"):
            with pytest.raises(Unavailable):
                fleet.router.find("p", "m", version).pick()

    run(test)


def test_a_lost_replica_takes_its_version_out_until_it_is_rebuilt() -> None:
    async def test(fleet: Fleet, runtime: FakeRuntime) -> None:
        served = await fleet.load(request())
        fleet.switch(added=[served])

        def fail(rows: np.ndarray[Any, Any]) -> None:
            raise Unavailable("the device is lost")

        runtime.sessions[0]._fail = fail
        runtime.failures.append(LoadFailed("not back yet"))
        with pytest.raises(Unavailable):
            await ask(served)
        assert served.state == "unhealthy"
        assert "lost" in (served.reason or "")
        with pytest.raises(Unavailable):
            fleet.router.find("p", "m", None).pick()
        await until(lambda: served.state == "ready")
        assert await ask(served) == [[2.0]]
        assert runtime.sessions[0].closed

    run(test)


def test_a_spec_that_cannot_be_met_here_is_refused_before_anything_is_loaded() -> None:
    async def test(fleet: Fleet, runtime: FakeRuntime) -> None:
        report = request().report
        for spec in (
            Spec(uri="/model.onnx", resource=Resource(gpu=1)),
            Spec(uri="/model.onnx", confidence=Confidence(output="z")),
        ):
            with pytest.raises(LoadFailed):
                fleet.check(spec, report)
        fleet.check(Spec(uri="/model.onnx"), report)
        assert runtime.sessions == []

    run(test)
