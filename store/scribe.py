"""One writer's process as the journal sees it: started, asked, parted with. Owns the process and the socket
to it; decides nothing about another one."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from mdslite.errors import MdsliteError
from mdslite.process import Child
from mdslite.store.letters import Ask, Order, Report, receive, send
from mdslite.store.ring import Ring

LAST_WORDS_S = 2.0  # for a writer that closed its socket to end, or for one that was killed


class WriterProcess(Protocol):
    """What is needed of a child."""

    @property
    def reason(self) -> str | None: ...
    def kill(self, reason: str | None = None) -> None: ...
    def wait(self, timeout_s: float | None = None) -> bool: ...


Launch = Callable[[Order, socket.socket, Ring], WriterProcess]


class WriterLost(Exception):
    """The writer is gone, in words that follow "its writer". `worked` says that it had answered before."""

    def __init__(self, reason: str | None, *, worked: bool = False) -> None:
        super().__init__(reason)
        self.worked = worked


def launch_writer(order: Order, end: socket.socket, ring: Ring) -> Child:
    """Start a writer on this end of a socket and this ring.

    :raises MdsliteError: this machine could not start it
    """
    places = (str(ring.fd), str(end.fileno()), msgspec.json.encode(order).decode())
    child = Child(
        (sys.executable, "-P", "-m", "mdslite.store.standby", *places),
        name="the request log's writer",
        env={"OPENBLAS_NUM_THREADS": "1"},  # it never multiplies matrices, and idle threads cost memory
        fds=(ring.fd, end.fileno()),
    )
    child.start()
    return child


class Scribe:
    """A writer that was started, and gets to work with the first question.

    :raises WriterLost: it could not be started
    """

    def __init__(self, order: Order, ring: Ring, launch: Launch) -> None:
        self._start = order.start
        self._greeted = False
        try:
            self._socket, far = socket.socketpair()
        except OSError as exc:
            raise WriterLost(f"did not start: {exc}") from exc
        try:
            with far:
                self._process = launch(order, far, ring)
        except (OSError, MdsliteError) as exc:
            self._socket.close()
            raise WriterLost(f"did not start: {exc}") from exc

    def ask(self, head: int, *, now: bool, timeout_s: float, end: bool = False) -> Report:
        """Have all written that stands before `head`; `now` and `end` as in `Ask`.

        :raises WriterLost: it is gone, or was silent for too long and is killed
        """
        if not self._greeted:  # so that one which dies of its imports is not taken to have died of a row
            self._exchange(Ask(self._start, False, False), timeout_s)
            self._greeted = True
        return self._exchange(Ask(head, now, end), timeout_s)

    def part(self, until_s: float) -> None:
        """Close the socket and wait for the process's end until that monotonic second. A writer that is not
        done by then goes on alone."""
        self._socket.close()
        self._process.wait(max(0.0, until_s - time.monotonic()))

    def _exchange(self, ask: Ask, timeout_s: float) -> Report:
        reason = None
        try:
            send(self._socket, ask)
            report = receive(self._socket, Report, timeout_s=timeout_s)
        except TimeoutError:
            report, reason = None, f"did not answer within {timeout_s:.0f} s"
        except OSError:
            report = None
        if report is not None:
            return report
        self._socket.close()
        if reason is not None or not self._process.wait(LAST_WORDS_S):
            self._process.kill(reason)
            self._process.wait(LAST_WORDS_S)
        raise WriterLost(self._process.reason, worked=self._greeted)
