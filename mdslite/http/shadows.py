"""Copies of answered requests on their way to shadow versions. What becomes of them touches nobody's answer.

A copy is made after the primary's answer was written. It waits here, within bounds of number and bytes, until
a turn of the event loop takes it to its version's lane, whose batches come after all others on the device. A
copy that finds no room is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import perf_counter

from mdslite.errors import MdsliteError
from mdslite.http.answers import encode
from mdslite.http.books import Books
from mdslite.http.call import Call
from mdslite.http.reading import Reader
from mdslite.serving.fleet import Served
from mdslite.serving.samples import Samples

logger = logging.getLogger(__name__)

WAITING_MAX = 256
WAITING_BYTES = 32 * 1024 * 1024
_A_TURN = 16  # copies that one turn of the event loop starts
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
        self.primary = primary
        self.primary_status = primary_status
        self.served = served
        self.url = primary.url
        self.target = primary.target
        self.body = primary.body
        self.media_type = primary.media_type
        self.encoding = b""  # it is inflated by now
        self.fields = primary.fields
        self.form = primary.form
        self.request_id = primary.request_id  # what links the two in the log
        self.trace = primary.trace
        self.arrived_at = perf_counter()
        self._finished = finished

    def resolved(self) -> None:
        self._finished(self)

    def is_due(self, samples: Samples, now: float, *, failed: bool) -> bool:
        return samples.due_copy(
            now, failed=failed, confidence=self.confidence, primary=self.primary.kept and not samples.never
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


class Shadows:
    """Makes the copies. Used from the event loop's thread only."""

    def __init__(self, books: Books, reader: Reader) -> None:
        self.compare: Callable[[ShadowCall], None] | None = None  # told of every pair of answers
        self._books = books
        self._reader = reader
        self._waiting: deque[ShadowCall] = deque()
        self._waiting_bytes = 0
        self._pumping = False

    @property
    def waiting(self) -> int:
        """Copies that no lane has yet."""
        return len(self._waiting)

    def copy(self, call: Call, status: int) -> None:
        """Copy a request that its primary has answered to the shadows of its route that are due for it."""
        if status not in _COPIED or call.route is None:
            return
        for share in call.route.shadows:
            served = share.target
            if served is call.served or not share.due():
                continue
            size = len(call.body)
            if len(self._waiting) >= WAITING_MAX or self._waiting_bytes + size > WAITING_BYTES:
                served.shadows_dropped += 1
                continue
            self._waiting.append(ShadowCall(call, status, served, finished=self._finish))
            self._waiting_bytes += size
        if self._waiting and not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        for _ in range(min(_A_TURN, len(self._waiting))):
            copy = self._waiting.popleft()
            self._waiting_bytes -= len(copy.body)
            self._start(copy)
        self._pumping = bool(self._waiting)
        if self._pumping:
            asyncio.get_running_loop().call_soon(self._pump)

    def _start(self, copy: ShadowCall) -> None:
        served = copy.served
        primary = copy.primary.served
        assert served is not None and primary is not None
        lane = served.lane
        try:
            lane.make_room()
            if (
                primary.codec.signature == served.codec.signature
                and primary.codec.streams == served.codec.streams
            ):
                copy.columns = copy.primary.columns
            else:
                copy.columns = self._reader.read(copy, served)
            copy.deadline = copy.arrived_at + lane.knobs.prediction_s
            lane.submit(copy, perf_counter())
        except MdsliteError as exc:
            if exc.status in (429, 503):
                served.shadows_dropped += 1
            else:
                copy.finished = True
                copy.error = exc
                self._finish(copy)
        except Exception:
            logger.exception("a shadow's copy of request %s failed", copy.request_id)
            served.shadows_dropped += 1

    def _finish(self, copy: ShadowCall) -> None:
        error = copy.error
        status, code = (200, None) if error is None else (error.status, error.code)
        self._books.record(copy, status, code, None)
        if self.compare is not None:
            self.compare(copy)
