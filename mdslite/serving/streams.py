"""An answer in pieces: their way from a replica's thread to the event loop, and the brake on it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from time import perf_counter
from typing import Protocol

from mdslite.errors import ClientClosed

_AHEAD = 8  # pieces that the event loop has not taken yet


class Listener(Protocol):
    """The job that a stream is for."""

    deadline: float
    started_at: float
    finished: bool

    def emitted(self, piece: bytes) -> None: ...


class Stream:
    """One job's pieces. `emit` is called on a replica's thread, all else on the event loop.

    Each piece, and each `resume`, gives the job `limit_s` more: so long may the next one take to come.
    """

    def __init__(self, job: Listener, *, limit_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self.begun_at = 0.0  # when the run began
        self.first_s = 0.0  # from there to the first piece
        self._job = job
        self._limit_s = limit_s
        self._loop = loop
        self._pieces: deque[bytes] = deque()
        self._moved = threading.Condition()
        self._paused = False
        self._closed = False

    def emit(self, piece: bytes) -> None:
        """Send a piece to the job; waits while the loop is behind or the job has paused the stream.

        :raises ClientClosed: nobody listens any more
        """
        with self._moved:
            self._moved.wait_for(lambda: self._closed or not (self._paused or len(self._pieces) >= _AHEAD))
            if self._closed:
                raise ClientClosed("nobody listens to this stream any more")
            if not self.first_s:
                self.first_s = perf_counter() - self.begun_at
            self._pieces.append(piece)
            wake = len(self._pieces) == 1
        if wake:
            try:
                self._loop.call_soon_threadsafe(self.deliver)
            except RuntimeError as exc:  # the loop is closed
                raise ClientClosed("nobody listens to this stream any more") from exc

    def deliver(self) -> None:
        """Hand what has come to the job."""
        while True:
            with self._moved:
                if self._closed or not self._pieces:
                    return
                piece = self._pieces.popleft()
                self._moved.notify()
            self._job.started_at = self._job.started_at or self.begun_at
            self._job.deadline = perf_counter() + self._limit_s
            self._job.emitted(piece)

    def pause(self) -> None:
        """Let `emit` wait: whoever reads the pieces is slower than who makes them."""
        with self._moved:
            self._paused = True

    def resume(self) -> None:
        with self._moved:
            self._paused = False
            self._moved.notify()
        if not self._closed:
            self._job.deadline = perf_counter() + self._limit_s

    def close(self) -> None:
        """Nobody listens any more: the next `emit`, or the one that waits, raises."""
        with self._moved:
            self._closed = True
            self._pieces.clear()
            self._moved.notify()
