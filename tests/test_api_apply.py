"""Plan, apply, undo and history over the admin API."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import odd_models
import pytest
from applying import V1, V2, apply_body, post_apply
from box import Caller, GatedRuntime, deployments, open_box

from mdslite.api import plan_schema
from mdslite.runtimes.prober import Prober

pytestmark = pytest.mark.anyio


# Plan, apply, undo


async def test_a_plan_is_told_with_its_base(caller: Caller, folder: Path) -> None:
    heard = await caller.post("/api/v1/plan", apply_body(folder, V1, V2))
    assert heard.status == 200
    plan = msgspec.convert(heard.json, plan_schema.PlanReply)
    assert (plan.base_revision, plan.changed) == (0, True)
    [model] = plan.models
    assert [(step.action, step.version) for step in model.steps] == [("ADD", "v1"), ("ADD", "v2")]
    assert (await caller.get("/api/v1/models")).json == []


async def test_an_apply_answers_with_its_revision(caller: Caller, folder: Path) -> None:
    reply = await post_apply(caller, folder, V1, V2, author="ann", reason="first")
    assert (reply["revision"], reply["state"]) == (1, "applied")
    assert reply["summary"] == {"add": 2, "update": 0, "delete": 0, "retain": 0}
    again = await post_apply(caller, folder, V1, V2)
    assert (again["revision"], again["state"]) == (1, "unchanged")


async def test_an_apply_that_fails_answers_with_the_errors_status(caller: Caller, folder: Path) -> None:
    odd_models.truncated(folder / "bad.onnx")
    heard = await caller.post("/api/v1/apply", apply_body(folder, "v1, uri: bad.onnx"))
    assert (heard.status, heard.json["code"], heard.json["revision"]) == (422, "load_failed", 1)
    assert (await caller.get("/api/v1/models")).json == []


async def test_a_mistake_in_the_file_tells_its_place(caller: Caller, folder: Path) -> None:
    wrong = apply_body(folder, "v1, uri: v1.onnx, weight: ten", file="mine.yaml")
    for url in ("/api/v1/plan", "/api/v1/apply"):
        heard = await caller.post(url, wrong)
        assert (heard.status, heard.json["code"]) == (422, "invalid_spec")
        assert heard.json["error"].startswith("mine.yaml:7:")
        assert (heard.json["file"], heard.json["line"]) == ("mine.yaml", 7)


async def test_an_apply_planned_on_another_revision_is_409(caller: Caller, folder: Path) -> None:
    await post_apply(caller, folder, V1)
    heard = await caller.post("/api/v1/apply", apply_body(folder, V2, expect_revision=0))
    assert (heard.status, heard.json["code"]) == (409, "conflict")


async def test_undo_is_an_apply_of_a_revision(caller: Caller, folder: Path) -> None:
    await post_apply(caller, folder, V1)
    await post_apply(caller, folder, V2)
    plan = (await caller.post("/api/v1/plan", {"revision": "previous"})).json
    assert [step["action"] for step in plan["models"][0]["steps"]] == ["ADD", "DELETE"]
    heard = await caller.post("/api/v1/apply", {"revision": "previous", "expect_revision": 2})
    assert (heard.status, heard.json["revision"]) == (200, 3)
    assert (await caller.get("/api/v1/models")).json[0]["versions"][0]["version"] == "v1"
    assert (await caller.post("/api/v1/apply", {"revision": 9})).status == 404


async def test_a_streamed_apply_tells_each_step_and_its_result(caller: Caller, folder: Path) -> None:
    heard = await caller.post("/api/v1/apply", apply_body(folder, V1, V2), accept="application/x-ndjson")
    assert heard.status == 200
    assert heard.headers["content-type"] == "application/x-ndjson"
    steps = [line for line in heard.lines if line["event"] == "step"]
    assert [(one["index"], one["version"], one["state"]) for one in steps] == [
        (1, "v1", "START"),
        (1, "v1", "DONE"),
        (2, "v2", "START"),
        (2, "v2", "DONE"),
    ]
    assert any(line["event"] == "fetch" for line in heard.lines)
    result = heard.lines[-1]
    assert (result["event"], result["state"], result["revision"]) == ("result", "applied", 1)
    assert "error" not in result


async def test_a_streamed_apply_that_fails_says_why_in_its_result(caller: Caller, folder: Path) -> None:
    odd_models.truncated(folder / "bad.onnx")
    heard = await caller.post(
        "/api/v1/apply", apply_body(folder, "v1, uri: bad.onnx"), accept="application/x-ndjson"
    )
    result = heard.lines[-1]
    assert (heard.status, result["state"], result["code"], result["status"]) == (
        200,
        "failed",
        "load_failed",
        422,
    )
    assert result["error"].startswith("p/m v1: ")


async def test_a_streamed_apply_that_never_began_has_a_status_of_its_own(
    caller: Caller, folder: Path
) -> None:
    wrong = apply_body(folder, "v1, uri: v1.onnx, weight: ten")
    heard = await caller.post("/api/v1/apply", wrong, accept="application/x-ndjson")
    assert (heard.status, heard.json["code"]) == (422, "invalid_spec")


async def test_an_apply_whose_reader_left_goes_on(tmp_path: Path, folder: Path, prober: Prober) -> None:
    runtime = GatedRuntime()
    async with open_box(tmp_path / "store", prober, runtime=runtime) as box:
        caller = Caller(box.app)
        asking = asyncio.create_task(
            caller.post("/api/v1/apply", apply_body(folder, V1), accept="application/x-ndjson")
        )
        await runtime.reached()
        caller.leaving.set()
        heard = await asking
        assert not heard.complete
        runtime.gate.set()
        other = Caller(box.app)
        assert (await post_apply(other, folder, V1))["state"] == "unchanged"
        assert box.versions() == {"p/m v1": "ready"}


# History


async def test_revisions_are_listed_newest_first_with_what_they_changed(caller: Caller, folder: Path) -> None:
    await post_apply(caller, folder, V1, author="ann", reason="first")
    odd_models.truncated(folder / "bad.onnx")
    await caller.post("/api/v1/apply", apply_body(folder, V1, "v2, uri: bad.onnx"))
    await post_apply(caller, folder, V1, V2)
    heard = (await caller.get("/api/v1/revisions")).json
    found = msgspec.convert(heard, list[plan_schema.RevisionInfo])
    assert [(one.id, one.state) for one in found] == [(3, "applied"), (2, "failed"), (1, "applied")]
    assert found[0].summary == plan_schema.Summary(add=1, update=0, delete=0, retain=1)
    assert found[0].author == "anybody"
    assert found[1].error is not None and "p/m v2" in found[1].error
    assert (found[2].author, found[2].reason) == ("ann", "first")
    assert found[2].time.endswith("Z")
    page = (await caller.get("/api/v1/revisions?limit=1&before=3")).json
    assert [one["id"] for one in page] == [2]


async def test_a_revision_is_told_with_its_source_and_the_state_after_it(
    caller: Caller, folder: Path
) -> None:
    await post_apply(caller, folder, V1)
    await post_apply(caller, folder, V2)
    detail = msgspec.convert((await caller.get("/api/v1/revisions/1")).json, plan_schema.RevisionDetail)
    assert detail.source == deployments(V1)
    assert [one.version for one in detail.versions] == ["v1"]
    assert detail.diff.models[0].steps[0].action == "ADD"
    assert (await caller.get("/api/v1/revisions/9")).status == 404
