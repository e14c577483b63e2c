"""Rollouts: how a version is stepped up and back, and how one is begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from box import Caller
from stages import DAY_S, Stage, run

from mdslite.deploy.gates import Gate
from mdslite.deploy.orders import Order, WeightsSource
from mdslite.deploy.rollout import Wish
from mdslite.errors import Conflict, InvalidRequest, NotFound


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
