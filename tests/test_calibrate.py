"""How a version's first session is measured, and how many threads it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from clocks import Clock
from lanes import DOUBLER, FakeSession

from mdslite.errors import LoadFailed, ModelError
from mdslite.serving import calibrate
from mdslite.serving.calibrate import open_fitting, open_warm
from mdslite.tensors import Codec

BUCKET = Codec.bucket(((1,),))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(0.0)  # passes only when a session computes
    monkeypatch.setattr(calibrate, "perf_counter", clock)
    others_take(monkeypatch, clock, 0.0)
    return clock


def others_take(monkeypatch: pytest.MonkeyPatch, clock: Clock, taken: float, *, cores: int = 16) -> None:
    """Have so many cores, and others keep some of them busy; of the rest a session and its rival take 1.5."""
    monkeypatch.setattr(calibrate, "cores", lambda: cores)
    monkeypatch.setattr(calibrate, "idle_s", lambda: clock.now * max(0.0, cores - 1.5 - taken))
    monkeypatch.setattr(calibrate, "process_time", lambda: clock.now * 1.5)


class TimedSession(FakeSession):
    """Takes `seconds(rows)` of the clock for a run."""

    def __init__(self, clock: Clock, seconds: Callable[[int], float], *, threads: int = 1) -> None:
        super().__init__()
        self.threads = threads
        self._clock = clock
        self._seconds = seconds

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], handle: Any = None) -> list[Any]:
        self._clock.now += self._seconds(len(feeds["x"]))
        return super().run(feeds, handle)


def test_a_session_is_measured_for_rows_up_to_a_full_batch(clock: Clock) -> None:
    session = TimedSession(clock, lambda rows: 1e-3 + rows * 1e-4)
    warm = open_warm(lambda: session, signature=DOUBLER, rows_max=8)
    assert warm.session is session
    assert list(warm.seconds) == [1, 2, 4, 8]
    assert warm.curve.estimate(BUCKET, 8) == pytest.approx(1.8e-3)
    assert warm.sample is not None
    assert len(warm.sample[0]) == 8


def test_measuring_a_slow_model_ends_after_one_size(clock: Clock) -> None:
    warm = open_warm(lambda: TimedSession(clock, lambda rows: 1.0), signature=DOUBLER, rows_max=32)
    assert list(warm.seconds) == [1]


def test_a_model_that_refuses_made_up_inputs_is_served_without_a_curve(clock: Clock) -> None:
    def refuse(rows: np.ndarray[Any, Any]) -> None:
        raise ModelError("index out of range")

    warm = open_fitting(lambda threads: FakeSession(fail=refuse), signature=DOUBLER, rows_max=8, twice=False)
    assert warm.sample is None
    assert warm.curve.estimate(BUCKET, 1) == 0.0
    assert not warm.session.closed  # type: ignore[attr-defined]


def test_a_session_that_fails_to_warm_is_closed(clock: Clock) -> None:
    def fail(rows: np.ndarray[Any, Any]) -> None:
        raise LoadFailed("no")

    session = FakeSession(fail=fail)
    with pytest.raises(LoadFailed):
        open_warm(lambda: session, signature=DOUBLER, rows_max=8)
    assert session.closed


class Threads:
    """Opens sessions with several threads, or one; `speed_up` is what the others bring."""

    def __init__(self, clock: Clock, *, row_s: float, speed_up: float, several: int = 2) -> None:
        self.opened: list[TimedSession] = []
        self._clock = clock
        self._row_s = row_s
        self._speed_up = speed_up
        self._several = several

    def __call__(self, threads: int | None) -> TimedSession:
        row_s = self._row_s if threads == 1 else self._row_s / self._speed_up
        self.opened.append(
            TimedSession(self._clock, lambda rows: rows * row_s, threads=threads or self._several)
        )
        return self.opened[-1]


@pytest.mark.parametrize(
    ("row_s", "several", "speed_up", "threads", "tries"),
    [
        pytest.param(25e-6, 2, 1.2, 1, 2, id="a second thread that hardly helps is left to others"),
        pytest.param(25e-6, 2, 1.3, 2, 2, id="one that pays is kept"),
        pytest.param(2e-6, 2, 1.9, 1, 2, id="a run that is over before a second one is awake needs none"),
        pytest.param(25e-6, 16, 2.2, 1, 2, id="fifteen more have to bring more than that"),
        pytest.param(25e-6, 16, 2.6, 16, 2, id="as these do"),
        pytest.param(5e-3, 2, 1.1, 2, 1, id="a slow model is not opened twice"),
    ],
)
def test_a_quick_model_gets_as_many_threads_as_pay(
    clock: Clock, row_s: float, several: int, speed_up: float, threads: int, tries: int
) -> None:
    opener = Threads(clock, row_s=row_s, speed_up=speed_up, several=several)
    warm = open_fitting(opener, signature=DOUBLER, rows_max=32, twice=False)
    assert warm.session.threads == threads
    assert len(opener.opened) == tries
    assert [session.closed for session in opener.opened] == [
        session is not warm.session for session in opener.opened
    ]
    used = row_s if threads == 1 else row_s / speed_up
    assert warm.curve.estimate(BUCKET, 16 if tries == 2 else 1) == pytest.approx(
        used * (16 if tries == 2 else 1)
    )


@pytest.mark.parametrize(
    ("taken", "cores", "threads"),
    [(0.0, 2, 1), (0.4, 2, 1), (0.9, 2, 2), (0.9, 16, 1), (13.5, 16, 1), (14.9, 16, 2)],
)
def test_more_threads_are_not_given_up_while_others_take_their_cores(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, taken: float, cores: int, threads: int
) -> None:
    others_take(monkeypatch, clock, taken, cores=cores)
    opener = Threads(clock, row_s=25e-6, speed_up=1.0)
    assert open_fitting(opener, signature=DOUBLER, rows_max=32, twice=False).session.threads == threads


@pytest.mark.parametrize(("busy_s", "threads"), [(0.25, 2), (10.0, 1)])
def test_more_threads_may_try_for_a_while_when_the_cores_are_taken_at_first(
    clock: Clock, busy_s: float, threads: int
) -> None:
    def open_session(threads: int | None) -> TimedSession:
        def seconds(rows: int) -> float:
            has_cores = threads is None and clock.now > busy_s
            return rows * (13e-6 if has_cores else 25e-6)

        return TimedSession(clock, seconds, threads=threads or 2)

    assert open_fitting(open_session, signature=DOUBLER, rows_max=32, twice=False).session.threads == threads


def test_the_first_session_is_closed_when_the_second_cannot_be_opened(clock: Clock) -> None:
    opener = Threads(clock, row_s=25e-6, speed_up=1.1)

    def open_session(threads: int | None) -> TimedSession:
        if threads == 1:
            raise LoadFailed("no")
        return opener(threads)

    with pytest.raises(LoadFailed):
        open_fitting(open_session, signature=DOUBLER, rows_max=32, twice=False)
    assert opener.opened[0].closed


@pytest.mark.parametrize(
    ("several", "speed_up", "kept"),
    [
        pytest.param(2, 1.9, (2, 1), id="all of few cores, and one beside a loop that is busy"),
        pytest.param(2, 1.1, (1, None), id="where a second thread hardly helps, one"),
        pytest.param(4, 3.0, (4, None), id="of many, the loop needs a small part"),
    ],
)
def test_a_small_model_is_kept_twice_where_cores_are_few_and_pay(
    clock: Clock, several: int, speed_up: float, kept: tuple[int, int | None]
) -> None:
    opener = Threads(clock, row_s=25e-6, speed_up=speed_up, several=several)
    warm = open_fitting(opener, signature=DOUBLER, rows_max=32, twice=True)
    assert (warm.session.threads, warm.beside and warm.beside.threads) == kept
    held = [one for one in opener.opened if one is warm.session or one is warm.beside]
    assert [one.closed for one in opener.opened] == [one not in held for one in opener.opened]
    assert len(held) == len([one for one in kept if one])
    used = 25e-6 if kept == (1, None) else 25e-6 / speed_up
    assert warm.curve.estimate(BUCKET, 16) == pytest.approx(used * 16)
