"""Keeping versions in service: health checks that eject and bring back, and lost replicas built again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVarTuple

import pytest
from lanes import DataJob, FakeData, lane_of
from waiting import until

from mdslite.errors import LoadFailed, Unavailable
from mdslite.runtimes.devices import Devices
from mdslite.runtimes.protocol import DATA_SIGNATURE, LoadOptions, PackageReport, ProbeReport
from mdslite.serving.fleet import Fleet, Served
from mdslite.serving.loader import LoadRequest
from mdslite.spec import ServiceInfo, Spec

Given = TypeVarTuple("Given")

SEEN_S = (0.1,)  # so long that who looks every few milliseconds sees what is in between


class Mortal(FakeData):
    """A session that can be told to end while it is idle, and whose check can be told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.die: Callable[[str], None] = lambda reason: None

    def watch(self, on_exit: Callable[[str], None]) -> None:
        self.die = on_exit


class Python:
    name = "PYTHON"

    def __init__(self) -> None:
        self.sessions: list[Mortal] = []
        self.failures: list[Exception] = []
        self.opened = 0

    def open(self, path: Path, options: LoadOptions) -> Any:
        self.opened += 1
        if self.failures:
            raise self.failures.pop(0)
        self.sessions.append(Mortal())
        return self.sessions[-1]


Test = Callable[[Fleet, Served, Python], Coroutine[Any, Any, None]]


def run(test: Test, *, replicas: int = 1, **fleet: Any) -> None:
    async def wrapped() -> None:
        async with serving(replicas, **fleet) as parts:
            await test(*parts)

    asyncio.run(wrapped())


@asynccontextmanager
async def serving(replicas: int, **options: Any) -> AsyncIterator[tuple[Fleet, Served, Python]]:
    runtime = Python()
    devices = Devices(reason="tests compute on the CPU")
    options = {"rebuild_delays_s": (0.0,), "check_every_s": 0.001, **options}
    fleet = Fleet(runtimes={"PYTHON": runtime}, devices=devices, cores=2, **options)
    spec = Spec(uri="/package", service_info=ServiceInfo(replicas=replicas))
    package = PackageReport("m", "v1", "Model", batch_size=4)
    report = ProbeReport(DATA_SIGNATURE, 0, 0.0, False, package)
    try:
        served = await fleet.load(
            LoadRequest("p", "m", "v1", spec, "sha256:1", Path("/package"), report, "PYTHON", "MDS")
        )
        fleet.switch(added=[served])
        yield fleet, served, runtime
    finally:
        await fleet.close(grace_s=10)


async def ask(served: Served) -> Any:
    job = DataJob(b"1")
    served.lane.submit(job, perf_counter())
    return await job.answers()


def test_a_failing_check_takes_the_only_replica_out_until_it_succeeds_again() -> None:
    async def test(fleet: Fleet, served: Served, runtime: Python) -> None:
        [session] = runtime.sessions
        session.failure = Unavailable("no connection to the feature store")
        await until(lambda: served.state == "unhealthy")
        assert served.reason == "its health check fails: no connection to the feature store"
        with pytest.raises(Unavailable):
            fleet.router.find("p", "m", None).pick()
        session.failure = None
        await until(lambda: served.state == "ready")
        assert served.reason is None
        assert fleet.router.find("p", "m", None).pick() is served
        assert await ask(served) == [b"1"]
        assert runtime.opened == 1

    run(test)


def test_with_another_replica_the_version_goes_on() -> None:
    async def test(fleet: Fleet, served: Served, runtime: Python) -> None:
        sick, well = runtime.sessions
        sick.failure = Unavailable("sick")
        await until(lambda: len(lane_of(served).replicas) == 1)
        assert served.state == "ready"
        assert [await ask(served) for _ in range(3)] == [[b"1"]] * 3
        assert (len(sick.batches), len(well.batches)) == (0, 3)
        sick.failure = None
        await until(lambda: len(lane_of(served).replicas) == 2)

    run(test, replicas=2)


def test_a_session_that_ends_while_idle_is_opened_again() -> None:
    async def test(fleet: Fleet, served: Served, runtime: Python) -> None:
        runtime.failures = [LoadFailed("not yet")]
        await asyncio.to_thread(runtime.sessions[0].die, "was killed by signal 9")
        await until(lambda: served.state == "unhealthy")
        await until(lambda: served.state == "ready")
        assert runtime.opened == 3
        assert runtime.sessions[0].closed
        assert await ask(served) == [b"1"]
        assert runtime.sessions[1].batches == [[b"1"]]

    run(test, rebuild_delays_s=SEEN_S)


def test_the_reason_says_why_there_is_no_replica() -> None:
    async def test(fleet: Fleet, served: Served, runtime: Python) -> None:
        runtime.failures = [LoadFailed("no memory")]
        runtime.sessions[0].die("exited with status 3")
        await until(lambda: served.reason == "exited with status 3; it is being rebuilt")
        await until(lambda: served.reason == "could not be rebuilt: no memory")
        await until(lambda: served.state == "ready" and served.reason is None)

    run(test, rebuild_delays_s=SEEN_S)


def test_a_replica_that_dies_again_and_again_is_rebuilt_later_each_time() -> None:
    async def test(fleet: Fleet, served: Served, runtime: Python) -> None:
        delays: list[float] = []
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def noted(
            delay: float, callback: Callable[[*Given], object], *args: *Given, context: Context | None = None
        ) -> asyncio.TimerHandle:
            if delay in (0.011, 0.012, 0.013):
                delays.append(delay)
            return call_later(delay, callback, *args, context=context)

        loop.call_later = noted  # type: ignore[method-assign]

        def rebuilt(count: int) -> bool:
            return len(runtime.sessions) == count + 1 and served.state == "ready"

        for count in range(1, 5):
            runtime.sessions[-1].die("exited with status 1")
            await until(partial(rebuilt, count))
        assert delays == [0.011, 0.012, 0.013, 0.013]

    run(test, rebuild_delays_s=(0.011, 0.012, 0.013))


def test_who_finds_no_replica_hears_when_one_is_built_again() -> None:
    async def test(fleet: Fleet, served: Served, runtime: Python) -> None:
        runtime.sessions[0].die("exited with status 3")
        await until(lambda: served.state == "unhealthy" and served.stations[0].rebuild_at > 0)
        for version in (None, "v1"):
            with pytest.raises(Unavailable) as caught:
                fleet.router.find("p", "m", version).pick()
            assert 25 <= (caught.value.retry_after_s or 0) <= 30

    run(test, rebuild_delays_s=(30.0,))


def test_a_version_that_was_replaced_is_not_rebuilt() -> None:
    async def test(fleet: Fleet, served: Served, runtime: Python) -> None:
        fleet.switch(removed=[served.key])
        runtime.sessions[0].die("exited with status 1")
        await until(lambda: runtime.sessions[0].closed)
        assert runtime.opened == 1

    run(test)
