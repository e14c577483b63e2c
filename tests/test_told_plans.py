"""A plan that tells what it is at while it is made: over the API, to both clients and in the dashboard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import live
import models
import pytest
from applying import apply_body
from box import Box, Caller, Heard, open_box
from feeds import StillFeed
from file_server import FileServer, SlowFile
from piloting import piloted, text_of
from scenes import make_scene
from waiting import until

from mdslite.api.admin import make_operations
from mdslite.asks import Lines
from mdslite.client import AsyncClient, Client
from mdslite.errors import SpecError
from mdslite.rpc.schema import streams
from mdslite.runtimes.prober import Prober
from mdslite.tui.app import DashApp
from mdslite.tui.plan_dialog import PlanDialog

T = TypeVar("T")
NDJSON = "application/x-ndjson"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models.mlp(tmp_path / "v1.onnx", seed=1)
    return tmp_path


@pytest.fixture
async def box(tmp_path: Path, prober: Prober, web: FileServer) -> AsyncIterator[Box]:
    async with open_box(tmp_path / "store", prober, allow_internal=(web.host,), turn_wait_s=20) as box:
        yield box


async def plan(box: Box, wish: dict[str, Any], accept: str = NDJSON) -> Heard:
    return await Caller(box.app).post("/api/v1/plan", wish, accept=accept)


class Watcher(Caller):
    """Keeps the last line that was told of an answer that is still coming."""

    def told(self) -> dict[str, Any] | None:
        return self.heard.lines[-1] if self.heard.body.endswith(b"\n") else None


@pytest.fixture
def slow(folder: Path, web: FileServer) -> SlowFile:
    content = models.mlp(folder / "far.onnx", (4, 20_000, 3)).read_bytes()
    web.pages["/far.onnx"] = slow = SlowFile(content)
    return slow


@pytest.fixture
def wish(folder: Path, web: FileServer) -> dict[str, Any]:
    return apply_body(folder, f"v1, uri: '{web.url}/far.onnx'")


@pytest.mark.anyio
async def test_a_plan_tells_how_far_its_download_is_while_it_runs_and_ends_with_the_plan(
    box: Box, slow: SlowFile, wish: dict[str, Any]
) -> None:
    caller = Watcher(box.app)
    asking = asyncio.create_task(caller.post("/api/v1/plan", wish, accept=NDJSON))
    told = await until(caller.told)
    assert told is not None and told["event"] == "fetch" and told["uri"].endswith("/far.onnx")
    assert 0 < told["done_bytes"] < told["total_bytes"] == len(slow.content)
    slow.go_on.set()
    heard = await asking
    assert (heard.status, heard.headers["content-type"]) == (200, NDJSON)
    *events, last = heard.lines
    assert {one["event"] for one in events[:-1]} == {"fetch"}
    assert events[-1] == {"event": "try", "version": "p/m v1"}
    plain = await plan(box, wish, "application/json")
    assert plain.headers["content-type"] == "application/json"
    assert last == {"event": "plan", **plain.json}


@pytest.mark.anyio
@pytest.mark.parametrize("accept", [NDJSON, "*/*"])
async def test_a_plan_ends_when_its_reader_leaves_and_others_need_not_wait_for_it(
    box: Box, folder: Path, slow: SlowFile, wish: dict[str, Any], accept: str
) -> None:
    caller = Watcher(box.app)
    asking = asyncio.create_task(caller.post("/api/v1/plan", wish, accept=accept))
    await until(lambda: slow.asked.is_set() and (caller.told() or accept != NDJSON))
    assert box.deployer.busy
    caller.leaving.set()
    assert not (await asking).complete
    await until(lambda: not box.deployer.busy)
    assert (await plan(box, apply_body(folder, "v1, uri: v1.onnx"))).lines[-1]["changed"]
    slow.go_on.set()


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/api/v1/plan", "/api/v1/apply"])
async def test_what_a_stop_ends_says_so_in_its_last_line(
    box: Box, slow: SlowFile, wish: dict[str, Any], path: str
) -> None:
    caller = Watcher(box.app)
    asking = asyncio.create_task(caller.post(path, wish, accept=NDJSON))
    await until(caller.told)
    box.deployer.end_drafts()
    last = (await asking).lines[-1]
    assert (last["event"], last["state"], last["status"]) == ("result", "failed", 503)
    assert last["error"].startswith("the appliance was stopped before")
    assert last["revision"] is None
    slow.go_on.set()


@pytest.mark.anyio
async def test_a_plan_that_fails_says_why_beside_what_it_knew(box: Box, folder: Path) -> None:
    heard = await plan(box, apply_body(folder, "v2, uri: gone.onnx", "v1, uri: v1.onnx"))
    last = heard.lines[-1]
    assert (heard.status, last["event"], last["state"], last["revision"]) == (200, "result", "failed", None)
    assert (last["code"], last["status"], last["line"]) == ("invalid_artifact", 422, 6)
    assert [step["version"] for step in last["diff"]["models"][0]["steps"]] == ["v2", "v1"]
    assert (await plan(box, apply_body(folder, "v2, uri: gone.onnx"), "application/json")).status == 422
    assert not await box.revisions()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("wish", "status"), [({"source": "deployments: 1", "base": "/"}, 422), ({"revision": 7}, 404), ({}, 400)]
)
async def test_a_plan_of_which_nothing_is_known_has_a_status_of_its_own(
    box: Box, wish: dict[str, Any], status: int
) -> None:
    heard = await plan(box, wish)
    assert heard.status == heard.json.get("status", status) == status and heard.json["code"]


def test_over_grpc_a_plan_is_one_reply_and_an_apply_a_stream() -> None:
    named = {one.name: one for one in make_operations()}
    assert not streams(named["plan"]) and named["plan"].stream is not None
    assert streams(named["apply"])


def test_both_clients_yield_what_a_plan_tells(folder: Path) -> None:
    wrong = {**apply_body(folder, "v1, uri: v1.onnx"), "source": "deployments: 1"}

    async def ask(url: str, wish: dict[str, Any]) -> list[dict[str, Any]]:
        async with AsyncClient(url) as client:
            return [one async for one in client.follow_plan(wish)]

    with live.up(cwd=folder) as running, Client(running.url) as client:
        wish = apply_body(folder, "v1, uri: v1.onnx")
        told = list(client.follow_plan(wish))
        assert told[-1] == {"event": "plan", **client.plan(wish)}
        assert asyncio.run(ask(running.url, wish))[-1] == told[-1]
        with pytest.raises(SpecError, match="deployments"):
            list(client.follow_plan(wrong))


class Downloading(StillFeed):
    """A plan that downloads until it is let go, and then cannot be made."""

    def __init__(self) -> None:
        super().__init__(make_scene())
        self.go_on = asyncio.Event()

    @asynccontextmanager
    async def read(self, lines: Lines[T]) -> AsyncGenerator[AsyncIterator[T], None]:
        async def told() -> AsyncIterator[Any]:
            yield {"event": "fetch", "uri": "http://h/m.onnx", "done_bytes": 10**6, "total_bytes": 4 * 10**6}
            await self.go_on.wait()
            yield {"event": "result", "state": "failed", "error": "p/m v1: no model", "code": "load_failed"}

        yield told()


@pytest.mark.anyio
async def test_the_dashboard_shows_what_a_plan_downloads_and_then_why_there_is_none() -> None:
    feed = Downloading()
    app = DashApp(feed, tick=False)
    async with piloted(app, (80, 24)) as pilot:
        app.push_screen(PlanDialog("Apply a file", {}))
        await pilot.pause()
        assert "planning" in text_of(app) and "fetching 1.0 MB of 4.0 MB: http://h/m.onnx" in text_of(app)
        feed.go_on.set()
        await pilot.pause()
        assert "p/m v1: no model" in text_of(app) and "fetching" not in text_of(app)
