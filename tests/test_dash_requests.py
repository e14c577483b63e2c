"""The dashboard's requests: rows that arrive, filters, the past, one request beside its shadow."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from dash import body, look, make_row, opened
from feeds import StillFeed
from panes import pane_of, play, recorded_feed
from piloting import text_of, until
from textual.pilot import Pilot

from mdslite.tui.app import DashApp
from mdslite.tui.prompt import Prompt
from mdslite.tui.snapshot import View

pytestmark = pytest.mark.usefixtures("utc")


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
        await until(pilot, lambda: said in text_of(app))
        assert text_of(app).count(said) == 1 and app.view.filter == ""
        await pilot.press(*["backspace"] * 4, *"2")
        assert said not in text_of(app)
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
        assert "picture 8 by 8  1 of 2" in text_of(app)
        await pilot.press("n", "i")
        await pilot.pause()
        assert "2 of 2" in text_of(app)

    async def run() -> None:
        await_feed = StillFeed(msgspec.structs.replace(await look(View(pane="requests")), rows=[row]))
        async with opened(await_feed, (140, 45)) as (app, pilot):
            await scene(app, pilot)

    asyncio.run(run())
