"""The dashboard's panes at every size and in every dress, its changes, its line for filters and commands, its
palette and its help: the real program, driven by keys. Texts of whole screens lie in snapshots/."""

from __future__ import annotations

import asyncio
import re

import pytest
from dash import SIZES, opened, still
from panes import Scene, choose_and_open, nothing, play, recorded_feed
from piloting import text_of, until
from scenes import SNAPSHOTS, agree
from textual.binding import Binding
from textual.pilot import Pilot
from textual.widgets import Input

from mdslite.tui.app import PANES, DashApp
from mdslite.tui.canvas import Canvas
from mdslite.tui.commands import COMMANDS
from mdslite.tui.help import Help

pytestmark = pytest.mark.usefixtures("utc")
SCENES: dict[str, tuple[str, Scene]] = {
    "requests": ("requests", nothing),
    "request": ("requests", choose_and_open),
    "gpu": ("gpu", nothing),
    "changes": ("changes", nothing),
    "sync": ("sync", nothing),
}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("name", SCENES)
def test_screens_look_like_this(name: str, size: tuple[int, int]) -> None:
    pane, scene = SCENES[name]
    agree(f"{name}-{size[0]}x{size[1]}", play(scene, size=size, pane=pane))


@pytest.mark.parametrize("size", [(8, 3), (20, 6), (20, 8), (40, 12), (61, 19), (104, 24), (210, 60)])
@pytest.mark.parametrize("name", [*PANES, "request"])
def test_every_pane_fits_any_size(name: str, size: tuple[int, int]) -> None:
    scene, pane = (choose_and_open, "requests") if name == "request" else (nothing, name)
    lines = play(scene, size=size, pane=pane).split("\n")
    assert len(lines) <= size[1]
    assert max(map(len, lines)) <= size[0]


@pytest.mark.parametrize("key", ["w", "question_mark", "slash", "ctrl+p"])
def test_a_terminal_may_become_so_small_that_nothing_fits(key: str) -> None:
    async def shrink(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press(key)
        for size in ((30, 9), (12, 4), (3, 2), (1, 1), (100, 30)):
            await pilot.resize_terminal(*size)

    assert "──╯" in play(shrink, pane="deploy")


@pytest.mark.parametrize("pane", PANES)
def test_ascii_draws_with_ascii_alone(pane: str) -> None:
    async def run() -> str:
        async with opened(await still(pane), (140, 45), ascii=True) as (app, pilot):
            if pane == "requests":
                await pilot.press("down")
            return text_of(app)

    assert asyncio.run(run()).isascii()


@pytest.mark.parametrize("pane", PANES)
def test_no_colour_is_no_colour(pane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with opened(await still(pane), (140, 45), theme="none") as (app, pilot):
            await pilot.press("down")
            for canvas in app.screen.query(Canvas):
                for line in canvas.lines(*canvas.size, app.snapshot):
                    for _, role in line:
                        style = app.ink.style(role)
                        assert style.color is None and style.bgcolor is None, role
            assert app.native_ansi_color

    monkeypatch.setenv("NO_COLOR", "1")
    asyncio.run(run())


def test_themes_are_put_on_while_it_runs() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        for name in ("light", "contrast", "terminal", "okabe-ito"):
            app.use_theme(name)
            await pilot.pause()
            assert app.ink.theme == name
        with pytest.raises(ValueError, match="no theme 'pink'"):
            app.use_theme("pink")

    play(scene)


# Changes


def test_the_file_of_a_revision_is_shown_and_left() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: bool(app.snapshot.revisions))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "the file that was applied" in text_of(app))
        await pilot.press("escape")
        assert "the file that was applied" not in text_of(app)

    play(scene, recorded_feed("changes"))


def test_undo_of_a_recording_says_that_it_is_one() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: bool(app.snapshot.revisions))
        await pilot.press("u")
        await until(pilot, lambda: "nothing can be changed" in text_of(app))

    assert "this is a recording" in play(scene, recorded_feed("changes"))


def test_a_tick_of_one_that_has_ended_draws_nothing() -> None:
    async def run() -> None:
        async with opened(await still("changes"), (100, 30)) as (app, _):
            assert app.screen_stack
        assert not app.screen_stack
        app.repaint()

    asyncio.run(run())


# The line at the bottom, the palette, the help


def test_commands_are_completed_and_run() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("colon", *"chan", "tab", "enter")
        await until(pilot, lambda: app.view.pane == "changes")
        for typed, seconds in (("1h", 3600), ("3m", 180)):
            await pilot.press("colon", *f"span {typed}", "enter")
            await until(pilot, lambda seconds=seconds: app.view.span_s == seconds)  # type: ignore[misc]
        await pilot.press("colon", *"theme light", "enter")
        await until(pilot, lambda: app.ink.theme == "light")

    play(scene)


@pytest.mark.parametrize(
    ("typed", "heading"),
    [
        ("weight demo/digits@v2 30", "Weights of demo/digits"),
        ("undo 1", "Go back to the state after revision 1"),
        ("apply other.yaml", "other.yaml"),
        ("export rows.csv", "Export the log"),
        ("label demo/digits", "What should the answer have been?"),
    ],
)
def test_commands_open_what_keys_open(typed: str, heading: str) -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: bool(app.snapshot.models))
        await pilot.press("colon")
        app.screen.query_one(Input).value = typed
        await pilot.press("enter")
        await until(pilot, lambda: heading in text_of(app))

    play(scene, recorded_feed())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("nonsense", "no command 'nonsense'"),
        ("span soon", "expected a span such as 15m or 2h"),
        ("span 9d", "expected a span from 10s to 7d"),
        ("at never", "expected a time such as 14:03"),
        ("theme pink", "no theme 'pink'"),
        ("undo yesterday", "expected the number of a revision"),
        ("weight v2 20", "expected PROJECT/MODEL@VERSION, such as demo/digits@v1"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(typed: str, said: str) -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("colon", *typed, "enter")
        await until(pilot, lambda: bool(app.said[0]))

    assert said in play(scene)


def test_the_palette_finds_screens_keys_and_models() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+p", *"screen ch", "enter")
        await until(pilot, lambda: app.view.pane == "changes")
        await pilot.press("ctrl+p", *"requests of demo", "enter")
        await until(pilot, lambda: app.view.filter == "project=demo model=digits")
        await pilot.press("ctrl+p", *"zzz")
        await pilot.press("escape")

    play(scene)


def test_keys_typed_into_the_line_are_letters() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"q1p!")
        assert app.view.pane == "requests" and not app.view.paused and not app.read_only
        await pilot.press("escape")
        await pilot.pause()
        await pilot.press("3")
        await until(pilot, lambda: app.view.pane == "gpu")

    play(scene)


def test_the_help_lists_every_key_and_command_that_there_is() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("f1")
        assert isinstance(app.screen, Help)
        told = {text for _, entries in app.screen._sections for _, text in entries}
        for owner in (app, app.pane):
            assert owner is not None
            for binding in Binding.make_bindings(owner.BINDINGS):
                assert binding.description in told, binding
        assert {one.told for one in COMMANDS} <= told
        assert "a shadow's dropped copies" in told  # mdslite compare counts them
        await pilot.press("down", "pagedown", "escape")
        assert not isinstance(app.screen, Help)

    play(scene)


def test_keys_without_a_likeness_in_ascii_are_named() -> None:
    async def run() -> str:
        async with opened(await still("deploy"), (140, 45), ascii=True) as (app, pilot):
            await pilot.press("f1")
            return text_of(app)

    text = asyncio.run(run())
    assert text.isascii() and re.search(r"\benter\b", text)


def test_screens_are_there_for_review() -> None:
    wanted = {f"{name}-{width}x{height}.txt" for name in SCENES for width, height in SIZES}
    assert wanted <= {file.name for file in SNAPSHOTS.glob("*.txt")}
