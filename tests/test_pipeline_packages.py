"""Pipelines of real handlers in processes of their own: loading, serving, losing and rebuilding them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from doors import open_site
from far_sites import gateway, oip, to
from h1_client import ROW, predict
from h1_client import request as http_request
from handlers import CONFIDENCE, PIPELINE, SHOUT, examine, request_for, serving, write_pipeline
from msgspec import structs
from waiting import until

from mdslite.api.views import models_of
from mdslite.errors import LoadFailed, ModelError, SpecError
from mdslite.metrics import Metrics
from mdslite.serving.pipeline import PipelineLane
from mdslite.spec import Batch, Confidence, ServiceInfo


def texts(*values: str) -> dict[str, Any]:
    return {"instances": list(values)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "package")


@pytest.mark.parametrize("isolation", ["process", "inline"])
def test_instances_go_through_the_handlers_in_order(
    folder: Path, isolation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with serving(request_for(folder, isolation=isolation)) as here:
            found = await here.ask(texts("a b", "c", "d e f"))
            assert [one["shouted"] for one in found["predictions"]] == ["A B", "C", "D E F"]
            assert await here.ask("one text") == {"shouted": "ONE TEXT", "confidence": 0.5}
            served = here.served
            assert served.lane.knobs.prediction_s == 30
            assert here.rows[0][CONFIDENCE] == pytest.approx(1 / 3)  # the least confidence
            assert served.runtime == "PYTHON"

    monkeypatch.setenv("HEALTH", str(folder))  # inline code sees the appliance's own variables
    asyncio.run(test())


def test_what_is_known_of_a_pipeline_before_it_is_loaded(folder: Path) -> None:
    report = examine(folder)
    assert report.pipeline is not None and report.package is None
    assert report.pipeline.name == "shouting"
    assert report.pipeline.handlers["parts.count"].batch_size == 8
    assert report.pipeline.handlers["parts.shout"].has_check
    assert report.memory_bytes > 0


def test_the_admin_api_draws_it(folder: Path) -> None:
    async def test() -> None:
        async with serving(request_for(folder)) as here:
            parts = SimpleNamespace(fleet=here.fleet, metrics=Metrics())
            ((version,),) = [model.versions for model in models_of(parts, [])]
            assert version.pipeline is not None
            assert "●  count  parts.count  → shout" in version.pipeline.drawing
            count, shout = version.pipeline.nodes
            assert (count.node, count.runs, count.replicas) == ("count", "parts.count", 1)
            assert (count.batch_size, count.prediction_time_ms) == (8, 20000)
            assert (shout.batch_size, shout.prediction_time_ms) == (1, None)
            assert version.batch.batch_size is None
            assert version.batch.prediction_time_ms == 30000

    asyncio.run(test())


def test_a_handlers_error_names_the_node_and_is_that_requests_alone(folder: Path) -> None:
    async def test() -> None:
        async with serving(request_for(folder)) as here:
            bad, good = await asyncio.gather(
                here.ask(texts("fine", "fail"), status=500), here.ask(texts("fine"))
            )
            assert bad["error"] == "node shout: ValueError: nothing to shout"
            assert bad["code"] == "model_error"
            assert good["predictions"][0]["shouted"] == "FINE"
            wrong = await here.ask(texts(1), status=500)  # type: ignore[arg-type]
            assert wrong["error"].startswith("node count: AttributeError: ")

    asyncio.run(test())


def test_a_handler_that_dies_is_rebuilt(folder: Path) -> None:
    async def test() -> None:
        async with serving(request_for(folder), rebuild_delays_s=(0.01,)) as here:
            gone = await here.ask(texts("die"), status=503)
            assert gone["error"].startswith("node shout: ")
            await until(lambda: here.served.state == "unhealthy")
            assert "rebuilt" in (here.served.reason or "")
            await until(lambda: here.served.state == "ready")
            assert (await here.ask(texts("up")))["predictions"][0]["shouted"] == "UP"

    asyncio.run(test())


def test_a_handler_that_is_not_well_takes_the_pipeline_out_until_it_recovers(folder: Path) -> None:
    async def test() -> None:
        async with serving(request_for(folder), check_every_s=0.02) as here:
            moved = await asyncio.to_thread(folder.rename, folder.with_name("away"))
            await until(lambda: here.served.state == "unhealthy")
            await here.ask(texts("x"), status=503)
            await asyncio.to_thread(moved.rename, folder)
            await until(lambda: here.served.state == "ready")
            await here.ask(texts("x"))

    asyncio.run(test())


def test_the_time_for_the_whole_way_is_the_specs_and_changes_without_loading_again(folder: Path) -> None:
    async def test() -> None:
        async with serving(request_for(folder, batch=Batch(prediction_time_ms=4000))) as here:
            assert here.served.lane.knobs.prediction_s == 4
            spec = structs.replace(here.served.spec, batch=Batch(prediction_time_ms=5000))
            here.fleet.switch(respecced=[(here.served.key, spec)])
            assert here.served.lane.knobs.prediction_s == 5
            spec = structs.replace(spec, confidence=Confidence(field="words"))
            here.fleet.switch(respecced=[(here.served.key, spec)])
            await here.ask(texts("a b"))
            assert here.rows[-1][CONFIDENCE] == 2

    asyncio.run(test())


@pytest.mark.parametrize("batch", [Batch(batch_size=4), Batch(batch_timeout_ms=4)])
def test_a_pipeline_has_no_batch_size_of_its_own(folder: Path, batch: Batch) -> None:
    async def test() -> None:
        with pytest.raises(LoadFailed, match="each node of a pipeline batches on its own") as caught:
            async with serving(request_for(folder, batch=batch)):
                pass
        assert "@mds.batch" in (caught.value.hint or "")

    asyncio.run(test())


def test_every_replica_is_one_of_each_handler(folder: Path) -> None:
    async def test() -> None:
        async with serving(request_for(folder, service_info=ServiceInfo(replicas=2))) as here:
            lane = here.served.lane
            assert isinstance(lane, PipelineLane)
            assert [replica.name for replica in lane.replicas] == [
                "count/0", "count/1", "shout/0", "shout/1",
            ]  # fmt: skip

    asyncio.run(test())


@pytest.mark.parametrize("make", [to, oip])
def test_a_node_may_be_served_elsewhere(tmp_path: Path, make: Any) -> None:
    async def test() -> None:
        text = "pipeline: {name: p, nodes: [{name: there, model: p/far}, {name: again, model: p/far@v1}]}"
        package = await asyncio.to_thread(write_pipeline, tmp_path / "package", text)
        request = await asyncio.to_thread(request_for, package)
        async with open_site(tmp_path) as far, gateway(tmp_path / "near", make(far)) as (near, _):
            near.fleet.switch(added=[await near.fleet.load(request)])
            reply = await near.ask(predict([ROW, [4.0, 5.0, 6.0]], target="/projects/p/models/pipe:predict"))
            assert reply.json == {"predictions": [ROW, [4.0, 5.0, 6.0]]}
            (row,) = near.logged
            for span in json.loads(row["spans"]):
                assert span["upstream_ms"] > 0
                assert (span["rows"], span["version"]) == (2, "v1")
            assert len(far.rows) == 2

    asyncio.run(test())


def test_a_raw_body_reaches_a_package_that_is_served_elsewhere(tmp_path: Path, folder: Path) -> None:
    async def test() -> None:
        taking = Taking()
        text = "pipeline: {name: p, nodes: [{name: there, model: p/far}]}"
        package = await asyncio.to_thread(write_pipeline, tmp_path / "outer", text)
        request = await asyncio.to_thread(request_for, package)
        async with open_site(tmp_path) as far, gateway(tmp_path / "near", to(far)) as (near, served):
            served.lane._speech.ask = taking.ask  # type: ignore[union-attr, method-assign]
            near.fleet.switch(added=[await near.fleet.load(request)])
            await near.ask(
                http_request(
                    "POST", "/projects/p/models/pipe:predict", b"PNG", headers=[("content-type", "image/png")]
                )
            )
        (columns,) = taking.columns
        assert columns.form == "value"
        assert columns.columns[0][0].content_type == "image/png"

    asyncio.run(test())


class Taking:
    """Keeps what a remote version is asked, and asks for nothing."""

    def __init__(self) -> None:
        self.columns: list[Any] = []

    def ask(self, columns: Any) -> Any:
        self.columns.append(columns)
        raise ModelError("taken")


class TestWhatIsRefused:
    def test_a_mistake_in_pipeline_yaml(self, tmp_path: Path) -> None:
        folder = write_pipeline(tmp_path / "package", PIPELINE.replace("parts.shout", "parts.shuot"))
        with pytest.raises(SpecError, match=r"^pipeline\.yaml:8:39: handler_module: there is no") as caught:
            examine(folder)
        assert caught.value.hint == "did you mean parts.shout?"

    def test_a_module_without_a_class(self, tmp_path: Path) -> None:
        folder = write_pipeline(tmp_path / "package", shout="import mds\n")
        with pytest.raises(LoadFailed, match=r"^node shout: handler_module parts\.shout holds no class"):
            examine(folder)

    def test_a_handler_that_cannot_be_imported(self, tmp_path: Path) -> None:
        folder = write_pipeline(tmp_path / "package", shout=SHOUT.replace("import os", "import nowhere"))
        with pytest.raises(LoadFailed, match=r"^node shout: parts/shout\.py:2: .*nowhere"):
            examine(folder)

    def test_a_handler_that_cannot_be_built_leaves_nothing_behind(self, folder: Path) -> None:
        async def test() -> None:
            request = request_for(folder)
            broken = write_pipeline(
                folder.with_name("broken"),
                shout=SHOUT.replace("healthy = True", "def __init__(self): raise OSError('no room')"),
            )
            before = set(asyncio.all_tasks())
            with pytest.raises(LoadFailed, match="no room"):
                async with serving(replace(request, path=broken)):
                    pass
            assert set(asyncio.all_tasks()) == before

        asyncio.run(test())
