"""How a lane's jobs end: with their answers, with the error that they alone are to blame for, too late, given
up by their callers, or with the lane. Owns the timer of the deadlines; starts no batch.

Whichever it is, a job ends once, what it held is free at once, and its neighbours go on.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from time import perf_counter

from mdslite.errors import (
    ClientClosed,
    DeadlineExceeded,
    MdsliteError,
    ModelError,
    OutOfMemory,
    Unavailable,
)
from mdslite.packing import Bucket
from mdslite.serving.batch import Batch, RowCodec, ends_session, public_error
from mdslite.serving.crew import Crew
from mdslite.serving.curve import LatencyCurve
from mdslite.serving.deadline import Deadline
from mdslite.serving.knobs import LaneStats
from mdslite.serving.queue import Job, Slice, TieredQueue, halves
from mdslite.serving.refusals import allowed
from mdslite.serving.replica import Replica
from mdslite.serving.tempo import Tempo

logger = logging.getLogger(__name__)


class Outcomes:
    """Used from the event loop's thread only. Jobs stand in `queue` or in a batch that is with the `crew`;
    `wake` has the lane look at the queue, where parts of a failed batch were put."""

    def __init__(
        self,
        name: str,
        *,
        codec: RowCodec,
        curve: LatencyCurve,
        tempo: Tempo,
        stats: LaneStats,
        queue: TieredQueue,
        crew: Crew,
        wake: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.expiry = Deadline(loop, self._sweep)  # of the job whose deadline comes first
        self._name = name
        self._codec = codec
        self._curve = curve
        self._tempo = tempo
        self._stats = stats
        self._queue = queue
        self._crew = crew
        self._wake = wake
        self._empty: asyncio.Event | None = None

    # Of a batch

    def resolve(self, batch: Batch, replica: Replica) -> None:
        """Give a batch's jobs their answers, or see which of them its error is about."""
        self._stats.batches += 1
        if batch.error is not None:
            self._fail(batch, replica, batch.error)
            return
        if not batch.slices:
            return  # all of them left before it began
        seconds = batch.seconds if batch.stream is None else batch.stream.first_s or batch.seconds
        self._curve.observe(self._tempo.shape(batch.key)[1], batch.rows, seconds)
        self._stats.ran(batch.rows, batch.seconds)
        batch.answer(replica.name, self._fail_job)

    def _fail(self, batch: Batch, replica: Replica, error: BaseException) -> None:
        """Isolate what failed: halves run again until one job, or with no memory one row, stands alone.

        Where rows can fail by themselves, the session has isolated them already.
        """
        live = [one for one in batch.slices if not one[0].finished]
        alone = self._codec.row_errors or len({id(job) for job, _, _ in live}) == 1
        divisible = isinstance(error, OutOfMemory) and sum(stop - start for _, start, stop in live) > 1
        if isinstance(error, ModelError | OutOfMemory) and live and (not alone or divisible):
            self._stats.reruns += 2
            for half in reversed(halves(live)):
                self._queue.put_back(batch.key, half)
            self._wake()
            return
        if ends_session(error):
            self._crew.lose(replica, public_error(error).message)
        elif not isinstance(error, ModelError | OutOfMemory | DeadlineExceeded | ClientClosed):
            logger.error("%s: unexpected error in a batch", self._name, exc_info=error)
        for job, _, _ in live:
            if not job.finished:
                batch.note(job, replica.name)
                self._fail_job(job, public_error(error))

    # Of one job

    def cancel(self, job: Job) -> None:
        """Forget a job whose caller left."""
        if not job.finished:
            self._stats.cancelled += 1
            self._crew.flight.note(job)
            self._end(job)

    def refuse_late(self, slices: Sequence[Slice], ready_at: float, bucket: Bucket) -> None:
        """Answer the jobs whose deadlines come before the time `ready_at`, when they would be computed."""
        for job, _, _ in slices:
            if not job.finished and job.deadline < ready_at:
                self._curve.relax(bucket)
                self._expire(job, "could not be computed in time")

    def _sweep(self) -> None:
        """Answer what has passed its deadline, queued or running, and look again at the next one."""
        now = perf_counter()
        jobs = self._jobs()
        for job in jobs:
            if not job.finished and job.deadline <= now:
                self._expire(job, "was not answered in time")
        self.expiry.set(min((job.deadline for job in jobs if not job.finished), default=math.inf))

    def _jobs(self) -> list[Job]:
        """All that may be unanswered; some of them are not, and some stand there more than once."""
        return [*self._queue.jobs(), *self._crew.flight.jobs()]

    def _expire(self, job: Job, what: str) -> None:
        self._stats.expired += 1
        self._crew.flight.note(job)
        self._fail_job(job, DeadlineExceeded(f"the prediction {what}: {allowed(job.allowed_s)}"))

    def _fail_job(self, job: Job, error: MdsliteError) -> None:
        job.error = error
        self._end(job)
        job.resolved()

    def _end(self, job: Job) -> None:
        """Finish a job before all its rows have run."""
        job.finished = True
        self._queue.discard(job)
        if job.stream is not None:
            job.stream.close()
            job.stream = None
        self._crew.stop_idle()
        self.settle()

    # Of all of them

    async def drain(self, *, deadline_s: float) -> bool:
        """Wait until nothing is queued or running; False once the deadline came or no replica is left."""
        self._empty = asyncio.Event()
        try:
            async with asyncio.timeout(deadline_s):
                while self._is_at_work:  # again, as rows that a batch was being formed of were seen nowhere
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        finally:
            self._empty = None
        return not self._queue

    def settle(self) -> None:
        """Let who drains go on, if that was the last."""
        if self._empty is not None and not self._is_at_work:
            self._empty.set()

    @property
    def _is_at_work(self) -> bool:
        return bool(self._queue and self._crew.rotation.working) or bool(self._crew.flight)

    def close(self) -> None:
        """Answer what is left with 503."""
        self.expiry.set(math.inf)
        for job in self._jobs():
            if not job.finished:
                self._fail_job(job, Unavailable(f"{self._name} was taken down", retry_after_s=1))
