"""Who waits for whom: models that are fetched and tried hold up nobody who needs none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import models
import psutil  # type: ignore[import-untyped]
import pytest
from applying import V1, V2, apply
from box import Box, deployments, file_order, open_box
from file_server import FileServer, SlowFile
from waiting import until

from mdslite.deploy.orders import FileSource, Order, Outcome, RevisionSource, WeightsSource, wanted_of
from mdslite.deploy.residence import unload_model
from mdslite.errors import Conflict, Unavailable
from mdslite.runtimes.prober import Prober

pytestmark = pytest.mark.anyio


@pytest.fixture
async def box(tmp_path: Path, prober: Prober, web: FileServer, folder: Path) -> AsyncIterator[Box]:
    async with open_box(tmp_path / "store", prober, allow_internal=(web.host,), turn_wait_s=0.05) as box:
        await apply(box, folder, V1, V2)
        yield box


@pytest.fixture
def slow(folder: Path, web: FileServer) -> SlowFile:
    content = models.mlp(folder / "far.onnx", (4, 20_000, 3)).read_bytes()
    web.pages["/far.onnx"] = slow = SlowFile(content)
    return slow


def order_of_another(folder: Path, web: FileServer) -> Order:
    """Two versions of another model: one that is there at once, and one that takes its time."""
    models.mlp(folder / "near.onnx", (4, 5, 3), seed=9)
    text = deployments("near, uri: near.onnx", f"far, uri: '{web.url}/far.onnx', weight: 0", project="q")
    return file_order(text, folder)


async def reweigh(box: Box, **weights: float) -> Outcome:
    return await box.deployer.apply(Order(WeightsSource("p", "m", weights), author="bob"))


async def weights_of(box: Box) -> dict[str, float]:
    rows = await box.worker.call(box.registry.current)
    return {f"{row.project} {row.version}": wanted_of(row).spec.service_info.weight for row in rows}


async def test_a_plan_that_fetches_holds_up_no_change_that_needs_no_model(
    box: Box, folder: Path, web: FileServer, slow: SlowFile
) -> None:
    planning = asyncio.create_task(box.deployer.plan(order_of_another(folder, web).source))
    await until(slow.asked.is_set)
    assert (await reweigh(box, v1=60, v2=40)).revision == 2
    assert (await box.deployer.apply(Order(RevisionSource("previous"), author="ann"))).revision == 3
    await unload_model(box.deployer, box.fleet, "p", "m")
    assert (await apply(box, folder, "v1, uri: v1.onnx, weight: 100")).plan is not None
    models.mlp(folder / "v3.onnx", seed=3)
    with pytest.raises(Conflict, match="another plan or apply has been fetching or trying models"):
        await apply(box, folder, "v3, uri: v3.onnx")
    slow.go_on.set()
    assert (await planning).plan.changed


async def test_what_was_applied_while_an_apply_fetched_stays_and_so_does_what_it_fetched(
    box: Box, folder: Path, web: FileServer, slow: SlowFile
) -> None:
    applying = asyncio.create_task(box.deployer.apply(order_of_another(folder, web)))
    await until(slow.asked.is_set)
    assert (await reweigh(box, v1=60, v2=40)).state == "applied"
    slow.go_on.set()
    outcome = await applying
    assert (outcome.state, outcome.revision) == ("applied", 3)
    assert await weights_of(box) == {"p v1": 60.0, "p v2": 40.0, "q near": 100.0, "q far": 0.0}
    assert set(box.versions().values()) == {"ready"}


async def test_a_stop_ends_what_fetches_and_makes_no_failed_revision(
    box: Box, folder: Path, web: FileServer, slow: SlowFile
) -> None:
    applying = box.deployer.begin(order_of_another(folder, web))
    await until(slow.asked.is_set)
    box.deployer.end_drafts()
    with pytest.raises(Unavailable, match="was stopped before"):
        await applying
    with pytest.raises(Unavailable, match="was stopped before"):
        await box.deployer.plan(FileSource(deployments(V1), "deployments.yaml", folder))
    assert len(await box.revisions()) == 1
    slow.go_on.set()


async def test_a_plan_whose_caller_leaves_ends_the_process_that_tries_its_model(
    tmp_path: Path, folder: Path
) -> None:
    models.loop(folder / "endless.onnx", endless=True)
    prober = Prober()
    async with open_box(tmp_path / "another", prober) as box:
        planning = asyncio.create_task(
            box.deployer.plan(file_order(deployments("v1, uri: endless.onnx"), folder).source)
        )
        await until(lambda: prober.pid)
        zygote = psutil.Process(prober.pid)
        (child,) = await until(zygote.children)
        planning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await planning
        await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        assert (await apply(box, folder, V1)).state == "applied"
    prober.close()
