from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import models
import msgspec
import pytest
from box import Box, Caller, GatedRuntime, deployments, open_box

from mdslite.api import log_schema, plan_schema, schema
from mdslite.api.app import PredictEndpoint, create_app
from mdslite.api.reading import read_body
from mdslite.errors import RequestTimeout
from mdslite.http.access import Access
from mdslite.http.guard import Errors, RequestIds
from mdslite.predict.call import Reply
from mdslite.predict.reading import Reader
from mdslite.runtimes.prober import Prober
from mdslite.store.audit import Act

pytestmark = pytest.mark.anyio

PREDICT = "/projects/p/models/m:predict"
JSON = {"content-type": "application/json"}


V1 = "v1, uri: v1.onnx, weight: 80"
V2 = "v2, uri: v2.onnx, weight: 20"


def body(folder: Path, *versions: str, **more: Any) -> dict[str, Any]:
    return {"source": deployments(*versions), "base": str(folder), **more}


async def apply(caller: Caller, folder: Path, *versions: str, **more: Any) -> Any:
    heard = await caller.post("/api/v1/apply", body(folder, *versions, **more))
    assert heard.status == 200, heard.body
    return heard.json


# What every reply has


async def test_the_process_says_that_it_is_alive(caller: Caller) -> None:
    heard = await caller.get("/healthz")
    assert (heard.status, heard.json) == (200, {"status": "ok"})


async def test_a_reply_names_its_request(caller: Caller) -> None:
    first = (await caller.get("/healthz")).headers["mdslite-request-id"]
    second = (await caller.get("/healthz")).headers["mdslite-request-id"]
    assert first and first != second


async def test_a_sane_request_id_is_echoed(caller: Caller) -> None:
    heard = await caller.get("/nowhere", **{"x-request-id": "trace/7"})
    assert heard.headers["mdslite-request-id"] == heard.json["request_id"] == "trace/7"


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "tab\t"])
async def test_another_request_id_is_replaced(caller: Caller, given: str) -> None:
    heard = await caller.get("/healthz", **{"x-request-id": given})
    assert heard.headers["mdslite-request-id"] not in ("", given)


async def test_an_unknown_url_is_404_in_the_form_of_all_errors(caller: Caller) -> None:
    heard = await caller.get("/api/v1/nothing")
    assert heard.status == 404
    assert heard.headers["content-type"] == "application/json"
    assert heard.json["code"] == "not_found"
    assert heard.json["request_id"] == heard.headers["mdslite-request-id"]
    msgspec.convert(heard.json, schema.ErrorReply)


@pytest.mark.parametrize("url", ["/docs/", "/api/v1", "/api/v1/models/", "/"])
async def test_no_url_redirects(caller: Caller, url: str) -> None:
    assert (await caller.get(url)).status == 404


@pytest.mark.parametrize(
    ("method", "url", "allowed"),
    [
        ("DELETE", "/api/v1/models", {"GET", "HEAD"}),
        ("GET", "/api/v1/apply", {"POST"}),
        ("GET", PREDICT, {"POST"}),
        ("POST", "/healthz", {"GET", "HEAD"}),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    caller: Caller, method: str, url: str, allowed: set[str]
) -> None:
    heard = await caller.ask(method, url)
    assert (heard.status, heard.json["code"]) == (405, "method_not_allowed")
    assert {one.strip() for one in heard.headers["allow"].split(",")} == allowed


async def test_head_gets_the_head_alone(caller: Caller) -> None:
    heard = await caller.ask("HEAD", "/healthz")
    assert (heard.status, heard.body) == (200, b"")
    assert int(heard.headers["content-length"]) > 0


async def test_what_nobody_expected_is_an_opaque_500_and_a_line_in_the_log(
    box: Box, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def render(self, *, open_metrics: bool = False) -> bytes:
            raise RuntimeError("secret internals")

    box.metrics = Broken()  # type: ignore[assignment]
    with caplog.at_level(logging.ERROR):
        heard = await caller.get("/metrics", **{"x-request-id": "r-1"})
    assert (heard.status, heard.json["code"]) == (500, "internal_error")
    assert b"secret" not in heard.body
    assert "secret internals" in caplog.text
    assert "r-1" in caplog.text


async def test_a_websocket_is_refused(box: Box) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await box.app({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == ["websocket.close"]


# Hosts and origins


@pytest.mark.parametrize("host", ["localhost:8500", "127.0.0.1", "[::1]:8500", "LOCALHOST"])
async def test_loopback_names_are_served(caller: Caller, host: str) -> None:
    assert (await caller.get("/healthz", host=host)).status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8500", "127.0.0.1.evil.example", "10.0.0.1"])
async def test_another_host_is_refused(caller: Caller, host: str) -> None:
    heard = await caller.get("/api/v1/models", host=host)
    assert (heard.status, heard.json["code"]) == (403, "forbidden")
    assert "--allow-host" in heard.json["hint"]


@pytest.mark.parametrize("host", ["a b", "a/b", "user@localhost", "localhost:x", ""])
async def test_a_malformed_host_is_a_bad_request(caller: Caller, host: str) -> None:
    assert (await caller.get("/healthz", host=host)).status == 400


async def test_a_host_that_was_allowed_is_served(box: Box) -> None:
    box.settings.allow_hosts = ("box.example", "other.example:9000")
    caller = Caller(create_app(box))
    assert (await caller.get("/healthz", host="Box.Example:8500")).status == 200
    assert (await caller.get("/healthz", host="other.example:9000")).status == 200
    assert (await caller.get("/healthz", host="other.example:1")).status == 403
    assert (await caller.get("/healthz", origin="https://box.example")).status == 200


async def test_bound_to_every_address_any_literal_one_is_served_and_no_name(box: Box) -> None:
    box.settings.host = "0.0.0.0"
    caller = Caller(create_app(box))
    assert (await caller.get("/healthz", host="10.1.2.3:8500")).status == 200
    assert (await caller.get("/healthz", host="evil.example:8500")).status == 403


async def test_a_page_of_the_same_host_may_ask(caller: Caller) -> None:
    assert (await caller.get("/healthz", origin="http://127.0.0.1:8500")).status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:3000", "http://"])
async def test_a_page_of_another_host_may_not(caller: Caller, origin: str) -> None:
    heard = await caller.get("/api/v1/models", origin=origin)
    assert (heard.status, heard.json["code"]) == (403, "forbidden")


# Bodies and parameters


@pytest.mark.parametrize(
    "wrong", [b"{", b"nonsense", b'{"source": "\xff"}', b'{"source": "' + b"\\ud800" + b'"}', b"{} {}"]
)
async def test_a_body_that_is_no_json_is_400(caller: Caller, wrong: bytes) -> None:
    heard = await caller.post("/api/v1/plan", wrong)
    assert (heard.status, heard.json["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (b"[]", "expected an object, got a list"),
        (b'{"source": 5}', "source: expected text"),
        (b'{"sauce": "x"}', "unknown field sauce"),
        (b'{"revision": -1}', "revision"),
        (b'{"revision": "last"}', "revision"),
        (b'{"revision": 1, "expect_revision": true}', "expect_revision: expected"),
        (b"{}", "expected one of source, revision, weights, remove; got none of them"),
        (b'{"source": "", "revision": 1}', "got source and revision"),
        (b'{"source": ""}', "base: expected the absolute path"),
        (b'{"source": "", "base": "here"}', "base: expected the absolute path"),
        (b'{"source": "", "base": "/a\\u0000"}', "base: expected the absolute path"),
        (b'{"revision": 9223372036854775808}', "revision: expected a whole number <= 9223372036854775807"),
        (b'{"revision": ' + b"[" * 100_000 + b"}", "revision"),
        (b'{"revision": ' + b"9" * 10_000 + b"}", "revision: integer value out of range"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
async def test_a_body_of_another_shape_is_400_and_says_where(
    caller: Caller, wrong: bytes, words: str
) -> None:
    heard = await caller.post("/api/v1/apply", wrong)
    assert (heard.status, heard.json["code"]) == (400, "invalid_request")
    assert words in heard.json["error"]
    if (field := heard.json.get("field")) is not None:
        assert heard.json["error"].startswith(f"{field}: ")


async def test_an_error_names_its_field_in_one_of_its_own(caller: Caller) -> None:
    asked = await caller.get("/api/v1/revisions?limit=0")
    assert asked.json["field"] == "limit"
    sent = await caller.post("/api/v1/apply", b'{"revision": -1}')
    assert sent.json["field"] == "revision"


async def test_a_body_that_says_it_is_too_large_is_not_read(caller: Caller) -> None:
    heard = await caller.ask("POST", "/api/v1/plan", headers={"content-length": "999999999"})
    assert (heard.status, heard.json["code"]) == (413, "too_large")


async def test_a_body_that_turns_out_too_large_is_not_read_to_its_end(caller: Caller) -> None:
    chunks = [b" " * 1_000_000] * 50
    heard = await caller.ask("POST", "/api/v1/plan", chunks=chunks)
    assert heard.status == 413


async def test_a_compressed_body_is_refused(caller: Caller) -> None:
    heard = await caller.post("/api/v1/plan", b"x", **{"content-encoding": "gzip"})
    assert (heard.status, heard.json["code"]) == (415, "unsupported_media_type")


async def test_a_client_that_leaves_before_its_body_is_complete_gets_nothing(caller: Caller) -> None:
    caller.leaving.set()
    heard = await caller.ask("POST", "/api/v1/plan", chunks=[])
    assert heard.status == 0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("/api/v1/revisions?limit=0", "limit: expected a whole number >= 1; got '0'"),
        ("/api/v1/revisions?limit=1001", "limit: expected a whole number <= 1000; got '1001'"),
        ("/api/v1/revisions?limit=many", "limit: expected a whole number"),
        ("/api/v1/revisions?before=0", "before"),
        ("/api/v1/revisions?before=9223372036854775808", "before: expected a whole number <="),
        ("/api/v1/revisions?limit=1&limit=2", "'limit' is given twice"),
        ("/api/v1/revisions?lim=1", "unknown parameter 'lim'; this URL takes: limit, before"),
        ("/api/v1/models?project=../x", "project: expected"),
        ("/api/v1/models?project=%ff", "percent-encoding"),
        ("/api/v1/status?x=1", "this URL takes: none"),
        ("/api/v1/logs?filter=stat=4", "1"),
        ("/api/v1/logs?filter=model%3Dm%20status%3E%3Dx", "status"),
        ("/api/v1/logs?follow=perhaps", "follow: expected true or false; got 'perhaps'"),
        ("/api/v1/projects/p/models/m?at=yesterday", "'yesterday' is no moment"),
        ("/api/v1/projects/..%2Fx/models/m", "project: expected 1 to 63 letters"),
        ("/api/v1/projects/p%0a/models/m", "project: expected 1 to 63 letters"),
        ("/api/v1/projects/-x/models/m", "project: expected"),
        ("/api/v1/projects/p/models/" + "m" * 64, "model: expected"),
        ("/api/v1/revisions/zero", "revision: expected a whole number"),
        ("/api/v1/revisions/0", "revision: expected a whole number >= 1"),
        ("/api/v1/revisions/9223372036854775808", "revision: expected a whole number <="),
        ("/readyz?model=p", "model: expected PROJECT/MODEL"),
        ("/readyz?model=p/../m", "model: expected PROJECT/MODEL"),
    ],
)
async def test_a_wrong_parameter_is_400_and_named(caller: Caller, url: str, words: str) -> None:
    heard = await caller.get(url)
    assert (heard.status, heard.json["code"]) == (400, "invalid_request"), heard.body
    assert words in heard.json["error"]


# Readiness


async def test_the_box_is_ready_once_it_has_started_and_until_it_drains(box: Box, caller: Caller) -> None:
    box.starting = True
    assert (await caller.get("/readyz")).status == 503
    box.starting = False
    assert (await caller.get("/readyz")).status == 200
    box.draining = True
    heard = await caller.get("/readyz")
    assert heard.status == 503
    assert heard.json == {"ready": False, "draining": True, "versions": []}


async def test_readiness_lists_each_version_and_a_failed_one_does_not_hurt(
    box: Box, caller: Caller, folder: Path
) -> None:
    await apply(caller, folder, V1, V2)
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
    await apply(caller, folder, V1)
    heard = (await caller.get("/api/v1/status")).json
    status = msgspec.convert(heard, schema.Status)
    assert (status.revision, status.ready, status.draining) == (1, True, False)
    assert status.url == box.url
    assert status.store == str(box.settings.store)
    assert status.devices[0].label == "cpu"


async def test_models_tell_their_versions(caller: Caller, folder: Path) -> None:
    await apply(caller, folder, V1, V2)
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
    await apply(caller, folder, V1)
    for _ in range(5):
        assert (await caller.post(PREDICT, {"instances": [[1, 2, 3, 4]]}, **JSON)).status == 200
    await asyncio.to_thread(box.journal.flush)
    version = (await caller.get("/api/v1/projects/p/models/m/versions/v1")).json
    assert version["requests_total"] == 5
    assert version["rps"] > 0
    assert version["error_rate"] == 0
    assert 0 < version["p50_ms"] <= version["p99_ms"]


async def test_one_version_is_told_and_an_unknown_one_is_404(caller: Caller, folder: Path) -> None:
    await apply(caller, folder, V1)
    assert (await caller.get("/api/v1/projects/p/models/m")).json["versions"][0]["version"] == "v1"
    assert (await caller.get("/api/v1/projects/p/models/m/versions/v1")).json["version"] == "v1"
    heard = await caller.get("/api/v1/projects/p/models/m/versions/v9")
    assert heard.status == 404
    assert "it has v1" in heard.json["error"]
    assert (await caller.get("/api/v1/projects/p/models/none")).status == 404


async def test_a_version_that_is_not_loaded_is_told_too(box: Box, caller: Caller, folder: Path) -> None:
    await apply(caller, folder, V1)
    served = box.fleet.all()[0]
    box.fleet.mark(served.key, served.spec, served.digest, state="failed", reason="gone")
    [version] = (await caller.get("/api/v1/projects/p/models/m")).json["versions"]
    assert (version["state"], version["reason"], version["signature"]) == ("failed", "gone", None)
    assert version["share"] == 0


async def test_which_version_served_at_a_time_has_an_answer(box: Box, caller: Caller, folder: Path) -> None:
    await apply(caller, folder, V1)
    await apply(caller, folder, V2)
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
    await apply(caller, folder, V1)
    heard = await caller.get(f"{url}?at=2999-01-01T00:00")
    assert (heard.status, heard.json["field"]) == (400, "at")
    assert heard.json["error"].startswith("at: 2999-01-01T00:00:00.000Z is yet to come: expected a time of")
    assert heard.json["hint"]


# Plan, apply, undo


async def test_a_plan_is_told_with_its_base(caller: Caller, folder: Path) -> None:
    heard = await caller.post("/api/v1/plan", body(folder, V1, V2))
    assert heard.status == 200
    plan = msgspec.convert(heard.json, plan_schema.PlanReply)
    assert (plan.base_revision, plan.changed) == (0, True)
    [model] = plan.models
    assert [(step.action, step.version) for step in model.steps] == [("ADD", "v1"), ("ADD", "v2")]
    assert (await caller.get("/api/v1/models")).json == []


async def test_an_apply_answers_with_its_revision(caller: Caller, folder: Path) -> None:
    reply = await apply(caller, folder, V1, V2, author="ann", reason="first")
    assert (reply["revision"], reply["state"]) == (1, "applied")
    assert reply["summary"] == {"add": 2, "update": 0, "delete": 0, "retain": 0}
    again = await apply(caller, folder, V1, V2)
    assert (again["revision"], again["state"]) == (1, "unchanged")


async def test_an_apply_that_fails_answers_with_the_errors_status(caller: Caller, folder: Path) -> None:
    models.truncated(folder / "bad.onnx")
    heard = await caller.post("/api/v1/apply", body(folder, "v1, uri: bad.onnx"))
    assert (heard.status, heard.json["code"], heard.json["revision"]) == (422, "load_failed", 1)
    assert (await caller.get("/api/v1/models")).json == []


async def test_a_mistake_in_the_file_tells_its_place(caller: Caller, folder: Path) -> None:
    wrong = body(folder, "v1, uri: v1.onnx, weight: ten", file="mine.yaml")
    for url in ("/api/v1/plan", "/api/v1/apply"):
        heard = await caller.post(url, wrong)
        assert (heard.status, heard.json["code"]) == (422, "invalid_spec")
        assert heard.json["error"].startswith("mine.yaml:7:")
        assert (heard.json["file"], heard.json["line"]) == ("mine.yaml", 7)


async def test_an_apply_planned_on_another_revision_is_409(caller: Caller, folder: Path) -> None:
    await apply(caller, folder, V1)
    heard = await caller.post("/api/v1/apply", body(folder, V2, expect_revision=0))
    assert (heard.status, heard.json["code"]) == (409, "conflict")


async def test_undo_is_an_apply_of_a_revision(caller: Caller, folder: Path) -> None:
    await apply(caller, folder, V1)
    await apply(caller, folder, V2)
    plan = (await caller.post("/api/v1/plan", {"revision": "previous"})).json
    assert [step["action"] for step in plan["models"][0]["steps"]] == ["ADD", "DELETE"]
    heard = await caller.post("/api/v1/apply", {"revision": "previous", "expect_revision": 2})
    assert (heard.status, heard.json["revision"]) == (200, 3)
    assert (await caller.get("/api/v1/models")).json[0]["versions"][0]["version"] == "v1"
    assert (await caller.post("/api/v1/apply", {"revision": 9})).status == 404


async def test_a_streamed_apply_tells_each_step_and_its_result(caller: Caller, folder: Path) -> None:
    heard = await caller.post("/api/v1/apply", body(folder, V1, V2), accept="application/x-ndjson")
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
    models.truncated(folder / "bad.onnx")
    heard = await caller.post(
        "/api/v1/apply", body(folder, "v1, uri: bad.onnx"), accept="application/x-ndjson"
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
    wrong = body(folder, "v1, uri: v1.onnx, weight: ten")
    heard = await caller.post("/api/v1/apply", wrong, accept="application/x-ndjson")
    assert (heard.status, heard.json["code"]) == (422, "invalid_spec")


async def test_an_apply_whose_reader_left_goes_on(tmp_path: Path, folder: Path, prober: Prober) -> None:
    runtime = GatedRuntime()
    async with open_box(tmp_path / "store", prober, runtime=runtime) as box:
        caller = Caller(box.app)
        asking = asyncio.create_task(
            caller.post("/api/v1/apply", body(folder, V1), accept="application/x-ndjson")
        )
        await runtime.reached()
        caller.leaving.set()
        heard = await asking
        assert not heard.complete
        runtime.gate.set()
        other = Caller(box.app)
        assert (await apply(other, folder, V1))["state"] == "unchanged"
        assert box.versions() == {"p/m v1": "ready"}


# History


async def test_revisions_are_listed_newest_first_with_what_they_changed(caller: Caller, folder: Path) -> None:
    await apply(caller, folder, V1, author="ann", reason="first")
    models.truncated(folder / "bad.onnx")
    await caller.post("/api/v1/apply", body(folder, V1, "v2, uri: bad.onnx"))
    await apply(caller, folder, V1, V2)
    heard = (await caller.get("/api/v1/revisions")).json
    found = msgspec.convert(heard, list[plan_schema.RevisionInfo])
    assert [(one.id, one.state) for one in found] == [(3, "applied"), (2, "failed"), (1, "applied")]
    assert found[0].summary == plan_schema.Summary(add=1, update=0, delete=0, retain=1)
    assert found[0].author == "api"
    assert found[1].error is not None and "p/m v2" in found[1].error
    assert (found[2].author, found[2].reason) == ("ann", "first")
    assert found[2].time.endswith("Z")
    page = (await caller.get("/api/v1/revisions?limit=1&before=3")).json
    assert [one["id"] for one in page] == [2]


async def test_a_revision_is_told_with_its_source_and_the_state_after_it(
    caller: Caller, folder: Path
) -> None:
    await apply(caller, folder, V1)
    await apply(caller, folder, V2)
    detail = msgspec.convert((await caller.get("/api/v1/revisions/1")).json, plan_schema.RevisionDetail)
    assert detail.source == deployments(V1)
    assert [one.version for one in detail.versions] == ["v1"]
    assert detail.diff.models[0].steps[0].action == "ADD"
    assert (await caller.get("/api/v1/revisions/9")).status == 404


# The request log


async def test_the_request_log_is_searched_page_by_page(box: Box, caller: Caller, folder: Path) -> None:
    await apply(caller, folder, V1)
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
    await apply(caller, folder, V1)
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
    await apply(caller, folder, V1)
    await caller.post(PREDICT, {"instances": [[1, 2, 3, 4]]}, **JSON)
    await asyncio.to_thread(box.journal.flush)
    heard = await caller.get("/metrics")
    assert heard.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"mdslite_requests_total{" in heard.body


async def test_a_backup_is_written_where_it_was_asked_for(
    caller: Caller, folder: Path, tmp_path: Path
) -> None:
    await apply(caller, folder, V1)
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
    await apply(caller, folder, V1)
    heard = await caller.post("/api/v1/backup", {"path": path.format(store=tmp_path / "store")})
    assert (heard.status, says in heard.json["error"]) == (status, True), heard.body


async def test_the_audit_log_names_a_backup_s_file(
    caller: Caller, box: Box, folder: Path, tmp_path: Path
) -> None:
    await apply(caller, folder, V1)
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


# Predictions


async def test_a_prediction_works_this_way_too(caller: Caller, folder: Path) -> None:
    await apply(caller, folder, V1)
    heard = await caller.post(PREDICT, {"instances": [[1, 2, 3, 4]]}, **JSON, **{"x-request-id": "r-1"})
    assert heard.status == 200
    assert heard.headers["mdslite-version"] == "v1"
    assert heard.headers["mdslite-request-id"] == "r-1"
    assert "server-timing" in heard.headers
    assert len(heard.json["predictions"][0]) == 3
    heard = await caller.post("/projects/p/models/m/versions/v9:predict", b"{}", **JSON)
    assert heard.status == 404


async def test_a_prediction_too_large_to_read_is_413_with_a_way_out(caller: Caller, folder: Path) -> None:
    await apply(caller, folder, V1)
    heard = await caller.ask("POST", PREDICT, headers={**JSON, "content-length": "99999999999"})
    assert heard.status == 413
    assert "npy" in heard.json["hint"]


async def test_a_prediction_whose_client_left_is_cancelled() -> None:
    class WaitingPredictor:
        cancelled = False
        access = Access()
        reader = Reader(max_json_bytes=100, max_body_bytes=100)

        async def respond(self, **request: Any) -> Reply:
            caller.leaving.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            raise AssertionError

    predictor = WaitingPredictor()
    deferrals: Any = None  # nothing is deferred
    caller = Caller(RequestIds(Errors(PredictEndpoint(predictor, deferrals))))  # type: ignore[arg-type]
    heard = await caller.post(PREDICT, b"{}")
    assert predictor.cancelled
    assert heard.status == 0


async def test_a_body_that_does_not_come_is_a_408() -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    with pytest.raises(RequestTimeout, match="in time"):
        await read_body({"headers": []}, receive, limit_bytes=10, timeout_s=0.01)


async def test_what_has_come_of_a_body_buys_time_for_the_rest() -> None:
    late, loop = asyncio.Event(), asyncio.get_running_loop()
    pieces = [b"b", bytes(1024 * 1024)]

    async def receive() -> Any:
        if len(pieces) == 1:
            loop.call_later(0.02, late.set)
            await late.wait()
        return {"type": "http.request", "body": pieces.pop(), "more_body": bool(pieces)}

    body = await read_body({"headers": []}, receive, limit_bytes=2**21, timeout_s=0.001)
    assert len(body) == 1024 * 1024 + 1
