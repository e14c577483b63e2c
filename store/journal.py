"""The request log's near end: rows come from the event loop, a process of its own writes them. Owns the ring
between the two, the writer's process and the thread that minds it.

The loop's side packs a row and copies it into the ring, and never waits. Four times a second the thread asks
the writer to write what is there and hears what became of it: tallies for the observers (metrics), counts,
trouble. What the writer has not written stays in the ring: while the disk is full, while a writer that died
is started again, and when this process is killed, for the writer then goes on alone. A full ring drops and
counts. Predictions never notice.
"""

from __future__ import annotations

import errno
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mdslite.errors import StoreError
from mdslite.store.letters import Order, Report
from mdslite.store.ring import RING_BYTES, Ring
from mdslite.store.rows import REPLY, REQUEST, ROW_FIELDS, SAMPLED, Keeping, Row, Run, pack_row, pack_run
from mdslite.store.scribe import Launch, Scribe, WriterLost, launch_writer
from mdslite.store.tallies import Tally

__all__ = ["ROW_FIELDS", "Journal", "JournalStatistics", "Observer", "Row"]

Observer = Callable[[Tally], None]

SILENCE_S = 60.0  # a writer that says nothing for so long is killed
FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 5.0
# Writers that die of the same rows without having written any of them, before these rows are given up.
FUTILE_MAX = 5
# With nothing to write, the writer is asked for the first time when others have started too, and then so
# often: it keeps the folder in order.
QUIET_S = 2.0
IDLE_ASK_S = 15.0
_MISTAKES = (TypeError, ValueError, OverflowError, IndexError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """A snapshot. Rows appended so far = pending + written + dropped + malformed."""

    pending: int  # in memory
    written: int
    dropped: int  # no room for them, or nobody could write them
    malformed: int  # not as `Row` says: a mistake of the caller
    bodiless: int  # rows whose bodies were left out: too much was waiting, or the files had no room for them
    bodies: int  # rows whose bodies were written
    size_bytes: int  # of the files, as last seen
    sampled_bytes: int  # of the log's own sample of bodies in them
    restarts: int  # of the writer
    set_aside: tuple[str, ...]  # names of unusable files found since the start
    trouble: str | None  # why nothing is written just now


class Journal:
    """Call `start` once, `append` and `append_run` from one thread, `close` at the end.

    `ring_bytes` bounds what waits in memory. `max_age_s` and `max_bytes` are the retention of the folder,
    `sample_bytes` what the bodies in it may take that no rule of a version's own asks for; in `drift` the
    writer keeps what it knows of drift, without it nothing is watched. Observers are called in the journal's
    thread.
    """

    def __init__(
        self,
        folder: Path,
        *,
        flush_s: float = 0.25,
        ring_bytes: int = RING_BYTES,
        max_age_s: float = 7 * 86400.0,
        max_bytes: int = 4 << 30,
        sample_bytes: int = 1 << 30,
        drift: Path | None = None,
        observers: Sequence[Observer] = (),
        launch: Launch = launch_writer,
    ) -> None:
        self._folder = folder
        self._flush_s = flush_s
        self._ring_bytes = ring_bytes
        self._retention = (max_age_s, max_bytes)
        self._sample_bytes = sample_bytes
        self._drift = "" if drift is None else str(drift.absolute())
        self._observers = tuple(observers)
        self._launch = launch
        self._number = secrets.randbits(62)
        # The loop's side.
        self._ring: Ring | None = None
        self._is_open = False
        self._refused = 0
        self._bodiless = 0
        self._unpackable = 0
        # The thread's side.
        self._thread: threading.Thread | None = None
        self._scribe: Scribe | None = None
        self._heir: Scribe | None = None  # started when a writer was lost, and asked a while later
        self._asked_end = (0, 0)  # of what the writer was asked to write: position and rows
        self._settled = self._counted = 0  # positions
        self._written = self._lost = self._malformed = 0
        self._bodies = self._left_out = 0
        self._size_bytes = self._sampled_bytes = 0
        self._restarts = 0
        self._futile = 0
        self._set_aside: tuple[str, ...] = ()
        self._trouble: str | None = None
        self._backoff_s = FIRST_BACKOFF_S
        self._launch_at_s = 0.0
        self._ask_at_s = 0.0
        # Between the two: `flush` asks, the thread answers.
        self._signal = threading.Condition()
        self._asked = 0
        self._answered = 0
        self._closing = False
        self._close_by_s = 0.0

    def start(self) -> None:
        """Make the folder and the ring, and start the thread, which starts the writer.

        :raises StoreError: the folder or the ring cannot be made
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StoreError(f"{self._folder} cannot be made: {exc.strerror}") from exc
        try:
            ring = Ring.create(self._ring_bytes)
        except OSError as exc:
            is_limit = exc.errno == errno.EFBIG
            raise StoreError(
                f"the request log has no room in memory: {exc.strerror}",
                hint="raise the limit on the size of files (ulimit -f unlimited), or mdslite up --no-log"
                if is_limit
                else None,
            ) from exc
        if ring.size < self._ring_bytes:
            _log.warning(
                "the request log has %d MiB in memory instead of %d, as files may be no larger (ulimit -f): "
                "what waits for a full disk is dropped the sooner",
                ring.size >> 20,
                self._ring_bytes >> 20,
            )
        self._ring, self._is_open = ring, True
        self._ask_at_s = time.monotonic() + QUIET_S
        self._thread = threading.Thread(target=self._run, args=(ring,), name="mdslite-journal", daemon=True)
        self._thread.start()

    def append(self, row: Row, keeping: Keeping = SAMPLED) -> None:
        """Hand over one row without ever waiting; when there is no room it is dropped and counted.
        `keeping` says how its bodies are kept, if it has any."""
        ring = self._ring
        if ring is None or not self._is_open:
            self._refused += 1
            return
        try:
            # When much waits, bodies are the first to go: they are most of it.
            roomy = ring.waiting_bytes * 2 < ring.size
            record = pack_row(row, keeping, bodies=roomy)
            if not roomy and (row[REQUEST] or row[REPLY]):
                self._bodiless += 1
        except _MISTAKES as exc:
            self._unpackable += 1
            _log.warning("a row of the request log is malformed: %s", exc)
            return
        if not ring.put(record):
            self._refused += 1

    def append_run(self, run: Run) -> None:
        """Hand over a whole batch. Bounded and counted as single rows are."""
        ring, count = self._ring, len(run.calls)
        if ring is None or not self._is_open:
            self._refused += count
            return
        try:
            record = pack_run(run)
        except _MISTAKES as exc:
            self._unpackable += count
            _log.warning("a run of the request log is malformed: %s", exc)
            return
        if not ring.put(record, count):
            self._refused += count

    def flush(self, *, timeout_s: float = 5.0) -> bool:
        """Wait until what was appended is readable; False when that was not possible in time, or the disk
        does not take it. Blocks: call it from a thread."""
        with self._signal:
            ring = self._ring
            if ring is None or not self._is_open:
                return False
            head = ring.end[0]
            self._asked += 1
            mine = self._asked
            self._signal.notify_all()

            def is_over() -> bool:
                refused = self._answered >= mine and self._scribe is not None and self._trouble is not None
                return self._closing or refused or (self._answered >= mine and self._settled >= head)

            self._signal.wait_for(is_over, timeout_s)
            return self._settled >= head

    def close(self, *, timeout_s: float = 10.0) -> bool:
        """Write what is there, close the file, end the thread; False when that was not possible in time. What
        the disk has not taken by then is told in the process's log: nobody else will know of it."""
        with self._signal:
            self._is_open = False
            self._close_by_s = time.monotonic() + timeout_s
            self._closing = True
            self._signal.notify_all()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        found = self.statistics()
        if found.pending:
            dropped = f"; {found.dropped:,} had no room in memory before" if found.dropped else ""
            why = found.trouble or "its writer was not done in time"
            _log.warning(
                "%s rows of the request log were not written: %s%s", f"{found.pending:,}", why, dropped
            )
        return not self._thread.is_alive() and not found.pending

    def statistics(self) -> JournalStatistics:
        appended = self._ring.end[1] if self._ring is not None else 0
        return JournalStatistics(
            pending=max(0, appended - self._written - self._lost - self._malformed),
            written=self._written,
            dropped=self._refused + self._lost,
            malformed=self._malformed + self._unpackable,
            bodiless=self._bodiless + self._left_out,
            bodies=self._bodies,
            size_bytes=self._size_bytes,
            sampled_bytes=self._sampled_bytes,
            restarts=self._restarts,
            set_aside=self._set_aside,
            trouble=self._trouble,
        )

    def _run(self, ring: Ring) -> None:
        try:
            self._scribe = Scribe(self._order(), ring, self._launch)
        except WriterLost as exc:
            self._mourn(ring, str(exc), futile=False)
        while not self._closing:
            with self._signal:
                if not self._closing and self._asked == self._answered:
                    self._signal.wait(self._pause_s(ring))
                asked = self._asked
            try:
                if not self._closing:
                    self._turn(ring, now=asked > self._answered)
            except Exception:  # a mistake of ours ends this round of the log, not the log
                _log.exception("the request log failed")
            with self._signal:
                self._answered = asked
                self._signal.notify_all()
        self._finish(ring)
        ring.close()

    def _pause_s(self, ring: Ring) -> float:
        if self._scribe is None and ring.end[0] > self._settled:
            return max(0.0, min(self._flush_s, self._launch_at_s - time.monotonic()))
        return self._flush_s

    def _turn(self, ring: Ring, *, now: bool) -> None:
        """Have written what is there."""
        clock = time.monotonic()
        if self._scribe is None and clock < self._launch_at_s:
            return
        if ring.end[0] <= self._settled and not now and clock < self._ask_at_s:
            return
        self._ask_at_s = clock + IDLE_ASK_S
        self._ask(ring, now=now, end=False, timeout_s=SILENCE_S)

    def _finish(self, ring: Ring) -> None:
        """Have the rest written while there is time."""
        while (left_s := self._close_by_s - time.monotonic()) > 0:
            if self._ask(ring, now=True, end=True, timeout_s=left_s):
                break
            time.sleep(min(FIRST_BACKOFF_S, left_s))
        if (last := self._scribe or self._heir) is not None:
            last.part(self._close_by_s)

    def _ask(self, ring: Ring, *, now: bool, end: bool, timeout_s: float) -> bool:
        """One question, to a new writer if there is none; False when it was lost over it."""
        try:
            if self._scribe is None:
                self._scribe = self._heir or Scribe(self._order(), ring, self._launch)
                self._heir = None
            self._asked_end = ring.end
            report = self._scribe.ask(self._asked_end[0], now=now, end=end, timeout_s=timeout_s)
        except WriterLost as exc:
            self._mourn(ring, str(exc), futile=exc.worked)
            return False
        self._heed(ring, report)
        return True

    def _order(self) -> Order:
        return Order(
            str(self._folder.absolute()),
            self._number,
            self._settled,
            self._counted,
            *self._retention,
            self._sample_bytes,
            self._drift,
        )

    def _heed(self, ring: Ring, report: Report) -> None:
        """Take in what the writer did."""
        if report.settled > self._settled:
            self._futile = 0
        self._settled, self._counted = report.settled, report.counted
        ring.free(report.settled)
        self._written += report.written
        self._lost += report.lost
        self._malformed += report.malformed
        self._bodies += report.bodies
        self._left_out += report.bodies_left_out
        self._size_bytes, self._sampled_bytes = report.size_bytes, report.sampled_bytes
        self._trouble = report.trouble
        self._set_aside += tuple(report.set_aside)
        self._backoff_s = FIRST_BACKOFF_S
        for note in report.notes:
            _log.warning("%s", note)
        for tally in report.tallies:
            for observer in self._observers:
                try:
                    observer(tally)
                except Exception:  # an observer's mistake must not cost the others their counts
                    _log.exception("an observer of the request log failed")

    def _mourn(self, ring: Ring, reason: str, *, futile: bool) -> None:
        """The writer is gone: another one will go on where it was. It is started at once, so that somebody
        has the ring in hand should this process be killed as well."""
        self._scribe = None
        self._restarts += 1
        self._trouble = f"its writer {reason}"
        _log.warning("the request log's writer %s; what it had not written waits", reason)
        self._futile += futile
        if self._futile >= FUTILE_MAX:
            self._give_up(ring)
        self._launch_at_s = time.monotonic() + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)
        with suppress(WriterLost):  # that is tried again when it is to be asked
            self._heir = Scribe(self._order(), ring, self._launch)

    def _give_up(self, ring: Ring) -> None:
        """Drop what no writer survives."""
        (head, rows), self._futile = self._asked_end, 0
        rows -= self._written + self._lost + self._malformed
        self._lost += rows
        self._settled = self._counted = head
        ring.free(head)
        _log.error("the request log drops %d rows: %d writers ended over them", rows, FUTILE_MAX)
