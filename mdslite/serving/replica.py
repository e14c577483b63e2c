"""A replica: a session with a thread of its own, which runs a lane's batches and asks how the session is."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from time import perf_counter
from typing import Any

from mdslite.errors import DeadlineExceeded, MdsliteError
from mdslite.runtimes.protocol import RunHandle
from mdslite.serving.batch import AnySession, Batch, ends_session, public_error
from mdslite.serving.gate import Gate

CHECK_LIMIT_S = 10.0

# Does something with the session, on the thread; gives what is to be called on the event loop after it.
Work = Callable[[Any], Callable[[], None]]


class Replica:
    """A session with a thread of its own, which does one thing at a time. `beside` is another one of the same
    model, which takes fewer cores from an event loop that is busy.

    The thread is a daemon: a run that will not end must not hold up the process's exit.
    """

    def __init__(
        self,
        session: AnySession,
        *,
        name: str,
        gate: Gate,
        loop: asyncio.AbstractEventLoop,
        beside: AnySession | None = None,
    ) -> None:
        self.session = session
        self.beside = beside
        self.name = name
        self.gate = gate  # of the device that the session computes on
        self._loop = loop
        # A lane hands over no more than a batch or two; beside them a check may wait, and the closing None.
        self._inbox: SimpleQueue[Work | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=f"replica {name}", daemon=True)
        self._started = False
        self._broken = False  # the thread's: its session has ended

    def start(self, batch: Batch, done: deque[Batch], collect: Callable[[], None]) -> None:
        """Run `batch` on the thread, append it to `done`, and have `collect()` called on the event loop.

        Behind a run that ended the session it is revoked instead.
        """

        def work(session: AnySession) -> Callable[[], None]:
            batch.revoked = batch.revoked or self._broken
            batch.run(self.beside if batch.in_crowd and self.beside is not None else session)
            self._broken = self._broken or ends_session(batch.error)
            done.append(batch)
            return collect

        self._hand_over(work)

    def check(self, done: Callable[[MdsliteError | None], None], *, limit_s: float = CHECK_LIMIT_S) -> None:
        """Run the session's check between batches; tell `done`, on the event loop, how it is: None is well.

        A check that takes longer than `limit_s`, counted from when it begins, is told as DeadlineExceeded,
        and what runs it is stopped (an isolated session's process is killed).
        """
        check = _Check(self._loop, done, limit_s=limit_s, handle=self.session.handle())
        self._hand_over(check.run)

    def close(self) -> None:
        """End the thread and free the session: at once if idle, after what is in the inbox otherwise."""
        if self._started:
            self._inbox.put(None)
        else:
            self._close()

    def _close(self) -> None:
        self.session.close()
        if self.beside is not None:
            self.beside.close()

    def _hand_over(self, work: Work) -> None:
        if not self._started:
            self._started = True
            self._thread.start()
        self._inbox.put(work)

    def _serve(self) -> None:
        while (work := self._inbox.get()) is not None:
            after = work(self.session)
            del work  # it knows a batch, and that knows bodies, which nobody is to keep until the next one
            try:
                self._loop.call_soon_threadsafe(after)
            except RuntimeError:  # the loop was closed while this ran: nobody waits any more
                break
        self._close()


class _Check:
    """One question to a session: answered once, by the session or by the clock."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        done: Callable[[MdsliteError | None], None],
        *,
        limit_s: float,
        handle: RunHandle,
    ) -> None:
        self._loop = loop
        self._done = done
        self._limit_s = limit_s
        self._handle = handle
        self._begun_at = 0.0
        self._error: MdsliteError | None = None
        self._timer: asyncio.TimerHandle | None = loop.call_later(limit_s, self._late)

    def run(self, session: Any) -> Callable[[], None]:
        self._begun_at = perf_counter()
        try:
            session.check(self._handle)
        except BaseException as exc:  # user code runs in there
            self._error = public_error(exc)
        return self._report

    def _late(self) -> None:
        now = perf_counter()
        left = (self._begun_at or now) + self._limit_s - now  # it may have waited behind a batch
        if left > 0:
            self._timer = self._loop.call_later(left, self._late)
            return
        self._error = DeadlineExceeded(f"its check did not end within {self._limit_s:g} s")
        self._report()
        self._handle.terminate()

    def _report(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._done(self._error)
