"""The dashboard's first screen on moments that are always the same: what it shows at several sizes, what keys
do, what it says when there is nothing to show, and that nothing from the network is obeyed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from piloting import text_of
from scenes import EVIL, NOW, SIZES, URL, agree, fit_scene, make_rows, make_scene, make_version, showing
from textual.pilot import Pilot
from textual.widgets import Input

from mdslite.tui.app import DashApp
from mdslite.tui.clean import clean
from mdslite.tui.deploy import Deploy
from mdslite.tui.deployments import entries_of
from mdslite.tui.ink import Ink
from mdslite.tui.lines import cells
from mdslite.tui.once import screen_text
from mdslite.tui.snapshot import Connection, Snapshot, View
from mdslite.tui.sources import log_filter

Story = Callable[[DashApp, "Pilot[None]"], Awaitable[None]]


pytestmark = pytest.mark.usefixtures("utc")


def tell(
    story: Story,
    snapshot: Snapshot | None = None,
    *,
    size: tuple[int, int] = (80, 24),
    ascii: bool = False,
    read_only: bool = False,
) -> None:
    """Run the application and what is done in it."""

    async def run() -> None:
        shown = snapshot or make_scene()
        async with showing(shown, size=size, ascii=ascii, read_only=read_only) as (app, pilot):
            await story(app, pilot)

    asyncio.run(run())


# What it looks like


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_first_screen(size: tuple[int, int]) -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        agree(f"deploy-{size[0]}x{size[1]}", text_of(app))

    tell(story, size=size)


def test_the_first_screen_in_ascii() -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        assert text_of(app).isascii()
        agree("deploy-ascii-80x24", text_of(app))

    tell(story, ascii=True)


def test_a_brush_narrows_the_numbers_and_says_so() -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("left", "left", "H", "H")
        start, stop = app.view.brush or (0.0, 0.0)
        assert (start, stop) == (NOW - 60, NOW - 15)
        assert f"since={start:.3f}" in log_filter(app.view)
        agree("deploy-brushed-110x30", text_of(app))
        await pilot.press("escape")
        assert app.view.brush is None

    tell(story, size=(110, 30))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("loading", {"models": None, "rows": None, "histogram": None}),
        ("empty", {"models": [], "rows": []}),
        (
            "unreachable",
            {
                "models": None,
                "connection": Connection(
                    state="unreachable",
                    url=URL,
                    message=f"no appliance answers at {URL}",
                    hint="start it with: mdslite up",
                    since=NOW - 5,
                    retry_at=NOW + 2,
                ),
            },
        ),
        (
            "unauthorised",
            {
                "models": None,
                "connection": Connection(
                    state="unauthorised",
                    url=URL,
                    message="this takes a token",
                    hint="export MDSLITE_TOKEN=TOKEN",
                    since=NOW - 5,
                    retry_at=NOW + 2,
                ),
            },
        ),
        (
            "went-away",
            {
                "connection": Connection(
                    state="unreachable",
                    url=URL,
                    hint="start it with: mdslite up",
                    since=NOW - 5,
                    retry_at=NOW + 2,
                )
            },
        ),
        ("quiet", {"histogram": {"interval_s": 15.0, "since": NOW - 885, "until": NOW + 15, "series": []}}),
        ("past", {"models": [], "view": View(moment=NOW - 300)}),
    ],
)
def test_each_want_of_something_to_show_has_its_own_words(name: str, changes: dict[str, object]) -> None:
    snapshot = make_scene(**changes)
    agree(f"state-{name}", screen_text(snapshot, 80, 24))


def test_every_size_is_filled_exactly() -> None:
    for width in (20, 33, 50, 79, 80, 81, 100, 126, 140, 211):
        for height in (6, 10, 16, 24, 45, 70):
            lines = screen_text(fit_scene(width), width, height).split("\n")
            assert len(lines) == height and max(map(cells, lines)) <= width


def test_it_is_resized_while_it_runs() -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        for size in ((140, 45), (40, 12), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            lines = text_of(app).split("\n")
            assert len(lines) == size[1] and max(map(cells, lines)) <= size[0]
        agree("deploy-80x24", text_of(app))

    tell(story, size=(80, 24))


# What is not obeyed


def test_nothing_from_the_network_reaches_the_terminal_as_a_command() -> None:
    evil = make_version("v1", 1, state="failed", reason=EVIL, uri=EVIL, provider=EVIL)
    snapshot = make_scene(
        models=[{"project": EVIL, "model": EVIL, "versions": [evil]}],
        rows=[{**make_rows(1)[0], "model": EVIL, "code": EVIL, "request_id": EVIL}],
        alerts=[{"time": NOW - 60, "model": EVIL, "signal": EVIL, "text": EVIL, "state": "firing"}],
        troubles={"rows": EVIL},
    )

    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        text = text_of(app)
        assert "\x1b" not in text and "\u202e" not in text
        assert "\\x1b[31mred" in text and "[bold]x[/]" in text
        await pilot.press("e")
        await pilot.pause()
        assert "\\x1b[31mred\\x1b[0m [bold]x[/] \\u202egnp" in text_of(app)

    tell(story, snapshot, size=(140, 45))


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "a\nb", "a\u200bb", "\ud800", "\x9b31m", "\U000e0041"])
def test_whatever_a_terminal_obeys_is_spelled_out(text: str) -> None:
    assert clean(text).isprintable()
    assert clean(clean(text)) == clean(text)


def test_plain_letters_of_every_script_stay() -> None:
    assert clean("größe 数 модель 🙂") == "größe 数 модель 🙂"
    assert Ink(ascii=True).spell("größe 数") == "gr??e ??"


# What the keys do


def test_arrows_move_and_enter_narrows_to_a_model() -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("down", "down")
        assert isinstance(app.pane, Deploy) and app.pane.cursor == 2
        await pilot.press("enter")
        assert app.view.model == ("bank", "fraud")
        await pilot.press("enter")
        assert app.view.pane == "requests"
        assert app.view.filter == "project=bank model=fraud version=v14"
        await pilot.press("escape", "1", "escape", "escape")
        assert app.view.model is None and app.view.filter == ""
        await pilot.press("end")
        assert app.pane.cursor == len(entries_of(app.snapshot)) - 1

    tell(story)


def test_the_past_and_back() -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("[", "[")
        assert app.view.moment == NOW - 30
        assert "PAST 11:59:30" in text_of(app)
        await pilot.press("w")
        assert "this is the past" in text_of(app)
        await pilot.press("]", "]")
        assert app.view.moment is None
        await pilot.press("{", ".")
        assert app.view == View(bars=app.view.bars)

    tell(story)


def test_zoom_and_pan() -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("-")
        assert app.view.span_s == 3600
        await pilot.press("+", "+")
        assert app.view.span_s == 300
        await pilot.press("<")
        assert app.view.until == NOW - 75
        await pilot.press(">")
        assert app.view.until is None
        await pilot.press(">")
        assert "ends with what is newest" in text_of(app)
        await pilot.press("left", "H", "H", "H", "+")
        assert app.view.span_s == 60 and app.view.until is not None
        await pilot.press("+")
        assert "the histogram shows 1m, the closest" in text_of(app)

    tell(story)


def test_a_brush_stays_where_something_can_have_happened() -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("right")
        assert app.view.brush == (NOW - 15, NOW)  # the bar that begins now is still to come
        await pilot.press("right", "L")
        assert app.view.brush == (NOW - 15, NOW)
        await pilot.press("right")
        assert "nothing newer to brush" in text_of(app)

    tell(story)


def test_read_only_refuses_and_can_be_ended_unless_it_was_asked_for() -> None:
    async def locked(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("w")
        assert "read-only" in text_of(app) and len(app.screen_stack) == 1
        await pilot.press("!")
        assert app.read_only

    async def open_(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("!", "D")
        assert len(app.screen_stack) == 1
        await pilot.press("!", "w")
        assert len(app.screen_stack) == 2

    tell(locked, read_only=True)
    tell(open_)


def test_a_weight_shows_its_effect_while_it_is_typed() -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("down", "w")
        await pilot.pause()
        field = app.screen.query_one(Input)
        assert field.value == "v13 10"
        field.value = "v13 60"
        await pilot.pause()
        agree("weights-80x24", text_of(app))
        field.value = "v99 1"
        await pilot.press("enter")
        await pilot.pause()
        assert "the versions are v12, v13, v14" in text_of(app)

    tell(story)


def test_a_rollout_proposes_only_steps_up() -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        for steps in ("100", "25,50,100", "5,25,50,100"):  # of 90, of 10, of none
            await pilot.press("o")
            await pilot.pause()
            assert app.screen.query_one(Input).value.startswith(f"{steps} every 10m ")
            await pilot.press("escape", "down")

    tell(story)


def test_e_says_what_is_wrong_with_what_has_failed() -> None:
    async def story(app: DashApp, pilot: Pilot[None]) -> None:
        await pilot.press("e")
        await pilot.pause()
        assert "vision/resnet50@v3 is failed" in text_of(app)
        assert "the file is cut short" in text_of(app)
        await pilot.press("escape")
        assert len(app.screen_stack) == 1

    tell(story)
