"""The dashboard under a mouse: rows, tabs, keys and candidates that are clicked, the wheel, and a drag over
the histogram.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from dash import opened, still
from piloting import text_of
from scenes import fit_scene, showing
from textual import events
from textual.pilot import Pilot
from textual.widget import Widget

from mdslite.tui.app import MOUSE, PANES, DashApp
from mdslite.tui.bars import Footer, Tabs
from mdslite.tui.changes import Changes
from mdslite.tui.deploy import Deploy, divide
from mdslite.tui.deployments import entries_of
from mdslite.tui.help import HelpPage
from mdslite.tui.histogram import bar_at, read_stack
from mdslite.tui.prompt import Candidates, Prompt
from mdslite.tui.requests import Requests

Scene = Callable[[DashApp, Pilot[None]], Awaitable[None]]


def play(scene: Scene, pane: str = "deploy", *, size: tuple[int, int] = (140, 45)) -> None:
    async def run() -> None:
        if pane == "deploy":
            async with showing(fit_scene(size[0]), size=size) as (app, pilot):
                await scene(app, pilot)
            return
        async with opened(await still(pane), size) as (app, pilot):
            await scene(app, pilot)

    asyncio.run(run())


async def wheel(pilot: Pilot[None], over: Widget, x: int, y: int, kind: type[events.MouseEvent]) -> None:
    """As it comes from the terminal, which knows of no widgets."""
    place = over.region.offset
    pilot.app.screen._forward_event(kind(None, x + place.x, y + place.y, 0, 1, 0, False, False, False))
    await pilot.pause()


def test_a_version_is_chosen_by_a_click_and_opened_by_two() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        assert isinstance(app.pane, Deploy)
        await pilot.click("#deploy", offset=(10, 3))
        assert app.pane.cursor == 2 and app.view.model is None
        await pilot.click("#deploy", offset=(10, 2), times=2)
        assert app.pane.cursor == 1
        assert app.view.model == ("bank", "fraud")
        await pilot.click("#deploy", offset=(100, 1))  # the panel beside it
        await pilot.click("#deploy", offset=(10, 9))  # nothing is there
        assert app.pane.cursor == 1

    play(scene)


@pytest.mark.parametrize("size", [(80, 24), (140, 45), (200, 60)])
def test_a_drag_over_the_histogram_is_a_brush(size: tuple[int, int]) -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        assert isinstance(app.pane, Deploy)
        width, height = app.pane.size
        table, histogram, _ = divide(height, len(entries_of(app.snapshot)))
        stack = read_stack(app.snapshot.histogram, shadows=True)
        assert stack is not None
        ends = [bar_at(width, histogram, app.snapshot, x) for x in (20, 30)]
        assert ends[0] is not None and ends[1] is not None
        await pilot.mouse_down("#deploy", offset=(30, table + 3))
        await pilot.hover("#deploy", offset=(20, table + 3))
        assert app.view.brush is None  # only seen, until it is let go
        assert "to" in text_of(app).split("all models")[1].split("\n")[0]
        await pilot.mouse_up("#deploy", offset=(20, table + 3))
        assert app.view.brush == (
            stack.since + ends[0] * stack.interval_s,
            stack.since + (ends[1] + 1) * stack.interval_s,
        )
        await pilot.mouse_down("#deploy", offset=(width - 25, table + 3))
        await pilot.mouse_up("#deploy", offset=(width - 25, table + 3))
        brush = app.view.brush
        assert brush is not None and brush[1] <= app.snapshot.now + stack.interval_s
        await pilot.press("escape")
        assert app.view.brush is None

    play(scene, size=size)


def test_the_wheel_moves_in_the_table_and_zooms_on_the_histogram() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        assert isinstance(app.pane, Deploy)
        await wheel(pilot, app.pane, 5, 2, events.MouseScrollDown)
        assert app.pane.cursor == 1
        table = divide(app.pane.size.height, 4)[0]
        await wheel(pilot, app.pane, 5, table + 2, events.MouseScrollDown)
        assert app.view.span_s == 3600
        await wheel(pilot, app.pane, 5, table + 2, events.MouseScrollUp)
        assert app.view.span_s == 900

    play(scene)


@pytest.mark.parametrize("size", [(50, 16), (80, 24), (200, 60)])
def test_a_tab_shows_its_screen(size: tuple[int, int]) -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        for name in (*PANES, *reversed(PANES)):
            line = text_of(app).split("\n")[3]
            await pilot.click(Tabs, offset=(line.index(str(list(PANES).index(name) + 1)), 0))
            await pilot.pause()
            assert app.view.pane == name

    play(scene, size=size)


def test_a_key_below_is_pressed_by_a_click() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        footer = app.query_one(Footer)
        line = text_of(app).split("\n")[-1]
        await pilot.click(footer, offset=(line.index("w weight"), 0))
        await pilot.pause()
        assert "Weights of bank/fraud" in text_of(app)
        await pilot.press("escape")
        await pilot.click(footer, offset=(line.index("help"), 0))
        await pilot.pause()
        assert app.screen.query(HelpPage)

    play(scene)


def test_what_the_mouse_does_is_in_the_help() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("?")
        (page,) = app.screen.query(HelpPage)
        told = {entry for _, entries in page.sections for entry in entries}
        assert {*MOUSE, *Deploy.MOUSE, *Requests.MOUSE, *Changes.MOUSE} <= told

    play(scene)


def test_a_row_of_the_log_is_chosen_by_a_click_and_opened_by_two() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        pane = app.pane
        assert isinstance(pane, Requests)
        await pilot.click("#requests", offset=(5, 6))
        assert pane.book.chosen == pane.book.seen(10)[4]["id"] and not pane.opened
        await pilot.click("#requests", offset=(5, 3), times=2)
        assert pane.book.chosen == pane.book.seen(10)[1]["id"]
        assert pane.opened
        await wheel(pilot, pane, 5, 5, events.MouseScrollDown)  # through the request that is open
        assert pane.book.chosen == pane.book.seen(10)[1]["id"]
        await pilot.press("escape")
        await wheel(pilot, pane, 5, 5, events.MouseScrollDown)
        assert pane.book.chosen == pane.book.seen(10)[4]["id"]

    play(scene, "requests", size=(80, 24))


def test_a_revision_is_chosen_by_a_click() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        pane = app.pane
        assert isinstance(pane, Changes)
        await pilot.click("#changes", offset=(5, 2))
        assert pane.chosen == 1
        await wheel(pilot, pane, 5, 2, events.MouseScrollUp)
        assert pane.chosen is None

    play(scene, "changes")
    play(scene, "changes", size=(80, 24))


def test_a_candidate_is_taken_by_a_click() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"conf")
        await pilot.click(Candidates, offset=(4, 0))
        assert app.query_one(Prompt).input.value == "confidence<"
        await pilot.press("escape", "ctrl+p", *"screen gpu")
        await pilot.click(Candidates, offset=(4, 0))
        await pilot.pause()
        assert app.view.pane == "gpu"

    play(scene)
