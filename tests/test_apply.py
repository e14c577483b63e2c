from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import models
import pytest
from box import Box, GatedRuntime, PickyRuntime, deployments, file_order, open_box, undo_order
from doors import Deployed, open_site

from mdslite.deploy import intake
from mdslite.deploy.events import FetchEvent, StepEvent
from mdslite.deploy.orders import Order, Outcome, WeightsSource
from mdslite.deploy.plan import Action
from mdslite.errors import (
    ArtifactError,
    Conflict,
    LoadFailed,
    MdsliteError,
    NotFound,
    SpecError,
    StorageFull,
    Unprocessable,
)
from mdslite.runtimes.prober import Prober
from mdslite.runtimes.protocol import LoadOptions, ProbeReport

pytestmark = pytest.mark.anyio


V1 = "v1, uri: v1.onnx, weight: 80"
V2 = "v2, uri: v2.onnx, weight: 20"


async def apply(box: Box, folder: Path, *versions: str, **options: Any) -> Outcome:
    return await box.deployer.apply(file_order(deployments(*versions), folder, **options))


def damage(box: Box, digest: str) -> None:
    """Flip a byte of a stored artifact."""
    path = box.artifacts.open(digest)
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


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
        ("isolation: process", "isolation: process, but ONNX models run inside the appliance"),
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


@pytest.mark.parametrize("build", [models.truncated, models.unknown_operator, models.crashing])
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


class CountingProber(Prober):
    """Counts what it is asked."""

    asked = 0

    def probe(self, runtime: str, path: Path, options: LoadOptions, *, timeout_s: float) -> ProbeReport:
        self.asked += 1
        return super().probe(runtime, path, options, timeout_s=timeout_s)


@pytest.mark.parametrize(("slow_s", "asked"), [(0.0, 1), (60.0, 2)])
async def test_a_probe_that_failed_slowly_is_believed_for_a_while(
    folder: Path, monkeypatch: pytest.MonkeyPatch, slow_s: float, asked: int
) -> None:
    monkeypatch.setattr(intake, "FAILURE_SLOW_S", slow_s)
    models.truncated(folder / "bad.onnx")
    said = set()
    with closing(CountingProber()) as prober:
        async with open_box(folder / "store", prober) as box:
            for _ in range(2):
                with pytest.raises(LoadFailed, match="p/m v1: ") as caught:
                    await apply(box, folder, "v1, uri: bad.onnx")
                said.add((caught.value.message, caught.value.hint))
            assert (prober.asked, len(said)) == (asked, 1)

            monkeypatch.setattr(intake, "FAILURE_KEPT_S", 0.0)
            with pytest.raises(LoadFailed):
                await apply(box, folder, "v1, uri: bad.onnx")
            assert prober.asked == asked + 1


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
        ("{uri: v1.onnx, confidence: {output: z}}", "confidence"),
        ("{uri: v1.onnx, resource: {gpu: 1}}", "gpu"),
        ("{uri: v1.onnx, isolation: process}", "isolation"),
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

    def listen(event: FetchEvent | StepEvent) -> None:
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


async def test_the_same_bytes_are_probed_once(tmp_path: Path, folder: Path) -> None:
    class CountingProber(Prober):
        count = 0

        def probe(self, *args: Any, **options: Any) -> ProbeReport:
            self.count += 1
            return super().probe(*args, **options)

    prober = CountingProber()
    try:
        async with open_box(tmp_path / "store", prober) as box:
            await apply(box, folder, V1, "twin, uri: v1.onnx, weight: 0")
        async with open_box(tmp_path / "store", prober) as box:
            assert box.versions() == {"p/m v1": "ready", "p/m twin": "ready"}
        assert prober.count == 1
    finally:
        prober.close()


async def test_the_process_that_tries_models_is_ended_when_nothing_is_tried_for_a_while(
    tmp_path: Path, folder: Path
) -> None:
    class WatchedProber(Prober):
        closed = threading.Event()

        def close(self) -> None:
            super().close()
            self.closed.set()

    with closing(WatchedProber()) as prober:
        async with open_box(tmp_path / "store", prober, rest_s=0) as box:
            await apply(box, folder, V1)
            assert await asyncio.to_thread(prober.closed.wait, 20)
            await apply(box, folder, V2)  # and started again


@pytest.fixture
def web(folder: Path) -> Iterator[str]:
    """An HTTP server on the loopback that gives out the folder; its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_a_model_behind_an_internal_address_is_refused_with_the_way_to_allow_it(
    box: Box, folder: Path, web: str
) -> None:
    with pytest.raises(ArtifactError) as caught:
        await apply(box, folder, f"v1, uri: 'http://{web}/v1.onnx'")
    assert "p/m v1: " in caught.value.message
    assert f"--allow-internal {web}" in f"{caught.value.message} {caught.value.hint}"


async def test_a_model_behind_an_allowed_address_is_downloaded_and_served(
    tmp_path: Path, folder: Path, web: str, prober: Prober
) -> None:
    async with open_box(tmp_path / "store", prober, allow_internal=(web,)) as box:
        await apply(box, folder, f"v1, uri: 'http://{web}/v1.onnx'", "v2, uri: v1.onnx")
        first, second = box.fleet.all()
        assert first.digest == second.digest  # the same bytes, wherever they come from
        assert first.state == "ready"


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
    damage(box, digest)
    with pytest.raises(ArtifactError, match="p/m v1: "):
        await box.deployer.plan(undo_order().source)
    with pytest.raises(ArtifactError, match="p/m v1: "):
        await box.deployer.apply(undo_order())
    assert box.versions() == {"p/m v2": "ready"}
    assert (await box.revisions())[-1].state == "failed"


async def test_the_last_file_is_remembered_across_an_undo(box: Box, folder: Path) -> None:
    assert await box.deployer.last_file() is None
    await apply(box, folder, V1)
    await apply(box, folder, V2)
    await box.deployer.apply(undo_order())
    assert await box.deployer.last_file() == deployments(V2)


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
        damage(box, box.fleet.all()[0].digest)
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


# The store


async def test_what_was_only_planned_is_removed_and_what_was_ever_applied_is_kept(
    box: Box, folder: Path
) -> None:
    await apply(box, folder, V1)
    [first] = box.artifacts.digests()
    models.mlp(folder / "v3.onnx", seed=3)
    draft = await box.deployer.plan(file_order(deployments("v3, uri: v3.onnx"), folder).source)
    planned = draft.plan.steps[0].after
    assert planned is not None
    assert planned.digest in box.artifacts.digests()
    await apply(box, folder, V2)
    assert planned.digest not in box.artifacts.digests()
    assert first in box.artifacts.digests()


async def test_on_a_full_disk_nothing_is_switched_and_an_apply_works_again_when_there_is_room(
    box: Box, folder: Path
) -> None:
    await apply(box, folder, V1)

    def limit_pages(spare: int) -> None:
        connection = box.registry._db.conn
        pages = connection.execute("pragma page_count").fetchone()[0]
        connection.execute(f"pragma max_page_count = {pages + spare}")

    long = deployments(V1, V2) + "# " + "x" * 200_000 + "\n"
    await box.deployer.plan(file_order(long, folder).source)
    await box.worker.call(limit_pages, 0)
    outcome = await box.deployer.begin(file_order(long, folder))
    assert isinstance(outcome.error, StorageFull)
    assert outcome.revision is None
    assert box.versions() == {"p/m v1": "ready"}
    assert await box.served_by() == "v1"
    await box.worker.call(limit_pages, 1000)
    assert (await box.deployer.apply(file_order(long, folder))).state == "applied"
    assert box.versions() == {"p/m v1": "ready", "p/m v2": "ready"}


async def test_a_version_that_is_served_elsewhere_is_deployed_changed_and_undone(
    box: Box, folder: Path, tmp_path: Path
) -> None:
    async with open_site(tmp_path, Deployed(models.identity(tmp_path / "far.onnx"))) as far:
        url = f"http://127.0.0.1:{far.address[1]}"
        text = (
            "deployments:\n- project: p\n  model: m\n  versions:\n  - version: v9\n    spec:\n"
            f"      uri: elsewhere\n      service_info: {{endpoints_infos: [{{url: '{url}'}}]}}\n"
        )
        outcome = await box.deployer.apply(file_order(text, folder))
        assert outcome.state == "applied"
        assert box.versions() == {"p/m v9": "ready"}
        assert await box.served_by() == "v9"
        assert (await box.deployer.apply(file_order(text, folder))).state == "unchanged"
        wrong = text.replace(url, "ftp://x")
        with pytest.raises(LoadFailed, match="expected an http") as caught:
            await box.deployer.apply(file_order(wrong, folder))
        assert caught.value.place is not None
        assert caught.value.place.line == 8
        await apply(box, folder, V1)
        await box.deployer.apply(undo_order(1))
        assert box.versions() == {"p/m v9": "ready"}


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
