"""Applying a deployments.yaml: what is loaded, kept, switched and refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import odd_models
import pytest
from applying import V1, V2, apply
from box import Box, GatedRuntime, PickyRuntime, deployments, file_order, open_box

from mdslite.deploy.events import Event, FetchEvent, StepEvent
from mdslite.deploy.plan import Action
from mdslite.errors import ArtifactError, Conflict, LoadFailed, MdsliteError, SpecError, Unprocessable
from mdslite.runtimes.prober import Prober

pytestmark = pytest.mark.anyio


async def test_an_apply_loads_registers_and_serves(box: Box, folder: Path) -> None:
    outcome = await apply(box, folder, V1, V2, reason="first")
    assert (outcome.state, outcome.revision) == ("applied", 1)
    assert box.versions() == {"p/m v1": "ready", "p/m v2": "ready"}
    served = [await box.served_by() for _ in range(100)]
    assert (served.count("v1"), served.count("v2")) == (80, 20)
    [revision] = await box.revisions()
    assert (revision.author, revision.reason, revision.state) == ("ann", "first", "applied")
    assert revision.source == deployments(V1, V2)
    rows = await box.worker.call(box.registry.current)
    assert [row.version for row in rows] == ["v1", "v2"]


async def test_a_plan_says_what_would_change_and_changes_nothing(box: Box, folder: Path) -> None:
    draft = await box.deployer.plan(file_order(deployments(V1, V2), folder).source)
    assert [step.action for step in draft.plan.steps] == [Action.ADD, Action.ADD]
    assert draft.base_revision == 0
    assert all(step.after and step.after.memory_bytes for step in draft.plan.steps)
    assert not box.versions()
    assert not await box.revisions()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("package_type: MDS", "the spec says package_type: MDS, but v1.onnx is of package type ONNX"),
        ("runtime: PYTORCH", "the spec says runtime: PYTORCH, but v1.onnx is of package type ONNX"),
    ],
)
async def test_a_spec_that_contradicts_its_artifact_is_refused(
    box: Box, folder: Path, spec: str, words: str
) -> None:
    text = deployments(V1).replace("{uri: v1.onnx}", f"{{uri: v1.onnx, {spec}}}")
    with pytest.raises(Unprocessable, match=words):
        await box.deployer.apply(file_order(text, folder))


async def test_a_weight_change_reloads_nothing(box: Box, folder: Path) -> None:
    await apply(box, folder, V1, V2)
    before = {id(one.lane) for one in box.fleet.all()}
    outcome = await apply(box, folder, "v1, uri: v1.onnx, weight: 50", "v2, uri: v2.onnx, weight: 50")
    assert outcome.plan is not None
    assert [step.reload for step in outcome.plan.steps] == [False, False]
    assert {id(one.lane) for one in box.fleet.all()} == before
    served = [await box.served_by() for _ in range(100)]
    assert served.count("v1") == 50


async def test_new_bytes_under_the_same_name_are_an_update_that_is_loaded(box: Box, folder: Path) -> None:
    await apply(box, folder, V1)
    before = box.fleet.all()[0].digest
    models.mlp(folder / "v1.onnx", seed=7)
    outcome = await apply(box, folder, V1)
    assert outcome.plan is not None
    [step] = outcome.plan.steps
    assert (step.action, step.reload) == (Action.UPDATE, True)
    served = box.fleet.find("p", "m", "v1")
    assert served is not None
    assert served.digest != before
    assert await box.served_by() == "v1"


async def test_a_version_that_the_file_lacks_is_deleted(box: Box, folder: Path) -> None:
    await apply(box, folder, V1, V2)
    await apply(box, folder, V1)
    assert box.versions() == {"p/m v1": "ready"}
    assert await box.served_by("/projects/p/models/m/versions/v2:predict") is None


async def test_prune_deletes_the_models_that_the_file_lacks(box: Box, folder: Path) -> None:
    await apply(box, folder, V1)
    other = deployments(V2, project="q")
    await box.deployer.apply(file_order(other, folder))
    assert box.versions() == {"p/m v1": "ready", "q/m v2": "ready"}
    await box.deployer.apply(file_order(other, folder, prune=True))
    assert box.versions() == {"q/m v2": "ready"}


async def test_applying_what_is_deployed_changes_nothing_and_makes_no_revision(
    box: Box, folder: Path
) -> None:
    await apply(box, folder, V1)
    outcome = await apply(box, folder, V1)
    assert (outcome.state, outcome.revision) == ("unchanged", 1)
    assert len(await box.revisions()) == 1


@pytest.mark.parametrize("build", [odd_models.truncated, odd_models.unknown_operator, odd_models.crashing])
async def test_a_version_that_fails_its_probe_leaves_the_old_ones_serving(
    box: Box, folder: Path, build: Callable[[Path], Path]
) -> None:
    await apply(box, folder, V1)
    build(folder / "bad.onnx")
    with pytest.raises(LoadFailed, match="p/m v3: "):
        await apply(box, folder, V1, "v3, uri: bad.onnx, weight: 20")
    assert box.versions() == {"p/m v1": "ready"}
    assert await box.served_by() == "v1"
    failed = (await box.revisions())[-1]
    assert (failed.id, failed.state) == (2, "failed")
    assert failed.error is not None and failed.error.startswith("p/m v3: ")


async def test_when_one_version_fails_to_load_the_loaded_ones_are_closed_again(
    tmp_path: Path, folder: Path, prober: Prober
) -> None:
    events: list[Any] = []
    runtime = PickyRuntime("v2.onnx")
    async with open_box(tmp_path / "store", prober, runtime=runtime) as box:
        order = file_order(deployments(V1, "v2, uri: v2.onnx, weight: 20"), folder)
        outcome = await box.deployer.begin(order, progress=events.append)
        assert outcome.state == "failed"
        assert isinstance(outcome.error, LoadFailed)
        assert "p/m v2" in outcome.error.message
        assert outcome.revision == 1
        assert not box.versions()
        told = [(one.version, one.state) for one in events if isinstance(one, StepEvent)]
        assert told == [("v1", "START"), ("v1", "DONE"), ("v2", "START"), ("v2", "FAILED")]
        assert not await box.worker.call(box.registry.current)


@pytest.mark.parametrize(
    ("spec", "at"),
    [
        ("{uri: gone.onnx}", "uri"),
        ("{uri: v1.onnx, runtime: PYTORCH}", "runtime"),
        ("{uri: v1.onnx, confidence: {output: z}}", "confidence: {output"),
        ("{uri: v1.onnx, compare: {output: z}}", "compare: {output"),
        ("{uri: v1.onnx, resource: {gpu: 1}}", "gpu"),
    ],
)
async def test_a_mistake_that_shows_late_has_its_place_too(
    box: Box, folder: Path, spec: str, at: str
) -> None:
    text = deployments("v2, uri: v2.onnx, weight: 1", V1).replace("{uri: v1.onnx}", spec)
    order = file_order(text, folder)
    for attempt in (lambda: box.deployer.plan(order.source), lambda: box.deployer.apply(order)):
        with pytest.raises(MdsliteError) as caught:
            await attempt()
        place = caught.value.place
        assert place is not None
        assert place.line == text.splitlines().index(f"    spec: {spec}") + 1
        before = text.splitlines()[place.line - 1][: (place.column or 0) - 1]
        assert before.rstrip().endswith(f"{at}:")
        assert caught.value.details()["file"] == "deployments.yaml"


@pytest.mark.parametrize("part", ["confidence", "compare"])
async def test_a_plan_of_what_loads_nothing_is_refused_where_it_does_not_fit_the_model(
    box: Box, folder: Path, part: str
) -> None:
    await apply(box, folder, V1)
    text = deployments(V1).replace("{uri: v1.onnx}", f"{{uri: v1.onnx, {part}: {{output: z}}}}")
    with pytest.raises(LoadFailed, match=f'p/m v1: {part}.*no output "z"') as caught:
        await box.deployer.plan(file_order(text, folder).source)
    assert caught.value.hint is not None
    assert caught.value.place is not None and caught.value.place.line == 6
    fine = await box.deployer.plan(file_order(text.replace("output: z", "output: y"), folder).source)
    assert fine.plan.changed and not fine.plan.steps[0].reload


async def test_a_plan_that_could_not_be_carried_out_here_is_refused(box: Box, folder: Path) -> None:
    text = deployments(V1).replace("{uri: v1.onnx}", "{uri: v1.onnx, resource: {gpu: 1}}")
    with pytest.raises(LoadFailed, match=r"p/m v1: .*GPU"):
        await box.deployer.plan(file_order(text, folder).source)


async def test_a_mistake_in_the_file_makes_no_revision(box: Box, folder: Path) -> None:
    with pytest.raises(SpecError, match=r"deployments.yaml:\d+:\d+"):
        await apply(box, folder, "v1, uri: v1.onnx, weight: ten")
    assert not await box.revisions()


async def test_a_missing_model_file_is_a_failed_revision_that_names_the_version(
    box: Box, folder: Path
) -> None:
    with pytest.raises(ArtifactError, match="p/m v9: ") as caught:
        await apply(box, folder, "v9, uri: nowhere.onnx")
    assert caught.value.hint == f"check the uri: a relative one starts at {folder}"
    [revision] = await box.revisions()
    assert revision.state == "failed"


async def test_of_another_fault_with_a_file_the_hint_stays(box: Box, folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ArtifactError, match="is empty") as caught:
        await apply(box, folder, "v9, uri: empty")
    assert "starts at" not in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("operator: NCC", "operator NCC"),
        ("operator: CUSTOM", "operator CUSTOM"),
        ("package_type: DOCKER_IMAGE", "package_type DOCKER_IMAGE"),
        ("source_type: DOCKER_REGISTRY", "source_type DOCKER_REGISTRY"),
    ],
)
async def test_what_this_release_does_not_serve_is_refused_in_plain_words(
    box: Box, folder: Path, spec: str, words: str
) -> None:
    text = deployments(V1).replace("{uri: v1.onnx}", f"{{uri: v1.onnx, {spec}}}")
    with pytest.raises(Unprocessable, match=f"p/m v1: .*{words} is not served .*; expected") as caught:
        await box.deployer.apply(file_order(text, folder))
    assert caught.value.hint is not None and words.split()[0] in caught.value.hint
    assert not await box.revisions()


async def test_a_model_in_object_storage_is_refused_in_plain_words(box: Box, folder: Path) -> None:
    words = r"s3:// is not served .*; expected a path, or an http\(s\) URL"
    with pytest.raises(Unprocessable, match=words) as caught:
        await apply(box, folder, "v1, uri: 's3://bucket/m.onnx'")
    assert "fetch a copy" in (caught.value.hint or "")


async def test_a_knob_that_the_loaded_model_does_not_allow_is_refused_before_the_switch(
    box: Box, folder: Path
) -> None:
    models.identity(folder / "one.onnx", shape=(1, 4))
    await apply(box, folder, "v1, uri: one.onnx")
    text = deployments("v1, uri: one.onnx").replace("one.onnx}", "one.onnx, batch: {batch_size: 8}}")
    with pytest.raises(LoadFailed, match=r"p/m v1: .*batch_size is 8"):
        await box.deployer.apply(file_order(text, folder))
    assert await box.served_by() == "v1"
    assert [one.state for one in await box.revisions()] == ["applied", "failed"]


async def test_an_apply_planned_on_another_revision_is_refused(box: Box, folder: Path) -> None:
    await apply(box, folder, V1)
    with pytest.raises(Conflict, match="revision 1 has been applied since revision 0"):
        await apply(box, folder, V1, V2, expect_revision=0)
    assert (await apply(box, folder, V1, V2, expect_revision=1)).revision == 2


async def test_steps_are_told_in_order_and_those_that_load_nothing_after_the_switch(
    box: Box, folder: Path
) -> None:
    await apply(box, folder, V1, V2)
    models.mlp(folder / "v3.onnx", seed=3)
    told: list[tuple[str, ...]] = []

    def listen(event: Event) -> None:
        if isinstance(event, StepEvent):
            ready = "p/m v3" in box.versions()
            told.append(
                (f"{event.index}/{event.count}", event.action, event.version, event.state, str(ready))
            )

    text = deployments("v1, uri: v1.onnx, weight: 50", "v3, uri: v3.onnx")
    await box.deployer.apply(file_order(text, folder), progress=listen)
    assert told == [
        ("1/3", "ADD", "v3", "START", "False"),
        ("1/3", "ADD", "v3", "DONE", "False"),
        ("2/3", "UPDATE", "v1", "START", "True"),
        ("2/3", "UPDATE", "v1", "DONE", "True"),
        ("3/3", "DELETE", "v2", "START", "True"),
        ("3/3", "DELETE", "v2", "DONE", "True"),
    ]


async def test_fetching_reports_its_bytes(box: Box, folder: Path) -> None:
    events: list[Any] = []
    await box.deployer.apply(file_order(deployments(V1), folder), progress=events.append)
    fetched = [one for one in events if isinstance(one, FetchEvent)]
    assert fetched[-1].done_bytes == fetched[-1].total_bytes == (folder / "v1.onnx").stat().st_size
    assert fetched[-1].uri == str(folder / "v1.onnx")


async def test_a_second_apply_is_refused_while_one_runs(tmp_path: Path, folder: Path, prober: Prober) -> None:
    runtime = GatedRuntime()
    async with open_box(tmp_path / "store", prober, runtime=runtime, turn_wait_s=0.01) as box:
        first = box.deployer.begin(file_order(deployments(V1), folder))
        await runtime.reached()
        assert box.deployer.busy
        with pytest.raises(Conflict, match="another apply"):
            await apply(box, folder, V2)
        runtime.gate.set()
        assert (await first).state == "applied"
        assert not box.deployer.busy


async def test_an_apply_goes_on_when_its_caller_is_cancelled(
    tmp_path: Path, folder: Path, prober: Prober
) -> None:
    runtime = GatedRuntime()
    async with open_box(tmp_path / "store", prober, runtime=runtime) as box:
        caller = asyncio.create_task(apply(box, folder, V1))
        await runtime.reached()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert not box.versions()
        runtime.gate.set()
        assert (await apply(box, folder, V1)).state == "unchanged"  # it waited for its turn
        assert box.versions() == {"p/m v1": "ready"}


async def test_closing_ends_an_apply_that_takes_too_long_and_switches_nothing(
    tmp_path: Path, folder: Path, prober: Prober
) -> None:
    runtime = GatedRuntime()
    async with open_box(tmp_path / "store", prober, runtime=runtime) as box:
        running = box.deployer.begin(file_order(deployments(V1), folder))
        await runtime.reached()
        await box.deployer.close(grace_s=0)
        assert running.cancelled()
        assert not box.versions()
        assert not await box.revisions()
        runtime.gate.set()


async def test_a_load_that_takes_too_long_fails(tmp_path: Path, folder: Path, prober: Prober) -> None:
    runtime = GatedRuntime()
    async with open_box(tmp_path / "store", prober, runtime=runtime, load_timeout_s=0.01) as box:
        with pytest.raises(LoadFailed, match=r"p/m v1: loading it took longer than 0.01 s"):
            await apply(box, folder, V1)
        runtime.gate.set()
