"""One batch: rows of several jobs that run together, and the replica's thread that runs it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from time import perf_counter
from typing import Any

import numpy as np

from mdslite.errors import MdsliteError, ModelError
from mdslite.runtimes.protocol import Outputs, RunHandle, Session
from mdslite.serving.gate import Gate
from mdslite.serving.queue import Slice
from mdslite.tensors import Codec, Column, Key

Confidence = Callable[[Outputs], list[float | None] | None]


class Batch:
    """Rows `slices` of one shape. `run` fills `outputs` or `error`; it is called once, on any thread."""

    __slots__ = (
        "codec",
        "confidences",
        "error",
        "handle",
        "key",
        "outputs",
        "read_confidence",
        "replica",
        "row_sizes",
        "rows",
        "seconds",
        "slices",
        "started_at",
    )  # fmt: skip

    def __init__(
        self,
        slices: list[Slice],
        *,
        key: Key,
        row_sizes: tuple[int, ...],
        codec: Codec,
        read_confidence: Confidence,
    ) -> None:
        self.slices = slices
        self.rows = sum(stop - start for _, start, stop in slices)
        self.key = key
        self.row_sizes = row_sizes
        self.codec = codec
        self.read_confidence = read_confidence
        self.replica: Replica | None = None
        self.handle: RunHandle | None = None
        self.outputs: Outputs = ()
        self.confidences: list[float | None] | None = None
        self.error: BaseException | None = None
        self.started_at = 0.0
        self.seconds = 0.0

    def run(self, session: Session) -> None:
        """Compute; never raises. User code and foreign libraries run in here."""
        self.started_at = perf_counter()
        try:
            columns = self.slices[0][0].columns.columns
            joined = [self._join(index) for index in range(len(columns))]
            feeds = self.codec.feeds(joined, self.key, self.rows)
            outputs = session.run(feeds, self.handle)
            if self.codec.signature.rows != "none":
                self._check_rows(outputs)
            self.outputs = outputs
            self.confidences = self.read_confidence(outputs)
        except BaseException as exc:
            self.error = exc
        self.seconds = perf_counter() - self.started_at

    def _join(self, index: int) -> Column | None:
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
            return parts[0]  # type: ignore[no-any-return]
        if isinstance(parts[0], list):
            return [value for part in parts for value in part]
        return b"".join(parts)

    def _check_rows(self, outputs: Outputs) -> None:
        for spec, output in zip(self.codec.signature.outputs, outputs, strict=True):
            if isinstance(output, np.ndarray) and not output.ndim:
                raise ModelError(f'output "{spec.name}" has no row dimension for {self.rows} rows')
            if len(output) != self.rows:
                raise ModelError(f'output "{spec.name}" has {len(output)} rows for {self.rows} rows of input')


class Replica:
    """A session with a thread of its own, which runs one batch at a time.

    The thread is a daemon: a run that will not end must not hold up the process's exit.
    """

    def __init__(self, session: Session, *, name: str, gate: Gate, loop: asyncio.AbstractEventLoop) -> None:
        self.session = session
        self.name = name
        self.gate = gate  # of the device that the session computes on
        self._loop = loop
        # At most one batch and the closing None are ever in it: the lane hands a batch to idle replicas only.
        self._inbox: SimpleQueue[tuple[Batch, deque[Batch], Callable[[], None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=f"replica {name}", daemon=True)
        self._started = False

    def start(self, batch: Batch, done: deque[Batch], collect: Callable[[], None]) -> None:
        """Run `batch` on the thread, append it to `done`, and have `collect()` called on the event loop."""
        if not self._started:
            self._started = True
            self._thread.start()
        self._inbox.put((batch, done, collect))

    def close(self) -> None:
        """End the thread and free the session: at once if idle, after the present run otherwise."""
        if self._started:
            self._inbox.put(None)
        else:
            self.session.close()

    def _serve(self) -> None:
        while (work := self._inbox.get()) is not None:
            batch, done, collect = work
            batch.run(self.session)
            done.append(batch)
            try:
                self._loop.call_soon_threadsafe(collect)
            except RuntimeError:  # the loop was closed while this ran: nobody waits any more
                break
        self.session.close()


def public_error(error: BaseException) -> MdsliteError:
    """What a caller may see of an exception met in a batch: our own as they are, all else opaque."""
    return error if isinstance(error, MdsliteError) else MdsliteError("internal error in the model's runtime")
