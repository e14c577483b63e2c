"""What the dashboard's first screen is made of: snapshots, figures, bars, axes and widths."""

from __future__ import annotations

import msgspec
import pytest
from scenes import NOW, make_scene

from mdslite.tui import figures
from mdslite.tui.changes import revision_line
from mdslite.tui.header import firing_alerts
from mdslite.tui.histogram import histogram_lines, read_stack, scale
from mdslite.tui.lines import cells, cut, edge, fit, line_width, plain
from mdslite.tui.snapshot import View, decode, encode
from mdslite.tui.sources import bars_of, interval_of
from mdslite.tui.traffic import add_up, figures_of

pytestmark = pytest.mark.usefixtures("utc")


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


def test_a_failed_revision_is_listed_with_its_reason_and_its_error() -> None:
    wanted = {"id": 7, "time": NOW, "state": "failed", "author": "ana", "summary": {"add": 1}}

    def listed(**more: str) -> str:
        line = revision_line({**wanted, **more}, 100, make_scene(), time=8, chosen=False)
        return plain(line).partition("ana")[2].strip()

    assert listed(reason="v2 to a tenth", error="no such op") == "v2 to a tenth; failed: no such op"
    assert listed(error="no such op") == "no such op"
    assert listed(reason="v2 to a tenth") == "v2 to a tenth"


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
