"""What is done from the dashboard's screen of requests, against a real appliance: labels, replays, exports,
and the way back from a revision; and that each shows first what it would do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import live
import models
import pytest
from dash_box import send, watching
from piloting import text_of, until, until_said
from textual.pilot import Pilot
from textual.widgets import Input

from mdslite.client import AsyncClient, Client
from mdslite.tui.app import DashApp
from mdslite.tui.replaying import Counts, count_filter, count_line
from mdslite.tui.requests import Requests


def fill(folder: Path) -> Path:
    versions = []
    for seed, name in enumerate(("v1", "v2")):
        models.mlp(folder / f"{name}.onnx", seed=seed)
        spec = {"uri": f"./{name}.onnx", "log": {"bodies": "all"}}
        versions.append({"version": name, "weight": 100 - 100 * seed, "spec": spec})
    text = json.dumps({"deployments": [{"project": "p", "model": "m", "versions": versions}]})
    (folder / "deployments.yaml").write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where an appliance is for tests that change nothing of it, and look at a request of their own."""
    with live.up("deployments.yaml", cwd=fill(tmp_path_factory.mktemp("shared"))) as box:
        yield box.url


async def choose_first(app: DashApp, pilot: Pilot[None], count: int) -> Requests:
    """Wait for rows and what belongs to the newest."""
    pane = app.pane
    assert isinstance(pane, Requests)
    await until(pilot, lambda: len(pane.book) >= count)
    await pilot.press("down")
    await until(pilot, lambda: pane.found is not None and pane.found.related is not None)
    return pane


def test_a_request_is_labelled_and_the_label_taken_back(folder: Path) -> None:
    async def scene(url: str) -> None:
        async with watching(url, pane="requests") as (app, pilot):
            pane = await choose_first(app, pilot, 1)
            row = pane.book.row()
            assert row is not None
            await pilot.press("l")
            await until_said(pilot, "What should the answer have been?")
            app.screen.query_one(Input).value = "fraud"
            await until_said(pilot, "keeps “fraud”")
            await pilot.press("enter")
            await until_said(pilot, "1 labelled")
            assert not app.screen.query_one(Input).display
            async with AsyncClient(url) as client:
                assert (await client.label(row["id"]))["label"] == "fraud"
                await pilot.press("ctrl+z")
                await until_said(pilot, "taken back")
                assert (await client.label(row["id"]))["label"] is None
            app.screen.query_one(Input).value = "ham"
            await pilot.press("enter")
            await until_said(pilot, "1 labelled")
            await pilot.press("escape")
            await until(pilot, lambda: pane.found is not None and pane.found.label is not None)

    with live.up("deployments.yaml", cwd=folder) as box:
        send(box.url, 1)
        asyncio.run(scene(box.url))


def test_a_request_is_sent_to_another_version(shared: str) -> None:
    async def scene(url: str) -> None:
        async with watching(url, pane="requests") as (app, pilot):
            await choose_first(app, pilot, 1)
            await pilot.press("r")
            await until_said(pilot, "sends this one request to v2")
            await pilot.press("enter")
            await until_said(pilot, "before and now")
            await until(pilot, lambda: "answer" in text_of(app))
            await pilot.press("escape")
            await until(pilot, lambda: any(row["version"] == "v2" for row in app.snapshot.rows or ()))

    send(shared, 1)
    asyncio.run(scene(shared))


def test_all_that_a_filter_finds_is_replayed(folder: Path) -> None:
    async def scene(url: str) -> None:
        async with watching(url, pane="requests") as (app, pilot):
            await choose_first(app, pilot, 5)
            await pilot.press("r")
            await until(pilot, lambda: len(app.screen.query(Input)) > 0)
            app.screen.query_one(Input).value = "v2 all"
            await until_said(pilot, "sends what the log kept of project=p model=m")
            await pilot.press("enter")
            await until_said(pilot, "begins")
            await until_said(pilot, "5 logged requests, up to 5 of them with a body")
            await pilot.press("enter")
            await until_said(pilot, "5 of 5 sent")
            await until_said(pilot, "done")
            await until_said(pilot, " % of 5")
            await until_said(pilot, "v2: p50 ")

    with live.up("deployments.yaml", cwd=folder) as box:
        send(box.url, 5)
        asyncio.run(scene(box.url))


def test_what_a_replay_would_send_is_told_as_far_as_it_is_known() -> None:
    def told(*counts: int) -> str:
        return "".join(text for text, _ in count_line(Counts(*counts), 100))

    assert "counting" in told() and "no logged request matches" in told(0)
    assert told(7) == "7 logged requests; counting those with a body"
    assert told(7, 0).endswith("none with a body: nothing would be sent")
    assert told(70_000, 20_000).endswith("20,000 of them with a body; 10,000 are sent at most")
    assert count_filter("shadows") == 'shadow=false client!~"replay:" shadows'
    assert count_filter("model=m shadow client=ann") == "model=m shadow client=ann"


@pytest.mark.parametrize(("typed", "said"), [("v9", "there are v1, v2"), ("v2 some", "expected VERSION")])
def test_a_replay_that_makes_no_sense_says_why(shared: str, typed: str, said: str) -> None:
    async def scene(url: str) -> None:
        async with watching(url, pane="requests") as (app, pilot):
            await choose_first(app, pilot, 1)
            await pilot.press("r")
            await until(pilot, lambda: len(app.screen.query(Input)) > 0)
            app.screen.query_one(Input).value = typed
            await pilot.press("enter")
            await until_said(pilot, said)

    send(shared, 1)
    asyncio.run(scene(shared))


def test_the_log_is_written_to_a_file_that_is_not_there_yet(folder: Path) -> None:
    async def scene(url: str) -> None:
        async with watching(url, pane="requests") as (app, pilot):
            await choose_first(app, pilot, 3)
            for name, said in (("rows.txt", "expected a file that ends in"), ("rows.jsonl", "✓")):
                await pilot.press("x")
                await until(pilot, lambda: len(app.screen.query(Input)) > 0)
                app.screen.query_one(Input).value = name
                await pilot.press("enter")
                await until_said(pilot, said)
                await pilot.press("escape")
            await pilot.press("x")
            await until(pilot, lambda: len(app.screen.query(Input)) > 0)
            app.screen.query_one(Input).value = "rows.jsonl"
            await pilot.press("enter")
            await until_said(pilot, "is there already")

    with live.up("deployments.yaml", cwd=folder) as box:
        send(box.url, 3)
        asyncio.run(scene(box.url))
    assert sorted(file.name for file in folder.glob("rows*")) == ["rows.jsonl"]
    assert len([json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]) == 3


def test_read_only_opens_nothing_that_changes_something(shared: str) -> None:
    async def scene(url: str) -> None:
        async with watching(url, pane="requests", read_only=True) as (app, pilot):
            await choose_first(app, pilot, 1)
            for key in ("l", "L", "r"):
                app.say("")
                await pilot.press(key)
                await until(pilot, lambda: app.said[0].startswith("read-only"))
                assert len(app.screen_stack) == 1, key

    send(shared, 1)
    asyncio.run(scene(shared))


def test_the_changes_lead_back_to_an_earlier_revision(folder: Path) -> None:
    async def scene(url: str) -> None:
        async with watching(url, pane="changes") as (app, pilot):
            await until(pilot, lambda: len(app.snapshot.revisions or ()) == 3)
            await pilot.press("down", "down", "u")
            await until_said(pilot, "Go back to the state after revision 1")
            await until_said(pilot, "applies")
            await pilot.press("enter")
            await until_said(pilot, "✓ revision 4")

    with live.up("deployments.yaml", cwd=folder) as box:
        with Client(box.url) as client:
            client.put_weights("p", "m", {"v1": 90, "v2": 10})
            client.put_weights("p", "m", {"v1": 80, "v2": 20})
        asyncio.run(scene(box.url))


def test_fields_of_bodies_are_completed_from_the_log(shared: str) -> None:
    async def scene(url: str) -> None:
        async with watching(url, pane="requests") as (app, pilot):
            await choose_first(app, pilot, 2)
            await pilot.press("slash", *"vers", "tab", "tab")
            await pilot.press("tab", "enter")
            await until(pilot, lambda: app.view.filter.startswith("version=v"))

    send(shared, 2)
    asyncio.run(scene(shared))
