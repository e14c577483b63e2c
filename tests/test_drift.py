"""The watch for drift: what it counts, what it finds, and that it leaves healthy versions alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from drift_traffic import DAY_PANES, Traffic, baseline_of, delay, learn, live
from numpy.random import default_rng

from mdslite.drift.baseline import Usual, build_usual, count_cells, judge
from mdslite.drift.schedule import PANE_S
from mdslite.drift.sketches import (
    BUCKETS,
    FEATURES_MAX,
    SLOTS,
    Vocabulary,
    Window,
    choose_edges,
    count_numbers,
)
from mdslite.drift.watch import CALM_LOOKS, Watch

SMALL = Traffic(requests=120, rows=60, features=2)


# Sketches


def filled(readings: list[dict[str, float | str | None]], *, known: set[str] | None = None) -> Window:
    window = Window()
    window.add_readings(readings, Vocabulary(), known if known is not None else set())
    return window


def test_windows_add_up_and_survive_being_written_down() -> None:
    one, other = (
        filled([{"input.x": float(n), "input.t": "a", "output": "yes"} for n in range(count)])
        for count in (300, 700)
    )
    one.add_columns(
        latency_ms=np.array([1.0, 2.0, 3.0]),
        confidence=np.array([0.5, np.nan, 1.0]),
        good=np.array([True, True, False]),
        failed=1,
    )
    one.merge(Window.decode(other.encode()))
    back = Window.decode(one.encode())
    assert (back.rows, back.requests, back.failed) == (1000, 3, 1)
    assert (back.latency.sum(), back.confidence.sum()) == (2, 1)
    assert back.numbers["input.x"].n == 1000
    assert back.texts["input.t"].sum() == back.presence["input.t"].texts == 1000
    with pytest.raises(ValueError, match="no sketch"):
        Window.decode(b"nonsense")


def test_thousands_of_texts_take_a_fixed_room_and_none_is_lost() -> None:
    vocabulary, window = Vocabulary(), Window()
    readings: list[dict[str, float | str | None]] = [{"input.id": f"user-{n}"} for n in range(5000)]
    window.add_readings(readings, vocabulary, set())
    assert len(vocabulary.names["input.id"]) == SLOTS
    assert len(window.texts["input.id"]) == SLOTS + BUCKETS
    assert window.texts["input.id"].sum() == 5000
    assert len(window.encode()) < 2000


def test_features_beyond_the_bound_are_counted_and_left_out() -> None:
    window = filled([{f"input.x{n}": 1.0 for n in range(FEATURES_MAX + 8)}])
    assert (len(window.numbers), window.left_out) == (FEATURES_MAX, 8)


def test_a_million_values_take_kilobytes() -> None:
    window = Window()
    for _ in range(100):
        window.add_readings(
            [{"input.x": float(x)} for x in default_rng(1).normal(size=1000)], Vocabulary(), set()
        )
    assert len(window.encode()) < 5000


def test_not_a_number_and_infinity_are_present_but_empty() -> None:
    window = filled([{"input.x": float("nan")}, {"input.x": None}, {"input.x": 1.0}, {"input.x": 1e300}])
    presence = window.presence["input.x"]
    assert (presence.numbers, presence.empty) == (2, 2)


def test_a_constant_has_cells_below_at_and_above_it() -> None:
    window = filled([{"input.x": 5.0}] * 400)
    edges = choose_edges(window.numbers["input.x"])
    for value, cell in ((4.0, 0), (5.0, 1), (6.0, 2)):
        counts = count_numbers(filled([{"input.x": value}] * 10).numbers["input.x"], edges)
        assert counts.tolist() == [10.0 if place == cell else 0.0 for place in range(3)]


# Baselines and looks


def usual_of(hours: list[Window], signal: str) -> Usual:
    return next(one for one in build_usual(hours) if one.signal == signal)


@pytest.mark.parametrize("moved", [4.0, 6.0])
def test_a_constant_that_changes_fires_whichever_way(moved: float) -> None:
    usual = usual_of([filled([{"input.x": 5.0}] * 200) for _ in range(24)], "input.x")
    window = filled([{"input.x": moved}] * 200)
    same, found = (
        judge(usual, count_cells(usual, one), span="10m", vocabulary=Vocabulary())
        for one in (filled([{"input.x": 5.0}] * 200), window)
    )
    assert same is not None
    assert not same.exceeds
    assert found is not None
    assert found.exceeds


def test_little_evidence_says_nothing() -> None:
    usual = usual_of([filled([{"input.x": 5.0}] * 200) for _ in range(24)], "input.x")
    assert (
        judge(usual, count_cells(usual, filled([{"input.x": 9.0}] * 99)), span="10m", vocabulary=Vocabulary())
        is None
    )


def test_hours_that_differ_among_themselves_ask_for_more() -> None:
    def hours(stray: float) -> list[Window]:
        source = default_rng(4)
        return [
            filled([{"input.x": x} for x in source.normal(stray * source.normal(), 1.0, 400).tolist()])
            for _ in range(24)
        ]

    even, uneven = (usual_of(hours(stray), "input.x") for stray in (0.0, 0.3))
    assert even.dispersion < 1.5
    assert uneven.dispersion > 5
    assert uneven.thresholds["distance"] > 1.5 * even.thresholds["distance"]


# Versions under watch


def test_healthy_versions_raise_less_than_one_alarm_in_a_week() -> None:
    """Eight versions of several kinds for a week: by the promise, an alarm in one of 25 such tests."""
    kinds = [
        replace(SMALL, requests=40, rows=40),
        replace(SMALL, rhythm=1.0, requests=40, rows=40),
        replace(SMALL, rhythm=1.0, burst=0.5, requests=40, rows=40),
        replace(SMALL, requests=8, rows=8),
    ]
    alarms = Counter[str]()
    for number in range(8):
        source, traffic = default_rng(number), kinds[number % 4]
        watch = learn(traffic, source)
        for _, change in live(watch, traffic, source, since=DAY_PANES, panes=7 * DAY_PANES):
            alarms[change.signal.signal] += 1
    assert not alarms


@pytest.mark.parametrize(
    ("signal", "changed", "panes"),
    [
        ("input.x0", {"shift": 0.5}, 6),
        ("input.x0", {"shift": 1.0}, 1),
        ("presence.x0", {"absent": 0.3}, 1),
        ("input.country", {"country": 0.3}, 1),
        ("output", {"classes": (0.4, 0.4, 0.2)}, 1),
        ("confidence", {"sure": -0.1}, 1),
        ("latency", {"slower": 2.0}, 1),
        ("error_rate", {"errors": 0.1}, 1),
    ],
)
def test_a_change_is_found_in_time(signal: str, changed: dict[str, Any], panes: int) -> None:
    """Of 120 requests a minute, half of which are read: at the first look that may say so."""
    healthy = replace(SMALL, requests=1200, rows=600)
    found = [delay(healthy, default_rng(seed), signal, panes=panes, **changed) for seed in range(2)]
    assert None not in found


def test_a_change_is_one_alert_and_is_resolved_when_it_is_over() -> None:
    source = default_rng(7)
    healthy = replace(SMALL, requests=600, rows=300)
    watch = learn(healthy, source)
    changed = [
        (pane, change.state)
        for pane, change in live(watch, replace(healthy, shift=1.0), source, since=DAY_PANES, panes=72)
        if change.signal.signal == "input.x0"
    ]
    assert changed == [(1, "firing")]
    over = [
        (pane, change.state)
        for pane, change in live(watch, healthy, source, since=DAY_PANES + 72, panes=3 * DAY_PANES)
        if change.signal.signal == "input.x0"
    ]
    assert over == [(CALM_LOOKS, "resolved")]  # and the day in which it was over does not fire again


def test_a_feature_that_is_new_or_gone_fires_by_its_presence() -> None:
    source = default_rng(8)
    healthy = replace(SMALL, requests=600, rows=300)
    watch = learn(healthy, source)
    states = {
        change.signal.signal: change.finding.text if change.finding else ""
        for _, change in live(
            watch, replace(healthy, features=3, absent=1.0), source, since=DAY_PANES, panes=1
        )
    }
    assert states["presence.x0"] == "absent in 100 %, usual are 0 %"
    assert states["presence.x2"] == "a number in 100 %, usual are 0 %"


def test_a_version_that_falls_silent_keeps_its_alert_for_a_day() -> None:
    source = default_rng(9)
    healthy = replace(SMALL, requests=600, rows=300)
    watch = learn(healthy, source)
    for _ in live(watch, replace(healthy, shift=1.0), source, since=DAY_PANES, panes=3):
        pass
    assert watch.signals["input.x0"].state == "firing"
    start = (DAY_PANES + 3) * PANE_S
    silent = [watch.turn(start + pane * PANE_S).changes for pane in range(1, 2 * DAY_PANES)]
    (found,) = [place for place, changes in enumerate(silent) if changes]
    assert found == pytest.approx(DAY_PANES, abs=2)
    assert silent[found][0].why == "nothing was there to look at for a day"


def test_too_short_a_baseline_is_not_trusted_as_far() -> None:
    source = default_rng(10)
    watch, hours = Watch(began=0.0, now=0.0), []
    for pane in range(12):
        SMALL.fill(watch, pane, source)
        hours += watch.turn((pane + 1) * PANE_S).hours
    usual = {one.signal: one for one in baseline_of([window for _, window in hours]).usual}
    assert all(one.dispersion >= 3.0 for one in usual.values())


def test_a_clock_that_is_put_back_does_not_stop_the_looks() -> None:
    watch = Watch(began=0.0, now=1e6)
    assert watch.turn(1e6 + PANE_S).moved
    assert not watch.turn(5e5).moved
    assert watch.turn(5e5 + PANE_S).moved


def test_an_alert_names_the_text_whose_share_has_changed_most() -> None:
    source = default_rng(11)
    healthy = replace(SMALL, requests=600, rows=300)
    watch = learn(healthy, source)
    (text,) = (
        change.finding.text
        for _, change in live(watch, replace(healthy, country=0.4), source, since=DAY_PANES, panes=1)
        if change.finding is not None
    )
    assert text.startswith("'new' in ")
    assert text.endswith("usual are 0 %")


def test_texts_that_are_ever_new_are_no_drift_and_fixed_ones_in_their_place_are() -> None:
    source = default_rng(12)
    shares = 1.0 / np.arange(1, 5001)
    shares /= shares.sum()
    watch, number = Watch(began=0.0, now=0.0), 0
    hours: list[Window] = []

    def live_one(pane: int, words: list[int]) -> list[str]:
        nonlocal number
        readings: list[dict[str, float | str | None]] = []
        for word in words:
            number += 1
            readings.append({"input.id": f"id-{number}", "input.word": f"word-{word}"})
        watch.pane.add_readings(readings, watch.vocabulary, watch.known)
        turned = watch.turn((pane + 1) * PANE_S)
        hours.extend(window for _, window in turned.hours)
        return [change.signal.signal for change in turned.changes]

    def some() -> list[int]:
        return source.choice(5000, 300, p=shares).tolist()  # type: ignore[no-any-return]

    for pane in range(DAY_PANES):
        live_one(pane, some())
    baseline = baseline_of(hours)
    watch.restore(msgspec.structs.replace(baseline, rows=DAY_PANES * 300), [])
    assert [live_one(pane, some()) for pane in range(DAY_PANES, 3 * DAY_PANES)] == [[]] * (2 * DAY_PANES)
    assert live_one(3 * DAY_PANES, [3] * 300) == ["input.word"]
