"""Rollouts whose versions somebody changes or replaces meanwhile."""

from __future__ import annotations

from pathlib import Path

import models
from box import deployments, file_order
from stages import Stage, run

from mdslite.deploy.orders import Order, WeightsSource


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


def test_a_version_that_somebody_has_changed_is_no_shadow_again(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        await stage.begin()
        await stage.box.deployer.apply(Order(WeightsSource("p", "m", {"v2": 60}), author="carol"))
        aborted = await stage.rollouts.abort("p", "m", author="bob")
        assert aborted.message == "aborted by bob; v2 is no shadow again, as somebody has changed it"
        assert (stage.shadows(), stage.weights()) == ([], {"v1": 90, "v3": 10, "v2": 0})

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
