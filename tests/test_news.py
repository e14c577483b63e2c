"""What happens, as it happens, to whoever listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import models
import pytest
from box import Box, Caller, deployments, open_box

from mdslite.api.bulletin import KEPT, LISTENERS_MAX, Bulletin
from mdslite.runtimes.prober import Prober

pytestmark = pytest.mark.anyio

EVENTS = "/api/v1/events"


@pytest.fixture
async def box(tmp_path: Path, prober: Prober) -> AsyncIterator[Box]:
    models.mlp(tmp_path / "v1.onnx")
    async with open_box(tmp_path / "store", prober) as box:
        yield box


def parse(body: bytes) -> list[dict[str, Any]]:
    """The events in a stream so far, each with its data decoded."""
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "event" in fields:
            found.append({**fields, "data": json.loads(fields["data"])})
    return found


@asynccontextmanager
async def listening(box: Box, **headers: str) -> AsyncIterator[Caller]:
    """A caller who listens until the block ends."""
    caller = Caller(box.app)
    asking = asyncio.create_task(caller.get(EVENTS, **headers))
    while not caller.heard.body:
        caller.began.clear()
        await caller.began.wait()
    yield caller
    caller.leaving.set()
    await asking


async def hear(caller: Caller, kind: str) -> dict[str, Any]:
    """The first event of a kind."""
    while True:
        for event in parse(caller.heard.body):
            if event["event"] == kind:
                return event
        caller.began.clear()
        await caller.began.wait()


async def apply(box: Box, tmp_path: Path) -> None:
    body = {"source": deployments("v1, uri: v1.onnx"), "base": str(tmp_path), "reason": "first"}
    assert (await Caller(box.app).post("/api/v1/apply", body)).status == 200


async def test_an_apply_is_told_step_by_step_with_its_revision(box: Box, tmp_path: Path) -> None:
    async with listening(box) as caller:
        await apply(box, tmp_path)
        step = await hear(caller, "apply")
        assert (step["data"]["version"], step["data"]["state"]) == ("v1", "START")
        state = await hear(caller, "version")
        assert (state["data"]["version"], state["data"]["state"]) == ("v1", "ready")
        revision = await hear(caller, "revision")
        assert (revision["data"]["id"], revision["data"]["reason"]) == (1, "first")
        assert caller.heard.headers["content-type"] == "text/event-stream"


async def test_a_listener_who_was_away_gets_what_it_missed(box: Box, tmp_path: Path) -> None:
    async with listening(box) as caller:
        box.bulletin.post("alert", {"what": "one"})
        seen = await hear(caller, "alert")
    box.bulletin.post("alert", {"what": "two"})
    async with listening(box, **{"last-event-id": seen["id"]}) as caller:
        assert (await hear(caller, "alert"))["data"] == {"what": "two"}


@pytest.mark.parametrize("last", ["0-1", "nonsense", "x-y-z"])
async def test_who_comes_with_an_id_of_before_a_restart_is_told_to_look_anew(box: Box, last: str) -> None:
    async with listening(box, **{"last-event-id": last}) as caller:
        assert (await hear(caller, "reset"))["data"] == {}


async def test_who_was_away_for_too_long_is_told_so() -> None:
    bulletin = Bulletin()
    for number in range(KEPT + 5):
        bulletin.post("alert", number)
    place, lost = bulletin.place(bulletin.id_of(3))
    notices, gone = bulletin.after(place)
    assert (lost, gone, len(notices)) == (False, True, KEPT)
    assert bulletin.after(bulletin.place(bulletin.id_of(5))[0]) == (notices, False)


async def test_only_so_many_may_listen(box: Box) -> None:
    for _ in range(LISTENERS_MAX):
        box.bulletin.enter()
    heard = await Caller(box.app).get(EVENTS)
    assert (heard.status, heard.json["code"]) == (429, "queue_full")
    box.bulletin.leave()
    async with listening(box):
        pass
