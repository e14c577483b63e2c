"""One thread that owns one SQLite write connection, and a bounded way to it from the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from mdslite.errors import DeadlineExceeded, Unavailable

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """Runs calls one after the other, in the order they came, all in the same thread.

    Open and close the connection through it too: SQLite's objects refuse any other thread.
    """

    def __init__(self, name: str, *, depth: int = 256, wait_s: float = 60.0) -> None:
        self.name = name
        self._wait_s = wait_s
        self._slots = threading.BoundedSemaphore(depth)
        # One thread, started by the first call and joined by `close`.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def submit(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue one call without waiting for it, from any thread.

        :raises Unavailable: the queue is full, or the worker is closed
        """
        if not self._slots.acquire(blocking=False):
            raise Unavailable(f"too many calls wait for the {self.name}; try again", retry_after_s=1.0)
        try:
            future = self._executor.submit(fn, *args, **kwargs)
        except RuntimeError as exc:
            self._slots.release()
            raise Unavailable(f"the {self.name} is closed") from exc
        future.add_done_callback(lambda _: self._slots.release())
        return future

    async def call(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one call and return its answer.

        A cancelled caller's call is skipped if it has not begun; once begun it runs to its end.

        :raises DeadlineExceeded: no answer within the worker's `wait_s`
        :raises Unavailable: as `submit`
        """
        future = asyncio.wrap_future(self.submit(fn, *args, **kwargs))
        try:
            async with asyncio.timeout(self._wait_s) as timer:
                return await future
        except TimeoutError as exc:
            if timer.expired():
                raise DeadlineExceeded(f"the {self.name} gave no answer within {self._wait_s:g} s") from exc
            raise

    def close(self) -> None:
        """Finish what is queued, then end the thread. Calling it again does nothing."""
        self._executor.shutdown(wait=True)
