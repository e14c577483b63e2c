"""One version under watch: what it did lately, what is usual for it, and which of its signals fire.

Panes of ten minutes add up to hours, hours to the last day. A signal fires at the first look that exceeds,
and is resolved after CALM_LOOKS calm ones of the same span. Owns no clock and no file: whoever does says how
late it is, and keeps what `Turn` brings.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np

from mdslite.drift.baseline import (
    BASE_MIN,
    PSI_MIN,
    Baseline,
    Finding,
    Usual,
    count_cells,
    is_length,
    judge,
)
from mdslite.drift.features import INPUT
from mdslite.drift.measures import Counts
from mdslite.drift.schedule import DAY_S, HOUR_S, PANE_S, Span
from mdslite.drift.sketches import FEATURES_MAX, Vocabulary, Window

CALM_LOOKS = 3
SILENT_S = float(DAY_S)  # without a look that could say anything, a firing signal is resolved
RARE = 0.01  # share of rows below which a feature has to make room for others
_LENGTHS: dict[Span, float] = {"10m": PANE_S, "1h": HOUR_S, "24h": DAY_S}

State = Literal["waiting", "calm", "firing"]


class Signal(msgspec.Struct, kw_only=True):
    """Where one signal is. `alert` is the number of the alert that opened, while it fires."""

    signal: str
    state: State = "waiting"
    since: float = 0.0
    span: Span | None = None  # of the look at which it fired
    alert: int | None = None
    calm_looks: int = 0
    cleared_at: float = 0.0  # what was before is not looked at again
    looked_at: float | None = None
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A signal fires, or is resolved; `finding` is what the last look said."""

    signal: Signal
    state: Literal["firing", "resolved"]
    finding: Finding | None
    why: str


@dataclass(slots=True)
class Turn:
    """What came of the time that has passed: hours that are over, and what has changed."""

    hours: list[tuple[int, Window]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    moved: bool = False  # a pane has ended


class Watch:
    """Fed with a version's requests in the order of time. `began` is when its artifact began to serve."""

    def __init__(self, *, began: float, now: float) -> None:
        self.began = began
        self.vocabulary = Vocabulary()
        self.known: set[str] = set()
        self.pane = Window()
        self.hour = Window()
        self.hour_start = int(now // HOUR_S) * HOUR_S
        self.pane_end = int(now // PANE_S + 1) * PANE_S
        self.baseline: Baseline | None = None
        self.signals: dict[str, Signal] = {}
        self.last_hour: Window | None = None
        self._recent: deque[tuple[int, dict[str, Counts]]] = deque(maxlen=24)

    def adopt(self, baseline: Baseline | None, recent: list[tuple[int, Window]]) -> list[Change]:
        """Compare with this from now on; `recent` are the hours since it ended. What fires is resolved."""
        changes = self.quiet(self.pane_end, "compared with another baseline from now on")
        self.signals = {}
        self.restore(baseline, recent)
        return changes

    def restore(self, baseline: Baseline | None, recent: list[tuple[int, Window]]) -> None:
        """Go on with a baseline that was in force before a restart."""
        self.baseline = baseline
        self._recent.clear()
        for one in baseline.usual if baseline is not None else ():
            self.signals.setdefault(one.signal, Signal(signal=one.signal))
        for start, window in recent:
            self._remember(start, window)

    def turn(self, now: float) -> Turn:
        """Look at whatever is over at `now`, unix seconds."""
        found = Turn()
        if now < self.pane_end - PANE_S - HOUR_S:  # the clock was put back
            self.hour_start = int(now // HOUR_S) * HOUR_S
            self.pane_end = int(now // PANE_S + 1) * PANE_S
        if now < self.pane_end:
            return found
        found.moved = True
        found.changes += self._look("10m", self._cells(self.pane), self.pane_end)
        self.hour.merge(self.pane)
        self.pane = Window()
        self.pane_end = int(now // PANE_S + 1) * PANE_S
        hour_end = self.hour_start + HOUR_S
        if now >= hour_end:
            if self.hour.requests or self.hour.rows or self.hour.unread:
                found.hours.append((self.hour_start, self.hour))
                found.changes += self._look("1h", self._cells(self.hour), hour_end)
                self._remember(self.hour_start, self.hour)
            found.changes += self._look("24h", self._day(hour_end), hour_end)
            self._make_room()
            self.last_hour, self.hour = self.hour, Window()
            self.hour_start = int(now // HOUR_S) * HOUR_S
        return found

    def _cells(self, window: Window) -> dict[str, tuple[Usual, Counts]]:
        baseline = self.baseline
        if baseline is None:
            return {}
        found = {one.signal: (one, count_cells(one, window)) for one in baseline.usual}
        if baseline.rows >= BASE_MIN:
            for name in window.presence:
                one = None if is_length(name, window) else _newcomer(name, baseline.rows)
                if one is not None and one.signal not in found:
                    found[one.signal] = (one, count_cells(one, window))
        return found

    def _remember(self, start: int, window: Window) -> None:
        if self.baseline is not None and start >= self.baseline.until:
            cells = self._cells(window)
            self._recent.append(
                (start, {name: counts.astype(np.float32) for name, (_, counts) in cells.items()})
            )

    def _day(self, now: float) -> dict[str, tuple[Usual, Counts]]:
        """The last day, once it is all later than the baseline, and that covers a day as well."""
        baseline = self.baseline
        if (
            baseline is None
            or baseline.until - baseline.since < DAY_S - HOUR_S
            or now - DAY_S < baseline.until
        ):
            return {}
        hours = [cells for start, cells in self._recent if start >= now - DAY_S]
        found: dict[str, tuple[Usual, Counts]] = {}
        for one in baseline.usual:
            counts = [cells[one.signal] for cells in hours if one.signal in cells]
            if counts:
                found[one.signal] = (one, np.asarray(np.sum(counts, axis=0, dtype=np.float64)))
        return found

    def _look(self, span: Span, cells: dict[str, tuple[Usual, Counts]], now: float) -> list[Change]:
        changes = []
        for name, (usual, counts) in cells.items():
            signal = self.signals.setdefault(name, Signal(signal=name))
            if span != "10m" and now - _LENGTHS[span] < signal.cleared_at:
                continue
            finding = judge(usual, counts, span=span, vocabulary=self.vocabulary)
            if finding is not None:
                change = self._heed(signal, finding, now)
                if change is not None:
                    changes.append(change)
        for signal in self.signals.values():
            if signal.state == "firing" and now - (signal.looked_at or now) > SILENT_S:
                changes.append(self._resolve(signal, now, "nothing was there to look at for a day"))
        return changes

    def _heed(self, signal: Signal, finding: Finding, now: float) -> Change | None:
        if signal.state == "firing" and finding.span != signal.span:
            return None
        signal.finding, signal.looked_at = finding, now
        if signal.state != "firing":
            signal.state = "calm"
            if not finding.exceeds:
                return None
            signal.state, signal.since, signal.span, signal.calm_looks = "firing", now, finding.span, 0
            return Change(signal, "firing", finding, finding.text)
        signal.calm_looks = signal.calm_looks + 1 if finding.calm else 0
        if signal.calm_looks < CALM_LOOKS:
            return None
        return self._resolve(signal, now, finding.text)

    def quiet(self, now: float, why: str) -> list[Change]:
        """Resolve whatever fires."""
        return [self._resolve(one, now, why) for one in self.signals.values() if one.state == "firing"]

    def _resolve(self, signal: Signal, now: float, why: str) -> Change:
        signal.state, signal.since, signal.span, signal.cleared_at = "calm", now, None, now
        return Change(signal, "resolved", signal.finding, why)

    def _make_room(self) -> None:
        """Let features that hardly come give way to others."""
        if len(self.known) < FEATURES_MAX or not self.hour.rows:
            return
        usual = {one.signal for one in self.baseline.usual} if self.baseline is not None else set()
        for name in list(self.known):
            presence = self.hour.presence.get(name)
            there = 0 if presence is None else presence.numbers + presence.texts + presence.empty
            if name.startswith(INPUT) and name not in usual and there < RARE * self.hour.rows:
                self.known.discard(name)
                self.vocabulary.forget(name)


def presence_name(feature: str) -> str:
    """What the signal is called that says whether a feature is there."""
    return f"presence.{feature.removeprefix(INPUT).removeprefix('.')}"


def _newcomer(feature: str, rows: int) -> Usual | None:
    """A feature that no row of the baseline had."""
    if not feature.startswith(INPUT):
        return None
    return Usual(
        signal=presence_name(feature),
        kind="presence",
        edges=[],
        counts=[0.0, 0.0, 0.0, float(rows)],
        dispersion=1.0,
        day_dispersion=1.0,
        thresholds={"psi": PSI_MIN},
    )
