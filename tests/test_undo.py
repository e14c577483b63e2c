"""Going back to an earlier revision, starting again with what was deployed, and weights alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from applying import V1, V2, apply
from artifact_files import damage
from box import Box, GatedRuntime, deployments, open_box, undo_order

from mdslite.deploy.orders import Order, WeightsSource
from mdslite.errors import ArtifactError, MdsliteError, NotFound
from mdslite.runtimes.prober import Prober

pytestmark = pytest.mark.anyio


# Undo


async def test_undo_goes_back_to_the_state_before_the_last_revision(box: Box, folder: Path) -> None:
    await apply(box, folder, V1)
    await apply(box, folder, V2)
    (folder / "v1.onnx").unlink()  # what the store has is enough
    outcome = await box.deployer.apply(undo_order())
    assert outcome.revision == 3
    assert box.versions() == {"p/m v1": "ready"}
    assert (await box.revisions())[-1].reason == "back to revision 1"
    await box.deployer.apply(undo_order())
    assert box.versions() == {"p/m v2": "ready"}


async def test_undo_names_the_revision_that_was_in_force_and_not_one_that_failed(
    box: Box, folder: Path
) -> None:
    await apply(box, folder, V1)
    (folder / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(MdsliteError, match=r"bad\.onnx is a text"):
        await apply(box, folder, V1.replace("v1.onnx", "bad.onnx"))
    assert (await box.revisions())[-1].state == "failed"
    await apply(box, folder, V2)
    await box.deployer.apply(undo_order())
    assert box.versions() == {"p/m v1": "ready"}
    assert (await box.revisions())[-1].reason == "back to revision 1"


async def test_undo_goes_back_to_any_revision(box: Box, folder: Path) -> None:
    await apply(box, folder, V1)
    await apply(box, folder, V1, V2)
    await apply(box, folder, V2)
    await box.deployer.apply(undo_order(2))
    assert box.versions() == {"p/m v1": "ready", "p/m v2": "ready"}
    rows = await box.worker.call(box.registry.current)
    assert [row.spec for row in rows] == [
        row.spec for row in await box.worker.call(box.registry.at_revision, 2)
    ]


async def test_undo_of_the_first_revision_leaves_nothing(box: Box, folder: Path) -> None:
    await apply(box, folder, V1)
    await box.deployer.apply(undo_order())
    assert not box.versions()


async def test_undo_with_nothing_applied_says_so(box: Box) -> None:
    with pytest.raises(NotFound, match="nothing has been applied yet"):
        await box.deployer.apply(undo_order())


async def test_undo_to_an_unknown_revision_says_so_and_records_nothing(box: Box, folder: Path) -> None:
    await apply(box, folder, V1)
    with pytest.raises(NotFound, match="there is no revision 7"):
        await box.deployer.apply(undo_order(7))
    assert len(await box.revisions()) == 1


async def test_undo_to_a_damaged_artifact_says_so_at_the_plan(box: Box, folder: Path) -> None:
    await apply(box, folder, V1)
    digest = box.fleet.all()[0].digest
    await apply(box, folder, V2)
    damage(box.artifacts.open(digest))
    with pytest.raises(ArtifactError, match="p/m v1: "):
        await box.deployer.plan(undo_order().source)
    with pytest.raises(ArtifactError, match="p/m v1: "):
        await box.deployer.apply(undo_order())
    assert box.versions() == {"p/m v2": "ready"}
    assert (await box.revisions())[-1].state == "failed"


async def test_the_last_file_is_remembered_across_an_undo(box: Box, folder: Path) -> None:
    assert await box.worker.call(box.registry.last_of_file) is None
    await apply(box, folder, V1)
    await apply(box, folder, V2)
    await box.deployer.apply(undo_order())
    last = await box.worker.call(box.registry.last_of_file)
    assert last is not None
    assert (last.id, last.source) == (2, deployments(V2))


# Start


async def test_a_restart_serves_what_was_deployed(tmp_path: Path, folder: Path, prober: Prober) -> None:
    async with open_box(tmp_path / "store", prober) as box:
        await apply(box, folder, V1, V2)
    async with open_box(tmp_path / "store", prober) as box:
        assert box.versions() == {"p/m v1": "ready", "p/m v2": "ready"}
        assert await box.served_by() in ("v1", "v2")


async def test_a_version_that_cannot_be_loaded_at_start_is_listed_and_the_others_serve(
    tmp_path: Path, folder: Path, prober: Prober, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_box(tmp_path / "store", prober) as box:
        await apply(box, folder, V1, V2)
        damage(box.artifacts.open(box.fleet.all()[0].digest))
    async with open_box(tmp_path / "store", prober) as box:
        assert box.versions() == {"p/m v1": "failed", "p/m v2": "ready"}
        reason = box.fleet.all()[0].reason or ""
        assert "v1.onnx was changed; apply the version again from its source" in reason
        assert not caplog.records  # who starts it is told the states
        assert await box.served_by() == "v2"
        outcome = await apply(box, folder, V1, V2)  # the same file mends it
        assert outcome.plan is not None
        [step] = outcome.plan.steps
        assert [change.field for change in step.changes] == ["state"]
        assert box.versions() == {"p/m v1": "ready", "p/m v2": "ready"}


async def test_versions_are_listed_as_loading_while_the_appliance_starts(
    tmp_path: Path, folder: Path, prober: Prober
) -> None:
    async with open_box(tmp_path / "store", prober) as box:
        await apply(box, folder, V1)
    runtime = GatedRuntime()
    async with open_box(tmp_path / "store", prober, runtime=runtime, resume=False) as box:
        resuming = asyncio.create_task(box.deployer.resume())
        await runtime.reached()
        assert box.versions() == {"p/m v1": "loading"}
        assert await box.served_by() is None
        runtime.gate.set()
        await resuming
        assert box.versions() == {"p/m v1": "ready"}


def weights_order(**weights: float) -> Order:
    return Order(WeightsSource("p", "m", weights), author="tests")


async def test_weights_alone_are_a_revision_that_loads_nothing(box: Box, folder: Path) -> None:
    await apply(box, folder, V1, V2)
    served = box.fleet.all()
    outcome = await box.deployer.apply(weights_order(v1=25, v2=75))
    assert (outcome.state, outcome.revision) == ("applied", 2)
    assert [await box.served_by() for _ in range(4)].count("v2") == 3
    assert box.fleet.all() == served
    assert (await box.deployer.apply(weights_order(v2=75))).state == "unchanged"
    await box.deployer.apply(undo_order(1))
    assert [await box.served_by() for _ in range(10)].count("v2") == 2


async def test_a_shadow_that_is_given_a_weight_answers(box: Box, folder: Path) -> None:
    await apply(box, folder, V1, "v2, uri: v2.onnx, shadow: true")
    await box.deployer.apply(weights_order(v1=0, v2=100))
    assert await box.served_by() == "v2"
    found = box.fleet.find("p", "m", "v2")
    assert found is not None
    assert not found.spec.service_info.shadow


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"v9": 1}, "has no version v9: it has v1, v2"),
        ({"v1": -1}, "a weight is a number from 0"),
        ({"v1": float("nan")}, "a weight is a number from 0"),
        ({"v1": 0, "v2": 0}, "every weight of p/m would be 0"),
    ],
)
async def test_weights_that_make_no_sense_are_refused(
    box: Box, folder: Path, weights: dict[str, float], words: str
) -> None:
    await apply(box, folder, V1, V2)
    with pytest.raises(MdsliteError, match=words):
        await box.deployer.apply(weights_order(**weights))
    assert [await box.served_by() for _ in range(10)].count("v1") == 8
