"""The dashboard's screens of requests, devices, changes and clusters, its line for filters and commands, its
palette and its help: the real program, driven by keys. Texts of whole screens lie in snapshots/.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest
from dash import NOW, SIZES, body, look, make_row, opened, screen_text, small_recording, still
from feeds import StillFeed
from scenes import SNAPSHOTS, agree
from textual.binding import Binding
from textual.pilot import Pilot
from textual.widgets import Input

from mdslite.tui.app import PANES, DashApp
from mdslite.tui.canvas import Canvas
from mdslite.tui.commands import COMMANDS
from mdslite.tui.feed import LiveFeed
from mdslite.tui.help import Help
from mdslite.tui.prompt import Prompt
from mdslite.tui.requests import Requests
from mdslite.tui.snapshot import View

Scene = Callable[[DashApp, Pilot[None]], Awaitable[None]]


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times on the screen are those of this machine's zone."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


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
            return screen_text(app)

    return asyncio.run(run())


def recorded_feed(pane: str = "requests") -> LiveFeed:
    return LiveFeed(small_recording(), clock=lambda: NOW, view=View(pane=pane))


async def nothing(app: DashApp, pilot: Pilot[None]) -> None:
    """Only look."""


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    """Wait for what a feed brings."""
    async with asyncio.timeout(20):
        while not holds():
            await pilot.pause()
            await asyncio.sleep(0.01)


def pane_of(app: DashApp) -> Requests:
    pane = app.pane
    assert isinstance(pane, Requests)
    return pane


async def choose_and_open(app: DashApp, pilot: Pilot[None]) -> None:
    await pilot.press("down", "down")
    if app.size.width < 104:
        await pilot.press("enter")
    await until(pilot, lambda: pane_of(app).found is not None and pane_of(app).found.known)


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
            return screen_text(app)

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


# Requests


def test_rows_that_arrive_do_not_move_the_chosen_one() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        assert isinstance(app.feed, StillFeed)
        await pilot.press("down", "down", "down")
        pane = pane_of(app)
        chosen = pane.book.chosen
        before = [row["id"] for row in pane.book.seen(10)]
        for turn in range(1, 5):
            newest = (app.snapshot.rows or [])[0]["id"]
            arrived = [make_row(newest + at) for at in range(250 * turn, 0, -1)]
            rows = (arrived + (app.snapshot.rows or []))[:2000]
            app.feed.snapshot = msgspec.structs.replace(app.snapshot, rows=rows)
            app.tick()
        assert pane.book.chosen == chosen
        assert [row["id"] for row in pane.book.seen(10)] == before
        assert pane.caption(app.snapshot).startswith("2,500 newer ↑")
        await pilot.press("f")
        assert pane.book.seen(1)[0]["id"] == (app.snapshot.rows or [])[0]["id"]

    play(scene)


def test_a_filter_is_typed_completed_and_taken_away() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: bool(app.snapshot.rows))
        await pilot.press("slash", *"stat")
        await pilot.press("tab")
        await pilot.press(*"400", "enter")
        await until(pilot, lambda: app.view.filter == "status>=400")
        await until(pilot, lambda: bool(pane_of(app).book.seen(5)))
        await until(pilot, lambda: all(row["status"] == 400 for row in pane_of(app).book.seen(50)))
        await pilot.press("escape")
        assert app.view.filter == ""

    play(scene, recorded_feed())


def test_rows_of_what_was_looked_at_before_do_not_get_into_a_screen_that_opens() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        assert isinstance(app.feed, StillFeed)
        assert {row["status"] for row in app.snapshot.rows or ()} == {200, 400}
        app.look(pane="requests", filter="status>=400")
        await app.run_action("show('requests')")
        await pilot.pause()
        bad = [row for row in app.snapshot.rows or () if row["status"] == 400]
        app.feed.snapshot = msgspec.structs.replace(app.snapshot, rows=bad, rows_filter="status>=400")
        app.repaint()
        await pilot.pause()
        assert pane_of(app).book.seen(1000) == bad

    play(scene, pane="deploy")


def test_a_wrong_filter_says_what_is_wrong() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        app.look(filter="latency_ms>fast")
        await until(pilot, lambda: "rows" in app.snapshot.troubles)
        app.repaint()

    assert "latency_ms: expected a number, got 'fast'" in play(scene, recorded_feed())


def test_a_wrong_filter_stays_in_the_line_with_what_is_wrong() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"latency_ms>fast", "enter")
        said = "latency_ms: expected a number, got 'fast'"
        await until(pilot, lambda: said in screen_text(app))
        assert screen_text(app).count(said) == 1 and app.view.filter == ""
        await pilot.press(*["backspace"] * 4, *"2")
        assert said not in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.view.filter == "latency_ms>2")
        await pilot.press("colon", *"filter confidence<abc", "enter")
        await until(pilot, lambda: "expected a number" in app.said[0])
        assert app.view.filter == "latency_ms>2"

    play(scene, recorded_feed())


def test_the_past_is_read_page_by_page() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        pane = pane_of(app)
        await until(pilot, lambda: len(pane.book) == 200)
        await pilot.press("end")
        await until(pilot, lambda: len(pane.book) == 400)
        ids = [row["id"] for row in pane.book.seen(1000)]
        assert ids == sorted(set(ids), reverse=True)

    play(scene, recorded_feed())


def test_a_request_opens_with_its_shadow_beside_it() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        pane = pane_of(app)
        await until(pilot, lambda: len(pane.book) > 0)
        await pilot.press("down", "down")
        await until(pilot, lambda: pane.found is not None and bool(pane.found.related))
        app.repaint()

    text = play(scene, recorded_feed(), size=(140, 45))
    assert "primary and shadow" in text
    assert "same answer" in text or "other answer" in text


def test_curl_and_json_are_copied() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("down", "down", "y")
        await until(pilot, lambda: bool(app.clipboard))
        assert app.clipboard.startswith("curl -sg recording:digits/projects/demo/models/digits:predict")
        assert '"instances":[[0,0,5,13' in app.clipboard.replace(" ", "")
        await pilot.press("Y")
        await until(pilot, lambda: app.clipboard.startswith("{"))
        row = msgspec.json.decode(app.clipboard)
        assert row["model"] == "digits" and row["request"]["content"]

    play(scene)


def test_keys_that_take_a_row_say_how_to_choose_one() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: len(pane_of(app).book) > 0)
        await pilot.press("y")

    assert "no row is chosen: ↓ chooses one" in play(scene, recorded_feed())


def test_fields_of_bodies_are_completed_though_the_rows_that_are_held_have_none() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        assert all(row["reply"] is None for row in app.snapshot.rows or ())
        await pilot.press("slash", *"reply.")
        await until(pilot, lambda: "reply.label" in app.words)
        assert "reply.label=" in {one.text for one in app.query_one(Prompt).candidates.found}

    play(scene)


def test_keys_narrow_the_log_to_what_the_row_has() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        for key, field in {"m": "model", "v": "version", "s": "status"}.items():
            await until(pilot, lambda: len(pane_of(app).book) > 0)
            await pilot.press("down", key)
            assert f"{field}=" in app.view.filter
        await until(pilot, lambda: len(pane_of(app).book) > 0)

    play(scene, recorded_feed())


def test_narrowing_keeps_the_row_and_escape_goes_back_by_one() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        pane = pane_of(app)
        await until(pilot, lambda: len(pane.book) == 200)
        await pilot.press("down", "down", "down")
        row = pane.book.row()
        assert row is not None
        await pilot.press("m", "v", "s")
        wanted = [f"model={row['model']}", f"version={row['version']}", f"status={row['status']}"]
        assert app.view.filter.split() == wanted and pane.book.row() == row
        assert len(pane.book) > 20
        assert {one["version"] for one in pane.book.seen(1000)} == {row["version"]}
        await pilot.press("s")
        assert app.said[0].startswith("these are all")
        for count in (2, 1, 0):
            await pilot.press("escape")
            assert app.view.filter.split() == wanted[:count] and pane.book.row() == row
        await pilot.press("escape", "v")
        assert app.said[0].startswith("no row is chosen")

    play(scene, recorded_feed())


def test_a_picture_becomes_numbers_and_another_instance_is_shown() -> None:
    pixels = [[at % 17 for at in range(64)], [0.0] * 64]
    row = make_row(7, request=body(msgspec.json.encode({"instances": pixels}).decode()))

    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        assert isinstance(app.feed, StillFeed)
        app.feed.snapshot = msgspec.structs.replace(app.snapshot, rows=[row])
        await pilot.press("down")
        assert "picture 8 by 8  1 of 2" in screen_text(app)
        await pilot.press("n", "i")
        await pilot.pause()
        assert "2 of 2" in screen_text(app)

    async def run() -> None:
        await_feed = StillFeed(msgspec.structs.replace(await look(View(pane="requests")), rows=[row]))
        async with opened(await_feed, (140, 45)) as (app, pilot):
            await scene(app, pilot)

    asyncio.run(run())


# Changes


def test_the_file_of_a_revision_is_shown_and_left() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: bool(app.snapshot.revisions))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "the file that was applied" in screen_text(app))
        await pilot.press("escape")
        assert "the file that was applied" not in screen_text(app)

    play(scene, recorded_feed("changes"))


def test_undo_of_a_recording_says_that_it_is_one() -> None:
    async def scene(app: DashApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: bool(app.snapshot.revisions))
        await pilot.press("u")
        await until(pilot, lambda: "nothing can be changed" in screen_text(app))

    assert "this is a recording" in play(scene, recorded_feed("changes"))


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
        await until(pilot, lambda: heading in screen_text(app))

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
            return screen_text(app)

    text = asyncio.run(run())
    assert text.isascii() and re.search(r"\benter\b", text)


def test_screens_are_there_for_review() -> None:
    wanted = {f"{name}-{width}x{height}.txt" for name in SCENES for width, height in SIZES}
    assert wanted <= {file.name for file in SNAPSHOTS.glob("*.txt")}
