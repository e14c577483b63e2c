"""Tokens over the admin API: what each scope opens, what one for some models sees, and who is noted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from box import Box, deployments, open_box
from parties import Party, make, party, settle_in

from mdslite.api.app import make_operations
from mdslite.api.operations import Operation
from mdslite.runtimes.prober import Prober

pytestmark = pytest.mark.anyio

PREDICT = "/projects/{}/models/{}:predict"
ROW = {"instances": [[1, 2, 3, 4]]}
# Whether it is alive, and what every mdslite says of itself.
OPEN = {"/healthz", "/readyz", "/openapi.json", "/docs", "/v2", "/v2/health/live", "/v2/health/ready"}


@pytest.fixture(scope="module")
async def guarded(
    tmp_path_factory: pytest.TempPathFactory, prober: Prober
) -> AsyncIterator[tuple[Box, Party]]:
    """For those who are refused: what they ask changes nothing."""
    folder = tmp_path_factory.mktemp("guarded")
    async with open_box(folder / "store", prober) as box:
        yield box, await settle_in(box, folder)


def url_of(operation: Operation) -> str:
    names = {"project": "p", "model": "m", "version": "v1", "revision": "1", "token": "no", "name": "p.m"}
    return re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], found[1]), operation.url)


def every_operation() -> list[Any]:
    return [
        pytest.param(operation, id=f"{operation.method} {operation.url}") for operation in make_operations()
    ]


# Who is let in


@pytest.mark.parametrize("operation", every_operation())
async def test_a_stranger_gets_nothing_but_what_is_open_to_all(
    guarded: tuple[Box, Party], operation: Operation
) -> None:
    box, _ = guarded
    for token in (None, "nonsense", "mdslite_aaaaaaaaaa_" + "x" * 43):
        heard = await party(box, token).ask(operation.method, url_of(operation))
        if operation.url in OPEN:
            assert heard.status == 200
            continue
        assert heard.status == 401
        assert heard.json["code"] == "unauthorized"
        assert heard.headers["www-authenticate"] == 'Bearer realm="mdslite"'


@pytest.mark.parametrize("operation", [one for one in every_operation() if one.values[0].scope is not None])
async def test_a_token_without_the_scope_is_told_which_it_lacks(
    guarded: tuple[Box, Party], operation: Operation
) -> None:
    box, admin = guarded
    others = [scope for scope in ("predict", "read") if scope not in (operation.scope, operation.also)]
    for scope in others:
        heard = await party(box, await make(admin, scope)).ask(operation.method, url_of(operation), b"{}")
        assert heard.status == 403
        assert heard.json["code"] == "forbidden"
        assert f"the scope {operation.scope}" in heard.json["error"]


async def test_each_scope_opens_what_it_is_for(box: Box, admin: Party) -> None:
    predict, read = party(box, await make(admin, "predict")), party(box, await make(admin, "read"))
    assert (await predict.post(PREDICT.format("p", "m"), ROW)).status == 200
    assert (await admin.post(PREDICT.format("p", "m"), ROW)).status == 200
    assert (await predict.get("/api/v1/projects/p/models/m")).status == 200
    for url in ("/api/v1/models", "/api/v1/status", "/api/v1/logs", "/api/v1/revisions", "/metrics"):
        assert (await read.get(url)).status == 200
        assert (await admin.get(url)).status == 200


async def test_a_body_is_not_read_of_a_stranger(box: Box, admin: Party) -> None:
    stranger = party(box)
    heard = await stranger.ask("POST", "/api/v1/apply", chunks=[b"{"])
    assert heard.status == 401
    heard = await stranger.ask("POST", PREDICT.format("p", "m"), chunks=[b"{"])
    assert heard.status == 401


async def test_two_authorizations_are_none(box: Box, admin: Party) -> None:
    assert admin.token is not None
    fields = [(b"authorization", f"Bearer {token}".encode()) for token in (admin.token, "x")]
    heard = []

    async def send(message: Any) -> None:
        heard.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/api/v1/models", "raw_path": b"/api/v1/models",
        "query_string": b"", "headers": [(b"host", b"127.0.0.1"), *fields],
    }  # fmt: skip
    await box.app(scope, None, send)  # type: ignore[arg-type]
    assert heard[0]["status"] == 400
    assert b"one Authorization header" in heard[1]["body"]


async def test_a_revoked_token_ends_at_once_and_so_does_what_it_follows(box: Box, admin: Party) -> None:
    reader = party(box, await make(admin, "read", name="ci"))
    following = asyncio.create_task(reader.get("/api/v1/logs?follow=true"))
    await reader.began.wait()
    assert (await admin.ask("DELETE", "/api/v1/tokens/ci")).json["state"] == "revoked"
    heard = await following
    assert heard.complete
    assert (await reader.get("/api/v1/models")).status == 401
    assert "was revoked" in reader.heard.json["error"]


async def test_the_first_token_is_made_on_the_machine_itself(box: Box) -> None:
    stranger = party(box)
    for client in (("10.0.0.5", 1), None):
        stranger.client = client  # type: ignore[assignment]
        heard = await stranger.post("/api/v1/tokens", {"scopes": ["admin"]})
        assert heard.status == 403
        assert "--store DIR" in heard.json["hint"]
    assert not box.issuer.access.required
    stranger.client = ("::1", 1)
    await make(stranger, "admin")
    assert box.issuer.access.required


async def test_readiness_is_open_and_its_details_are_not(box: Box, admin: Party) -> None:
    mine = party(box, await make(admin, "predict", project="p"))
    assert (await party(box).get("/readyz")).json == {"ready": True, "draining": False, "versions": []}
    assert (await party(box, "nonsense").get("/readyz")).json["versions"] == []
    assert len((await admin.get("/readyz")).json["versions"]) == 2
    assert [one["project"] for one in (await mine.get("/readyz")).json["versions"]] == ["p"]
    assert (await party(box).get("/readyz?model=p/m")).status == 401
    assert (await mine.get("/readyz?model=p/m")).status == 200
    assert (await mine.get("/readyz?model=q/n")).status == 403


# Tokens for some models


async def test_a_token_of_one_project_hears_of_the_machine_but_not_where_it_keeps_what(
    box: Box, admin: Party
) -> None:
    mine = party(box, await make(admin, "read", project="p"))
    told, all_of_it = [(await one.get("/api/v1/status")).json for one in (mine, admin)]
    assert (told["store"], told["pid"]) == ("", 0)
    assert all_of_it["store"] and all_of_it["pid"]
    assert [one["label"] for one in told["devices"]] == [one["label"] for one in all_of_it["devices"]]
    assert (await mine.get("/api/v1/devices/history")).status == 200


async def test_a_token_of_one_project_predicts_and_reads_there_alone(box: Box, admin: Party) -> None:
    mine = party(box, await make(admin, "predict", "read", project="p"))
    assert (await mine.post(PREDICT.format("p", "m"), ROW)).status == 200
    for model in ("n", "no-such"):  # whether it exists is not told
        heard = await mine.post(PREDICT.format("q", model), ROW)
        assert heard.status == 403
        assert f"is for p alone, not for q/{model}" in heard.json["error"]
    heard = await mine.post(PREDICT.format("p", "other"), ROW)
    assert heard.status == 404
    assert "q/n" not in heard.body.decode()
    for url in ("/api/v1/projects/p/models/other", "/v2/models/p.other", "/v2/models/p.other/stats"):
        assert (await mine.get(url)).status == 404
        assert "q/n" not in mine.heard.body.decode()
    assert (await mine.get("/v2/models/q.n")).status == 403
    assert [model["project"] for model in (await mine.get("/api/v1/models")).json] == ["p"]
    assert (await mine.get("/api/v1/models?project=q")).json == []
    assert (await mine.get("/api/v1/projects/p/models/m")).status == 200
    assert (await mine.get("/api/v1/projects/q/models/n")).status == 403
    assert (await mine.get("/api/v1/status")).status == 200
    for url in ("/api/v1/revisions", "/metrics", "/api/v1/doctor"):
        heard = await mine.get(url)
        assert heard.status == 403
        assert "concerns all projects" in heard.json["error"]


@pytest.mark.parametrize("more", ["", "&filter=project%3Dq", "&filter=model%3Dn", "&filter=%22"])
async def test_the_log_shows_a_token_its_own_requests(box: Box, admin: Party, more: str) -> None:
    mine = party(box, await make(admin, "read", project="p", model="m"))
    for project, model in (("p", "m"), ("q", "n")):
        await admin.post(PREDICT.format(project, model), ROW)
    box.journal.flush(timeout_s=5)
    heard = await mine.get(f"/api/v1/logs?limit=10{more}")
    rows = heard.json["rows"] if heard.status == 200 else []
    assert all((row["project"], row["model"]) == ("p", "m") for row in rows)
    assert more or len(rows) == 1


async def test_figures_of_the_log_count_a_tokens_own_requests(box: Box, admin: Party) -> None:
    mine = party(box, await make(admin, "read", project="p"))
    for project, model in (("p", "m"), ("q", "n"), ("q", "n")):
        await admin.post(PREDICT.format(project, model), ROW)
    await asyncio.to_thread(box.journal.flush, timeout_s=5)
    histogram = (await mine.get("/api/v1/logs/histogram?by=model")).json
    assert [(one["value"], one["total"]) for one in histogram["series"]] == [("m", 1)]
    top = (await mine.get("/api/v1/logs/top?field=project")).json
    assert [(one["value"], one["count"]) for one in top["values"]] == [("p", 1)]
    percentiles = (await mine.get("/api/v1/logs/percentiles")).json
    assert [one["project"] for one in percentiles["groups"]] == ["p"]
    assert (await mine.get("/api/v1/logs/export")).headers["mdslite-rows"] == "1"
    rows = (await admin.get("/api/v1/logs")).json["rows"]
    found = {row["project"]: (await mine.get(f"/api/v1/logs/{row['id']}")).status for row in rows}
    assert found == {"p": 200, "q": 404}


async def test_an_administrator_of_one_project_changes_that_alone(
    box: Box, admin: Party, tmp_path: Path
) -> None:
    mine = party(box, await make(admin, "admin", project="p"))

    def body(project: str, **more: Any) -> dict[str, Any]:
        text = deployments("v1, uri: v1.onnx", "v2, uri: v1.onnx", project=project)
        return {"source": text, "base": str(tmp_path), **more}

    for url in ("/api/v1/plan", "/api/v1/apply"):
        assert (await mine.post(url, body("q"))).status == 403
        assert (await mine.post(url, body("p", prune=True))).status == 403
        assert (await mine.post(url, {"revision": "previous"})).status == 403
        assert (await mine.post(url, body("p", source="deployments: 5"))).status == 422
        assert (await mine.post(url, body("p"))).status == 200
    assert (await mine.post("/api/v1/tokens", {"scopes": ["admin"]})).status == 403
    assert (await mine.ask("DELETE", "/api/v1/tokens/root")).status == 403
    assert (await mine.post("/api/v1/backup", {})).status == 403


async def test_a_revision_names_the_token_beside_who_the_caller_says_that_it_is(
    box: Box, admin: Party, tmp_path: Path
) -> None:
    text = deployments("v1, uri: v1.onnx", "v2, uri: v1.onnx")
    await admin.post("/api/v1/apply", {"source": text, "base": str(tmp_path), "author": "ann@desk"})
    assert (await admin.get("/api/v1/revisions?limit=1")).json[0]["author"] == "ann@desk (the token root)"


# Making, listing, ending


async def test_a_token_is_listed_without_its_secret(box: Box, admin: Party) -> None:
    text = await make(
        admin, "predict", "read", name="ci", project="p", model="m", rate="100/s", expires="30d"
    )
    await party(box, text).post(PREDICT.format("p", "m"), ROW)
    heard = await admin.get("/api/v1/tokens")
    assert text.rpartition("_")[2] not in heard.body.decode()
    (ci,) = [token for token in heard.json if token["name"] == "ci"]
    assert (ci["scopes"], ci["project"], ci["model"], ci["rate"], ci["state"], ci["created_by"]) == (
        ["predict", "read"], "p", "m", "100/s", "live", "the token root",
    )  # fmt: skip
    assert ci["used_at"] is not None
    assert ci["expires_at"] > ci["created_at"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"scopes": ["read"], "name": "../x"}, "name"),
        ({"scopes": ["read"], "rate": "fast"}, "rate: expected a rate such as 100/s"),
        ({"scopes": ["read"], "expires": "soon"}, "expires: expected a span such as 30m"),
        ({"scopes": ["read"], "name": "_"}, "name: expected 1 to 63 letters, digits, _, ., @ or -"),
        ({"scopes": ["read"], "expires": "99999y"}, "expires"),
        ({"scopes": ["read"], "model": "m"}, "project"),
        ({"scopes": ["read"], "secret": "x"}, "secret"),
    ],
)
async def test_a_wish_that_makes_no_sense_is_400(box: Box, body: dict[str, Any], words: str) -> None:
    heard = await party(box).post("/api/v1/tokens", body)
    assert heard.status == 400
    assert words in heard.json["error"]
    assert not box.issuer.access.required


async def test_a_name_is_taken_until_its_token_ends(box: Box, admin: Party) -> None:
    await make(admin, "read", name="ci")
    assert (await admin.post("/api/v1/tokens", {"scopes": ["read"], "name": "ci"})).status == 409
    await admin.ask("DELETE", "/api/v1/tokens/ci")
    await make(admin, "read", name="ci")
    assert (await admin.ask("DELETE", "/api/v1/tokens/no-such")).status == 404


# Limits


async def test_a_model_is_limited_told_and_let_go(box: Box, admin: Party) -> None:
    url = "/api/v1/projects/p/models/m/limit"
    assert (await admin.ask("PUT", url, {"rate": "2/h"})).json["rate"] == "2/h"
    assert (await admin.get("/api/v1/limits")).json == [{"project": "p", "model": "m", "rate": "2/h"}]
    other = party(box, await make(admin, "read", project="q"))
    assert (await other.get("/api/v1/limits")).json == []
    statuses = [(await admin.post(PREDICT.format("p", "m"), ROW)).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert admin.heard.json["code"] == "rate_limited"
    assert int(admin.heard.headers["retry-after"]) == pytest.approx(1800, abs=2)
    assert (await admin.post(PREDICT.format("q", "n"), ROW)).status == 200
    await admin.ask("DELETE", url)
    assert (await admin.post(PREDICT.format("p", "m"), ROW)).status == 200
    assert (await admin.get("/api/v1/limits")).json == []


async def test_refused_predictions_are_in_the_log_of_their_model(box: Box, admin: Party) -> None:
    await admin.ask("PUT", "/api/v1/projects/p/models/m/limit", {"rate": "1/h"})
    for _ in range(2):
        await admin.post(PREDICT.format("p", "m"), ROW)
    await party(box).post(PREDICT.format("p", "m"), {"instances": [["a secret of a stranger"]]})
    box.journal.flush(timeout_s=5)
    limited = (await admin.get("/api/v1/logs?filter=status%3D429")).json["rows"]
    assert [(row["project"], row["model"], row["code"]) for row in limited] == [("p", "m", "rate_limited")]
    (refused,) = (await admin.get("/api/v1/logs?filter=status%3D401")).json["rows"]
    assert "secret" not in str(refused["request"])
    metrics = (await admin.get("/metrics")).body.decode()
    assert 'model="m",version="",shadow="false",endpoint="",status="429"' in metrics or "429" in metrics


# Who is written down


async def test_what_changes_something_is_written_down_and_so_is_what_was_refused(
    box: Box, admin: Party, tmp_path: Path
) -> None:
    text = deployments("v1, uri: v1.onnx", "v2, uri: v1.onnx")
    await admin.post("/api/v1/apply", {"source": text, "base": str(tmp_path)}, **{"x-request-id": "mine"})
    await admin.get("/api/v1/models")  # only reads: not written down
    reader = party(box, await make(admin, "read", name="ci"))
    await reader.post("/api/v1/apply", {})
    await party(box).get("/api/v1/models")
    await admin.ask("DELETE", "/api/v1/tokens/ci")
    lines = (await admin.get("/api/v1/audit?limit=5")).json
    assert [(line["who"], line["what"], line["status"]) for line in lines] == [
        ("the token root", "revoke_token", 200),
        ("nobody", "list_models", 401),
        ("the token ci", "apply", 403),
        ("the token root", "create_token", 200),
        ("the token root", "apply", 200),
    ]
    applied = lines[-1]
    assert (applied["target"], applied["origin"], applied["remark"], applied["request_id"]) == (
        "/api/v1/apply", "127.0.0.1", "revision 3 applied", "mine",
    )  # fmt: skip
    assert lines[0]["remark"].startswith("ci (")
    older = (await admin.get(f"/api/v1/audit?before={lines[-1]['id']}")).json
    assert [line["who"] for line in older] == ["anybody"] * 3
    assert admin.token is not None
    assert admin.token not in msgspec.json.encode([lines, older]).decode()


async def test_a_streamed_apply_is_written_down_with_its_outcome(
    box: Box, admin: Party, tmp_path: Path
) -> None:
    text = deployments("v1, uri: gone.onnx")
    wanted = {"source": text, "base": str(tmp_path)}
    await admin.post("/api/v1/apply", wanted, accept="application/x-ndjson")
    (line,) = (await admin.get("/api/v1/audit?limit=1")).json
    assert (line["what"], line["remark"]) == ("apply", "revision 3 failed")
