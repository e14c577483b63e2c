"""Where an apply has its models from: tried once, downloaded where that is allowed, served elsewhere; and
what is kept of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import models
import odd_models
import pytest
from applying import V1, V2, apply
from box import Box, deployments, file_order, open_box, undo_order
from doors import Deployed, open_site
from file_server import FileServer, Request, reply
from waiting import until

from mdslite.deploy import intake
from mdslite.errors import ArtifactError, LoadFailed, StorageFull
from mdslite.runtimes.prober import Prober
from mdslite.runtimes.protocol import LoadOptions, ProbeReport, Trial

pytestmark = pytest.mark.anyio


class CountingProber(Prober):
    """Counts what it is asked."""

    asked = 0

    def probe(
        self, runtime: str, path: Path, options: LoadOptions, *, timeout_s: float, trial: Trial | None = None
    ) -> ProbeReport:
        self.asked += 1
        return super().probe(runtime, path, options, timeout_s=timeout_s, trial=trial)


@pytest.mark.parametrize(("slow_s", "asked"), [(0.0, 1), (60.0, 2)])
async def test_a_probe_that_failed_slowly_is_believed_for_a_while(
    folder: Path, monkeypatch: pytest.MonkeyPatch, slow_s: float, asked: int
) -> None:
    monkeypatch.setattr(intake, "FAILURE_SLOW_S", slow_s)
    odd_models.unknown_operator(folder / "bad.onnx")
    said = set()
    with closing(CountingProber()) as prober:
        async with open_box(folder / "store", prober) as box:
            for _ in range(2):
                with pytest.raises(LoadFailed, match="p/m v1: ") as caught:
                    await apply(box, folder, "v1, uri: bad.onnx")
                said.add(caught.value.message)
            assert (prober.asked, len(said)) == (asked, 1)
            assert ("it is tried again" in str(caught.value.hint)) == (asked == 1)

            monkeypatch.setattr(intake, "FAILURE_KEPT_S", 0.0)
            with pytest.raises(LoadFailed):
                await apply(box, folder, "v1, uri: bad.onnx")
            assert prober.asked == asked + 1


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


async def test_a_model_behind_an_internal_address_is_refused_with_the_way_to_allow_it(
    box: Box, folder: Path, web: FileServer
) -> None:
    web.say("/v1.onnx", (folder / "v1.onnx").read_bytes())
    with pytest.raises(ArtifactError) as caught:
        await apply(box, folder, f"v1, uri: '{web.url}/v1.onnx'")
    assert "p/m v1: " in caught.value.message
    assert f"--allow-internal {web.host}" in f"{caught.value.message} {caught.value.hint}"


async def test_a_model_behind_an_allowed_address_is_downloaded_and_served(
    tmp_path: Path, folder: Path, web: FileServer, prober: Prober
) -> None:
    web.say("/v1.onnx", (folder / "v1.onnx").read_bytes())
    async with open_box(tmp_path / "store", prober, allow_internal=(web.host,)) as box:
        await apply(box, folder, f"v1, uri: '{web.url}/v1.onnx'", "v2, uri: v1.onnx")
        first, second = box.fleet.all()
        assert first.digest == second.digest  # the same bytes, wherever they come from
        assert first.state == "ready"


async def test_a_plan_that_nobody_waits_for_any_more_is_not_downloaded_for(
    tmp_path: Path, folder: Path, web: FileServer, prober: Prober
) -> None:
    gone = threading.Event()

    def stall(_: Request, send: Callable[[bytes], None]) -> None:
        send(reply(b"the first bytes", headers={"content-length": "1000000"}))
        gone.wait(20)

    web.pages["/v1.onnx"] = stall
    async with open_box(tmp_path / "store", prober, allow_internal=(web.host,)) as box:
        source = file_order(deployments(f"v1, uri: '{web.url}/v1.onnx'"), folder).source
        planning = asyncio.create_task(box.deployer.plan(source))
        await until(lambda: list(box.artifacts.root.glob(".staging/*")))
        planning.cancel()
        try:
            await until(lambda: not list(box.artifacts.root.glob(".staging/*")), limit_s=10)
        finally:
            gone.set()


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
