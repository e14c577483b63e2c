"""A replica: a session with a thread of its own, which runs a lane's batches."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from mdslite.serving.batch import AnySession, Batch
from mdslite.serving.gate import Gate


class Replica:
    """A session with a thread of its own, which runs one batch at a time.

    The thread is a daemon: a run that will not end must not hold up the process's exit.
    """

    def __init__(
        self, session: AnySession, *, name: str, gate: Gate, loop: asyncio.AbstractEventLoop
    ) -> None:
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
