"""Requests with an Idempotency-Key are carried out once, whatever happens to their replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from box import Box, Caller, GatedRuntime, deployments, open_box

from mdslite.runtimes.prober import Prober
from mdslite.store.receipts import KEPT_S, RECEIPTS_MAX, Receipt, Receipts
from mdslite.store.registry import Registry

pytestmark = pytest.mark.anyio

WEIGHTS = "/api/v1/projects/p/models/m/weights"
VERSION = "/api/v1/projects/p/models/m/versions/v3"
NDJSON = "application/x-ndjson"


@pytest.fixture
async def box(folder: Path, prober: Prober) -> AsyncIterator[Box]:
    async with open_box(folder / "store", prober) as box:
        await Caller(box.app).post("/api/v1/apply", file(folder))
        yield box


def file(folder: Path, weight: int = 80) -> dict[str, Any]:
    source = deployments(f"v1, uri: v1.onnx, weight: {weight}", "v2, uri: v2.onnx, weight: 20")
    return {"source": source, "base": str(folder)}


async def ask(box: Box, method: str, url: str, body: Any, key: str, **headers: str) -> Any:
    return await Caller(box.app).ask(method, url, body, headers={"idempotency-key": key, **headers})


async def test_the_same_request_is_answered_with_what_came_of_the_first(box: Box) -> None:
    first = await ask(box, "PUT", WEIGHTS, {"v1": 10}, "k1")
    await ask(box, "PUT", WEIGHTS, {"v1": 90}, "k2")
    again = await ask(box, "PUT", WEIGHTS, {"v1": 10}, "k1")
    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert (await Caller(box.app).get(WEIGHTS)).json["v1"] == 90
    assert len(await box.revisions()) == 3


async def test_a_version_that_was_put_keeps_its_status_and_tag(box: Box, folder: Path) -> None:
    body = {"spec": {"uri": str(folder / "v2.onnx")}}
    first = await ask(box, "PUT", VERSION, body, "k")
    again = await ask(box, "PUT", VERSION, body, "k")
    assert (again.status, again.headers["etag"]) == (201, first.headers["etag"])


@pytest.mark.parametrize(("url", "weight"), [(WEIGHTS, 11), (f"{WEIGHTS}?reason=other", 10)])
async def test_the_key_of_another_request_is_refused(box: Box, url: str, weight: int) -> None:
    await ask(box, "PUT", WEIGHTS, {"v1": 10}, "k")
    heard = await ask(box, "PUT", url, {"v1": weight}, "k")
    assert (heard.status, heard.json["code"]) == (422, "unprocessable")


async def test_a_streamed_apply_is_told_again_by_its_last_line(box: Box, folder: Path) -> None:
    first = await ask(box, "POST", "/api/v1/apply", file(folder, 50), "k", accept=NDJSON)
    again = await ask(box, "POST", "/api/v1/apply", file(folder, 50), "k", accept=NDJSON)
    assert again.headers["content-type"] == NDJSON
    assert again.lines == [first.lines[-1]]


async def test_a_failed_apply_is_not_tried_again_by_its_key(box: Box, folder: Path) -> None:
    body = file(folder) | {"source": deployments("v1, uri: nowhere.onnx")}
    first = await ask(box, "POST", "/api/v1/apply", body, "k")
    again = await ask(box, "POST", "/api/v1/apply", body, "k")
    assert (first.status, again.body) == (422, first.body)
    assert len(await box.revisions()) == 2


async def test_what_was_refused_before_it_began_may_be_tried_again(box: Box) -> None:
    assert (await ask(box, "PUT", WEIGHTS, {"v1": 1}, "k", **{"if-match": '"old"'})).status == 412
    assert (await ask(box, "PUT", WEIGHTS, {"v1": 1}, "k")).status == 200


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "\x7f"])
async def test_what_is_no_key_is_400(box: Box, key: str) -> None:
    assert (await ask(box, "PUT", WEIGHTS, {"v1": 1}, key)).status == 400


async def test_a_key_whose_request_is_under_way_is_409(folder: Path, prober: Prober) -> None:
    runtime = GatedRuntime()
    async with open_box(folder / "store", prober, runtime=runtime) as box:
        first = asyncio.create_task(ask(box, "POST", "/api/v1/apply", file(folder), "k"))
        await runtime.reached()
        assert (await ask(box, "POST", "/api/v1/apply", file(folder), "k")).status == 409
        runtime.gate.set()
        assert (await first).status == 200


async def test_a_caller_who_left_finds_the_answer_by_its_key(folder: Path, prober: Prober) -> None:
    runtime = GatedRuntime()
    async with open_box(folder / "store", prober, runtime=runtime) as box:
        leaving = asyncio.create_task(ask(box, "POST", "/api/v1/apply", file(folder), "k"))
        await runtime.reached()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        runtime.gate.set()
        async with box.deployer.turn():  # behind it
            pass
        while (heard := await ask(box, "POST", "/api/v1/apply", file(folder), "k")).status == 409:
            pass
        assert (heard.status, heard.json["state"]) == (200, "applied")
        assert heard.headers["idempotent-replayed"] == "true"


async def test_keys_survive_a_restart(folder: Path, prober: Prober) -> None:
    async with open_box(folder / "store", prober) as box:
        first = await ask(box, "POST", "/api/v1/apply", file(folder), "k")
    async with open_box(folder / "store", prober) as box:
        again = await ask(box, "POST", "/api/v1/apply", file(folder), "k")
        assert again.body == first.body


def test_receipts_are_forgotten_after_a_day_and_beyond_a_thousand(tmp_path: Path) -> None:
    now = [1000.0]
    registry = Registry(tmp_path / "registry.db")
    registry.open()
    receipts = Receipts(registry, clock=lambda: now[0])
    receipt = Receipt(b"f", 200, "application/json", (("etag", '"a"'),), b"{}")
    for number in range(RECEIPTS_MAX + 2):
        now[0] += 1
        receipts.add("ann", f"k{number}", receipt)
    assert receipts.find("ann", "k1") is None
    assert receipts.find("ann", "k2") == receipt
    assert receipts.find("bob", "k2") is None
    now[0] += KEPT_S
    assert receipts.find("ann", f"k{RECEIPTS_MAX}") is None
    registry.close()
