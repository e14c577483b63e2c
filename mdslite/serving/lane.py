"""A lane: one version's queue, batcher and replicas. Decides what runs when and where; how its jobs end is
the affair of `outcomes`. Knows no HTTP, no routes.

Reads receive -> form -> gate -> run -> resolve. An idle replica runs what is queued at once unless the
learned latency curve says that waiting for the next row lowers the mean latency (`curve.worth_waiting_s`).
A batch that is known to be quick (its graph has no control flow, and `tempo` knows its time) runs on the
event loop itself: two hand-offs between threads cost more than it does. What came in during one turn of the
loop is what forms the batch, so that many connections batch without anybody waiting.

All methods run on the event loop's thread; only `Batch.run` may run elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter, thread_time

from mdslite.errors import MdsliteError
from mdslite.serving.batch import Batch, Confidence, RowCodec
from mdslite.serving.crew import Crew
from mdslite.serving.curve import LatencyCurve
from mdslite.serving.gate import Priority
from mdslite.serving.knobs import Knobs, LaneStats
from mdslite.serving.outcomes import Outcomes
from mdslite.serving.queue import Job, TieredQueue
from mdslite.serving.refusals import out_of_rotation, overloaded, too_many_rows
from mdslite.serving.replica import CHECK_LIMIT_S, Replica
from mdslite.serving.streams import Stream
from mdslite.serving.tempo import STALL_S, Tempo

_MANY_ROWS = 8  # it takes the loop a good while to write as many answers


class Lane:
    """Batches jobs of one version onto its replicas.

    `width`: cores that a run keeps busy; in a crowd but one, where a replica can do that.
    `inline`: a run's time follows from its size, so that a quick one may run on the event loop.
    `costly_stop`: stopping a run ends the session, so it is not done for a caller that leaves (see `Flight`).
    """

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
        inline: bool = False,
        costly_stop: bool = False,
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
        self._on_lost = on_lost
        self._loop = loop or asyncio.get_running_loop()
        self._queue = TieredQueue()
        self._crew = Crew(
            replicas,
            width=width,
            priority=priority,
            costly_stop=costly_stop,
            form=self._form,
            give_back=self._put_back,
            collect=self.collect,
            lost=self._lose,
            loop=self._loop,
        )
        self._done = self._crew.done
        self._pumping = False
        self._half = max(_MANY_ROWS, knobs.batch_size // 2)
        self._ripe = False  # half a batch has come together since the last look
        self._tempo = Tempo(curve, codec, inline=inline, wake=self._wake, loop=self._loop)
        self._outcomes = Outcomes(
            name,
            codec=codec,
            curve=curve,
            tempo=self._tempo,
            stats=self.stats,
            queue=self._queue,
            crew=self._crew,
            wake=self._wake,
            loop=self._loop,
        )
        self._expiry = self._outcomes.expiry
        self._resolve = self._outcomes.resolve
        self._settle = self._outcomes.settle

    # Receive

    def submit(self, job: Job, now: float, *, room: int = 0) -> None:
        """Queue a job; `job.resolved()` is called later, never from in here. `room`: for so many rows it was
        made a moment ago.

        :raises Overloaded: the queue is full
        :raises TooLarge: the job could not fit into an empty queue
        :raises Unavailable: no replica is in rotation
        """
        rows = job.columns.rows
        if self._done:
            self.collect()
        if self._ripe:
            self._start_early()
        if rows > room:
            self.make_room(rows)
        rotation = self._crew.rotation
        if not rotation.working:
            raise out_of_rotation(self.name, rotation.reason)
        job.lane = self
        job.left = rows
        job.queued_at = now
        queue = self._queue
        if job.behind:
            queue.push_behind(job)
        else:
            queue.push(job)
            waiting = queue.rows
            if waiting - rows < self._half <= waiting:
                self._ripe = True
        if job.deadline < self._expiry.at:
            self._expiry.set(job.deadline)
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def cancel(self, job: Job) -> None:
        """Forget a job whose caller left: its rows are freed at once, its neighbours go on."""
        self._outcomes.cancel(job)

    @property
    def queue_rows(self) -> int:
        """Rows that wait, those that wait behind a running batch included."""
        return self._queue.rows + (self._crew.flight.waiting_rows() if self._crew.flight.batches else 0)

    @property
    def running(self) -> int:
        """Batches that are with the replicas."""
        return len(self._crew.flight)

    @property
    def replicas(self) -> Sequence[Replica]:
        """Those in rotation."""
        return self._crew.rotation.working

    @property
    def resting(self) -> Mapping[Replica, str]:
        """Those that were told to rest, and why."""
        return self._crew.rotation.resting

    def make_room(self, rows: int = 1) -> None:
        """Find room for so many more rows, before a request costs any more than asking.

        :raises Overloaded, TooLarge: as `submit`
        """
        most = self.knobs.queue_rows - rows
        if self.queue_rows <= most:
            return
        # An overloaded loop has a thousand requests to read before it hears of a finished batch: look here.
        self.collect()
        if self.queue_rows <= most:
            return
        if rows > self.knobs.queue_rows:
            raise too_many_rows(self.name, rows, self.knobs)
        self.stats.refused += 1
        size, oldest = self.knobs.batch_size, self._queue.oldest()
        batch_s = self.curve.estimate(self._tempo.shape(oldest[0])[1], size) if oldest else 0.0
        raise overloaded(self.name, self.queue_rows, self.knobs, batch_s=batch_s)

    # Form

    def _pump(self) -> None:
        """Start what can be started now."""
        self._pumping = False
        while self._queue:
            full, behind = False, self._queue.only_behind
            if not (behind or self._queue.has_returned):
                oldest = self._queue.oldest()
                assert oldest is not None
                key, job = oldest
                rows = min(self._queue.waiting(key), self.knobs.batch_size)
                full = rows >= self.knobs.batch_size
                if self._tempo.runs_inline(key, rows, full=full, queued=self._queue.rows, crew=self._crew):
                    self._run_inline()
                    if self._queue:
                        self._wake()  # the sockets' turn first
                    self._settle()
                    return
                limit = job.queued_at + self.knobs.batch_timeout_s
                arrived = self._queue.pushed_rows
                if (
                    not full
                    and self._crew.rotation.idle
                    and self._tempo.holds_back(key, rows, limit=limit, arrived=arrived)
                ):
                    return
            if not (self._crew.admit(behind=behind) or (full and self._crew.run_ahead())):
                return

    def _start_early(self) -> None:
        """Let an idle replica begin with half a batch while the loop still reads what else came in.

        Otherwise a few dozen connections fall into step: all read, all computed, all answered, and now the
        loop idles, now the device.
        """
        self._ripe = False
        oldest = self._queue.oldest()
        if oldest is None or not self._crew.rotation.idle:
            return
        key, most = oldest[0], self.knobs.batch_size
        rows = min(self._queue.waiting(key), most)
        if self._tempo.halves_pay(key, rows, most=most, crew=self._crew):
            pumping = self._pumping
            self._pump()
            self._pumping |= pumping
            self._crew.let_begin()

    def _form(self, at: float) -> Batch | None:
        """The next batch, which can begin at the time `at`, after refusing what would come too late."""
        while (taken := self._queue.take(self.knobs.batch_size)) is not None:
            key, slices = taken
            sizes, bucket = self._tempo.shape(key)
            rows = sum(stop - start for _, start, stop in slices)
            ready_at = at + self.curve.estimate(bucket, rows)
            kept = [one for one in slices if one[0].deadline >= ready_at and not one[0].finished]
            if len(kept) < len(slices):
                self._outcomes.refuse_late(slices, ready_at, bucket)
            if kept:
                batch = Batch(
                    kept,
                    key=key,
                    row_sizes=sizes,
                    codec=self.codec,
                    read_confidence=self.read_confidence,
                    expected_s=self.curve.estimate(bucket, rows),
                )
                batch.in_crowd = self._tempo.is_crowded(self.knobs.batch_size)
                if self.codec.streams:
                    job = kept[0][0]
                    job.stream = Stream(job, limit_s=self.knobs.prediction_s, loop=self._loop)
                    batch.stream = job.stream
                return batch
        return None

    def _wake(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    # Run and resolve

    def _run_inline(self) -> None:
        batch = self._form(perf_counter())
        if batch is None:
            return
        self.stats.inline_batches += 1
        replica = self._crew.rotation.working[0]
        began = thread_time()
        batch.run(replica.session)
        if batch.seconds > STALL_S:
            self._tempo.stalled(thread_time() - began)
        self._resolve(batch, replica)
        batch.let_go()

    def collect(self) -> None:
        """Take what the replicas' threads have finished, without waiting for the loop to hear of it."""
        while self._done:
            self._completed(self._done.popleft())

    def _completed(self, batch: Batch) -> None:
        replica = batch.replica
        if replica is None or not self._crew.land(batch):
            return  # given up as stuck: its replica is lost and its jobs are answered
        if batch.revoked and not batch.seconds:
            self._put_back(batch)
            self._crew.let_in(replica)
        else:
            goes_on = self._queue.rows and batch.error is None
            if goes_on:
                self._pump()  # the next batch computes while this one's answers are written
            elif not self._queue:
                self._crew.take_back()
            self._crew.let_in(replica)
            if goes_on and batch.rows >= _MANY_ROWS:
                self._crew.let_begin()
            if batch.stream is not None:
                batch.stream.deliver()  # what came before the end
            self._resolve(batch, replica)
            batch.let_go()
        if self._queue:
            self._wake()
        self._settle()

    def _put_back(self, batch: Batch) -> None:
        """Have another batch's worth of rows computed by the next one who can."""
        live = [one for one in batch.slices if not one[0].finished]
        if live:
            self._queue.put_back(batch.key, live)
            self._wake()

    # Replicas

    @property
    def priority(self) -> Priority:
        return self._crew.priority

    def set_priority(self, priority: Priority) -> None:
        """Ask for the device with this priority from now on. Only primary work may run on the event loop."""
        self._crew.priority = priority

    def add_replica(self, replica: Replica) -> None:
        """Take a (re)built replica, or one that rested, into the rotation."""
        self._crew.rotation.add(replica)
        self._crew.take_back()
        self._wake()

    def check(
        self, replica: Replica, done: Callable[[MdsliteError | None], None], *, limit_s: float = CHECK_LIMIT_S
    ) -> None:
        """Have a replica's session checked (see `Replica.check`); it gets no batch while that lasts.

        One whose check does not end is lost.
        """

        def answered(error: MdsliteError | None) -> None:
            done(error)
            self._wake()

        self._crew.check(replica, answered, limit_s=limit_s)

    def rest(self, replica: Replica, reason: str) -> None:
        """Take a replica out of rotation until it is added again; what it computes is still answered.

        What is queued goes on with the others, or waits. With none in rotation `submit` refuses.
        """
        self._crew.rest(replica, reason)

    def lose(self, replica: Replica, reason: str) -> None:
        """Take a replica out for good, and tell the lane's owner; nothing if it is not here any more."""
        self._crew.lose(replica, reason)

    def _lose(self, replica: Replica, reason: str) -> None:
        if self._on_lost is not None:
            self._on_lost(replica, reason)
        self._settle()

    # Life

    async def drain(self, *, deadline_s: float) -> bool:
        """Wait until nothing is queued or running; False once the deadline came or no replica is left."""
        return await self._outcomes.drain(deadline_s=deadline_s)

    def close(self) -> None:
        """Answer what is left with 503 and end the replicas' threads."""
        self._tempo.cancel()
        self._outcomes.close()
        self._crew.close()
