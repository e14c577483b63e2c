"""The batches of one lane that were handed to replicas and are not back, and the end of those that nobody
waits for any more. Owns the timers that stop them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from time import perf_counter

from mdslite.serving.batch import Batch
from mdslite.serving.queue import Job
from mdslite.serving.replica import Replica

STREAM_GRACE_S = 1.0  # a generator ends when it is closed: so long it may take
STUCK_AFTER_S = 5.0


class Flight:
    """Batches in flight. Used from the event loop's thread only.

    A run whose callers have all left is stopped: at once, or at the deadline that they had if `costly_stop`
    says that stopping it ends the session (a Python package's process is killed). One that does not stop when
    it is told to is given up: `stuck(batch)` is called instead of waiting for it.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, costly_stop: bool, stuck: Callable[[Batch], None]
    ) -> None:
        self._loop = loop
        self._costly_stop = costly_stop
        self._stuck = stuck
        self.batches: set[Batch] = set()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    @property
    def rows(self) -> int:
        return sum(batch.rows for batch in self.batches)

    def add(self, batch: Batch) -> None:
        self.batches.add(batch)

    def has(self, replica: Replica) -> bool:
        """Whether a replica still has a batch."""
        return any(batch.replica is replica for batch in self.batches)

    def waiting(self) -> list[Batch]:
        """Those that have not begun."""
        return [batch for batch in self.batches if not batch.started_at]

    def waiting_rows(self) -> int:
        """Rows behind a running batch."""
        rows = 0
        for batch in self.batches:
            if batch.behind and not batch.started_at:
                rows += batch.rows - batch.rows_gone
        return rows

    def land(self, batch: Batch) -> bool:
        """A batch is back; False when it had been given up."""
        if batch not in self.batches:
            return False
        self.batches.discard(batch)
        if batch.stopper is not None:
            batch.stopper.cancel()
        return True

    def jobs(self) -> Iterator[Job]:
        """Those of all batches: finished ones too, and one more than once if it was split."""
        return (job for batch in self.batches for job, _, _ in batch.slices)

    def note(self, job: Job) -> None:
        """Write down on a job that ends early what is being computed of it."""
        for batch in self.batches:
            if batch.started_at and batch.replica and any(one is job for one, _, _ in batch.slices):
                batch.note(job, batch.replica.name)

    def stop_idle(self) -> None:
        """See to the end of the runs that nobody waits for any more."""
        for batch in self.batches:
            if batch.behind and not batch.started_at:
                batch.rows_gone = sum(stop - start for job, start, stop in batch.slices if job.finished)
            # One that has not begun is not stopped: that could hit the run before it. It will not run anyway.
            begun = batch.started_at and batch.stopper is None
            if begun and all(job.finished for job, _, _ in batch.slices):
                self._stop(batch, after_s=self._patience_s(batch))

    def stop_all(self) -> None:
        """Stop every run now."""
        for batch in self.batches:
            if batch.stopper is not None:
                batch.stopper.cancel()
            if not batch.revoke():
                self._stop(batch)

    def _patience_s(self, batch: Batch) -> float:
        if batch.stream is not None:
            return STREAM_GRACE_S
        if not self._costly_stop:
            return 0.0
        return max(job.deadline for job, _, _ in batch.slices) - perf_counter()

    def _stop(self, batch: Batch, *, after_s: float = 0.0) -> None:
        if after_s > 0:
            batch.stopper = self._loop.call_later(after_s, self._stop, batch)
            return
        if batch.handle is not None:
            batch.handle.terminate()
        batch.stopper = self._loop.call_later(STUCK_AFTER_S, self._give_up, batch)

    def _give_up(self, batch: Batch) -> None:
        self.batches.discard(batch)
        self._stuck(batch)
