from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from time import time
from typing import Any

import models
import msgspec
import pytest
from box import Caller, deployments, open_box

from mdslite.api.app import make_operations
from mdslite.api.openapi import make_document
from mdslite.deploy.rollout import Rollout
from mdslite.runtimes.prober import Prober
from mdslite.store.deferred import Deferred, DeferredStore, Result
from mdslite.store.rollouts import RolloutStore

pytestmark = pytest.mark.anyio

Json = dict[str, Any]
PREDICTION = "x" * 24
QUERIES = {
    "/api/v1/projects/{project}/models/{model}/comparison": "?first=v1&second=v2",
    "/api/v1/logs/top": "?field=version",
    "/api/v1/labels/accuracy": "?project=p&model=m",
    "/api/v1/labels/export": "?project=p&model=m",
}


@pytest.fixture(scope="module")
def document() -> Json:
    return make_document(make_operations())


@pytest.fixture
async def caller(tmp_path: Path) -> AsyncIterator[Caller]:
    """Two versions, of which one answers; one prediction logged, one answered later, one rollout ended."""
    with closing(Prober()) as prober:
        models.mlp(tmp_path / "v1.onnx")
        async with open_box(tmp_path / "store", prober) as box:
            deferred = DeferredStore(tmp_path / "store" / "deferred.db")
            deferred.open()
            deferred.add(Deferred(PREDICTION, "p", "m", b"/", {}, b"", 0.0))
            deferred.finish(PREDICTION, Result(200, [(b"content-type", b"application/json")], b"{}", time()))
            deferred.close()
            await box.deferrals.start()
            caller = Caller(box.app)
            source = deployments("v1, uri: v1.onnx", "v2, uri: v1.onnx, weight: 0")
            await caller.post("/api/v1/apply", {"source": source, "base": str(tmp_path)})
            await caller.post("/projects/p/models/m:predict", {"instances": [[1, 2, 3, 4]]})
            await asyncio.to_thread(box.journal.flush, timeout_s=10)
            number = await box.worker.call(RolloutStore(box.registry).add, "p", "m")
            ended = Rollout(
                id=number, project="p", model="m", version="v1", state="promoted",
                steps=(100.0,), every_s=1.0, gates=(), author="a", reason="",
            )  # fmt: skip
            data = msgspec.json.encode(ended)
            await box.worker.call(RolloutStore(box.registry).save, number, data, live=False)
            row = (await caller.get("/api/v1/logs")).json["rows"][0]["id"]
            await caller.ask("PUT", f"/api/v1/labels/{row}", {"label": "1"})
            replay = {"filter": "", "project": "p", "model": "m", "version": "v1", "rate": "0.001/s"}
            begun = await caller.post("/api/v1/replays", replay)
            await caller.ask("DELETE", f"/api/v1/replays/{begun.json['id']}")
            yield caller


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for url, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), url, operation


def place_of(url: str, logged: int) -> str:
    """A URL of something that is there."""
    names = {
        "project": "p", "model": "m", "version": "v1", "revision": "1", "prediction": PREDICTION,
        "name": "p.m", "id": 1 if "/replays/" in url else logged,
    }  # fmt: skip
    return url.format(**names) + QUERIES.get(url, "")


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_document_is_valid_openapi(document: Json) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(document)


def test_every_operation_is_documented_once(document: Json) -> None:
    declared = [(one.method, one.url) for one in make_operations()]
    assert len(declared) == len(set(declared))
    assert {(method, url) for method, url, _ in operations(document)} == set(declared)
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))


def test_every_operation_says_what_it_is_for_and_what_can_go_wrong(document: Json) -> None:
    groups = {tag["name"] for tag in document["tags"]}
    for _, url, operation in operations(document):
        assert operation["summary"], url
        assert set(operation["tags"]) <= groups
        assert {"200", "400", "403", "default"} <= operation["responses"].keys(), url


def test_every_reference_leads_somewhere_and_every_schema_is_used(document: Json) -> None:
    found = set(references(document))
    for reference in found:
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    named = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert named <= found


def test_parameters_of_the_url_are_declared(document: Json) -> None:
    for _, url, operation in operations(document):
        declared = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", url))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/api/v1/predictions/short", "the id of a prediction, 24 letters, digits, _ or -"),
        ("/v2/models/digits", "PROJECT.MODEL, such as demo.digits"),
    ],
)
async def test_what_a_name_was_expected_to_be_is_said_in_words(
    caller: Caller, url: str, expected: str
) -> None:
    reply = await caller.get(url)
    assert reply.status == 400
    assert expected in reply.json["error"] and "regex" not in reply.json["error"]


async def test_every_get_answers_with_a_documented_status_and_type(document: Json, caller: Caller) -> None:
    logged = (await caller.get("/api/v1/logs")).json["rows"][0]["id"]
    for method, url, operation in operations(document):
        if method == "GET" and "text/event-stream" not in operation["responses"]["200"]["content"]:
            heard = await caller.get(place_of(url, logged))
            assert heard.status == 200, (url, heard.body)
            assert heard.headers["content-type"] in operation["responses"]["200"]["content"], url


async def test_replies_hold_what_their_schemas_say(caller: Caller) -> None:
    logged = (await caller.get("/api/v1/logs")).json["rows"][0]["id"]
    for operation in make_operations():
        if operation.method == "GET" and operation.media_type == "application/json":
            heard = await caller.get(place_of(operation.url, logged))
            reply = msgspec.json.decode(heard.body, type=operation.reply)
            assert msgspec.json.decode(msgspec.json.encode(reply)) == heard.json, operation.url


async def test_the_document_is_served(document: Json, caller: Caller) -> None:
    assert (await caller.get("/openapi.json")).json == msgspec.json.decode(msgspec.json.encode(document))


async def test_the_page_lists_every_url_and_loads_nothing(document: Json, caller: Caller) -> None:
    page = (await caller.get("/docs")).body.decode()
    for method, url, _ in operations(document):
        assert f"<b>{method}</b> <code>{url}</code>" in page
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in page
    assert not re.search(r"<script|<link|<img|src=|https?://(?!host)|@import|url\(", page)
    for target in re.findall(r'href="#(\w+)"', page):
        assert f'id="{target}"' in page
