"""What was: the devices' past by the second and by the minute, and all models at a time; and plans of changes
that are no file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import models
import pytest
from box import Box, Caller, deployments, open_box

from mdslite.history import MINUTES, SECONDS, History
from mdslite.runtimes.nvidia import Reading
from mdslite.runtimes.prober import Prober

pytestmark = pytest.mark.anyio


@pytest.fixture
async def box(tmp_path: Path, prober: Prober) -> AsyncIterator[Box]:
    for seed, name in enumerate(("v1", "v2")):
        models.mlp(tmp_path / f"{name}.onnx", seed=seed)
    async with open_box(tmp_path / "store", prober) as box:
        yield box


class Machine:
    """A machine with a GPU that warms up by a degree a second, and a clock."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.queue_rows = 0

    def read(self) -> list[Reading]:
        host = Reading("cpu", "CPU", utilization_percent=25.0, memory_used_bytes=8, memory_total_bytes=16)
        return [host, Reading("cuda:0", "GPU", temperature_c=self.now % 60)]

    def history(self) -> History:
        return History(self.read, lambda: self.queue_rows, clock=lambda: self.now)

    def pass_time(self, history: History, seconds: int) -> None:
        for _ in range(seconds):
            history.sample()
            self.now += 1.0


def test_every_second_of_the_last_hour_is_there() -> None:
    machine = Machine()
    history = machine.history()
    machine.pass_time(history, 5)
    machine.queue_rows = 7
    machine.pass_time(history, 5)
    past = history.between(machine.now - 6)
    assert past.interval_s == 1.0
    assert past.queue_rows == [0.0, 7.0, 7.0, 7.0, 7.0, 7.0]
    host, gpu = past.devices
    assert host[1]["utilization_percent"] == [25.0] * 6
    assert gpu[1]["temperature_c"] == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert gpu[1]["power_w"][0] != gpu[1]["power_w"][0]  # NaN: it does not tell


def test_what_is_longer_ago_is_told_by_the_minute() -> None:
    machine = Machine()
    history = machine.history()
    machine.pass_time(history, SECONDS + 600)
    assert history.between(machine.now - SECONDS).interval_s == 1.0
    past = history.between(machine.now - SECONDS - 500)
    assert past.interval_s == 60.0
    assert past.devices[1][1]["temperature_c"][0] == pytest.approx(29.5)  # the mean of 0 to 59
    assert past.times[0] == 1_800_000_120.0 and past.times[-1] == 1_800_004_080.0


def test_before_the_first_minute_there_are_no_minutes() -> None:
    machine = Machine()
    history = machine.history()
    machine.pass_time(history, 3)
    past = history.between(0.0)
    assert past.times == [] and past.devices[0][1]["utilization_percent"] == []


def test_the_rings_are_bounded() -> None:
    machine = Machine()
    history = machine.history()
    machine.pass_time(history, SECONDS + 120)
    assert len(history.between().times) == SECONDS
    assert len(history.between(0.0).times) < MINUTES


def test_a_sample_of_a_moment_ago_is_what_the_devices_are_at() -> None:
    machine = Machine()
    history = machine.history()
    history.sample()
    machine.now += 1.0
    assert history.readings()[1].temperature_c == 0.0
    machine.now += 60.0
    assert history.readings()[1].temperature_c == 1.0  # too old: read anew


async def test_the_api_tells_the_devices_past(box: Box) -> None:
    for _ in range(3):
        box.history.sample()
    heard = await Caller(box.app).get("/api/v1/devices/history")
    found = heard.json
    assert heard.status == 200 and len(found["times"]) == 3 and found["queue_rows"] == [0, 0, 0]
    assert [one["label"] for one in found["devices"]] == ["cpu"]
    assert found["devices"][0]["temperature_c"] == [None] * 3


async def test_all_models_at_a_time(box: Box, tmp_path: Path) -> None:
    caller = Caller(box.app)
    both = deployments("v1, uri: v1.onnx, weight: 80", "v2, uri: v2.onnx, weight: 20")
    for source in (both, deployments("v1, uri: v1.onnx")):
        assert (await caller.post("/api/v1/apply", {"source": source, "base": str(tmp_path)})).status == 200
    first, second = (one.time for one in await box.revisions())
    then = (await caller.get(f"/api/v1/models?at={(first + second) / 2}")).json
    assert [(one["version"], one["state"]) for one in then[0]["versions"]] == [("v1", "past"), ("v2", "past")]
    assert then[0]["revision"] == 1
    assert (await caller.get(f"/api/v1/models?at={first - 60}")).json == []


async def test_a_change_of_weights_is_planned_and_applied_like_a_file(box: Box, tmp_path: Path) -> None:
    caller = Caller(box.app)
    source = deployments("v1, uri: v1.onnx, weight: 80", "v2, uri: v2.onnx, weight: 20")
    await caller.post("/api/v1/apply", {"source": source, "base": str(tmp_path)})
    wish = {"weights": {"project": "p", "model": "m", "weights": {"v2": 80}}}
    plan = (await caller.post("/api/v1/plan", wish)).json
    (step,) = [one for one in plan["models"][0]["steps"] if one["action"] == "UPDATE"]
    assert [(one["before"], one["after"]) for one in step["changes"]] == [(20, 80)] and not step["reload"]
    heard = await caller.post("/api/v1/apply", {**wish, "expect_revision": plan["base_revision"]})
    assert heard.json["revision"] == 2
    late = await caller.post("/api/v1/apply", {**wish, "expect_revision": plan["base_revision"]})
    assert late.status == 409


async def test_a_removal_is_planned_and_applied_like_a_file(box: Box, tmp_path: Path) -> None:
    caller = Caller(box.app)
    source = deployments("v1, uri: v1.onnx, weight: 80", "v2, uri: v2.onnx, weight: 20")
    await caller.post("/api/v1/apply", {"source": source, "base": str(tmp_path)})
    wish = {"remove": {"project": "p", "model": "m", "version": "v2"}}
    plan = (await caller.post("/api/v1/plan", wish)).json
    assert [one["action"] for one in plan["models"][0]["steps"]] == ["RETAIN", "DELETE"]
    assert (await caller.post("/api/v1/apply", wish)).status == 200
    assert box.versions() == {"p/m v1": "ready"}


async def test_a_plan_is_of_one_thing(box: Box) -> None:
    wish = {"remove": {"project": "p", "model": "m", "version": "v2"}, "revision": 1}
    heard = await Caller(box.app).post("/api/v1/plan", wish)
    assert heard.status == 400 and "got revision and remove" in heard.json["error"]
