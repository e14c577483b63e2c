"""The door: what all accepted connections share, their limits, their one sweep and their end.

HTTP/1.1 connections are `connection.Connection`s: a POST on a predict URL goes straight to the predict
function, any other request runs the ASGI application from there, and the connection stays. What opens with
HTTP/2's preface, or chose h2 in its TLS handshake, is handed with its buffered bytes to the HTTP/2 bridge.

Deadlines are kept as a number on each connection and looked at by one sweep: a request costs no timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from time import perf_counter, time
from typing import Any

from mdslite.door.asgi import Exchange
from mdslite.door.connection import Connection
from mdslite.door.pace import Pace
from mdslite.http.budget import tidy
from mdslite.http.guard import AllowList
from mdslite.predict.predictor import Predictor


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds a connection may take, and how many there may be."""

    head_s: float = 10.0
    body_s: float = 30.0
    min_rate_bytes_per_s: int = 16 * 1024  # what has moved of a body or a reply gets so much time on top
    idle_s: float = 75.0
    write_s: float = 30.0
    linger_s: float = 2.0
    sweep_s: float = 1.0
    connections: int = 10_000
    refused_per_s: float = 1000.0  # connections that were refused (429) and are read again
    refused_s: float = 1.0  # after this time at the latest: the shortest `Retry-After`


class Door:
    """Makes a `Connection` for each accepted socket. Used from the event loop's thread only."""

    def __init__(
        self,
        predictor: Predictor,
        app: Any,
        *,
        allow_list: AllowList,
        adopt_http2: Callable[[asyncio.Transport, bytes], None],
        limits: Limits | None = None,
    ) -> None:
        self.predictor = predictor
        self.app = app
        self.allow_list = allow_list
        self.adopt_http2 = adopt_http2
        self.limits = limits or Limits()
        self.connections: set[Connection] = set()
        self.closed_for: dict[str, int] = {}  # connections that the door ended, by reason
        self.closing = False  # every reply says `Connection: close`
        self.date = ""  # the header field, with its line's end
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self.pace = Pace(self._loop, per_second=self.limits.refused_per_s, longest_s=self.limits.refused_s)
        self._sweeper = self._loop.call_soon(self._sweep)

    def connection(self) -> Connection:
        """The protocol factory for `loop.create_server`."""
        return Connection(self, self._loop)

    def run(self, exchange: Exchange) -> None:
        """Run the application for one request, in a task that the door owns."""
        task = self._loop.create_task(exchange.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def count_closed(self, reason: str) -> None:
        self.closed_for[reason] = self.closed_for.get(reason, 0) + 1

    def _sweep(self) -> None:
        self.date = f"date: {formatdate(time(), usegmt=True)}\r\n"
        self._sweeper = self._loop.call_later(self.limits.sweep_s, self._sweep)
        now = perf_counter()
        for connection in [one for one in self.connections if one.deadline < now]:
            connection.overdue()
        tidy(self._loop)

    async def drain(self, *, grace_s: float, quiet_s: float = 0.5) -> None:
        """Answer what still comes with `Connection: close`, and close what has been quiet for `quiet_s`.

        The listening socket is the caller's, and closed by now. A request that was on its way when the
        drain began still finds its connection open. What is left after `grace_s` is cut off.
        """
        self.closing = True
        until = perf_counter() + grace_s
        while self.connections and perf_counter() < until:
            for connection in list(self.connections):
                connection.close_if_quiet(perf_counter() - quiet_s)
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()

    async def close(self) -> None:
        """End the sweep and every task."""
        self._sweeper.cancel()
        self.pace.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
