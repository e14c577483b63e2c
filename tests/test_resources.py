"""One version, or a model's weights, changed by itself; and tags that keep two people from overwriting each
other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import pytest
from box import Box, Caller, deployments

pytestmark = pytest.mark.anyio

MODEL = "/api/v1/projects/p/models/m"
VERSION = f"{MODEL}/versions"
WEIGHTS = f"{MODEL}/weights"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("v1", "v2", "v3")):
        models.mlp(tmp_path / f"{name}.onnx", seed=seed)
    return tmp_path


@pytest.fixture
async def deployed(caller: Caller, folder: Path) -> Path:
    """p/m with v1 and v2 behind it, as revision 1."""
    source = deployments("v1, uri: v1.onnx, weight: 80", "v2, uri: v2.onnx, weight: 20")
    heard = await caller.post("/api/v1/apply", {"source": source, "base": str(folder)})
    assert heard.status == 200
    return folder


def spec(folder: Path, name: str, **info: Any) -> dict[str, Any]:
    return {"spec": {"uri": str(folder / f"{name}.onnx"), "service_info": info}}


async def test_a_version_is_added_beside_the_others(deployed: Path, box: Box, caller: Caller) -> None:
    heard = await caller.ask("PUT", f"{VERSION}/v3", spec(deployed, "v3", weight=0))
    assert heard.status == 201
    assert (heard.json["project"], heard.json["name"], heard.json["version"]) == ("p", "m", "v3")
    assert (heard.json["state"], heard.json["weight"], heard.json["since_revision"]) == ("ready", 0, 2)
    assert box.versions() == {"p/m v1": "ready", "p/m v2": "ready", "p/m v3": "ready"}
    assert (await box.revisions())[-1].reason == "set p/m v3"


async def test_a_version_is_changed_and_the_others_keep_the_bytes_they_have(
    deployed: Path, box: Box, caller: Caller
) -> None:
    (deployed / "v1.onnx").write_bytes(b"something else by now")
    before = box.fleet.find("p", "m", "v1")
    heard = await caller.ask("PUT", f"{VERSION}/v2", spec(deployed, "v2", weight=50))
    assert (heard.status, heard.json["weight"]) == (200, 50)
    assert box.fleet.find("p", "m", "v1") is before


async def test_what_a_version_says_of_itself_can_be_put_back(deployed: Path, caller: Caller) -> None:
    got = (await caller.get(f"{VERSION}/v2")).json
    assert got["spec"] == {"uri": str(deployed / "v2.onnx"), "service_info": {"weight": 20}}
    body = {name: got[name] for name in ("project", "name", "version", "spec")}
    assert (await caller.ask("PUT", f"{VERSION}/v2", body)).status == 200
    assert len((await caller.get("/api/v1/revisions")).json) == 1  # nothing had to change


async def test_a_version_is_deleted_and_with_the_last_one_its_model(
    deployed: Path, box: Box, caller: Caller
) -> None:
    heard = await caller.ask("DELETE", f"{VERSION}/v2?reason=too+slow&author=ann")
    assert (heard.status, heard.json["revision"], heard.json["summary"]["delete"]) == (200, 2, 1)
    revision = (await box.revisions())[-1]
    assert (revision.author, revision.reason) == ("ann", "too slow")
    assert (await caller.ask("DELETE", f"{VERSION}/v1")).status == 200
    assert (await caller.get(MODEL)).status == 404 or box.versions() == {}
    assert (await caller.ask("DELETE", f"{VERSION}/v1")).status == 404


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "spec"),
        ({"spec": []}, 400, "spec: expected an object"),
        ({"spec": {}}, 422, "spec: uri is missing"),
        (
            {"spec": {"uri": "/m.onnx", "service_info": {"weight": -1}}},
            422,
            "spec.service_info.weight: expected a number of 0 or more, got -1",
        ),
        ({"spec": {"uri": "/m.onnx", "batch": {"batch_size": 0}}}, 422, "spec.batch.batch_size: "),
        ({"spec": {"uri": "/m.onnx", "wieght": 3}}, 422, "spec.wieght: unknown key"),
        ({"spec": {"uri": "/m.onnx"}, "version": "v7"}, 400, "version: expected 'v3' as in the URL"),
        ({"spec": {"uri": "m.onnx"}}, 422, "spec.uri: expected an absolute path"),
        (
            {
                "spec": {
                    "uri": "x",
                    "service_info": {
                        "endpoints_infos": [{"url": "https://far", "options": {"ca": "box.pem"}}]
                    },
                }
            },
            422,
            "spec.service_info.endpoints_infos[0].options.ca: expected an absolute path, got 'box.pem'",
        ),
        (
            {"spec": {"uri": "x", "service_info": {"endpoints_infos": [["far"]]}}},
            422,
            "spec.service_info.endpoints_infos[0]: expected a mapping, got a list",
        ),
        ({"spec": {"uri": "/m.onnx", "service_info": []}}, 422, "spec.service_info: expected a mapping"),
        ({"spec": {"uri": "/m.onnx", "service_info": ["x"]}}, 422, "spec.service_info: expected a mapping"),
        (
            {"spec": {"uri": "x", "service_info": {"endpoints_infos": "far"}}},
            422,
            "spec.service_info.endpoints_infos: expected a list",
        ),
        (
            {"spec": {"uri": "/m.onnx", "service_info": {"shadow": True, "weight": 100}}},
            422,
            "weight: a shadow answers nobody",
        ),
        ({"spec": {"uri": "/nowhere.onnx"}}, 422, "p/m v3: "),
        ({"spec": {"uri": "/m.onnx", "operator": "NCC"}}, 422, "operator NCC"),
    ],
)
async def test_a_mistake_names_its_field_and_changes_nothing(
    deployed: Path, box: Box, caller: Caller, body: Any, status: int, words: str
) -> None:
    heard = await caller.ask("PUT", f"{VERSION}/v3", body)
    assert heard.status == status
    assert words in heard.json["error"]
    if heard.json["code"] == "invalid_spec" and "operator" not in words:
        field = heard.json["field"]
        assert heard.json["error"].startswith(f"the request: {field}: ")
        assert field.startswith("spec")
    assert len(box.versions()) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "spec"),
        ({"spec": {"uri": "/nowhere.onnx"}}, "spec.uri"),
        ({"spec": {"uri": 10**30}}, "spec.uri"),
        ({"spec": {"uri": "V3", "confidence": {"output": "none"}}}, "spec.confidence.output"),
        ({"spec": {"uri": "V3"}, "more": 1}, "more"),
    ],
)
async def test_whatever_is_wrong_with_a_version_is_told_with_its_place(
    deployed: Path, caller: Caller, body: Any, field: str
) -> None:
    if body.get("spec", {}).get("uri") == "V3":
        body["spec"]["uri"] = str(deployed / "v3.onnx")
    heard = await caller.ask("PUT", f"{VERSION}/v3", body)
    assert 400 <= heard.status < 500
    assert heard.json["field"] == field


@pytest.mark.parametrize(
    ("weights", "field"),
    [({"v1": -1}, "v1"), ({"v2": 1e9}, "v2"), ({"v1": 0, "v2": 0}, None)],
)
async def test_weights_that_cannot_be_are_told_with_their_place(
    deployed: Path, caller: Caller, weights: dict[str, float], field: str | None
) -> None:
    heard = await caller.ask("PUT", WEIGHTS, weights)
    assert (heard.status, heard.json.get("field")) == (422, field)
    wish = {"weights": {"project": "p", "model": "m", "weights": weights}}
    for url in ("/api/v1/plan", "/api/v1/apply"):
        heard = await caller.post(url, wish)
        assert heard.status == 422
        assert heard.json["field"] == ".".join(("weights.weights", *([field] if field else [])))


async def test_the_last_version_with_a_weight_stays(deployed: Path, caller: Caller) -> None:
    await caller.ask("PUT", WEIGHTS, {"v2": 0})
    heard = await caller.ask("DELETE", f"{VERSION}/v1")
    assert (heard.status, heard.json["code"]) == (422, "invalid_spec")
    assert "every weight of p/m is 0" in heard.json["error"]


async def test_a_version_that_comes_alone_takes_on_its_models_sticky_key(
    caller: Caller, folder: Path
) -> None:
    source = deployments("v1, uri: v1.onnx").replace(
        "  model: m\n", "  model: m\n  sticky: {header: x-user}\n"
    )
    await caller.post("/api/v1/apply", {"source": source, "base": str(folder)})
    heard = await caller.ask("PUT", f"{VERSION}/v2", spec(folder, "v2"))
    assert heard.status == 201
    assert heard.json["spec"]["service_info"]["sticky"] == {"header": "x-user"}


async def test_weights_change_alone(deployed: Path, box: Box, caller: Caller) -> None:
    assert (await caller.get(WEIGHTS)).json == {"v1": 80, "v2": 20}
    heard = await caller.ask("PUT", WEIGHTS, {"v1": 20, "v2": 80})
    assert (heard.status, heard.json["summary"]["update"]) == (200, 2)
    assert [await box.served_by() for _ in range(10)].count("v2") == 8
    assert (await caller.ask("PUT", WEIGHTS, {"v1": 20})).json["state"] == "unchanged"
    assert (await box.revisions())[-1].reason == "weights of p/m: v1 20, v2 80"


@pytest.mark.parametrize(
    ("url", "body", "status"),
    [
        (WEIGHTS, {"v1": 0, "v2": 0}, 422),
        (WEIGHTS, {"v9": 1}, 404),
        (WEIGHTS, {"v1": -1}, 422),
        (WEIGHTS, {"v1": 20, "v2": 1_000_001}, 422),
        (WEIGHTS, {"v1": "20"}, 400),
        ("/api/v1/apply", {"weights": {"project": "p", "model": "m", "weights": {"v1": -1}}}, 422),
        (WEIGHTS, [], 400),
        ("/api/v1/projects/p/models/other/weights", {"v1": 1}, 404),
    ],
)
async def test_weights_that_make_no_sense_are_refused(
    deployed: Path, box: Box, caller: Caller, url: str, body: Any, status: int
) -> None:
    before = await box.revisions()
    assert (await caller.ask("POST" if url.endswith("/apply") else "PUT", url, body)).status == status
    assert (await caller.get(WEIGHTS)).json == {"v1": 80, "v2": 20}
    assert await box.revisions() == before


@pytest.mark.parametrize(
    ("body", "words", "field"),
    [
        ({"v1": 80, "v2": "20"}, "v2: expected a number, got text", "v2"),
        ({"v1": None}, "v1: expected a number, got null", "v1"),
        ({"v1": 80, "v 2": 20}, "v 2: expected 1 to 63 letters", "v 2"),
        (b'{"v1": 80, "v2": 1e999}', "v2: number out of range", "v2"),
        (b'{"v1": "80", "v2": ' + b"[" * 100_000, "the body does not fit: expected a number, got text", None),
    ],
)
async def test_a_weight_that_is_none_is_named_with_its_version(
    deployed: Path, caller: Caller, body: Any, words: str, field: str | None
) -> None:
    heard = await caller.ask("PUT", WEIGHTS, body)
    assert heard.status == 400
    assert heard.json["error"].startswith(words)
    assert heard.json.get("field") == field
    if isinstance(body, dict):
        wish = {"weights": {"project": "p", "model": "m", "weights": body}}
        heard = await caller.post("/api/v1/plan", wish)
        assert heard.json["field"] == f"weights.weights.{field}"


# Tags


async def put(caller: Caller, url: str, body: Any, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return (await caller.ask("PUT", url, body, headers=named)).status


async def test_of_two_people_who_saw_the_same_the_second_is_refused(deployed: Path, caller: Caller) -> None:
    tag = (await caller.get(f"{VERSION}/v2")).headers["etag"]
    assert await put(caller, f"{VERSION}/v2", spec(deployed, "v2", weight=30), if_match=tag) == 200
    heard = await caller.ask(
        "PUT", f"{VERSION}/v2", spec(deployed, "v2", weight=40), headers={"if-match": tag}
    )
    assert (heard.status, heard.json["code"]) == (412, "precondition_failed")
    fresh = (await caller.get(f"{VERSION}/v2")).headers["etag"]
    assert fresh in heard.json["error"]
    assert await put(caller, f"{VERSION}/v2", spec(deployed, "v2", weight=40), if_match=fresh) == 200


async def test_the_reply_to_a_put_has_the_tag_of_what_it_made(deployed: Path, caller: Caller) -> None:
    heard = await caller.ask("PUT", f"{VERSION}/v3", spec(deployed, "v3"))
    assert heard.headers["etag"] == (await caller.get(f"{VERSION}/v3")).headers["etag"]


async def test_a_models_tag_stays_while_only_traffic_comes(deployed: Path, box: Box, caller: Caller) -> None:
    before = (await caller.get(MODEL)).headers["etag"]
    await box.served_by()
    heard = await caller.ask("GET", MODEL, headers={"if-none-match": before})
    assert (heard.status, heard.body, heard.headers["etag"]) == (304, b"", before)
    await caller.ask("PUT", WEIGHTS, {"v1": 1})
    heard = await caller.ask("GET", MODEL, headers={"if-none-match": before})
    assert heard.status == 200
    assert heard.headers["etag"] != before


async def test_a_version_is_only_made_where_there_is_none(deployed: Path, caller: Caller) -> None:
    assert await put(caller, f"{VERSION}/v2", spec(deployed, "v2"), if_none_match="*") == 412
    assert await put(caller, f"{VERSION}/v3", spec(deployed, "v3"), if_match="*") == 412
    assert await put(caller, f"{VERSION}/v3", spec(deployed, "v3"), if_none_match="*") == 201


async def test_a_weak_tag_never_lets_a_change_through(deployed: Path, caller: Caller) -> None:
    tag = (await caller.get(WEIGHTS)).headers["etag"]
    assert await put(caller, WEIGHTS, {"v1": 1}, if_match=f"W/{tag}") == 412
    heard = await caller.ask("GET", WEIGHTS, headers={"if-none-match": f'"other", W/{tag}'})
    assert heard.status == 304
    assert await put(caller, WEIGHTS, {"v1": 1}, if_match=f'"other",{tag}') == 200


async def test_an_apply_can_be_tied_to_the_revision_that_was_seen(deployed: Path, caller: Caller) -> None:
    source = {"source": deployments("v1, uri: v1.onnx"), "base": str(deployed)}
    planned = await caller.post("/api/v1/plan", source)
    assert planned.headers["etag"] == (await caller.get("/api/v1/revisions/1")).headers["etag"]
    assert planned.headers["etag"] == (await caller.get("/api/v1/models")).headers["etag"]
    await caller.ask("PUT", WEIGHTS, {"v1": 1})
    tied = {"if-match": planned.headers["etag"]}
    assert (await caller.ask("POST", "/api/v1/apply", source, headers=tied)).status == 412
    tied["accept"] = "application/x-ndjson"
    assert (await caller.ask("POST", "/api/v1/apply", source, headers=tied)).status == 412
    tied["if-match"] = (await caller.get("/api/v1/models")).headers["etag"]
    assert (await caller.ask("POST", "/api/v1/apply", source, headers=tied)).status == 200


@pytest.mark.parametrize("value", ["abc", '"open', "", '"a" "b"', "*, *", 'w/"a"'])
async def test_what_is_no_list_of_tags_is_400(deployed: Path, caller: Caller, value: str) -> None:
    assert await put(caller, WEIGHTS, {"v1": 1}, if_match=value) == 400
    assert (await caller.ask("GET", MODEL, headers={"if-none-match": value})).status == 400
