"""One batch: rows of several jobs that run together, and how their answers find the way back to the jobs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mdslite.errors import MdsliteError, ModelError, OutOfMemory, Unavailable, without_frames
from mdslite.packing import Bucket
from mdslite.runtimes.protocol import DataSession, Outputs, RunHandle, Session, Signature
from mdslite.serving.queue import Job, Slice
from mdslite.serving.streams import Stream
from mdslite.tensors import Key

if TYPE_CHECKING:
    from mdslite.serving.replica import Replica

Confidence = Callable[[Outputs], list[float | None] | None]
AnySession = Session | DataSession


class RowCodec(Protocol):
    """What a batch and a lane must know of a version's data; the two codecs are it."""

    @property
    def signature(self) -> Signature: ...

    @property
    def streams(self) -> bool:
        """A run gives its answer in pieces, and computes one row."""
        ...

    @property
    def row_errors(self) -> bool:
        """Among a run's answers may stand an error, which that row alone met."""
        ...

    def row_sizes(self, key: Key) -> tuple[int, ...]: ...

    def bucket(self, key: Key) -> Bucket: ...

    def feeds(self, columns: Sequence[Any], key: Key, rows: int) -> Any: ...


class Batch:
    """Rows `slices` of one shape. `run` fills `outputs` or `error`; it is called once, on any thread."""

    __slots__ = (
        "begun",
        "behind",
        "codec",
        "confidences",
        "error",
        "expected_s",
        "handle",
        "in_crowd",
        "key",
        "outputs",
        "read_confidence",
        "replica",
        "revoked",
        "row_errors",
        "row_sizes",
        "rows",
        "rows_gone",
        "seconds",
        "slices",
        "started_at",
        "stopper",
        "stream",
    )  # fmt: skip

    def __init__(
        self,
        slices: list[Slice],
        *,
        key: Key,
        row_sizes: tuple[int, ...],
        codec: RowCodec,
        read_confidence: Confidence,
        expected_s: float = 0.0,
    ) -> None:
        self.slices = slices
        self.rows = sum(stop - start for _, start, stop in slices)
        self.key = key
        self.row_sizes = row_sizes
        self.codec = codec
        self.read_confidence = read_confidence
        self.expected_s = expected_s  # what a run should take; 0.0 if that is not known
        self.behind = False  # handed to a replica that was not done with another one
        self.in_crowd = False  # it runs while the event loop has much to do for its lane
        self.rows_gone = 0  # rows of it whose callers left while it waited behind another
        self.begun = threading.Lock()  # released when the computing begins
        self.begun.acquire()
        self.revoked = False
        self.replica: Replica | None = None
        self.handle: RunHandle | None = None
        self.outputs: Outputs = ()
        self.confidences: list[float | None] | None = None
        self.row_errors: dict[int, MdsliteError] = {}  # by their place in the batch
        self.error: BaseException | None = None
        self.stream: Stream | None = None  # of its only job, where the answer comes in pieces
        self.stopper: asyncio.TimerHandle | None = None  # will stop a run that nobody waits for
        self.started_at = 0.0
        self.seconds = 0.0

    def run(self, session: AnySession) -> None:
        """Compute; never raises. User code and foreign libraries run in here.

        Jobs that have ended meanwhile are left out.
        """
        self.started_at = perf_counter()  # before the look at `revoked` and `finished`: see `revoke`
        if any(job.finished for job, _, _ in self.slices):
            self.slices = [one for one in self.slices if not one[0].finished]
            self.rows = sum(stop - start for _, start, stop in self.slices)
        if self.revoked or not self.slices:
            return
        try:
            columns = self.slices[0][0].columns.columns
            joined = [self._join(index) for index in range(len(columns))]
            feeds = self.codec.feeds(joined, self.key, self.rows)
            self.begun.release()
            if self.stream is not None:
                outputs = self._run_stream(session, feeds, self.stream)
            else:
                outputs = session.run(feeds, self.handle)
                if self.codec.signature.rows != "none":
                    self._check_rows(outputs)
            if self.codec.row_errors:
                self.row_errors = _find_errors(outputs)
            self.outputs = outputs
            self.confidences = self.read_confidence(outputs)
        except BaseException as exc:
            self.error = exc
        self.seconds = perf_counter() - self.started_at

    def revoke(self) -> bool:
        """Keep a batch from running; False if it has begun already, or is about to and may yet be kept."""
        self.revoked = True
        return not self.started_at

    def _run_stream(self, session: Any, feeds: Any, stream: Stream) -> Outputs:
        stream.begun_at = self.started_at
        return session.stream(feeds, self.handle, stream.emit)  # type: ignore[no-any-return]

    def answer(self, replica: str, fail: Callable[[Job, MdsliteError], None]) -> None:
        """Hand the outputs to the jobs: `fail` is called for those with a row that failed, then those are
        resolved that have all their rows."""
        counted = self.codec.signature.rows != "none"
        confidences = self.confidences
        errors = self.row_errors
        only = self.outputs[0] if counted and len(self.outputs) == 1 else None
        complete: list[Job] = []
        at = 0
        for job, start, stop in self.slices:
            rows = stop - start
            after = at + rows
            if not job.finished:
                self.note(job, replica)
                error = _first(errors, at, after) if errors else None
                if error is not None:
                    fail(job, error)
                else:
                    if only is not None:  # the common case, without a list of one
                        outputs: Outputs = (only[at:after],)
                    else:
                        outputs = [output[at:after] for output in self.outputs] if counted else self.outputs
                    job.pieces = (*job.pieces, (start, outputs)) if job.pieces else ((start, outputs),)
                    if confidences is not None:
                        if rows == 1 and job.confidence is None:
                            job.confidence = confidences[at]
                        else:
                            job.confidence = _least(job.confidence, confidences[at:after])
                    job.left -= rows
                    if not job.left:
                        job.finished = True
                        complete.append(job)
            at = after
        kinds: dict[type[Job], None] = dict.fromkeys(map(type, complete))
        for kind in kinds:
            kind.resolve_all(complete if len(kinds) == 1 else [job for job in complete if type(job) is kind])

    def let_go(self) -> None:
        """It is over: nothing that came of it is to keep its jobs, and their bodies, for the collector."""
        if self.error is not None:
            without_frames(self.error)
        if self.stream is not None:
            for job, _, _ in self.slices:
                job.stream = None

    def note(self, job: Job, replica: str) -> None:
        """Write down on a job where and how it was computed, up to now if it still is."""
        if not job.started_at:
            job.started_at = self.started_at
        job.compute_s += self.seconds or perf_counter() - self.started_at
        job.batch_rows = self.rows
        job.replica = replica

    def _join(self, index: int) -> Any:
        """One input's rows of all slices, back to back. A whole job alone is not copied."""
        size = self.row_sizes[index]
        parts: list[Any] = []
        for job, start, stop in self.slices:
            column = job.columns.columns[index]
            if column is None:
                return None
            if stop - start == job.columns.rows:
                parts.append(column)
            elif isinstance(column, list):
                width = len(column) // job.columns.rows
                parts.append(column[start * width : stop * width])
            else:
                parts.append(memoryview(column)[start * size : stop * size])
        if len(parts) == 1:
            return parts[0]
        if isinstance(parts[0], list):
            return [value for part in parts for value in part]
        return b"".join(parts)

    def _check_rows(self, outputs: Outputs) -> None:
        for spec, output in zip(self.codec.signature.outputs, outputs, strict=True):
            if isinstance(output, np.ndarray) and not output.ndim:
                raise ModelError(f'output "{spec.name}" has no row dimension for {self.rows} rows')
            if len(output) != self.rows:
                raise ModelError(f'output "{spec.name}" has {len(output)} rows for {self.rows} rows of input')


def public_error(error: BaseException) -> MdsliteError:
    """What a caller may see of an exception met in a batch: our own as they are, all else opaque."""
    return error if isinstance(error, MdsliteError) else MdsliteError("internal error in the model's runtime")


def ends_session(error: BaseException | None) -> bool:
    """Whether an error met in a batch says that its session cannot be used again."""
    return isinstance(error, Unavailable) and not isinstance(error, OutOfMemory)


def _find_errors(outputs: Outputs) -> dict[int, MdsliteError]:
    return {
        at: without_frames(row)
        for output in outputs
        if isinstance(output, list)
        for at, row in enumerate(output)
        if isinstance(row, MdsliteError)
    }


def _first(errors: dict[int, MdsliteError], start: int, stop: int) -> MdsliteError | None:
    return next((errors[at] for at in range(start, stop) if at in errors), None)


def _least(known: float | None, values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    if known is not None:
        found.append(known)
    return min(found, default=None)
