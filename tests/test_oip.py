"""The Open Inference Protocol beside infer: what servers and models say of themselves, load and unload."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import time
from typing import Any

import models
import pytest
from applying import V1, V2, apply
from box import Box, Caller, GatedRuntime, PickyRuntime, open_box
from waiting import answered, until

from mdslite.api import oip_views
from mdslite.errors import LoadFailed, NotFound, Unavailable
from mdslite.runtimes.prober import Prober

pytestmark = pytest.mark.anyio

INFER = "/v2/models/p.m/infer"
X4 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [1, 2, 3, 4, 5, 6, 7, 8]}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (1, 2):
        models.mlp(tmp_path / f"v{number}.onnx", seed=number)
    return tmp_path


@pytest.fixture
async def box(folder: Path, prober: Prober) -> AsyncIterator[Box]:
    """`p/m` with v1, which takes most traffic, and v2."""
    async with open_box(folder / "store", prober) as box:
        await apply(box, folder, V1, V2)
        yield box


# Server and health


async def test_the_server_names_itself_and_its_extensions(caller: Caller) -> None:
    server = (await caller.get("/v2")).json
    assert server["name"] == "mdslite"
    assert "binary_tensor_data" in server["extensions"]


async def test_it_is_live_and_ready_until_it_drains(box: Box, caller: Caller) -> None:
    assert (await caller.get("/v2/health/live")).json == {"live": True}
    assert (await caller.get("/v2/health/ready")).json == {"ready": True}
    assert (await caller.get("/v2/models/p.m/ready")).json == {"ready": True, "name": "p.m"}
    box.draining = True
    heard = await caller.get("/v2/health/ready")
    assert (heard.status, heard.json) == (503, {"ready": False})
    assert (await caller.get("/v2/models/p.m/ready")).status == 503
    assert (await caller.get("/v2/health/live")).status == 200


async def test_a_model_is_ready_while_a_version_takes_its_traffic(folder: Path, prober: Prober) -> None:
    async with open_box(folder / "store", prober) as box:
        idle = "v2, uri: v2.onnx, weight: 0"
        await apply(box, folder, V1, idle)
        caller = Caller(box.app)
        ready = {"v1": True, "v2": True}
        for version, expected in ready.items():
            heard = await caller.get(f"/v2/models/p.m/versions/{version}/ready")
            assert heard.json["ready"] is expected
        served = box.fleet.find("p", "m", "v1")
        assert served is not None
        served.state = "unhealthy"
        heard = await caller.get("/v2/models/p.m/ready")
        assert (heard.status, heard.json["ready"]) == (503, False)
        assert (await caller.get("/v2/models/p.m/versions/v2/ready")).status == 200


# Metadata and configuration


async def test_a_model_tells_its_tensors(caller: Caller) -> None:
    for url in ("/v2/models/p.m", "/v2/models/p.m/versions/v2", "/v2/models/p%2Em"):
        assert (await caller.get(url)).json == {
            "name": "p.m",
            "versions": ["v1", "v2"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
        }


async def test_a_version_tells_its_configuration(caller: Caller) -> None:
    config = (await caller.get("/v2/models/p.m/versions/v1/config")).json
    assert config["name"] == "p.m"
    assert config["max_batch_size"] == 32
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4], "optional": False}]
    assert config["output"][0]["dims"] == [3]
    assert config["instance_group"] == [{"name": "p.m cpu", "kind": "KIND_CPU", "count": 1, "gpus": []}]
    assert config["dynamic_batching"] == {"max_queue_delay_microseconds": 2000}
    assert config["version_policy"] == {"specific": {"versions": ["v1"]}}
    assert (await caller.get("/v2/models/p.m/config")).json == config  # v1 has most of the traffic


@pytest.mark.parametrize(
    ("build", "shape", "dims", "batch"),
    [
        (lambda path: models.identity(path, shape=(1, 3)), [-1, 3], [3], 1),
        (lambda path: models.total(path), [3], [3], 0),
        (lambda path: models.identity(path, "BYTES", shape=("N", "L")), [-1, -1], [-1], 32),
    ],
)
async def test_rows_and_free_dimensions_are_told(
    folder: Path, prober: Prober, build: Any, shape: list[int], dims: list[int], batch: int
) -> None:
    build(folder / "other.onnx")
    async with open_box(folder / "store", prober) as box:
        await apply(box, folder, "v1, uri: other.onnx")
        caller = Caller(box.app)
        assert (await caller.get("/v2/models/p.m")).json["inputs"][0]["shape"] == shape
        config = (await caller.get("/v2/models/p.m/config")).json
        assert (config["input"][0]["dims"], config["max_batch_size"]) == (dims, batch)


async def test_maps_are_told_as_strings(folder: Path, prober: Prober) -> None:
    models.classifier(folder / "scikit.onnx")
    async with open_box(folder / "store", prober) as box:
        await apply(box, folder, "v1, uri: scikit.onnx")
        caller = Caller(box.app)
        outputs = (await caller.get("/v2/models/p.m")).json["outputs"]
        assert [(one["name"], one["datatype"]) for one in outputs] == [
            ("label", "BYTES"),
            ("probabilities", "BYTES"),
        ]
        assert (await caller.get("/v2/models/p.m/config")).json["output"][1]["data_type"] == "TYPE_STRING"


@pytest.mark.parametrize("tail", ["", "/ready", "/config", "/stats"])
@pytest.mark.parametrize(
    ("name", "status"),
    [("p.nobody", 404), ("p.m/versions/v9", 404), ("nobody", 400), ("..", 400), ("p.m.x", 400)],
)
async def test_a_model_that_is_not_there_is_named(caller: Caller, name: str, status: int, tail: str) -> None:
    heard = await caller.get(f"/v2/models/{name}{tail}")
    assert heard.status == status
    assert heard.json.keys() >= {"error", "code", "request_id"}


# Statistics


async def test_statistics_count_what_was_computed(box: Box, caller: Caller) -> None:
    before = time()
    for _ in range(3):
        assert (await caller.post("/v2/models/p.m/versions/v1/infer", X4)).status == 200
    wrong = {"inputs": [{**X4["inputs"][0], "datatype": "FP64"}]}
    assert (await caller.post("/v2/models/p.m/versions/v1/infer", wrong)).status == 400
    await asyncio.to_thread(box.journal.flush, timeout_s=10)
    (found,) = (await caller.get("/v2/models/p.m/versions/v1/stats")).json["model_stats"]
    assert (found["name"], found["version"]) == ("p.m", "v1")
    assert (found["inference_count"], found["execution_count"]) == (6, 3)
    assert [(one["batch_size"], one["compute_infer"]["count"]) for one in found["batch_stats"]] == [(2, 3)]
    times = found["inference_stats"]
    assert (times["success"]["count"], times["fail"]["count"]) == (3, 1)
    assert 0 < times["compute_infer"]["ns"] <= times["success"]["ns"]
    assert found["last_inference"] >= int(before) * 1000


async def test_statistics_are_of_a_version_a_model_or_all(caller: Caller) -> None:
    for url in ("/v2/models/p.m/stats", "/v2/models/stats"):
        found = (await caller.get(url)).json["model_stats"]
        assert [one["version"] for one in found] == ["v1", "v2"]
        assert found[0]["last_inference"] == found[0]["inference_stats"]["success"]["count"] == 0


# The repository


async def index(caller: Caller, **body: Any) -> dict[str, str]:
    heard = await caller.post("/v2/repository/index", body or b"")
    assert heard.status == 200
    assert {one["name"] for one in heard.json} <= {"p.m"}
    return {one["version"]: one["state"] for one in heard.json}


async def load(caller: Caller, what: str = "load", name: str = "p.m", body: Any = b"") -> Any:
    return await caller.post(f"/v2/repository/models/{name}/{what}", body)


async def test_an_unloaded_model_answers_nothing_until_it_is_loaded_again(box: Box, caller: Caller) -> None:
    assert await index(caller) == {"v1": "READY", "v2": "READY"}
    assert (await load(caller, "unload", body={"parameters": {"unload_dependents": False}})).status == 200
    assert await index(caller) | {} == {"v1": "UNAVAILABLE", "v2": "UNAVAILABLE"}
    assert await index(caller, ready=True) == {}
    refused = await caller.post(INFER, X4)
    assert (refused.status, refused.json["hint"]) == (503, "mdslite load p/m")
    assert refused.json["error"].endswith("is ready to take its traffic: unloaded are v1, v2")
    named = await caller.post("/projects/p/models/m/versions/v1:predict", {"instances": []})
    assert (named.status, named.json["error"], named.json["hint"]) == (
        503, "p/m v1 was unloaded", "mdslite load p/m",
    )  # fmt: skip
    assert (await caller.get("/v2/models/p.m/ready")).status == 503
    heard = await caller.get("/v2/models/p.m")
    assert (heard.status, heard.json["code"], heard.json["hint"]) == (503, "unavailable", "mdslite load p/m")
    assert (await caller.get("/v2/models/p.m/stats")).json["model_stats"][0]["execution_count"] == 0
    assert (await caller.get("/api/v1/models")).json[0]["versions"][0]["state"] == "unloaded"

    assert (await load(caller)).status == 200
    assert await index(caller) == {"v1": "READY", "v2": "READY"}
    assert (await caller.post(INFER, X4)).status == 200
    assert len(await box.revisions()) == 1


async def test_what_is_in_progress_is_answered_by_a_model_that_is_unloaded(
    folder: Path, prober: Prober
) -> None:
    models.loop(folder / "loop.onnx")
    async with open_box(folder / "store", prober) as box:
        await apply(box, folder, "v1, uri: loop.onnx")
        turns = {"inputs": [{"name": "turns", "datatype": "INT64", "shape": [1, 1], "data": [20_000]}]}
        asking = asyncio.create_task(Caller(box.app).post(INFER, turns))
        served = box.fleet.find("p", "m", "v1")
        assert served is not None
        await until(lambda: served.lane.running)
        await load(Caller(box.app), "unload")
        assert (await asking).status == 200


async def test_to_load_what_is_loaded_changes_nothing(box: Box, caller: Caller) -> None:
    before = box.fleet.find("p", "m", "v1")
    assert (await load(caller)).status == 200
    assert box.fleet.find("p", "m", "v1") is before


async def test_an_apply_that_changes_a_version_loads_it(box: Box, caller: Caller, folder: Path) -> None:
    await load(caller, "unload")
    reloaded = "v1, uri: v2.onnx, weight: 80"
    await apply(box, folder, reloaded, "v2, uri: v2.onnx, weight: 10")
    assert await index(caller) == {"v1": "READY", "v2": "UNAVAILABLE"}


async def test_a_restart_loads_what_was_unloaded(folder: Path, prober: Prober) -> None:
    async with open_box(folder / "store", prober) as box:
        await apply(box, folder, V1)
        await load(Caller(box.app), "unload")
    async with open_box(folder / "store", prober) as box:
        assert await index(Caller(box.app)) == {"v1": "READY"}


async def test_a_model_that_does_not_load_stays_as_it_is(folder: Path, prober: Prober) -> None:
    runtime = PickyRuntime("")
    async with open_box(folder / "store", prober, runtime=runtime) as box:
        await apply(box, folder, V1, V2)
        caller = Caller(box.app)
        await load(caller, "unload")
        served = box.fleet.find("p", "m", "v2")
        assert served is not None
        path = await box.intake.open(served.digest)
        runtime._refused = path.name
        heard = await load(caller)
        assert (heard.status, heard.json["code"]) == (422, LoadFailed.code)
        assert await index(caller) == {"v1": "UNAVAILABLE", "v2": "UNAVAILABLE"}


async def test_a_load_goes_on_when_its_caller_leaves(folder: Path, prober: Prober) -> None:
    runtime = GatedRuntime()
    runtime.gate.set()
    async with open_box(folder / "store", prober, runtime=runtime) as box:
        await apply(box, folder, V1)
        caller = Caller(box.app)
        await load(caller, "unload")
        runtime.gate.clear()
        runtime.waiting.clear()
        loading = asyncio.create_task(load(Caller(box.app)))
        await runtime.reached()
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        runtime.gate.set()

        async def is_ready() -> bool:
            return await index(caller) == {"v1": "READY"}

        await answered(is_ready)


@pytest.mark.parametrize("what", ["load", "unload"])
async def test_only_what_is_deployed_can_be_loaded(caller: Caller, what: str) -> None:
    assert (await load(caller, what, "p.nobody")).status == 404
    heard = await load(caller, what, body={"parameters": {"config": "{}"}})
    assert (heard.status, heard.json["code"]) == (400, "invalid_request")
    assert "config" in heard.json["error"]


async def test_shared_memory_is_refused_with_a_word_why(caller: Caller) -> None:
    for url in ("/v2/systemsharedmemory/status", "/v2/cudasharedmemory/region/r/register"):
        for heard in (await caller.get(url), await caller.post(url)):
            assert heard.status == 404
            assert "shared memory is not served" in heard.json["error"]


# Views


async def test_a_version_that_is_not_loaded_has_nothing_to_tell(box: Box) -> None:
    parts: Any = box
    box.fleet.unload(("p", "m", "v1"))
    assert oip_views.find_version(parts, "p", "m", None).version == "v2"
    with pytest.raises(Unavailable, match="v1 is unloaded"):
        oip_views.find_version(parts, "p", "m", "v1")
    with pytest.raises(NotFound):
        oip_views.find_version(parts, "p", "other", None)
