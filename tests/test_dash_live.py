"""The dashboard against a real appliance: what its keys change, and how it finds back to it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import live
import pytest
from dash_box import fill, free_port, send, watching, write_file
from piloting import text_of, until, until_said
from textual.pilot import Pilot
from textual.widgets import Input

from mdslite.client import Client
from mdslite.tui.app import DashApp
from mdslite.tui.moments import unix


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


def weights_in(app: DashApp) -> dict[str, float]:
    return {one["version"]: one["weight"] for model in app.snapshot.models or [] for one in model["versions"]}


def tell(
    url: str, story: Callable[[DashApp, Pilot[None]], Awaitable[None]], token: str | None = None
) -> None:
    async def run() -> None:
        async with watching(url, token) as (app, pilot):
            await story(app, pilot)

    asyncio.run(run())


def test_traffic_is_seen_and_a_weight_is_planned_applied_and_undone(folder: Path) -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.snapshot.rows)
        await until(pilot, lambda: (app.snapshot.histogram or {}).get("series"))
        await until_said(pilot, "▲rev1")
        await pilot.press("down", "w")
        await until(pilot, lambda: app.screen.query(Input))
        app.screen.query_one(Input).value = "v2 60"
        await pilot.press("enter")
        await until_said(pilot, "Weight: 20 -> 60")
        assert weights_in(app) == {"v1": 80, "v2": 20}  # so far it is a plan
        await pilot.press("enter")
        await until_said(pilot, "revision 2 in")
        await pilot.press("u")
        await until_said(pilot, "Weight: 60 -> 20")
        await pilot.press("enter")
        await until_said(pilot, "revision 3 in")
        await pilot.press("escape")
        await until(pilot, lambda: weights_in(app) == {"v1": 80, "v2": 20})

    with live.up("deployments.yaml", cwd=folder) as running:
        send(running.url, 5)
        tell(running.url, story)


def test_a_deletion_waits_for_the_name(folder: Path) -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: weights_in(app))
        await pilot.press("down", "D")
        await until_said(pilot, "type m@v2")
        await pilot.press("enter")
        await until_said(pilot, "nothing was typed: nothing is deleted")
        await pilot.press("m", "@", "enter")
        await until_said(pilot, "“m@” is not m@v2: nothing is deleted")
        assert weights_in(app) == {"v1": 80, "v2": 20}
        await pilot.press("v", "2", "enter")
        await until_said(pilot, "revision 2 in")
        await pilot.press("enter")
        await until(pilot, lambda: weights_in(app) == {"v1": 80})

    with live.up("deployments.yaml", cwd=folder) as running:
        tell(running.url, story)


def test_a_file_is_applied_and_its_mistakes_have_a_line(folder: Path) -> None:
    file = folder / "deployments.yaml"

    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: weights_in(app))
        write_file(folder, 50, 50)
        await pilot.press("a")
        await until(pilot, lambda: app.screen.query(Input))
        app.screen.query_one(Input).value = str(file)
        await pilot.press("enter")
        await until_said(pilot, "Weight: 80 -> 50")
        await pilot.press("enter")
        await until_said(pilot, "revision 2 in")
        await pilot.press("escape")
        file.write_text(file.read_text().replace("50", '"ten"'))
        await pilot.press("a")
        await until(pilot, lambda: app.screen.query(Input))
        app.screen.query_one(Input).value = str(file)
        await pilot.press("enter")
        await until_said(pilot, 'got "ten"')
        await pilot.press("enter")
        await until_said(pilot, 'got "ten"')
        assert weights_in(app) == {"v1": 50, "v2": 50}
        write_file(folder, 60, 40)
        await pilot.press("enter")  # it was mended elsewhere meanwhile
        await until_said(pilot, "Weight: 50 -> 60")
        await pilot.press("escape")

    with live.up("deployments.yaml", cwd=folder) as running:
        tell(running.url, story)


def test_a_rollout_begins_and_is_aborted(folder: Path) -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: weights_in(app))
        await pilot.press("down", "o")
        await until(pilot, lambda: app.screen.query(Input))
        app.screen.query_one(Input).value = "50,100 every 1h"
        await pilot.pause()
        assert "no gates" in text_of(app)
        await pilot.press("enter")
        await until_said(pilot, "gives v2 50 % at once")
        await pilot.press("enter")
        await until_said(pilot, "v2 has 50 %")
        await pilot.press("escape")
        await until_said(pilot, "rollout m v2 50%")
        await pilot.press("o")
        await until_said(pilot, "promote")
        await pilot.press("x")
        await until_said(pilot, "aborted")
        await pilot.press("escape")
        await until(pilot, lambda: weights_in(app) == {"v1": 80, "v2": 20})

    with live.up("deployments.yaml", cwd=folder) as running:
        tell(running.url, story)


def test_a_rollout_is_paused_resumed_and_promoted(folder: Path) -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: weights_in(app))
        await pilot.press("o")
        await until_said(pilot, "pause")
        await pilot.press("p")
        await until_said(pilot, "paused: ")
        await pilot.press("escape")
        await until_said(pilot, "paused")
        await pilot.press("o")
        await until_said(pilot, "goes on with the steps")
        await pilot.press("p")
        await until_said(pilot, "running: ")
        await pilot.press("escape")
        assert weights_in(app) == {"v1": 50, "v2": 50}
        await pilot.press("o")
        await until_said(pilot, "gives v2 all of the traffic now")
        await pilot.press("o")
        await until_said(pilot, "promoted: ")
        await pilot.press("escape")
        await until(pilot, lambda: weights_in(app) == {"v1": 0, "v2": 100})

    with live.up("deployments.yaml", cwd=folder) as running:
        with Client(running.url) as client:
            client.begin_rollout("p", "m", "v2", steps=[50, 100], every_s=3600, gates=[], ungated=True)
        tell(running.url, story)


def test_a_model_is_taken_out_of_memory_and_back(folder: Path) -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: weights_in(app))
        await pilot.press("m", "u")
        await until_said(pilot, "is out of memory")
        assert "is answering its requests" not in text_of(app)
        await pilot.press("escape")
        await until_said(pilot, "unloaded")
        await pilot.press("m", "l")
        await until_said(pilot, "p/m is loaded")
        await pilot.press("escape")
        await until_said(pilot, "ready")

    with live.up("deployments.yaml", cwd=folder) as running:
        tell(running.url, story)


def test_the_past_is_shown_as_it_was(folder: Path) -> None:
    with live.up("deployments.yaml", cwd=folder) as running:
        with Client(running.url) as client:
            (first,) = client.revisions()
            then = unix(first["time"]) + 0.01
            client.put_weights("p", "m", {"v2": 80})

        async def story(app: DashApp, pilot: Pilot[None]) -> None:
            await until(pilot, lambda: weights_in(app) == {"v1": 80, "v2": 80})
            app.look(moment=then)
            await until(pilot, lambda: weights_in(app) == {"v1": 80, "v2": 20})
            await until_said(pilot, "PAST")
            await pilot.press(".")
            await until(pilot, lambda: weights_in(app) == {"v1": 80, "v2": 80})

        tell(running.url, story)


def test_it_waits_for_an_appliance_and_finds_back_to_one_that_was_started_again(folder: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        await until_said(pilot, "no appliance answers")
        assert "mdslite up" in text_of(app)
        with live.up("deployments.yaml", "--port", str(port), cwd=folder):
            await until(pilot, lambda: weights_in(app))
            await until_said(pilot, "LIVE")
        await until_said(pilot, "no answer since")
        with live.up("deployments.yaml", "--port", str(port), cwd=folder):
            await until(pilot, lambda: app.snapshot.restarts == 1)
            await until_said(pilot, "LIVE")

    tell(url, story)


def test_without_a_token_it_says_how_to_get_in(folder: Path) -> None:
    with live.up("deployments.yaml", cwd=folder) as running:
        with Client(f"unix:{folder / '.mdslite'}") as owner:
            token = owner.create_token({"scopes": ["read"]})["token"]

        async def refused(app: DashApp, pilot: Pilot[None]) -> None:
            await until_said(pilot, "does not let this dashboard in")
            assert "MDSLITE_TOKEN" in text_of(app)
            told = next(line for line in text_of(app).splitlines() if "mdslite token create" in line)
            words = told.strip("│ ").split()
            made = await asyncio.create_subprocess_exec(sys.executable, "-m", *words, cwd=folder)
            assert await made.wait() == 0

        async def reading(app: DashApp, pilot: Pilot[None]) -> None:
            await until(pilot, lambda: weights_in(app))
            await pilot.press("w")
            await until(pilot, lambda: app.screen.query(Input))
            app.screen.query_one(Input).value = "v1 1"
            await pilot.press("enter")
            await until_said(pilot, "✖")  # a token that reads does not plan either

        tell(running.url, refused)
        tell(running.url, reading, token)


def test_an_appliance_that_went_away_is_started_again_on_its_own_store(folder: Path) -> None:
    store = folder / "its store"
    with live.up("deployments.yaml", "--store", str(store), cwd=folder) as appliance:

        async def story(app: DashApp, pilot: Pilot[None]) -> None:
            await until(pilot, lambda: app.snapshot.status)
            await asyncio.to_thread(appliance.stop)
            await until(pilot, lambda: app.snapshot.connection.state == "unreachable")
            port = appliance.url.rpartition(":")[2]
            hint = f"start it with: mdslite up --port {port} --store '{store}'"
            await until(pilot, lambda: app.snapshot.connection.hint == hint)

        tell(appliance.url, story)
