"""Watches every version for drift, in the request log's writer: its blocks go into each version's sketches,
and when time has passed what is there is looked at. Owns `drift.db`; the statistics are `mdslite.drift`'s.

Confidence, latency and status come of every request; inputs and outputs of the bodies that the log keeps,
where those were chosen by chance (`Body.even`): an error, or a doubtful answer that a rule asks for, says
nothing of what is usual.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from mdslite import blame
from mdslite.drift.baseline import Baseline, figures_of
from mdslite.drift.features import Reading, read_bodies
from mdslite.drift.schedule import DAY_S, HOUR_S, PANE_S
from mdslite.drift.sketches import Vocabulary, Window
from mdslite.drift.watch import Change, Watch
from mdslite.errors import MdsliteError, StoreError
from mdslite.store.blocks import Block, Ints
from mdslite.store.bodies import Body
from mdslite.store.drift import WISHES as WISHES_FILE
from mdslite.store.drift import Alert, Chosen, Deployed, DriftStore, Key, Record, Wishes, read_wishes
from mdslite.store.learning import LEARN_S, build_automatic, build_chosen
from mdslite.store.moments import time_text
from mdslite.store.rows import Labels

WATCHES_MAX = 128
ROWS_PER_S = 4.0  # of a version that are read
ROWS_AT_ONCE = 16
LOOKS_AT_ONCE = 4  # versions that are looked at before the log is written on
WISHES_EVERY_S = 1.0
REPLAYS = "replay:"  # clients of this name send what was sent before

_log = logging.getLogger(__name__)


class _Version:
    """One version's watch, and what of it is not the watch's own."""

    def __init__(self, watch: Watch, *, digest: str, now: float) -> None:
        self.watch = watch
        self.digest = digest
        self.chosen: Chosen | None = None  # that the baseline was built of, or for which there was nothing
        self.note = ""
        self.seen_at = now
        self.rows = ROWS_AT_ONCE * 1.0  # that may be read
        self.filled_at = now

    @property
    def since(self) -> float:
        """What arrived before then was another artifact's."""
        return self.watch.began if self.digest else 0.0


class Watcher:
    """Used from the writer's one thread."""

    def __init__(
        self, folder: Path, *, clock: Callable[[], float] = time.time, random: Random | None = None
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._random = random or Random()
        self._store = DriftStore(folder)
        self._versions: dict[Key, _Version] = {}
        self._wishes = Wishes()
        self._deployed: dict[tuple[str, str, str], Deployed] = {}
        self._wishes_stamp = (0, 0)
        self._wishes_at = 0.0
        self._trouble = False

    def open(self) -> None:
        """Go on where the last one was.

        :raises MdsliteError: the database cannot be used
        """
        self._store.open()
        self._read_wishes()
        now = self._clock()
        for key, record, baseline in self._store.load():
            self._versions[key] = self._restored(key, record, baseline, now)

    def close(self) -> None:
        """Keep what was seen since the last look."""
        try:
            with self._store.writing():
                for key, one in self._versions.items():
                    one.watch.hour.merge(one.watch.pane)
                    self._store.save_hour(key, one.watch.hour_start, one.watch.hour)
                    self._store.save(key, _record(one))
        except MdsliteError as exc:
            self._complain(exc)
        self._store.close()

    def observe(self, block: Block) -> None:
        """Count a block of requests."""
        keys = [_key(labels) for labels in block.labels]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        group = np.array([numbers[key] for key in keys])[block.label]
        good = np.array([blame.is_good(labels.status) for labels in block.labels])[block.label]
        order = np.argsort(group, kind="stable")
        bounds = np.searchsorted(group[order], np.arange(len(numbers) + 1))
        bodies: dict[int, list[Body]] = {}
        for body in block.bodies:
            if body.even and good[body.index]:
                bodies.setdefault(int(group[body.index]), []).append(body)
        for key, number in numbers.items():
            one = None if key is None else self._version(key)
            if one is not None:
                rows = order[bounds[number] : bounds[number + 1]]
                self._count(one, block, rows[block.time[rows] >= one.since], good)
                self._read(
                    one, [body for body in bodies.get(number, ()) if block.time[body.index] >= one.since]
                )

    def _count(self, one: _Version, block: Block, rows: Ints, good: NDArray[np.bool_]) -> None:
        if len(rows):
            one.seen_at = self._clock()
            one.watch.pane.add_columns(
                latency_ms=block.latency_ms[rows],
                confidence=block.confidence[rows],
                good=good[rows],
                failed=int(len(rows) - good[rows].sum()),
            )

    def _read(self, one: _Version, bodies: list[Body]) -> None:
        """Take in some of the kept bodies, chosen by chance."""
        if not bodies:
            return
        now = self._clock()
        one.rows = min(ROWS_AT_ONCE, one.rows + max(0.0, now - one.filled_at) * ROWS_PER_S)
        one.filled_at = now
        count = min(len(bodies), int(one.rows))
        one.rows -= count
        readings: list[Reading] = []
        for body in self._random.sample(bodies, count):
            reading = read_bodies(body.request, body.reply, self._random)
            if reading is None:
                one.watch.pane.unread += 1
            else:
                readings.append(reading)
        one.watch.pane.add_readings(readings, one.watch.vocabulary, one.watch.known)

    def _version(self, key: Key) -> _Version | None:
        one = self._versions.get(key)
        if one is not None:
            return one
        deployed = self._deployed.get(key[:3])
        if self._deployed and deployed is None:
            return None
        if len(self._versions) >= WATCHES_MAX:
            oldest = min(self._versions, key=lambda at: self._versions[at].seen_at)
            if self._clock() - self._versions[oldest].seen_at < DAY_S:
                return None
            self._drop(oldest)
        now = self._clock()
        began = now if deployed is None else deployed.since
        made = _Version(Watch(began=began, now=now), digest=deployed.digest if deployed else "", now=now)
        made.note = _learning(now)
        self._versions[key] = made
        self._begin(key, made, now)
        return made

    # Time

    def turn(self) -> None:
        """See to what time has brought: wishes, and looks that are due."""
        now = self._clock()
        if abs(now - self._wishes_at) >= WISHES_EVERY_S:
            self._wishes_at = now
            if self._read_wishes():
                self._heed_wishes(now)
        looks = 0
        for key, one in list(self._versions.items()):
            if looks >= LOOKS_AT_ONCE:
                break
            turned = one.watch.turn(now)
            if not turned.moved:
                continue
            looks += 1
            try:
                self._keep(key, one, turned.hours, turned.changes)
                if turned.hours and (one.watch.baseline is None or self._choice(key) != one.chosen):
                    self._learn(key, one, now)
            except MdsliteError as exc:
                self._complain(exc)
            else:
                self._trouble = False

    def _keep(self, key: Key, one: _Version, hours: list[tuple[int, Window]], changes: list[Change]) -> None:
        with self._store.writing():
            for start, window in hours:
                self._store.save_hour(key, start, window)
            if not hours:
                self._store.save_hour(key, one.watch.hour_start, one.watch.hour)
            for change in changes:
                self._tell(key, change)
            self._store.save(key, _record(one))
            if hours:
                self._store.tidy(self._clock())

    def _tell(self, key: Key, change: Change) -> None:
        signal = change.signal
        fires = change.state == "firing"
        alert = Alert(
            id=0,
            time=self._clock(),
            project=key.project,
            model=key.model,
            version=key.version,
            shadow=key.shadow,
            signal=signal.signal,
            state=change.state,
            text=change.why,
            opened=None if fires else signal.alert,
            **figures_of(change.finding),
        )
        signal.alert = self._store.add_alert(alert) if fires else None
        if not fires:
            self._store.add_alert(alert)

    def _learn(self, key: Key, one: _Version, now: float) -> None:
        """Build the baseline that is wanted, once its hours are there."""
        choice = self._choice(key)
        if choice is not None and now < choice.until:
            one.note = f"waits until the chosen baseline is over, {time_text(choice.until)}"
            return
        one.chosen, found = choice, None
        if choice is not None:
            found = build_chosen(self._store, key, choice)
        one.note = "" if found or choice is None else "the chosen hours hold too little of it; "
        usual = one.watch.baseline
        if found is None and (usual is None or usual.chosen):
            found = build_automatic(self._store, key, now)
            if found is None:
                one.note += _learning(one.watch.began)
        if found is None and (usual is None or not usual.chosen):
            return
        self._adopt(key, one, found, now)

    def _adopt(self, key: Key, one: _Version, found: Baseline | None, now: float) -> None:
        watch = one.watch
        recent: list[tuple[int, Window]] = []
        with self._store.writing():
            if found is not None and found.source != key.version:
                # Its texts are numbered as the other version's, so what it has counted itself fits no more.
                watch.vocabulary, watch.pane, watch.hour = self._vocabulary(key, found), Window(), Window()
                self._store.forget(key, hours_only=True)
            elif found is not None:
                recent = self._store.hours(key, since=max(found.until, now - DAY_S), until=watch.hour_start)
            for change in watch.adopt(found, recent):
                self._tell(key, change)
            self._store.save(key, _record(one))
            self._store.save_baseline(key, found)

    def _vocabulary(self, key: Key, baseline: Baseline) -> Vocabulary:
        for shadow in (key.shadow, not key.shadow):
            source = self._versions.get(key._replace(version=baseline.source, shadow=shadow))
            if source is not None:
                names = source.watch.vocabulary.names
                return Vocabulary({name: list(texts) for name, texts in names.items()})
        return Vocabulary()

    def _choice(self, key: Key) -> Chosen | None:
        return self._wishes.chosen.get(f"{key.project}/{key.model}")

    # What is wished

    def _read_wishes(self) -> bool:
        """Has anything changed?"""
        try:
            found = (self._folder / WISHES_FILE).stat()
        except OSError:
            return False
        stamp = found.st_mtime_ns, found.st_ino
        if stamp == self._wishes_stamp:
            return False
        self._wishes_stamp = stamp
        try:
            self._wishes = read_wishes(self._folder)
        except StoreError:  # the appliance says so; what was wished before holds until it has written anew
            return False
        self._deployed = {(one.project, one.model, one.version): one for one in self._wishes.deployed}
        return True

    def _heed_wishes(self, now: float) -> None:
        for key, one in list(self._versions.items()):
            deployed = self._deployed.get(key[:3])
            if deployed is None:
                if self._deployed:
                    self._rest(key, one, now)
            elif one.digest and deployed.digest != one.digest:
                self._drop(key)
            else:
                one.digest = deployed.digest
                if self._choice(key) != one.chosen:
                    self._begin(key, one, now)

    def _begin(self, key: Key, one: _Version, now: float) -> None:
        """Write down a version that is new, or is to be compared with something else."""
        try:
            if self._choice(key) != one.chosen:
                self._learn(key, one, now)
            with self._store.writing():
                self._store.save(key, _record(one))
        except MdsliteError as exc:
            self._complain(exc)

    def _rest(self, key: Key, one: _Version, now: float) -> None:
        """It serves no more: for a day, in which somebody may undo that, what is known of it stays."""
        try:
            with self._store.writing():
                for change in one.watch.quiet(now, "this version serves no more"):
                    self._tell(key, change)
                self._store.save(key, _record(one))
        except MdsliteError as exc:
            self._complain(exc)
        if now - one.seen_at > DAY_S:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        """Forget a version that is gone, or has another artifact by now."""
        one = self._versions.pop(key)
        try:
            with self._store.writing():
                for change in one.watch.quiet(self._clock(), "this artifact serves no more"):
                    self._tell(key, change)
                self._store.forget(key)
        except MdsliteError as exc:
            self._complain(exc)

    def _restored(self, key: Key, record: Record, baseline: Baseline | None, now: float) -> _Version:
        watch = Watch(began=record.began, now=now)
        watch.known = set(record.known)
        watch.vocabulary = Vocabulary(record.vocabulary)
        watch.signals = {one.signal: one for one in record.signals}
        hours = self._store.hours(key, since=now - DAY_S - HOUR_S, until=now + 1)
        if hours and hours[-1][0] == watch.hour_start:
            watch.hour = hours.pop()[1]
        watch.restore(baseline, hours)
        made = _Version(watch, digest=record.digest, now=now)
        made.note = record.note
        made.seen_at = record.seen_at
        made.chosen = record.chosen
        return made

    def _complain(self, exc: MdsliteError) -> None:
        if not self._trouble:
            _log.warning("drift is not written down: %s", exc.message)
        self._trouble = True


def _key(labels: Labels) -> Key | None:
    if labels.project is None or labels.model is None or labels.version is None:
        return None
    if blame.is_refused(labels.status):
        return None
    if labels.client is not None and labels.client.startswith(REPLAYS):
        return None
    return Key(labels.project, labels.model, labels.version, labels.shadow)


def _learning(began: float) -> str:
    return f"learns what is usual until {time_text(began + LEARN_S)}"


def _record(one: _Version) -> Record:
    watch = one.watch
    last = watch.last_hour or watch.hour
    return Record(
        digest=one.digest,
        began=watch.began,
        known=sorted(watch.known),
        vocabulary=watch.vocabulary.names,
        signals=list(watch.signals.values()),
        note=one.note,
        chosen=one.chosen,
        requests=last.requests,
        rows=last.rows,
        unread=last.unread,
        left_out=last.left_out,
        seen_at=one.seen_at,
        counted_to=float(watch.pane_end - PANE_S),
    )
