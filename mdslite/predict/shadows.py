"""Copies of answered requests on their way to shadow versions. What becomes of them touches nobody's answer.

A copy is made after the primary's answer was written. It waits here, within bounds of number and bytes, until
the primaries leave time for it (`allowance`), in a turn of the event loop without a request to read. Then it
goes to its version's lane, whose batches come after all others on the device, and which gets no more than it
needs for its next batch. A copy that finds no room is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from mdslite.errors import MdsliteError, without_frames
from mdslite.predict.allowance import HANDLING_S, Allowance
from mdslite.predict.answers import encode
from mdslite.predict.books import Books
from mdslite.predict.call import Call, answer_nobody
from mdslite.predict.reading import Reader
from mdslite.serving.fleet import Served
from mdslite.serving.samples import Samples
from mdslite.store.comparisons import DropReason

logger = logging.getLogger(__name__)

WAITING_MAX = 256  # for one version
WAITING_BYTES = 32 * 1024 * 1024
_LANE_ROWS = 32  # that a lane may have waiting, where its batches are smaller
_TOGETHER = 8  # copies: a batch of so many disturbs primaries once, and takes hardly longer than a row alone
_FULL_S = 0.002  # until the lanes are looked at again when none has room
# Of a request that was wrong, or that nobody waited for, a shadow's answer teaches nothing.
_COPIED = frozenset({200, 500, 504})


class ShadowCall(Call):
    """A copy of `primary`, which has been answered with `primary_status`. Its answer goes to nobody."""

    shadow = True

    def __init__(
        self,
        primary: Call,
        primary_status: int,
        served: Served,
        *,
        finished: Callable[[ShadowCall], None],
    ) -> None:
        # Its body is inflated by now.
        super().__init__(
            primary.target, primary.body, primary.media_type, b"", None, perf_counter(), answer_nobody
        )
        self.primary = primary
        self.primary_status = primary_status
        self.served = served
        self.url = primary.url
        self.fields = primary.fields
        self.form = primary.form
        self.request_id = primary.request_id  # what links the two in the log
        self.trace = None if primary.trace is None else primary.trace.child()
        self._finished = finished

    def resolved(self) -> None:
        self._finished(self)

    def is_due(self, samples: Samples, now: float, *, failed: bool) -> bool:
        return samples.due_copy(
            now,
            failed=failed,
            confidence=self.confidence,
            primary=self.primary.kept and not samples.never,
            request_id=self.request_id,
        )

    def logged_reply(self, reply: bytes | None) -> bytes | None:
        """Its answer goes to nobody and so was never put into words."""
        if self.error is not None or self.lane is None or self.lane.codec.streams:
            return None
        try:
            return encode(self)
        except Exception:
            logger.exception("a shadow's answer to request %s could not be encoded", self.request_id)
            return None

    def emitted(self, piece: bytes) -> None:
        """A shadow's stream is run to its end and not kept."""


class Observer(Protocol):
    """Told what became of each copy."""

    def observe(self, copy: ShadowCall) -> None:
        """It was answered, or failed: it and its primary are a pair."""
        ...

    def miss(self, primary: Served, shadow: Served, reason: DropReason) -> None:
        """It was dropped."""
        ...


class _Line:
    """The copies that wait for one version."""

    __slots__ = ("copies", "size_bytes")

    def __init__(self) -> None:
        self.copies: deque[ShadowCall] = deque()
        self.size_bytes = 0


class Shadows:
    """Makes the copies. Used from the event loop's thread only."""

    def __init__(self, books: Books, reader: Reader, *, allowance: Allowance | None = None) -> None:
        self.observer: Observer | None = None
        self.allowance = allowance or Allowance()
        self._books = books
        self._reader = reader
        self._lines: dict[Served, _Line] = {}  # those without copies left out; the next turn's first
        self._pumping = False
        self._started = 0  # requests that had begun when this was last looked at

    @property
    def waiting(self) -> int:
        """Copies that no lane has yet."""
        return sum(len(line.copies) for line in self._lines.values())

    def copy(self, call: Call, status: int) -> None:
        """Copy a request that its primary has answered to the shadows of its route that are due for it."""
        if status not in _COPIED or call.route is None:
            return
        if status == 200 and not call.columns.rows:
            return  # nothing was computed: there is nothing to compare
        for share in call.route.shadows:
            served = share.target
            if served is call.served or not share.due():
                continue
            line = self._lines.get(served)
            if line is None:
                line = self._lines[served] = _Line()
            size = len(call.body)
            if len(line.copies) >= WAITING_MAX or line.size_bytes + size > WAITING_BYTES:
                self._drop(call, served, "busy" if _has_room(served) else "slow")
                continue
            line.copies.append(ShadowCall(call, status, served, finished=self._finish))
            line.size_bytes += size
        if self._lines and not self._pumping:
            self._again(0.0)

    def _drop(self, primary: Call, served: Served, reason: DropReason) -> None:
        served.shadows_dropped[reason] += 1
        if self.observer is not None and primary.served is not None:
            self.observer.miss(primary.served, served, reason)

    def _again(self, after_s: float) -> None:
        self._pumping = True
        loop = asyncio.get_running_loop()
        if after_s:
            loop.call_later(max(after_s, 0.001), self._pump)
        else:
            loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Start a few copies, if this is the time for them, and see when to look again."""
        self._pumping = False
        busy = self._books.started != self._started
        self._started = self._books.started
        wait_s = self.allowance.wait_s()
        if not wait_s and not (busy and self.allowance.ample):
            started = 0
            while started < _TOGETHER and self._start_next():
                started += 1
            wait_s = 0.0 if started else _FULL_S
        if self._lines:
            self._again(wait_s)

    def _start_next(self) -> bool:
        """Start a copy for the version that has waited longest; whether one had room."""
        served = next(filter(_has_room, self._lines), None)
        if served is None:
            return False
        line = self._lines.pop(served)
        copy = line.copies.popleft()
        line.size_bytes -= len(copy.body)
        if line.copies:
            self._lines[served] = line  # behind the others
        self.allowance.spend(HANDLING_S)
        self._start(copy)
        return True

    def _start(self, copy: ShadowCall) -> None:
        served = copy.served
        primary = copy.primary.served
        assert served is not None and primary is not None
        lane, now = served.lane, perf_counter()
        if now - copy.arrived_at > lane.knobs.prediction_s:
            self._drop(copy.primary, served, "late")
            return
        copy.arrived_at = now  # its version did not make it wait until now
        try:
            lane.make_room()
            if (
                primary.codec.signature == served.codec.signature
                and primary.codec.streams == served.codec.streams
            ):
                copy.columns = copy.primary.columns
            else:
                copy.columns = self._reader.read(copy, served)
            copy.deadline = now + lane.knobs.prediction_s
            lane.submit(copy, perf_counter())
        except MdsliteError as exc:
            if exc.status in (429, 503):
                self._drop(copy.primary, served, "refused")
            else:
                copy.finished = True
                copy.error = without_frames(exc)
                self._finish(copy)
        except Exception:
            logger.exception("a shadow's copy of request %s failed", copy.request_id)
            self._drop(copy.primary, served, "refused")

    def _finish(self, copy: ShadowCall) -> None:
        if copy.batch_rows:
            self.allowance.spend(copy.compute_s * copy.columns.rows / copy.batch_rows)
        error = copy.error
        status, code = (200, None) if error is None else (error.status, error.code)
        self._books.record(copy, status, code, None)
        if self.observer is not None:
            self.observer.observe(copy)


def _has_room(served: Served) -> bool:
    lane = served.lane
    return lane.queue_rows < max(_LANE_ROWS, lane.knobs.batch_size)
