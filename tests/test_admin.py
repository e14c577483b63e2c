"""The admin API: readiness, what is deployed, the request log, backups."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from applying import JSON, PREDICT, V1, V2, post_apply
from box import Box, Caller

from mdslite.api import log_schema, schema
from mdslite.store.audit import Act

pytestmark = pytest.mark.anyio


# Readiness


async def test_the_box_is_ready_once_it_has_started_and_until_it_drains(box: Box, caller: Caller) -> None:
    box.fleet.router.starting = True
    assert (await caller.get("/readyz")).status == 503
    box.fleet.router.starting = False
    assert (await caller.get("/readyz")).status == 200
    box.draining = True
    heard = await caller.get("/readyz")
    assert heard.status == 503
    assert heard.json == {"ready": False, "draining": True, "versions": []}


async def test_readiness_lists_each_version_and_a_failed_one_does_not_hurt(
    box: Box, caller: Caller, folder: Path
) -> None:
    await post_apply(caller, folder, V1, V2)
    spec = box.fleet.all()[0].spec
    box.fleet.mark(("p", "bad", "v1"), spec, "sha256:0", state="failed", reason="no such operator")
    heard = await caller.get("/readyz")
    assert heard.status == 200
    assert [(one["model"], one["version"], one["state"]) for one in heard.json["versions"]] == [
        ("m", "v1", "ready"),
        ("m", "v2", "ready"),
        ("bad", "v1", "failed"),
    ]
    assert heard.json["versions"][2]["reason"] == "no such operator"
    assert (await caller.get("/readyz?model=p/m")).status == 200
    assert (await caller.get("/readyz?model=p/bad")).status == 503
    assert (await caller.get("/readyz?model=p/none")).status == 404


# What is deployed


async def test_the_status_tells_of_the_appliance(box: Box, caller: Caller, folder: Path) -> None:
    assert (await caller.get("/api/v1/status")).json["revision"] == 0
    await post_apply(caller, folder, V1)
    heard = (await caller.get("/api/v1/status")).json
    status = msgspec.convert(heard, schema.Status)
    assert (status.revision, status.ready, status.draining) == (1, True, False)
    assert status.url == box.url
    assert status.store == str(box.settings.store)
    assert status.devices[0].label == "cpu"


async def test_models_tell_their_versions(caller: Caller, folder: Path) -> None:
    await post_apply(caller, folder, V1, V2)
    heard = (await caller.get("/api/v1/models")).json
    [model] = msgspec.convert(heard, list[schema.ModelInfo])
    assert (model.project, model.model) == ("p", "m")
    v1, v2 = model.versions
    assert (v1.version, v1.state, v1.weight, v1.share) == ("v1", "ready", 80, 0.8)
    assert (v2.version, v2.share) == ("v2", 0.2)
    assert v1.digest.startswith("sha256:")
    assert v1.size_bytes == (folder / "v1.onnx").stat().st_size
    assert v1.uri == str(folder / "v1.onnx")
    assert (v1.runtime, v1.device, v1.provider) == ("ONNXRUNTIME", "cpu", "CPUExecutionProvider")
    assert v1.signature is not None
    assert v1.signature.inputs[0] == schema.TensorInfo(
        name="x", datatype="FP32", shape=[None, 4], optional=False
    )
    assert (v1.batch.batch_size, v1.batch.batch_timeout_ms, v1.batch.prediction_time_ms) == (32, 2, 30000)
    assert v1.since_revision == 1
    assert (await caller.get("/api/v1/models?project=p")).json == heard
    assert (await caller.get("/api/v1/models?project=q")).json == []


async def test_traffic_shows_in_the_version(box: Box, caller: Caller, folder: Path) -> None:
    await post_apply(caller, folder, V1)
    for _ in range(5):
        assert (await caller.post(PREDICT, {"instances": [[1, 2, 3, 4]]}, **JSON)).status == 200
    await asyncio.to_thread(box.journal.flush)
    version = (await caller.get("/api/v1/projects/p/models/m/versions/v1")).json
    assert version["requests_total"] == 5
    assert version["rps"] > 0
    assert version["error_rate"] == 0
    assert 0 < version["p50_ms"] <= version["p99_ms"]


async def test_one_version_is_told_and_an_unknown_one_is_404(caller: Caller, folder: Path) -> None:
    await post_apply(caller, folder, V1)
    assert (await caller.get("/api/v1/projects/p/models/m")).json["versions"][0]["version"] == "v1"
    assert (await caller.get("/api/v1/projects/p/models/m/versions/v1")).json["version"] == "v1"
    heard = await caller.get("/api/v1/projects/p/models/m/versions/v9")
    assert heard.status == 404
    assert "it has v1" in heard.json["error"]
    assert (await caller.get("/api/v1/projects/p/models/none")).status == 404


async def test_a_version_that_is_not_loaded_is_told_too(box: Box, caller: Caller, folder: Path) -> None:
    await post_apply(caller, folder, V1)
    served = box.fleet.all()[0]
    box.fleet.mark(served.key, served.spec, served.digest, state="failed", reason="gone")
    [version] = (await caller.get("/api/v1/projects/p/models/m")).json["versions"]
    assert (version["state"], version["reason"], version["signature"]) == ("failed", "gone", None)
    assert version["share"] == 0


async def test_which_version_served_at_a_time_has_an_answer(box: Box, caller: Caller, folder: Path) -> None:
    await post_apply(caller, folder, V1)
    await post_apply(caller, folder, V2)
    first, second = await box.revisions()
    url = "/api/v1/projects/p/models/m?at="
    between = (first.time + second.time) / 2
    then = msgspec.convert((await caller.get(f"{url}{between!r}")).json, schema.ModelInfo)
    assert [(one.version, one.state) for one in then.versions] == [("v1", "past")]
    assert then.revision == 1
    now = (await caller.get(f"{url}{second.time + 1:.6f}")).json
    assert [one["version"] for one in now["versions"]] == ["v2"]
    assert now["revision"] == 2
    long_ago = (await caller.get(f"{url}2020-01-01T00:00")).json
    assert (long_ago["versions"], long_ago["revision"]) == ([], None)
    assert long_ago["at"] == "2020-01-01T00:00:00.000Z"


@pytest.mark.parametrize("url", ["/api/v1/projects/p/models/m", "/api/v1/models"])
async def test_what_will_serve_is_not_told_as_if_it_were_known(
    caller: Caller, folder: Path, url: str
) -> None:
    await post_apply(caller, folder, V1)
    heard = await caller.get(f"{url}?at=2999-01-01T00:00")
    assert (heard.status, heard.json["field"]) == (400, "at")
    assert heard.json["error"].startswith("at: 2999-01-01T00:00:00.000Z is yet to come: expected a time of")
    assert heard.json["hint"]


# The request log


async def test_the_request_log_is_searched_page_by_page(box: Box, caller: Caller, folder: Path) -> None:
    await post_apply(caller, folder, V1)
    for number in range(5):
        await caller.post(PREDICT, {"instances": [[1, 2, 3, 4]]}, **JSON, **{"x-request-id": f"r-{number}"})
    await caller.post(PREDICT, {"instances": [["x"]]}, **JSON)
    await asyncio.to_thread(box.journal.flush)
    heard = (await caller.get("/api/v1/logs?filter=status%3D200&limit=3")).json
    page = msgspec.convert(heard, log_schema.LogsReply)
    assert [row.request_id for row in page.rows] == ["r-4", "r-3", "r-2"]
    assert page.rows[0].version == "v1"
    rest = (await caller.get(f"/api/v1/logs?filter=status%3D200&limit=3&before={page.next}")).json
    assert [row["request_id"] for row in rest["rows"]] == ["r-1", "r-0"]
    failed = (await caller.get("/api/v1/logs?filter=status%3E%3D400")).json
    assert [row["status"] for row in failed["rows"]] == [400]


async def test_followed_rows_come_as_they_are_logged(box: Box, caller: Caller, folder: Path) -> None:
    await post_apply(caller, folder, V1)
    following = Caller(box.app)
    task = asyncio.create_task(following.get("/api/v1/logs?follow=1&filter=model%3Dm"))
    await following.began.wait()
    following.began.clear()
    await caller.post(PREDICT, {"instances": [[1, 2, 3, 4]]}, **JSON, **{"x-request-id": "mine"})
    await following.began.wait()
    following.leaving.set()
    heard = await task
    assert [row["request_id"] for row in heard.lines] == ["mine"]


async def test_following_ends_when_the_appliance_drains(box: Box, caller: Caller) -> None:
    task = asyncio.create_task(caller.get("/api/v1/logs?follow=1"))
    await caller.began.wait()
    box.draining = True
    heard = await task
    assert heard.complete


# The rest


async def test_metrics_are_prometheus_text(box: Box, caller: Caller, folder: Path) -> None:
    await post_apply(caller, folder, V1)
    await caller.post(PREDICT, {"instances": [[1, 2, 3, 4]]}, **JSON)
    await asyncio.to_thread(box.journal.flush)
    heard = await caller.get("/metrics")
    assert heard.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"mdslite_requests_total{" in heard.body


async def test_a_backup_is_written_where_it_was_asked_for(
    caller: Caller, folder: Path, tmp_path: Path
) -> None:
    await post_apply(caller, folder, V1)
    target = tmp_path / "copy.tar"
    heard = await caller.post("/api/v1/backup", {"path": str(target)})
    assert heard.status == 200, heard.body
    assert (heard.json["path"], heard.json["size_bytes"]) == (str(target), target.stat().st_size)
    assert {"registry", "artifacts"} <= heard.json["parts"].keys()
    assert 0 < sum(heard.json["parts"].values()) < heard.json["size_bytes"]
    assert (await caller.post("/api/v1/backup", {"path": str(target)})).status == 409
    assert (await caller.post("/api/v1/backup", {"path": "copy.tar"})).status == 400
    kept = tmp_path / "store" / "backups" / "copy.tar"
    assert (await caller.post("/api/v1/backup", {"path": str(kept)})).status == 200
    assert kept.is_file()
    default = (await caller.post("/api/v1/backup")).json
    assert default["path"].startswith(str(tmp_path / "store"))


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("{store}/artifacts/copy.tar", 400, "inside the store"),
        ("{store}/copy.tar", 400, "inside the store"),
        ("{store}/backups/../registry.db", 400, "inside the store"),
        ("{store}", 400, "inside the store"),
        ("/proc/copy.tar", 400, "could not be written"),
        ("/dev/null", 400, "neither a folder nor a file"),
        ("{store}/none/copy.tar", 400, "inside the store"),
        ("{store}/../none/copy.tar", 404, "no folder"),
    ],
)
async def test_a_backup_goes_to_no_place_where_it_could_harm(
    caller: Caller, folder: Path, tmp_path: Path, path: str, status: int, says: str
) -> None:
    await post_apply(caller, folder, V1)
    heard = await caller.post("/api/v1/backup", {"path": path.format(store=tmp_path / "store")})
    assert (heard.status, says in heard.json["error"]) == (status, True), heard.body


async def test_the_audit_log_names_a_backup_s_file(
    caller: Caller, box: Box, folder: Path, tmp_path: Path
) -> None:
    await post_apply(caller, folder, V1)
    await caller.post("/api/v1/backup", {"path": str(tmp_path / "copy.tar")})
    acts = (await caller.get("/api/v1/audit")).json
    assert [act["remark"] for act in acts if act["what"] == "backup"] == [f"to {tmp_path / 'copy.tar'}"]


async def test_a_flood_of_audited_calls_leaves_the_registry_room(box: Box, caller: Caller) -> None:
    for number in range(2000):
        act = Act(0.0, "ann", "apply", f"/x/{number}", "127.0.0.1", 200, "", "id")
        box.issuer.record(act)
    assert (await caller.get("/api/v1/revisions")).status == 200
    kept = [entry.act.target for entry in await box.issuer.acts(3000, None)]
    assert kept == [f"/x/{number}" for number in reversed(range(2000))]


async def test_the_doctor_lists_findings(caller: Caller) -> None:
    findings = msgspec.convert((await caller.get("/api/v1/doctor")).json, list[schema.FindingInfo])
    assert findings
    assert all(finding.level in ("ok", "warning", "error") for finding in findings)
