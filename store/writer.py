"""The request log's writer: a process of its own that turns the ring's records into hour files and tallies.

A thread that writes slows the event loop down, for they share the interpreter lock, and cannot be told to
give way to it; a process can. The journal asks, the writer answers. When the journal's process ends without a
word, the writer writes what is left in the ring and ends too: so it does not die with its parent. `standby`
is what it does before.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mdslite.errors import MdsliteError, StoreError
from mdslite.store.blocks import Block, build_block
from mdslite.store.bodies import BodyBudget
from mdslite.store.courtesy import Pace, Rest, give_way, no_rest
from mdslite.store.hourfile import Mark
from mdslite.store.letters import Ask, Order, Report, receive, send
from mdslite.store.lock import log_lock
from mdslite.store.recorder import Recorder, Waiting
from mdslite.store.ring import Ring
from mdslite.store.rows import Record, Run, count_rows, unpack
from mdslite.store.tallies import Tally, tally

if TYPE_CHECKING:
    from mdslite.store.watching import Watcher

BLOCK_ROWS = 4096  # of one transaction
HURRY_SHARE = 4  # with a quarter of the ring waiting, it is no longer a burst
TIDY_S = 30.0
FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 5.0
ORPHAN_S = 10.0  # how long a disk that takes nothing is waited for when the appliance is gone
ORPHAN_PAUSE_S = 0.25
MAX_NOTES = 20
GC_THRESHOLD = (100_000, 20, 20)  # it makes many small lists and no cycles
_MISTAKES = (TypeError, ValueError, OverflowError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Portion:
    """Records that are written together, and the position behind them."""

    records: list[Record | Run]
    end: int


class Writer:
    """Works a ring off from `Order.start` on. All waits in the ring until it is written; when the disk does
    not take it, what comes is counted all the same."""

    def __init__(
        self,
        order: Order,
        ring: Ring,
        *,
        watcher: Watcher | None = None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settled = order.start
        self._watcher = watcher
        self._ring = ring
        self._ring_number = order.ring
        self._monotonic = monotonic
        self._pace = pace or Pace()
        # An hour may not fill the log with bodies: the one before it is to stay.
        self._bodies = BodyBudget(sample_bytes=order.sample_bytes, hour_bytes=order.max_bytes // 2)
        self._recorder = Recorder(
            Path(order.folder),
            max_age_s=order.max_age_s,
            max_bytes=order.max_bytes,
            clock=clock,
            monotonic=monotonic,
            rest=self._pace.rest,
        )
        self._counted = order.counted
        self._known = 0  # up to here a former writer wrote
        self._refused: tuple[Waiting, int] | None = None  # by the disk; and its end
        self._trouble: str | None = None
        self._retry_at_s = 0.0
        self._backoff_s = FIRST_BACKOFF_S
        self._tidy_at_s = monotonic()
        # Since the last report:
        self._written = self._lost = self._malformed = 0
        self._tallies: list[Tally] = []
        self._named_aside = 0

    def open(self) -> None:
        """Find out where the log ends."""
        try:
            self._recorder.open()
        except StoreError as exc:
            self._complain(exc.message)
        self._known = self._recorder.position(self._ring_number)

    def work(self, head: int, *, now: bool) -> None:
        """Write and count what stands before `head`. `now`: somebody waits for it, so try even if the disk
        refused a moment ago, and without a rest."""
        self._pace.begin(hurried=now or (head - self.settled) * HURRY_SHARE > self._ring.size)
        if now or self._monotonic() >= self._retry_at_s:
            while self.settled < head and self._settle_some(head):
                pass
            if self.settled >= head and self._trouble is not None:
                _log.warning("the request log is written again")
                self._trouble = None
                self._backoff_s = FIRST_BACKOFF_S
        while self._counted < head:
            portion = self._read(self._counted, head)
            self._count(build(portion.records, budget=_NO_BODIES)[0], portion)
        self._watch(lambda watcher: watcher.turn())
        self._tidy()

    def report(self, notes: Sequence[str] = ()) -> Report:
        """What happened since the last one."""
        aside = self._recorder.set_aside[self._named_aside :]
        self._named_aside += len(aside)
        found = Report(
            settled=self.settled,
            counted=self._counted,
            written=self._written,
            lost=self._lost,
            malformed=self._malformed,
            bodies=self._bodies.kept,
            bodies_left_out=self._bodies.left_out,
            size_bytes=self._recorder.size_bytes,
            sampled_bytes=self._recorder.sampled_bytes,
            trouble=self._trouble,
            set_aside=list(aside),
            notes=list(notes),
            tallies=self._tallies,
        )
        self._written = self._lost = self._malformed = 0
        self._bodies.kept = self._bodies.left_out = 0
        self._tallies = []
        return found

    def close(self) -> None:
        self._recorder.close()
        self._watch(lambda watcher: watcher.close())

    def _settle_some(self, head: int) -> bool:
        """Write the next portion; False when the disk does not take it."""
        if self._refused is not None:
            waiting, end = self._refused
            return self._write(waiting, end)
        portion = self._read(self.settled, head)
        if portion.end <= self._known:
            block, malformed = build(portion.records, budget=_NO_BODIES)
            self._count(block, portion)
            self._written += block.count if block is not None else 0
            self._malformed += malformed
            self.settled = portion.end
            return True
        self._bodies.grant(self._recorder.sampled_bytes, self._monotonic())
        block, malformed = build(portion.records, budget=self._bodies, rest=self._pace.rest)
        self._malformed += malformed
        self._pace.rest()
        self._count(block, portion)
        self._pace.rest()
        if block is None:
            self.settled = portion.end
            return True
        mark = Mark(self._ring_number, portion.end)
        return self._write(self._recorder.number(block, mark=mark), portion.end)

    def _write(self, waiting: Waiting, end: int) -> bool:
        before = waiting.count
        self._refused = None
        try:
            self._recorder.write(waiting)
        except MdsliteError as exc:
            self._complain(exc.message)
            self._refused = (waiting, end)
            return False
        except Exception:  # ours: this block would fail again and again
            _log.exception("%d rows of the request log are lost", waiting.count)
            self._lost += waiting.count
        finally:
            self._written += before - waiting.count
        self.settled = end
        return True

    def _count(self, block: Block | None, portion: Portion) -> None:
        if portion.end <= self._counted:
            return
        self._counted = portion.end
        if block is not None:
            self._tallies.append(tally(block, rest=self._pace.rest))
            self._watch(lambda watcher: watcher.observe(block))

    def _watch(self, do: Callable[[Watcher], None]) -> None:
        if self._watcher is not None:
            try:
                do(self._watcher)
            except Exception:  # a mistake about drift must not cost the log a row
                _log.exception("watching for drift has failed; it goes on when the writer starts again")
                self._watcher = None

    def _read(self, start: int, head: int) -> Portion:
        """Records from a position on, up to a block of them; never across what is counted or known."""
        stop = min(end for end in (head, self._counted, self._known) if end > start)
        records: list[Record | Run] = []
        rows = 0
        while start < stop and rows < BLOCK_ROWS:
            record, start = self._ring.record(start)
            records.append(unpack(record))
            rows += count_rows(records[-1])
            self._pace.rest()
        return Portion(records, start)

    def _tidy(self) -> None:
        if self._monotonic() < self._tidy_at_s:
            return
        self._tidy_at_s = self._monotonic() + TIDY_S
        try:
            self._recorder.tidy()
        except MdsliteError as exc:
            _log.warning("the request log's folder cannot be kept in order: %s", exc.message)

    def _complain(self, trouble: str) -> None:
        if self._trouble is None:
            _log.warning("the request log is not written: %s; predictions go on", trouble)
        self._trouble = trouble
        self._retry_at_s = self._monotonic() + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)


_NO_BODIES = BodyBudget()  # nothing is granted to it


def build(
    records: Sequence[Record | Run], *, budget: BodyBudget, rest: Rest = no_rest
) -> tuple[Block | None, int]:
    """A block of all records that are sound, and how many rows are not."""
    with contextlib.suppress(*_MISTAKES):
        return build_block(records, budget=budget, rest=rest), 0
    sound, malformed = [], 0
    for record in records:
        try:
            build_block([record], budget=_NO_BODIES)
            sound.append(record)
        except _MISTAKES as exc:
            malformed += count_rows(record)
            _log.warning("a row of the request log is malformed: %s", exc)
    return (build_block(sound, budget=budget) if sound else None), malformed


def serve(
    order: Order,
    end: socket.socket,
    ring: Ring,
    *,
    take_notes: Callable[[], Sequence[str]] = list,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Do what the other end of the socket asks for, until it asks no more."""
    with log_lock(Path(order.folder)):
        watcher = _open_watcher(order, clock)
        writer = Writer(order, ring, watcher=watcher, clock=clock, monotonic=monotonic)
        writer.open()
        try:
            while (ask := _hear(end)) is not None:
                writer.work(ask.head, now=ask.now)
                with contextlib.suppress(OSError):  # nobody listens: the next question will not come
                    send(end, writer.report(take_notes()))
                if ask.end:
                    break
            else:
                _finish_alone(writer, ring)
        finally:
            writer.close()


def _open_watcher(order: Order, clock: Callable[[], float]) -> Watcher | None:
    if not order.drift:
        return None
    from mdslite.store.watching import Watcher

    watcher = Watcher(Path(order.drift), clock=clock)
    try:
        watcher.open()
    except MdsliteError as exc:
        _log.warning("versions are not watched for drift: %s", exc.message)
        return None
    return watcher


def _hear(end: socket.socket) -> Ask | None:
    with contextlib.suppress(OSError):
        return receive(end, Ask)
    return None


def _finish_alone(writer: Writer, ring: Ring) -> None:
    until = time.monotonic() + ORPHAN_S
    while True:
        writer.work(ring.appended(), now=True)
        if writer.settled >= ring.appended() or time.monotonic() >= until:
            return
        time.sleep(ORPHAN_PAUSE_S)


class _Notes(logging.Handler):
    """Keeps the log's lines for the next report."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._lines) < MAX_NOTES:
            self._lines.append(self.format(record))

    def take(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines


def main(arguments: Sequence[str]) -> None:
    give_way()
    notes = _Notes()
    logging.getLogger().addHandler(notes)
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    ring_fd, socket_fd, order = arguments
    with socket.socket(fileno=int(socket_fd)) as end:
        serve(msgspec.json.decode(order, type=Order), end, Ring(int(ring_fd)), take_notes=notes.take)
