"""The request log's writing end: rows come from the event loop, a thread of its own writes them. Owns that
thread and the bounded list between the two.

The loop's side is one append and two comparisons a row and never waits. Four times a second the thread takes
what is there, shows it to the observers (metrics) in columns, and writes it. When the disk is full or slow,
blocks wait in memory up to a bound and are tried again; what goes past the bound is dropped and counted.
Predictions never notice. A crash loses what was not yet written: at most the last `flush_s` seconds.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdslite.errors import MdsliteError, StoreError
from mdslite.store.blocks import Block, build_block, build_run_block
from mdslite.store.bodies import BodyBudget
from mdslite.store.recorder import Recorder, Waiting
from mdslite.store.rows import REPLY, REQUEST, ROW_FIELDS, Row, Run, without_bodies

__all__ = ["ROW_FIELDS", "Journal", "JournalStatistics", "Observer", "Row"]

Observer = Callable[[Block], None]

BLOCK_ROWS = 4096  # of one transaction
TIDY_S = 30.0
MAX_BACKOFF_S = 5.0
_PAUSE_S = 50e-6  # long enough for a waiting thread to take the interpreter lock

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """A snapshot. Rows appended so far = pending + backlog + written + dropped + malformed."""

    pending: int  # appended, not yet taken by the thread
    backlog: int  # taken, waiting for the disk
    written: int
    dropped: int  # no room for them
    malformed: int  # not as `Row` says: a mistake of the caller
    bodiless: int  # rows whose bodies were left out because too many bytes were waiting
    set_aside: tuple[str, ...]  # names of unusable files found since the start
    trouble: str | None  # why the disk is not written just now


class Journal:
    """Call `start` once, `append` from one thread, `close` at the end.

    `max_rows` bounds the rows in memory and `max_held_bytes` the bodies among them. `max_age_s` and
    `max_bytes` are the retention of the folder. Observers are called in the journal's thread.
    """

    def __init__(
        self,
        folder: Path,
        *,
        flush_s: float = 0.25,
        max_rows: int = 200_000,
        max_held_bytes: int = 64 << 20,
        max_age_s: float = 7 * 86400.0,
        max_bytes: int = 4 << 30,
        bodies: BodyBudget | None = None,
        observers: Sequence[Observer] = (),
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._flush_s = flush_s
        self._max_backlog = max_rows - max_rows // 4
        self._max_held_bytes = max_held_bytes
        self._bodies = bodies or BodyBudget()
        self._observers = tuple(observers)
        self._monotonic = monotonic
        self._recorder = Recorder(
            folder, max_age_s=max_age_s, max_bytes=max_bytes, clock=clock, monotonic=monotonic
        )
        # The loop's side. Only the thread removes, in steps that the interpreter does not interrupt.
        self._pending: list[Row] = []
        self._runs: list[Run] = []
        self._run_rows = 0
        self._room = max_rows // 4
        self._held_bytes = 0
        self._refused = 0
        self._bodiless = 0
        # The thread's side.
        self._thread: threading.Thread | None = None
        self._backlog: deque[Waiting] = deque()
        self._backlog_rows = 0
        self._backlog_bytes = 0
        self._written = 0
        self._lost = 0
        self._malformed = 0
        self._trouble: str | None = None
        self._retry_at_s = 0.0
        self._backoff_s = flush_s
        self._tidy_at_s = 0.0
        # Between the two: `flush` asks, the thread answers.
        self._signal = threading.Condition()
        self._asked = 0
        self._answered = 0
        self._closing = False

    def start(self) -> None:
        """Make the folder and start the thread.

        :raises StoreError: the folder cannot be made
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StoreError(f"{self._folder} cannot be made: {exc.strerror}") from exc
        self._tidy_at_s = self._monotonic()
        self._thread = threading.Thread(target=self._run, name="mdslite-journal", daemon=True)
        self._thread.start()

    def append(self, row: Row) -> None:
        """Hand over one row without ever waiting; when there is no room it is dropped and counted."""
        pending = self._pending
        if len(pending) >= self._room:
            self._refused += 1
            return
        held_bytes = self._held_bytes + len(row[REQUEST] or b"") + len(row[REPLY] or b"")
        if held_bytes <= self._max_held_bytes:
            self._held_bytes = held_bytes
        else:
            row = without_bodies(row)
            self._bodiless += 1
        pending.append(row)

    def append_run(self, run: Run) -> None:
        """Hand over a whole batch; it must not change any more. Bounded and counted as single rows are."""
        count = len(run.calls)
        if self._run_rows + count > self._room:
            self._refused += count
            return
        self._run_rows += count
        self._runs.append(run)

    def flush(self, *, timeout_s: float = 5.0) -> bool:
        """Wait until what was appended is readable; False when that was not possible in time. Blocks: call it
        from a thread."""
        with self._signal:
            if self._thread is None or self._closing:
                return False
            self._asked += 1
            mine = self._asked
            self._signal.notify_all()
            answered = self._signal.wait_for(lambda: self._answered >= mine, timeout_s)
            return answered and not self._backlog

    def close(self, *, timeout_s: float = 10.0) -> bool:
        """Write what is there, close the file, end the thread; False when the disk did not take it."""
        with self._signal:
            self._closing = True
            self._room = 0
            self._signal.notify_all()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self._backlog

    def statistics(self) -> JournalStatistics:
        return JournalStatistics(
            pending=len(self._pending) + self._run_rows,
            backlog=self._backlog_rows,
            written=self._written,
            dropped=self._refused + self._lost,
            malformed=self._malformed,
            bodiless=self._bodiless,
            set_aside=self._recorder.set_aside,
            trouble=self._trouble,
        )

    def _run(self) -> None:
        try:
            self._recorder.open()
        except StoreError as exc:
            self._complain(exc.message)
        closing = False
        while not closing:
            with self._signal:
                if not self._closing and self._asked == self._answered:
                    self._signal.wait(self._flush_s)
                asked, closing = self._asked, self._closing
            try:
                self._take()
                self._write(now=closing or asked > self._answered)
                self._tidy()
            except Exception:  # a mistake of ours ends this round of the log, not the log
                _log.exception("the request log failed")
            with self._signal:
                self._answered = asked
                self._signal.notify_all()
        self._recorder.close()

    def _take(self) -> None:
        """Move what is pending into blocks, show them to the observers, queue them for the disk."""
        count = len(self._pending)
        rows = self._pending[:count]
        del self._pending[:count]  # the loop appends to this same list at any moment: never replace it
        self._held_bytes = 0
        run_count = len(self._runs)
        runs = self._runs[:run_count]
        del self._runs[:run_count]
        self._run_rows = 0  # a run that came in between is not counted: the bound is a little softer for it
        for start in range(0, count, BLOCK_ROWS):
            block = self._build(rows[start : start + BLOCK_ROWS])
            if block is not None:
                self._show(block)
        for some in _portions(runs):
            self._show(build_run_block(some, pause=_pause))

    def _show(self, block: Block) -> None:
        for observer in self._observers:
            try:
                observer(block)
            except Exception:  # an observer's mistake must not cost the log its rows
                _log.exception("an observer of the request log failed")
        self._hold(block)

    def _hold(self, block: Block) -> None:
        if self._backlog_rows + block.count > self._max_backlog:
            self._lost += block.count
            return
        if self._backlog_bytes + block.body_bytes > self._max_held_bytes:
            self._bodiless += len(block.bodies)
            block = dataclasses.replace(block, bodies=())
        self._backlog.append(self._recorder.number(block))
        self._backlog_rows += block.count
        self._backlog_bytes += block.body_bytes

    def _build(self, rows: Sequence[Row]) -> Block | None:
        def build(some: Sequence[Row]) -> Block:
            return build_block(some, budget=self._bodies, now_s=self._monotonic(), pause=_pause)

        try:
            return build(rows)
        except (TypeError, ValueError, OverflowError):
            pass
        sound = []
        for row in rows:
            try:
                build([without_bodies(row)])
                sound.append(row)
            except (TypeError, ValueError, OverflowError) as exc:
                self._malformed += 1
                _log.warning("a row of the request log is malformed: %s", exc)
        return build(sound) if sound else None

    def _write(self, *, now: bool) -> None:
        if not now and self._monotonic() < self._retry_at_s:
            return
        while self._backlog:
            waiting = self._backlog[0]
            before = waiting.count
            try:
                self._recorder.write(waiting)
            except MdsliteError as exc:
                self._complain(exc.message)
                return
            except Exception:  # ours: this block would fail again and again
                _log.exception("%d rows of the request log are lost", waiting.count)
                self._lost += waiting.count
                self._backlog_rows -= waiting.count
                before = waiting.count
            finally:
                self._written += before - waiting.count
                self._backlog_rows -= before - waiting.count
            self._backlog.popleft()
            self._backlog_bytes -= waiting.block.body_bytes
        if self._trouble is not None:
            _log.warning("the request log is written again")
        self._trouble = None
        self._backoff_s = self._flush_s

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


def _pause() -> None:
    time.sleep(_PAUSE_S)


def _portions(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs in groups of about BLOCK_ROWS rows."""
    some: list[Run] = []
    count = 0
    for run in runs:
        some.append(run)
        count += len(run.calls)
        if count >= BLOCK_ROWS:
            yield some
            some, count = [], 0
    if some:
        yield some
