"""The dashboard's first screen on moments that are always the same: what it shows at several sizes, what keys
do, what it says when there is nothing to show, and that nothing from the network is obeyed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest
from scenes import (
    EVIL,
    NOW,
    SIZES,
    URL,
    agree,
    fit_scene,
    make_rows,
    make_scene,
    make_version,
    showing,
    text_of,
)
from textual.pilot import Pilot
from textual.widgets import Input

from mdslite.tui import figures
from mdslite.tui.app import DashApp
from mdslite.tui.clean import clean
from mdslite.tui.deploy import Deploy
from mdslite.tui.deployments import entries_of
from mdslite.tui.header import firing_alerts
from mdslite.tui.histogram import histogram_lines, read_stack, scale
from mdslite.tui.ink import Ink
from mdslite.tui.lines import cells, cut, edge, fit, line_width, plain
from mdslite.tui.once import screen_text
from mdslite.tui.snapshot import Connection, Snapshot, View, decode, encode
from mdslite.tui.sources import bars_of, interval_of, log_filter
from mdslite.tui.traffic import add_up, figures_of

Story = Callable[[DashApp, "Pilot[None]"], Awaitable[None]]


@pytest.fixture(autouse=True)
def _greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


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
            {"connection": Connection(state="unreachable", url=URL, since=NOW - 5, retry_at=NOW + 2)},
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


# Values and small pictures


def test_a_snapshot_is_json_and_back() -> None:
    snapshot = make_scene(view=View(brush=(1.0, 2.0), model=("p", "m")))
    assert decode(encode(snapshot)) == snapshot


def test_figures_of_a_chosen_part_come_from_the_log() -> None:
    live = make_scene()
    brushed = msgspec.structs.replace(live, view=View(brush=(NOW - 60, NOW)))
    version = (live.models or [])[0]["versions"][0]
    assert figures_of(live, "bank", "fraud", version).rps == 371.0
    assert figures_of(brushed, "bank", "fraud", version).rps == 22_260 / 60
    total = add_up(live)
    assert total is not None and total.rps == pytest.approx(412.2) and total.p99_ms == 9.8
    assert total.p50_ms == 2.04  # of nine tenths of the traffic, however slow the rest is


def test_an_alert_that_is_resolved_is_told_no_more() -> None:
    live = make_scene()
    (firing,) = live.alerts or []
    over = {**firing, "id": 4, "state": "resolved", "opened": 3, "time": "2026-11-22T11:59:00Z"}
    assert firing_alerts(live) == [firing]
    assert firing_alerts(make_scene(alerts=[over, firing])) == []


def test_shadows_are_no_traffic_unless_asked_for() -> None:
    histogram = make_scene().histogram
    without, with_ = read_stack(histogram, shadows=False), read_stack(histogram, shadows=True)
    assert without is not None and without.names == ["v12", "v13"]
    assert with_ is not None and with_.names == ["v12", "v13", "v14"]


def test_many_versions_are_stacked_as_the_greatest_and_others() -> None:
    def series(at: int) -> dict[str, object]:
        return {
            "project": "p", "model": "m", "version": f"v{at}", "shadow": False, "counts": [at], "errors": [0]
        }  # fmt: skip

    found = {"interval_s": 1.0, "since": 0.0, "until": 1.0, "series": [series(at) for at in range(1, 21)]}
    stack = read_stack(found, shadows=False)
    assert stack is not None and len(stack.names) == 8
    assert stack.names[0] == "v20" and stack.names[-1] == "others" and sum(map(sum, stack.counts)) == 210


@pytest.mark.parametrize("span_s", [10, 60, 180, 300, 900, 3600, 86_400, 604_800])
@pytest.mark.parametrize("bars", [8, 43, 56, 118])
def test_bars_are_round_times_and_hold_what_was_asked_for(span_s: float, bars: int) -> None:
    view = View(span_s=span_s, bars=bars)
    assert bars_of(view) <= bars
    over = (bars_of(view) - 1) * interval_of(view)  # the last one is not over
    assert span_s <= over < span_s + interval_of(view)


def test_of_marks_that_meet_the_later_one_has_its_name() -> None:
    def lines(*ages_s: float) -> str:
        revisions = [
            {"id": number, "time": NOW - age_s, "state": "applied", "author": "ana"}
            for number, age_s in enumerate(ages_s, 1)
        ]
        drawn = histogram_lines(80, 8, make_scene(revisions=revisions, alerts=[]))
        return plain(drawn[1]).strip("│ ")

    assert lines(600, 300) == "▲rev1               ▲rev2"
    assert lines(330, 300) == "▲ ▲rev2"
    assert lines(315, 300) == "▲rev2"
    assert lines(45, 0) == "▲rev2"
    assert lines(120, 0) == "▲   ▲rev2"


def test_labels_of_different_widths_move_neither_bars_nor_times() -> None:
    found = {
        "project": "p", "model": "m", "version": "v1", "shadow": False, "counts": [9_900] * 20,
        "errors": [0] * 20,
    }  # fmt: skip
    histogram = {"interval_s": 15.0, "since": NOW - 300, "until": NOW, "series": [found]}
    lines = [plain(line) for line in histogram_lines(80, 8, make_scene(histogram=histogram))]
    assert any(" 10k│" in line for line in lines) and any("5000│" in line for line in lines)
    edges = [max(line.find("│", 1, 20), line.find("└")) for line in lines[1:-1]]
    assert set(edges[-4:]) == {5}, "\n".join(lines)
    assert any("█ v1" in line for line in lines)


@pytest.mark.parametrize("rows", range(1, 16))
@pytest.mark.parametrize("highest", [0, 1, 2, 3, 7, 11, 44, 72, 100, 333, 950, 1001, 4567, 26_700, 1_234_567])
def test_an_axis_has_round_numbers_and_room_for_what_is_highest(highest: int, rows: int) -> None:
    top, labels = scale(highest, rows)
    assert len(labels) == rows and any(labels)
    assert highest <= top <= 1.6 * max(1, highest)
    if rows > 2:
        assert top <= 1.25 * max(1, highest)
    assert all(len(one.rstrip("kM").strip("0").replace(".", "")) <= 3 for one in labels)


def test_narrow_figures() -> None:
    assert [figures.rate(one) for one in (None, 0.0, 0.376, 31.4, 371.0, 12_345.0)] == [
        "-", "0", "0.376", "31.4", "371", "12.3k",
    ]  # fmt: skip
    assert [figures.milliseconds(one) for one in (2.04, 99.96, 1348.0, 61_000.0)] == [
        "2.0", "100", "1348", "61s",
    ]  # fmt: skip
    assert [figures.percent(one, 2) for one in (None, 0.0, 0.05, 0.9999, 0.99999, 1.0)] == [
        "-", "0.00", "5.00", "99.99", "100", "100",
    ]  # fmt: skip
    assert [figures.confidence(one) for one in (0.94, 1.0, None)] == [".94", "1.00", "-"]
    assert [figures.size(one) for one in (918, 79_000, 1_200_000_000)] == ["918B", "79k", "1.2G"]
    assert [figures.span(one) for one in (15, 900, 1140, 10_800, 604_800)] == [
        "15s",
        "15m",
        "19m",
        "3h",
        "7d",
    ]
    assert figures.bar(0.5, 3) == "█▌ " and figures.sparkline([0, 50, None, 100], 5, top=100) == " ▁▄ █"


def test_widths_count_wide_letters() -> None:
    assert cut("数数数", 4) == "数…" and cells(fit("数", 4)) == 4
    line = edge([("a", "")], [("b", "")], 12)
    assert plain(line) == "╭ a ─── b ─╮" and line_width(line) == 12
