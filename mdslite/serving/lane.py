"""A lane: one version's queue, batcher and replicas. Owns the batches in flight; knows no HTTP, no routes.

Reads receive -> form -> gate -> run -> resolve. An idle replica runs what is queued at once unless the
learned latency curve says that waiting for the next row lowers the mean latency (`curve.worth_waiting_s`).
A batch that is known to be quick (its graph has no control flow and the curve puts it under `inline_s`) runs
on the event loop itself: two hand-offs between threads cost more than it does. What came in during one turn
of the loop is what forms the batch, so that many connections batch without anybody waiting.

All methods run on the event loop's thread; only `Batch.run` may run elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

from mdslite.errors import (
    DeadlineExceeded,
    MdsliteError,
    ModelError,
    OutOfMemory,
    Overloaded,
    TooLarge,
    Unavailable,
)
from mdslite.serving.batch import Batch, Confidence, RowCodec, public_error
from mdslite.serving.curve import ArrivalRate, LatencyCurve, worth_waiting_s
from mdslite.serving.deadline import Deadline
from mdslite.serving.gate import Gate, Priority, Seat
from mdslite.serving.knobs import Knobs, LaneStats
from mdslite.serving.queue import Job, RowQueue, Slice, halves
from mdslite.serving.replica import Replica
from mdslite.tensors import Key

logger = logging.getLogger(__name__)

INLINE_S = 500e-6  # about what two hand-offs between threads cost beside other work
STUCK_AFTER_S = 5.0
_SHAPES_MAX = 1024


class Lane:
    """Batches jobs of one version onto its replicas."""

    def __init__(
        self,
        name: str,
        *,
        codec: RowCodec,
        replicas: Sequence[Replica],
        knobs: Knobs,
        curve: LatencyCurve,
        read_confidence: Confidence,
        width: int = 1,
        inline_s: float = 0.0,
        priority: Priority = Priority.PRIMARY,
        on_lost: Callable[[Replica, str], None] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.name = name
        self.codec = codec
        self.knobs = knobs
        self.curve = curve
        self.stats = LaneStats()
        self.read_confidence = read_confidence
        self._replicas = list(replicas)
        self._idle = deque(replicas)
        gates = {one.gate for one in replicas}
        self._seats = {gate: Seat(width=width, start=partial(self._start_on, gate)) for gate in gates}
        self._inline_s = inline_s
        self._priority = priority
        self._on_lost = on_lost
        self._loop = loop or asyncio.get_running_loop()
        self._queue = RowQueue()
        self._retries: deque[tuple[Key, list[Slice]]] = deque()
        self._running: set[Batch] = set()
        self._done: deque[Batch] = deque()  # computed, not yet answered; replicas' threads append
        self._arrivals = ArrivalRate()
        self._arrived = 0  # rows not told to `_arrivals` yet
        self._pumping = False
        self._hold_until = 0.0
        self._hold_timer: asyncio.TimerHandle | None = None
        self._expiry = Deadline(self._loop, self._sweep)
        self._shapes: dict[Key, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._empty: asyncio.Event | None = None

    # Receive

    def submit(self, job: Job, now: float) -> None:
        """Queue a job; `job.resolved()` is called later, never from in here.

        :raises Overloaded: the queue is full
        :raises TooLarge: the job could not fit into an empty queue
        :raises Unavailable: no replica is left
        """
        rows = job.columns.rows
        if self._done:
            self._collect()
        self.make_room(rows)
        if not self._replicas:
            raise Unavailable(f"{self.name} has no working replica", retry_after_s=1)
        job.lane = self
        job.left = rows
        job.queued_at = now
        self._queue.push(job)
        if job.deadline < self._expiry.at:
            self._expiry.set(job.deadline)
        self._arrived += rows
        self._hold_until = 0.0
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def cancel(self, job: Job) -> None:
        """Forget a job whose caller left: its rows are freed at once, its neighbours go on."""
        if job.finished:
            return
        self.stats.cancelled += 1
        self._end(job)

    @property
    def queue_rows(self) -> int:
        return self._queue.rows

    @property
    def running(self) -> int:
        """Batches being computed."""
        return len(self._running)

    @property
    def replicas(self) -> Sequence[Replica]:
        return self._replicas

    def make_room(self, rows: int = 1) -> None:
        """Find room for so many more rows, before a request costs any more than asking.

        :raises Overloaded, TooLarge: as `submit`
        """
        if self._queue.rows + rows <= self.knobs.queue_rows:
            return
        # An overloaded loop has a thousand requests to read before it hears of a finished batch: look here.
        self._collect()
        if self._queue.rows + rows <= self.knobs.queue_rows:
            return
        if rows > self.knobs.queue_rows:
            raise TooLarge(
                f"{rows} rows in one request: {self.name} takes at most {self.knobs.queue_rows}",
                hint="send several smaller requests",
            )
        self.stats.refused += 1
        batch = self.knobs.batch_size
        ahead_s = self.curve.estimate(self._bucket_of_oldest(), batch) * (self._queue.rows / batch)
        raise Overloaded(
            f"{self.name} is overloaded: {self._queue.rows} of {self.knobs.queue_rows} rows are waiting",
            retry_after_s=max(1, math.ceil(ahead_s)),
        )

    # Form

    def _pump(self) -> None:
        """Start what can be started now."""
        self._pumping = False
        while self._retries or self._queue.rows:
            if not self._retries:
                oldest = self._queue.oldest()
                assert oldest is not None
                key, job = oldest
                rows = min(self._queue.waiting(key), self.knobs.batch_size)
                if self._quick(key, rows):
                    self._run_inline()
                    if self._queue.rows:
                        self._wake()  # the sockets' turn first
                    self._settle()
                    return
                if not self._idle or self._hold(key, job, rows):
                    return
            before = len(self._running)
            for gate in {one.gate: None for one in self._idle}:
                gate.enter(self._seats[gate], self._priority)
            if len(self._running) == before:
                return

    def _start_on(self, gate: Gate) -> bool:
        """A gate's word: start a batch on an idle replica of its device."""
        # Least recently used first, which is round robin.
        replica = next((one for one in self._idle if one.gate is gate), None)
        batch = self._form(perf_counter()) if replica is not None else None
        if replica is None or batch is None:
            return False
        self._idle.remove(replica)
        batch.replica = replica
        batch.handle = replica.session.handle()
        self._running.add(batch)
        self.stats.batches += 1
        replica.start(batch, self._done, self._collect)
        return True

    def _form(self, now: float) -> Batch | None:
        """The next batch, after refusing what would come too late."""
        while self._retries or self._queue.rows:
            if self._retries:
                key, slices = self._retries.popleft()
            else:
                oldest = self._queue.oldest()
                assert oldest is not None
                key = oldest[0]
                slices = self._queue.take(key, self.knobs.batch_size)
            sizes, bucket = self._shape(key)
            rows = sum(stop - start for _, start, stop in slices)
            ready_at = now + self.curve.estimate(bucket, rows)
            kept = [one for one in slices if one[0].deadline >= ready_at and not one[0].finished]
            if len(kept) < len(slices):
                self._refuse_late(slices, ready_at, bucket)
            if kept:
                return Batch(
                    kept,
                    key=key,
                    row_sizes=sizes,
                    codec=self.codec,
                    read_confidence=self.read_confidence,
                )
        return None

    def _refuse_late(self, slices: Sequence[Slice], ready_at: float, bucket: tuple[int, ...]) -> None:
        for job, _, _ in slices:
            if not job.finished and job.deadline < ready_at:
                self.curve.relax(bucket)
                self._expire(job, "could not be computed in time")

    def _hold(self, key: Key, oldest: Job, rows: int) -> bool:
        """Whether to wait for more rows; sees to it that `_pump` comes again."""
        limit = oldest.queued_at + self.knobs.batch_timeout_s
        now = perf_counter()
        if rows >= self.knobs.batch_size or now >= limit:
            return False
        if not self._hold_until:
            self._arrivals.add(self._arrived, now)
            self._arrived = 0
            rate = self._arrivals.per_second(now)
            gap = worth_waiting_s(self.curve, self._shape(key)[1], rows, rate)
            if not gap:
                return False
            self._hold_until = min(now + gap, limit)
        left = self._hold_until - now
        if left <= 0:
            return False
        if left < 0.001:
            self._wake()  # the loop's timers count whole milliseconds: look at the sockets again instead
        elif self._hold_timer is None:
            self._hold_timer = self._loop.call_later(left, self._hold_over)
        return True

    def _hold_over(self) -> None:
        self._hold_timer = None
        self._pump()

    def _quick(self, key: Key, rows: int) -> bool:
        # By the floor: on a crowded machine every run looks slow, and a hand-off is slower still.
        return 0.0 < self.curve.floor(self._shape(key)[1], rows) <= self._inline_s

    def _wake(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    # Run and resolve

    def _run_inline(self) -> None:
        batch = self._form(perf_counter())
        if batch is None:
            return
        self.stats.batches += 1
        self.stats.inline_batches += 1
        replica = self._replicas[0]
        batch.run(replica.session)
        self._resolve(batch, replica)

    def _collect(self) -> None:
        """Take what the replicas' threads have finished."""
        while self._done:
            self._completed(self._done.popleft())

    def _completed(self, batch: Batch) -> None:
        replica = batch.replica
        if replica is None or batch not in self._running:
            return  # given up as stuck: its replica is lost and its jobs are answered
        self._running.discard(batch)
        if replica in self._replicas:
            self._idle.append(replica)
        replica.gate.leave(self._seats[replica.gate], batch.seconds)
        if batch.error is None and self._queue.rows:
            self._pump()  # the next batch computes while this one's answers are written
        self._resolve(batch, replica)
        if self._retries or self._queue.rows:
            self._wake()
        self._settle()

    def _resolve(self, batch: Batch, replica: Replica) -> None:
        if batch.error is not None:
            self._fail(batch, replica, batch.error)
            return
        self.curve.observe(self._shape(batch.key)[1], batch.rows, batch.seconds)
        batch.answer(replica.name, self._fail_job)

    def _fail(self, batch: Batch, replica: Replica, error: BaseException) -> None:
        """Isolate what failed: halves run again until one job, or with no memory one row, stands alone."""
        live = [one for one in batch.slices if not one[0].finished]
        alone = len({id(job) for job, _, _ in live}) == 1
        divisible = isinstance(error, OutOfMemory) and sum(stop - start for _, start, stop in live) > 1
        if isinstance(error, ModelError | OutOfMemory) and live and (not alone or divisible):
            self.stats.reruns += 2
            for half in reversed(halves(live)):
                self._retries.appendleft((batch.key, half))
            self._wake()
            return
        if isinstance(error, Unavailable) and not isinstance(error, OutOfMemory):
            self._lose(replica, error.message)
        elif not isinstance(error, ModelError | OutOfMemory | DeadlineExceeded):
            logger.error("%s: unexpected error in a batch", self.name, exc_info=error)
        for job, _, _ in live:
            if not job.finished:
                batch.note(job, replica.name)
                self._fail_job(job, public_error(error))

    def _fail_job(self, job: Job, error: MdsliteError) -> None:
        job.error = error
        self._end(job)
        job.resolved()

    def _end(self, job: Job) -> None:
        """Finish a job before all its rows have run."""
        job.finished = True
        self._queue.discard(job)
        for batch in self._running:
            if batch.handle is not None and all(one.finished for one, _, _ in batch.slices):
                batch.handle.terminate()
                self._loop.call_later(STUCK_AFTER_S, self._check_stuck, batch)
        self._settle()

    def _check_stuck(self, batch: Batch) -> None:
        if batch in self._running and batch.replica is not None:
            batch.replica.gate.leave(self._seats[batch.replica.gate], STUCK_AFTER_S)
            self._running.discard(batch)
            self._lose(batch.replica, "a run did not stop when it was told to")

    def _lose(self, replica: Replica, reason: str) -> None:
        if replica in self._replicas:
            self._replicas.remove(replica)
            if replica in self._idle:
                self._idle.remove(replica)
            if self._on_lost is not None:
                self._on_lost(replica, reason)

    # Deadlines

    def _sweep(self) -> None:
        """Answer what has passed its deadline, queued or running, and look again at the next one."""
        now = perf_counter()
        jobs = [*self._queue.jobs(), *(job for batch in self._running for job, _, _ in batch.slices)]
        jobs += [job for _, slices in self._retries for job, _, _ in slices]
        for job in jobs:
            if not job.finished and job.deadline <= now:
                self._expire(job, "was not answered in time")
        self._expiry.set(min((job.deadline for job in jobs if not job.finished), default=math.inf))

    def _expire(self, job: Job, what: str) -> None:
        self.stats.expired += 1
        allowed_ms = (job.deadline - job.queued_at) * 1000
        self._fail_job(job, DeadlineExceeded(f"the prediction {what}: {allowed_ms:.0f} ms were allowed"))

    # Life

    def add_replica(self, replica: Replica) -> None:
        """Take a (re)built replica into the rotation."""
        self._replicas.append(replica)
        self._idle.append(replica)
        self._wake()

    async def drain(self, *, deadline_s: float) -> bool:
        """Wait until nothing is queued or running; False when the deadline came first."""
        self._empty = asyncio.Event()
        self._settle()
        try:
            await asyncio.wait_for(self._empty.wait(), deadline_s)
        except TimeoutError:
            return False
        finally:
            self._empty = None
        return True

    def _settle(self) -> None:
        if self._empty is not None and not (self._queue.rows or self._running or self._retries):
            self._empty.set()

    def close(self) -> None:
        """Answer what is left with 503 and end the replicas' threads."""
        if self._hold_timer is not None:
            self._hold_timer.cancel()
        self._expiry.set(math.inf)
        for gate, seat in self._seats.items():
            gate.withdraw(seat)
        jobs = [*self._queue.jobs(), *(job for batch in self._running for job, _, _ in batch.slices)]
        for job in jobs:
            if not job.finished:
                self._fail_job(job, Unavailable(f"{self.name} was taken down", retry_after_s=1))
        for replica in self._replicas:
            replica.close()
        self._replicas.clear()
        self._idle.clear()

    def _shape(self, key: Key) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Bytes a row of each input, and the shape by which the curve knows it."""
        known = self._shapes.get(key)
        if known is None:
            if len(self._shapes) >= _SHAPES_MAX:
                self._shapes.clear()
            known = self._shapes[key] = (self.codec.row_sizes(key), self.codec.bucket(key))
        return known

    def _bucket_of_oldest(self) -> tuple[int, ...]:
        oldest = self._queue.oldest()
        return self._shape(oldest[0])[1] if oldest else ()
