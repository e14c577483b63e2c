"""When a lane runs what waits: on the event loop, at once, half of it already, or after waiting for more.

Decided by the version's learned curve and the rate at which rows arrive. Owns the timer of a wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from mdslite.packing import Bucket
from mdslite.serving.batch import RowCodec
from mdslite.serving.curve import ArrivalRate, LatencyCurve, worth_waiting_s
from mdslite.serving.gate import Priority
from mdslite.tensors import Key

if TYPE_CHECKING:
    from mdslite.serving.crew import Crew

_LOOP_S = 60e-6  # about what the loop itself spends on a request
# A run on the loop takes no longer than this by its floor: while a batch of its lane is with a replica,
# beside others that wait, while the loop has nothing else to read for its lane, and then with a session that
# computes on all cores; of few cores, full batches too.
BESIDE_S = 60e-6
QUICK_S = 200e-6
ALONE_S = 500e-6
WIDE_S = 2e-3
STALL_S = 10e-3  # a run on the loop that takes longer was mistaken for a quick one
_STALL_SHARE = 1000  # of a version's time, one part at most goes to such runs
_CROWD_DECAY = 0.98  # a look: a tenth is left after a hundred
_CROWD_BATCHES = 2  # that keep the loop busy while a replica computes one of them
_SHAPES_MAX = 1024


class Tempo:
    """Decisions about rows of one shape. `wake` has the lane look again next turn."""

    def __init__(
        self,
        curve: LatencyCurve,
        codec: RowCodec,
        *,
        inline: bool,
        wake: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._curve = curve
        self._codec = codec
        self._inline = inline and not codec.streams
        self._wake = wake
        self._loop = loop
        self._shapes: dict[Key, tuple[tuple[int, ...], Bucket]] = {}
        self._arrivals = ArrivalRate()
        self._arrived = 0  # rows of which `_arrivals` was told
        self._looked_at = 0  # rows that had arrived at the last look
        self._crowd = 0.0  # about the most rows that were present at once lately
        self._barred_until = 0.0  # nothing runs on the loop before
        self._until = 0.0  # how long the present wait lasts; each arrival asks for a new decision
        self._timer: asyncio.TimerHandle | None = None

    def shape(self, key: Key) -> tuple[tuple[int, ...], Bucket]:
        """Bytes a row of each input, and the shape by which the curve knows it."""
        known = self._shapes.get(key)
        if known is None:
            if len(self._shapes) >= _SHAPES_MAX:
                self._shapes.clear()
            known = self._shapes[key] = (self._codec.row_sizes(key), self._codec.bucket(key))
        return known

    def runs_inline(self, key: Key, rows: int, *, full: bool, queued: int, crew: Crew) -> bool:
        """Whether the event loop itself is to run `rows` of the `queued` rows now; `full`: no batch may have
        more.

        It is where that is known to take no longer than handing them over (QUICK_S), or than the loop would
        have to wait for them with nothing else to read for the lane (ALONE_S), or to do it on (WIDE_S). While
        a batch of the lane's own is out, rows may as well go with the next one, unless they cost next to
        nothing (BESIDE_S).
        """
        present = queued + crew.flight.rows
        self._crowd = max(present, self._crowd * _CROWD_DECAY)
        is_most = rows == present and 2 * rows >= self._crowd
        in_the_way = crew.is_in_the_way and not (crew.is_twofold and queued >= _CROWD_BATCHES * rows)
        return self._within(key, rows, self._inline_s(crew, best=is_most or (full and in_the_way)))

    def is_crowded(self, most: int) -> bool:
        """Whether so many rows were present lately that batches of `most` keep the loop busy, too."""
        return self._crowd >= _CROWD_BATCHES * most

    def _inline_s(self, crew: Crew, *, best: bool) -> float:
        """How long the loop may run rows itself; `best`: it can do nothing better meanwhile, be it that they
        are all that the lane has, and most of its latest crowd, or that it would take their cores."""
        if crew.priority is not Priority.PRIMARY or not crew.rotation.working:
            return 0.0
        if crew.flight:
            return BESIDE_S
        if crew.is_device_busy:
            return ALONE_S  # how long the others take, nobody knows
        if best:
            return WIDE_S if crew.is_wide else ALONE_S
        return QUICK_S

    def _within(self, key: Key, rows: int, limit_s: float) -> bool:
        if not self._inline or (self._barred_until and perf_counter() < self._barred_until):
            return False
        # By the floor: on a crowded machine every run looks slow, and a hand-off is slower still.
        return 0.0 < self._curve.floor(self.shape(key)[1], rows) <= limit_s

    def stalled(self, busy_s: float) -> None:
        """Learn that a run kept the loop, and its core for `busy_s`: one that waited for a core was none the
        longer for that. For some models that goes by values too (a `TopK` of rising ones takes fifty times as
        long as of equal ones), and a floor, being the least, says nothing of those."""
        if busy_s > STALL_S:
            self._barred_until = perf_counter() + _STALL_SHARE * busy_s

    def halves_pay(self, key: Key, rows: int, *, most: int, crew: Crew) -> bool:
        """Whether `rows` rows should begin while the loop goes on to read as many more.

        They should unless two halves cost more beyond the whole than the loop spends on a half of them, or
        the loop will run the whole: as much as came together lately, `most` rows at most.
        """
        whole = max(rows, min(most, round(self._crowd)))
        if self._within(key, whole, self._inline_s(crew, best=True)):
            return False
        shape = self.shape(key)[1]
        half_s, whole_s = self._curve.floor(shape, rows), self._curve.floor(shape, 2 * rows)
        return half_s > 0.0 and 2 * half_s - whole_s < rows * _LOOP_S

    def holds_back(self, key: Key, rows: int, *, limit: float, arrived: int) -> bool:
        """Whether to wait for more than `rows` rows, up to the time `limit`; if so, the lane is woken.

        `arrived` counts all rows that ever came.
        """
        now = perf_counter()
        if arrived != self._looked_at:
            self._looked_at, self._until = arrived, 0.0
        if now >= limit:
            return False
        if not self._until:
            self._arrivals.add(arrived - self._arrived, now)
            self._arrived = arrived
            gap = worth_waiting_s(self._curve, self.shape(key)[1], rows, self._arrivals.per_second(now))
            if not gap:
                return False
            self._until = min(now + gap, limit)
        left_s = self._until - now
        if left_s <= 0:
            return False
        if left_s < 0.001:
            self._wake()  # the loop's timers count whole milliseconds: look at the sockets again instead
        elif self._timer is None:
            self._timer = self._loop.call_later(left_s, self._over)
        return True

    def cancel(self) -> None:
        """Wait no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self) -> None:
        self._timer = None
        self._wake()
