"""Names and texts that are longer or wider than there is room for: what the dashboard keeps of them, and that
its dialogs say all that has to be typed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeVar

import pytest
from feeds import StillFeed
from piloting import piloted, text_of
from scenes import make_scene, make_version, showing
from textual.widgets import Input

from mdslite.asks import Lines
from mdslite.deploy.plan import Wanted, make_plan, to_plain
from mdslite.spec import ServiceInfo, Spec
from mdslite.tui.app import DashApp
from mdslite.tui.changes import diff_lines
from mdslite.tui.deployments import table_lines
from mdslite.tui.gpu import pane_lines
from mdslite.tui.lines import cells, cut_middle, line_width, plain
from mdslite.tui.plan_dialog import PlanDialog, plan_lines
from mdslite.tui.snapshot import Json, Snapshot
from mdslite.tui.wrapping import wrap

T = TypeVar("T")
LONG = "the-model-that-reads-handwritten-digits-of-the-customer-no"
VERSION = "candidate-of-the-week-before-christmas-that-was-trained-at-night"[:63]


def many(count: int) -> Snapshot:
    models: list[Json] = [
        {
            "project": "p",
            "model": f"{LONG}{number:03}",
            "versions": [make_version(VERSION, 33.3333 if number % 2 else 1_234_567)],
        }
        for number in range(count)
    ]
    return make_scene(models=models, rows=[])


@pytest.mark.parametrize("width", [60, 78, 98, 112, 158])
def test_models_that_differ_at_their_ends_can_be_told_apart(width: int) -> None:
    lines = table_lines(width, 30, many(20), cursor=3)
    assert len({plain(line)[2:40] for line in lines}) == 21
    for number, line in enumerate(lines[1:]):
        assert f"{number:03} " in plain(line), plain(line)
    assert {line_width(line) for line in lines} == {line_width(lines[0])} and line_width(lines[0]) <= width


def test_wide_terminals_give_names_the_room_of_the_least_figures() -> None:
    short = make_scene()
    assert "PROVIDER" in plain(table_lines(112, 10, short, cursor=0)[0])
    head, first, *_ = (plain(line) for line in table_lines(112, 10, many(2), cursor=0))
    assert "PROVIDER" not in head and "P99" in head and "~VRAM" in head
    assert "the-model-that" in first and "candida" in first


@pytest.mark.parametrize("width", [78, 112])
def test_a_version_that_refuses_much_says_so_beside_its_errors(width: int) -> None:
    calm, busy = many(2), many(2)
    version = busy.models[0]["versions"][0] if busy.models else {}
    version |= {"requests": 1000, "refused": 973, "errors": 0, "error_rate": 0.0}
    assert "REF%" not in plain(table_lines(width, 10, calm, cursor=1)[0])
    head, first, *_ = table_lines(width, 10, busy, cursor=1)
    assert plain(head).index("REF%") < plain(head).index("ERR%")
    assert ("  97.3", "bad") in [(text, role.removesuffix(" bold")) for text, role in first]


def test_a_plan_and_a_revision_name_what_they_change_and_count_the_rest() -> None:
    def state(weight: float) -> dict[tuple[str, str], dict[str, Wanted]]:
        weights = {"changed": weight} | {f"m{number:02}": 5 for number in range(26)}
        return {
            ("p", name): {
                "v1": Wanted(
                    Spec(uri="a.onnx", service_info=ServiceInfo(weight=one)), digest="sha256:1", size_bytes=1
                )
            }
            for name, one in weights.items()
        }

    plan = to_plain(make_plan(state(1), state(2), prune=False))
    asked = [plain(line) for line in plan_lines(plan, 78)]
    assert asked[0] == "PROJECT: p MODEL: changed" and len(asked) == 6
    assert asked[4:] == ["", "26 models stay as they are"]
    told = [plain(line) for line in diff_lines({"id": 3, "state": "applied", "diff": plan}, 78)]
    assert told[-1] == "26 models stayed as they were" and len(told) < 10


def test_all_versions_are_reached_on_the_screen_of_devices() -> None:
    snapshot = many(200)
    lines, first = pane_lines(78, 18, snapshot, first=100_000)
    assert "199 " in plain(lines[-1]) and len(lines) == 18
    assert first == 200 - sum(LONG[:4] in plain(line) for line in lines)


def test_a_text_is_cut_in_its_middle_to_columns() -> None:
    assert cut_middle("abcdefghij", 10) == "abcdefghij"
    assert cut_middle("abcdefghij", 7) == "abc…hij"
    assert cut_middle("abcdefghij", 1) == "…"
    for width in range(1, 14):
        assert cells(cut_middle("数数数a数数数", width)) <= width
    assert cut_middle("数数数a数数数", 9) == "数数…数数"


@pytest.mark.parametrize("width", [8, 20, 33])
def test_wide_letters_are_wrapped_by_their_columns(width: int) -> None:
    text = "模型 returned 数数数数数数数数数数数数数数数数数数 for Größe"
    lines = wrap(text, width)
    assert max(map(cells, lines)) <= width
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap("", 20) == wrap("\u3000", 20) == [""]


class Planning(StillFeed):
    """Answers every question for a plan with one that deletes."""

    @contextlib.asynccontextmanager
    async def read(self, lines: Lines[T]) -> AsyncGenerator[AsyncIterator[T], None]:
        before = Wanted(
            Spec(uri="/m.onnx", service_info=ServiceInfo(weight=5)), digest="sha256:1", size_bytes=9
        )
        plan: Any = to_plain(make_plan({("p", LONG): {VERSION: before}}, {}, prune=True))

        async def told() -> AsyncIterator[T]:
            yield {**plan, "event": "plan", "base_revision": 1}  # type: ignore[misc]

        yield told()


@pytest.mark.parametrize("size", [(80, 24), (50, 16)])
def test_a_deletion_says_all_that_has_to_be_typed(size: tuple[int, int]) -> None:
    async def story() -> None:
        app = DashApp(Planning(make_scene()), tick=False)
        async with piloted(app, size) as pilot:
            app.push_screen(PlanDialog(f"Delete p/{LONG}@{VERSION}", {}))
            await pilot.pause()
            await pilot.press("x", "enter", *["pagedown"] * 3)
            said = "".join(line.strip(" │") for line in text_of(app).splitlines())
            assert f"type{LONG}@{VERSION},thenEnter" in said.replace(" ", "")
            assert "“x”is not" in said or "“x” is not" in said

    asyncio.run(story())


def test_a_dialog_that_goes_on_below_says_so() -> None:
    async def story() -> None:
        app = DashApp(Planning(make_scene()), tick=False)
        async with piloted(app, (50, 12)) as pilot:
            app.push_screen(PlanDialog(f"Delete p/{LONG}@{VERSION}", {}))
            await pilot.pause()
            assert "↓ more" in text_of(app)
            await pilot.press(*["pagedown"] * 4)
            assert "↓ more" not in text_of(app) and "leaves it as it is" in text_of(app)

    asyncio.run(story())


def test_the_weight_is_typed_in_the_place_of_the_one_that_is() -> None:
    async def story() -> None:
        async with showing(make_scene()) as (app, pilot):
            await pilot.press("down", "w")
            await pilot.pause()
            await pilot.press("6", "0")
            assert app.screen.query_one(Input).value == "v13 60"
            await pilot.press("end", "backspace", "5")
            assert app.screen.query_one(Input).value == "v13 65"

    asyncio.run(story())
