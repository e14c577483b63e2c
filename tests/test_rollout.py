"""Rollouts: how a version is stepped up and back, and what becomes of it in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import models
import pytest
from box import Box, Caller, deployments, file_order, open_box
from clocks import Clock
from seen import evidence

from mdslite.deploy.gates import Gate
from mdslite.deploy.orders import Order, WeightsSource
from mdslite.deploy.rollout import Rollout, Wish
from mdslite.deploy.rollouts import Rollouts
from mdslite.errors import Conflict, InvalidRequest, NotFound
from mdslite.runtimes.prober import Prober
from mdslite.store.comparisons import Pair, Sums
from mdslite.store.evidence import Evidence
from mdslite.store.rollouts import RolloutStore

DAY_S = 86_400.0


# Steps


class Witness:
    """Says what it is told to: the requests a second that each version answers, and how well."""

    def __init__(self) -> None:
        self.per_s = 1.0
        self.errors = 0.0
        self.ms = 10.0
        self.agrees = 1.0
        self.asked_since = 0.0

    async def evidence(self, project: str, model: str, *, since: float, until: float) -> list[Evidence]:
        count = min(20_000, int((until - since) * self.per_s))
        mine = evidence("v2", count, int(count * self.errors), ms=self.ms)
        return [evidence("v1", count, seed=1), mine]

    async def sums(self, pair: Pair, *, since: float, until: float) -> Sums:
        self.asked_since = since
        count = max(0, int((until - since) * self.per_s))
        return Sums(compared=count, agreed=int(count * self.agrees)) if pair.primary == "v1" else Sums()


class Stage:
    """A box with p/m v1 (weight 90), v3 (10) and the shadow v2, and its rollouts by an injected clock."""

    def __init__(self, box: Box, clock: Clock, witness: Witness) -> None:
        self.box = box
        self.clock = clock
        self.witness = witness
        self.mirrored: dict[tuple[str, str, str], float | None] = {}
        self.rollouts = self.make()

    def make(self) -> Rollouts:
        return Rollouts(
            RolloutStore(self.box.registry),
            self.box.worker.call,
            self.box.deployer,
            self.box.fleet.deployed,
            self.witness,
            mirror=self.mirrored.__setitem__,
            clock=self.clock,
            look_s=1e9,
        )

    def weights(self) -> dict[str, float]:
        return {version: one.info.weight for version, one in self.box.fleet.deployed("p", "m").items()}

    def shadows(self) -> list[str]:
        return [version for version, one in self.box.fleet.deployed("p", "m").items() if one.info.shadow]

    async def begin(self, **wish: Any) -> Rollout:
        chosen: dict[str, Any] = {
            "steps": (5, 25, 50, 100), "every_s": 600.0, "gates": ("error_rate<1%",), "author": "ann", **wish
        }  # fmt: skip
        return await self.rollouts.begin(Wish("p", "m", "v2", **chosen))

    async def after(self, seconds: float, *, looks: int = 1) -> Rollout | None:
        for _ in range(looks):
            self.clock.now += seconds / looks
            await self.rollouts.look()
        return self.rollouts.find("p", "m")

    async def last(self) -> Rollout:
        return (await self.rollouts.all())[0]


Test = Callable[[Stage], Coroutine[Any, Any, None]]


def run(test: Test, folder: Path) -> None:
    async def wrapped() -> None:
        async with stage(folder) as found:
            await test(found)

    asyncio.run(wrapped())


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    with closing(Prober()) as prober:
        await asyncio.to_thread(models.identity, folder / "v.onnx")
        async with open_box(folder / "store", prober) as box:
            text = deployments(
                "v1, uri: v.onnx, weight: 90", "v3, uri: v.onnx, weight: 10", "v2, uri: v.onnx, shadow: true"
            )
            await box.deployer.apply(file_order(text, folder))
            yield Stage(box, Clock(), Witness())


def test_a_version_that_is_well_is_stepped_up_to_all(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        await stage.begin()
        seen = [stage.weights()]
        for _ in range(3):
            await stage.after(600, looks=5)
            seen.append(stage.weights())
        assert seen == [
            {"v1": 85.5, "v3": 9.5, "v2": 5},
            {"v1": 67.5, "v3": 7.5, "v2": 25},
            {"v1": 45, "v3": 5, "v2": 50},
            {"v1": 0, "v3": 0, "v2": 100},
        ]
        assert await stage.after(600) is None
        ended = await stage.last()
        assert (ended.state, ended.message) == ("promoted", "promoted: every gate held at 100 %")
        revisions = await stage.box.revisions()
        assert [one.reason for one in revisions[1:]] == [
            f"rollout of v2: {share} % (step {number} of 4)"
            for number, share in enumerate((5, 25, 50, 100), 1)
        ]
        assert {one.author for one in revisions[1:]} == {f"rollout {ended.id}"}

    run(test, tmp_path)


def test_a_failing_gate_goes_back_at_once_and_says_why(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        await stage.begin(gates=("error_rate<1%", "p50<1.5x"))
        await stage.after(600)
        stage.witness.errors = 0.2
        assert await stage.after(100) is None
        ended = await stage.last()
        assert ended.state == "rolled_back"
        why = "the gate error_rate<1% failed: error_rate is 20.00 %"
        assert f"rolled back from 25 %: {why}" in ended.message
        assert stage.weights() == {"v1": 90, "v3": 10, "v2": 0}
        assert (await stage.box.revisions())[-1].reason.startswith("rolled back from 25 %")

    run(test, tmp_path)


def test_a_step_waits_for_evidence_and_pauses_when_none_comes(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        stage.witness.per_s = 0.01
        await stage.begin()
        assert (await stage.after(600)) is not None
        assert stage.weights()["v2"] == 5
        found = await stage.after(6000, looks=10)
        assert found is not None
        assert found.state == "paused"
        assert "it cannot be told: error_rate<1%: " in found.message
        stage.witness.per_s = 1.0
        await stage.rollouts.resume("p", "m", author="bob")
        assert (await stage.after(600)) is not None
        assert stage.weights()["v2"] == 25

    run(test, tmp_path)


def test_who_changes_the_weights_meanwhile_pauses_it(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        await stage.begin()
        order = Order(WeightsSource("p", "m", {"v2": 60}), author="carol")
        await stage.box.deployer.apply(order)
        found = await stage.after(10)
        assert found is not None
        assert (found.state, found.message) == (
            "paused",
            "paused at 5 %: somebody has given v2 the weight 60",
        )
        await stage.after(6000, looks=3)
        assert stage.weights()["v2"] == 60

    run(test, tmp_path)


def replacing(folder: Path, stage: Stage, **uris: str) -> Order:
    """What is deployed, with other models in the place of some."""
    models.mlp(folder / "other.onnx", (2, 4, 3), seed=1)
    known = {"v1": "v.onnx", "v3": "v.onnx", "v2": "v.onnx", **uris}
    lines = [f"{name}, uri: {known[name]}, weight: {weight}" for name, weight in stage.weights().items()]
    return file_order(deployments(*lines), folder)


def test_a_candidate_that_is_replaced_begins_anew(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        await stage.begin(gates=("error_rate<1%", "agreement>95%"))
        await stage.after(600, looks=5)
        await stage.after(600, looks=5)
        assert stage.weights()["v2"] == 50
        await stage.box.deployer.apply(replacing(tmp_path, stage, v2="other.onnx"))
        number = (await stage.box.revisions())[-1].id
        found = await stage.after(10)
        assert found is not None
        told = f"v2 was replaced by another model in revision {number}: it begins anew at 5 %"
        assert (found.state, found.message, stage.weights()["v2"]) == ("running", told, 5)
        assert (found.since, found.findings) == (stage.clock.now, ())
        assert (await stage.box.revisions())[-1].reason == "rollout of v2: 5 % (step 1 of 4)"
        # Pairs are kept by the minute: that in which both models answered says nothing.
        await stage.after(10)
        assert 0 <= stage.witness.asked_since - found.since < 60 and not stage.witness.asked_since % 60
        # It is told once, and what went before is not held against it.
        for _ in range(4):
            await stage.after(600, looks=5)
        assert (await stage.last()).state == "promoted"

    run(test, tmp_path)


def test_another_version_that_is_replaced_has_the_step_begin_anew(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        await stage.begin()
        await stage.after(600, looks=5)
        await stage.after(300)
        await stage.box.deployer.apply(replacing(tmp_path, stage, v1="other.onnx"))
        found = await stage.after(10)
        assert found is not None
        assert found.message.startswith("v1 was replaced by another model in revision ")
        assert found.message.endswith(": the evidence at 25 % begins anew")
        await stage.after(590)
        assert stage.weights()["v2"] == 25
        await stage.after(10)
        assert stage.weights()["v2"] == 50

    run(test, tmp_path)


def test_a_replaced_candidate_is_told_of_where_it_pauses_too(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        await stage.begin()
        await stage.after(600)
        models.mlp(tmp_path / "other.onnx", (2, 4, 3), seed=1)
        text = deployments(
            "v1, uri: v.onnx, weight: 90", "v3, uri: v.onnx, weight: 10", "v2, uri: other.onnx, weight: 0"
        )
        await stage.box.deployer.apply(file_order(text, tmp_path))
        found = await stage.after(10)
        assert found is not None
        assert found.state == "paused"
        assert found.message.startswith("paused at 25 %: somebody has given v2 the weight 0; v2 was replaced")
        resumed = await stage.rollouts.resume("p", "m", author="bob")
        assert "it begins anew at 5 %" in resumed.message
        assert stage.weights()["v2"] == 5

    run(test, tmp_path)


def test_a_version_elsewhere_is_another_where_its_endpoints_are(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        def elsewhere(port: int) -> Order:
            info = f"{{weight: 5, endpoints_infos: [{{url: 'http://127.0.0.1:{port}'}}]}}"
            text = deployments("v1, uri: v.onnx, weight: 95")
            text += f"  - version: v2\n    spec: {{uri: elsewhere, service_info: {info}}}\n"
            return file_order(text, tmp_path)

        await stage.box.deployer.apply(elsewhere(1))
        await stage.begin(steps=(50.0,))
        stage.rollouts = stage.make()
        await stage.rollouts.start()
        await stage.rollouts.close()
        found = await stage.after(10)
        assert found is not None and "started by" in found.message
        await stage.box.deployer.apply(elsewhere(2))
        number = (await stage.box.revisions())[-1].id
        await stage.box.deployer.apply(Order(WeightsSource("p", "m", {"v1": 50, "v2": 50}), author="bob"))
        found = await stage.after(10)
        assert found is not None
        assert (
            found.message == f"v2 was replaced by another model in revision {number}: it begins anew at 50 %"
        )

    run(test, tmp_path)


def test_it_can_be_paused_promoted_and_aborted(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        await stage.begin()
        await stage.rollouts.pause("p", "m", author="bob")
        await stage.after(6000)
        assert stage.weights()["v2"] == 5
        promoted = await stage.rollouts.promote("p", "m", author="bob")
        assert (promoted.state, stage.weights()) == ("promoted", {"v1": 0, "v3": 0, "v2": 100})
        await stage.box.deployer.apply(
            Order(WeightsSource("p", "m", {"v1": 90, "v3": 10, "v2": 0}), author="bob")
        )
        await stage.begin()
        aborted = await stage.rollouts.abort("p", "m", author="bob")
        assert (aborted.state, stage.weights()) == ("aborted", {"v1": 90, "v3": 10, "v2": 0})
        for ask in (
            stage.rollouts.pause,
            stage.rollouts.resume,
            stage.rollouts.promote,
            stage.rollouts.abort,
        ):
            with pytest.raises(NotFound, match="has no rollout under way"):
                await ask("p", "m", author="bob")

    run(test, tmp_path)


def test_a_shadow_is_one_again_when_its_rollout_is_aborted_or_a_gate_fails(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        begun = await stage.begin()
        assert begun.message.endswith("; v2 is no shadow meanwhile")
        assert stage.shadows() == []
        aborted = await stage.rollouts.abort("p", "m", author="bob")
        assert aborted.message == "aborted by bob; v2 is a shadow again"
        assert (stage.shadows(), stage.weights()["v2"]) == (["v2"], 0)
        assert (await stage.box.revisions())[-1].reason == aborted.message

        await stage.begin()
        await stage.after(600)
        stage.witness.errors = 0.2
        assert await stage.after(100) is None
        assert (await stage.last()).message.endswith("; v2 is a shadow again")
        assert stage.shadows() == ["v2"]

    run(test, tmp_path)


def test_a_version_that_somebody_has_changed_is_no_shadow_again(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        await stage.begin()
        await stage.box.deployer.apply(Order(WeightsSource("p", "m", {"v2": 60}), author="carol"))
        aborted = await stage.rollouts.abort("p", "m", author="bob")
        assert aborted.message == "aborted by bob; v2 is no shadow again, as somebody has changed it"
        assert (stage.shadows(), stage.weights()) == ([], {"v1": 90, "v3": 10, "v2": 0})

    run(test, tmp_path)


def test_it_goes_on_after_a_restart_between_any_two_moments(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        await stage.begin()
        stage.rollouts = stage.make()
        await stage.rollouts.start()
        assert (await stage.after(600)) is not None
        assert stage.weights()["v2"] == 25
        # The process ends after a step was written down and before it was carried out.
        found = stage.rollouts.find("p", "m")
        assert found is not None
        found.at, found.since, found.applied = 2, stage.clock.now, False
        await stage.rollouts._save(found)
        await stage.rollouts.close()
        stage.rollouts = stage.make()
        await stage.rollouts.start()
        await stage.after(1)
        assert stage.weights()["v2"] == 50
        await stage.rollouts.close()

    run(test, tmp_path)


def test_without_gates_it_goes_by_the_clock_where_that_is_meant(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        await stage.begin(gates=(), ungated=True)
        stage.witness.errors = 1.0
        for _ in range(4):
            await stage.after(600)
        assert (await stage.last()).state == "promoted"

    run(test, tmp_path)


def test_a_restart_with_another_file_pauses_it_and_with_the_same_it_goes_on(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        await stage.begin()
        # The same file is not applied again; another one is, before rollouts go on (`Appliance.start`).
        source = deployments("v1, uri: v.onnx, weight: 60", "v2, uri: v.onnx, weight: 40")
        await stage.box.deployer.apply(file_order(source, tmp_path))
        stage.rollouts = stage.make()
        await stage.rollouts.start()
        found = await stage.after(10)
        await stage.rollouts.close()
        assert found is not None
        assert (found.state, stage.weights()) == ("paused", {"v1": 60, "v2": 40})
        assert found.message == "paused at 5 %: somebody has given v2 the weight 40"
        assert (await stage.rollouts.abort("p", "m", author="bob")).state == "aborted"
        assert stage.weights() == {"v1": 90, "v2": 0}  # v3 is gone

    run(test, tmp_path)


def test_agreement_as_a_gate_mirrors_requests_while_it_runs(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        key = ("p", "m", "v2")
        await stage.begin(gates=("agreement>95%",))
        assert stage.mirrored[key] == 10.0
        stage.witness.agrees = 0.5
        await stage.after(300)
        assert (await stage.last()).state == "rolled_back"
        assert stage.mirrored[key] is None

    run(test, tmp_path)


def test_two_weeks_of_a_rollout(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        stage.witness.per_s = 0.05
        steps = tuple(float(step) for step in (1, 2, 5, 10, 20, 35, 50, 65, 80, 90, 95, 98, 99, 100))
        await stage.begin(steps=steps, every_s=DAY_S, gates=("error_rate<1%", "p99<1.5x", "agreement>90%"))
        for day in range(14):
            assert stage.weights()["v2"] == steps[day]
            if day == 5:
                stage.rollouts = stage.make()
                await stage.rollouts.start()
            await stage.after(DAY_S, looks=4)
        await stage.rollouts.close()
        assert (await stage.last()).state == "promoted"
        assert len(await stage.box.revisions()) == 1 + len(steps)

    run(test, tmp_path)


@pytest.mark.parametrize(
    ("wish", "kind", "words"),
    [
        ({"steps": ()}, InvalidRequest, "steps"),
        ({"steps": (50, 25)}, InvalidRequest, "rising percentages"),
        ({"steps": (50, 101)}, InvalidRequest, "rising percentages"),
        ({"every_s": 0.1}, InvalidRequest, "every"),
        ({"gates": ("speed<1",)}, InvalidRequest, "gate"),
        ({"gates": ()}, InvalidRequest, "without any, v2 would get 100 % of all, whatever it does"),
    ],
)
def test_a_rollout_that_makes_no_sense_is_refused(
    tmp_path: Path, wish: dict[str, Any], kind: type[Exception], words: str
) -> None:
    async def test(stage: Stage) -> None:
        with pytest.raises(kind, match=words):
            await stage.begin(**wish)
        assert await stage.rollouts.all() == []

    run(test, tmp_path)


def test_a_model_has_one_rollout_at_a_time_of_a_version_that_is_there(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        wish = Wish("p", "m", "v9", (100,), 60.0, ("error_rate<1%",), "ann")
        with pytest.raises(NotFound, match="has no version v9: it has v1, v2, v3"):
            await stage.rollouts.begin(wish)
        await stage.begin()
        with pytest.raises(Conflict, match="has a rollout already: v2 is running"):
            await stage.begin()

    run(test, tmp_path)


def test_a_first_step_below_what_a_version_has_is_refused(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        has = stage.weights()["v1"] / sum(stage.weights().values()) * 100
        wish = Wish("p", "m", "v1", (has / 2, 100), 60.0, ("error_rate<1%",), "ann")
        with pytest.raises(Conflict, match="would take some away") as caught:
            await stage.rollouts.begin(wish)
        assert "--steps 100" in (caught.value.hint or "")

    run(test, tmp_path)


def test_a_gate_that_no_share_can_pass_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="agreement is never above 100 %"):
        Gate.parse("agreement>150%")


# Over the API


def test_a_rollout_is_begun_watched_and_ended_over_the_api(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        caller = Caller(stage.box.app)
        url = "/api/v1/projects/p/models/m/rollout"
        assert (await caller.get(url)).status == 404
        body = {"version": "v2", "steps": [10, 100], "every_s": 3600, "gates": ["error_rate<1%"]}
        begun = await caller.post(url, {**body, "author": "ann", "reason": "it is better"})
        assert begun.status == 200, begun.json
        assert (begun.json["state"], begun.json["step"], begun.json["share"]) == ("running", 1, 10)
        assert stage.weights()["v2"] == 10
        assert (await caller.post(url, body)).status == 409
        assert (await caller.post(url, {**body, "gates": ["x"]})).status == 400
        paused = await caller.post(f"{url}/action", {"action": "pause", "author": "bob"})
        assert paused.json["message"] == "paused by bob at 10 %"
        assert (await caller.get(url)).json["state"] == "paused"
        aborted = await caller.post(f"{url}/action", {"action": "abort"})
        assert (aborted.json["state"], stage.weights()["v2"]) == ("aborted", 0)
        assert (await caller.post(f"{url}/action", {"action": "abort"})).status == 404
        listed = (await caller.get("/api/v1/rollouts")).json
        assert [(one["version"], one["state"]) for one in listed] == [("v2", "aborted")]

    run(test, tmp_path)
