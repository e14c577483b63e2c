"""Scenes in the dashboard: keys that are pressed in it, and what it shows then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from dash import NOW, opened, small_recording, still
from feeds import StillFeed
from piloting import text_of, until
from textual.pilot import Pilot

from mdslite.tui.app import DashApp
from mdslite.tui.feed import LiveFeed
from mdslite.tui.requests import Requests
from mdslite.tui.snapshot import View

Scene = Callable[[DashApp, Pilot[None]], Awaitable[None]]


def play(
    scene: Scene,
    feed: LiveFeed | StillFeed | None = None,
    *,
    size: tuple[int, int] = (100, 30),
    pane: str = "requests",
) -> str:
    """Run a scene; what the screen shows after it."""

    async def run() -> str:
        async with opened(feed or await still(pane), size) as (app, pilot):
            await scene(app, pilot)
            await pilot.pause()
            return text_of(app)

    return asyncio.run(run())


def recorded_feed(pane: str = "requests") -> LiveFeed:
    return LiveFeed(small_recording(), clock=lambda: NOW, view=View(pane=pane))


async def nothing(app: DashApp, pilot: Pilot[None]) -> None:
    """Only look."""


def pane_of(app: DashApp) -> Requests:
    pane = app.pane
    assert isinstance(pane, Requests)
    return pane


async def choose_and_open(app: DashApp, pilot: Pilot[None]) -> None:
    await pilot.press("down", "down")
    if app.size.width < 104:
        await pilot.press("enter")
    await until(pilot, lambda: (found := pane_of(app).found) is not None and found.known)
