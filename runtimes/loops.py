"""An event loop on a thread of its own, for the `async def` methods of one instance of user code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mdslite.runtimes.tracebacks import write_traceback

CLOSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Failed:
    """What user code raised, kept away from the event loop: it would stop at a SystemExit."""

    reason: BaseException


class LoopThread:
    """Starts with its first call. `close` ends it; what was still running there is cancelled."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing = False

    def gather(self, call: Callable[[Any], Awaitable[Any]], values: Sequence[Any]) -> list[Any]:
        """Call for all values at once, and wait; one result each, a `Failed` where it raised."""

        async def run() -> list[Any]:
            return await asyncio.gather(*(_contain(call, value) for value in values))

        return asyncio.run_coroutine_threadsafe(run(), self._started()).result()

    def run(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Call once and wait.

        :raises BaseException: whatever it raised
        """
        (result,) = self.gather(lambda _: call(*args), (None,))
        if isinstance(result, Failed):
            raise result.reason
        return result

    def iterate(self, items: AsyncIterator[Any]) -> _Iteration:
        return _Iteration(self, items)

    def close(self) -> None:
        with self._lock:
            self._closing = True
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(CLOSE_S)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._serve, args=(self._loop,), name=self._name, daemon=True
                )
                self._thread.start()
            return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while not self._closing:
            try:
                loop.run_forever()
            except BaseException as exc:  # a task that user code started by itself wanted to exit
                write_traceback(exc)
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class _Iteration:
    """An asynchronous iterator seen from another thread."""

    def __init__(self, owner: LoopThread, items: AsyncIterator[Any]) -> None:
        self._owner = owner
        self._items = items

    def __iter__(self) -> _Iteration:
        return self

    def __next__(self) -> Any:
        try:
            return self._owner.run(self._items.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        close = getattr(self._items, "aclose", None)
        if close is not None:
            self._owner.run(close)


async def _contain(call: Callable[[Any], Awaitable[Any]], value: Any) -> Any:
    try:
        return await call(value)
    except BaseException as exc:
        return Failed(exc)
