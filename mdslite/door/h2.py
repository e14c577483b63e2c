"""HTTP/2 on the door's port: takes over connections that turned out to speak it. Owns their tasks from then
on, and how they end together; what a request means is the application's affair.

    door -> Http2Bridge.adopt -> Connection -> Meter (counts) -> Streams (Hypercorn) -> application
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Scope

from mdslite.door.h2_connection import Connection
from mdslite.http.policing import Limits, Reason

if TYPE_CHECKING:
    from mdslite.door.h2_streams import Engine

logger = logging.getLogger(__name__)


class Http2Bridge:
    """Serves an ASGI application over HTTP/2 connections that others accepted.

    `on_policed` gets the reason of each connection or stream that was cut. A request for whose scope
    `cancels` holds is cancelled when its client leaves; any other only receives `http.disconnect`. The
    application's lifespan is not run. Everything happens on the running loop's thread.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits | None = None,
        max_connections: int = 1000,
        on_policed: Callable[[str], None] | None = None,
        cancels: Callable[[Scope], bool] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._app = app
        self._max_connections = max_connections
        self._on_policed = on_policed
        self._cancels = cancels
        self._engine: Engine | None = None
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._check: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """Connections whose sockets are open."""
        return len(self._connections)

    def adopt(self, transport: asyncio.Transport, buffered: bytes = b"") -> None:
        """Take over a connection: `buffered` is all that was read from it and answered by nobody.

        From here on the transport's events come to the bridge, `connection_lost` too.
        """
        if self._closing or len(self._connections) >= self._max_connections:
            if not self._closing:
                self.count(Reason.TOO_MANY_CONNECTIONS)
            transport.abort()
            return
        connection = Connection(self, transport)
        self._connections.add(connection)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if buffered:
            connection.data_received(buffered)
        self.spawn(connection.serve())
        if self._check is None:
            self._check = asyncio.get_running_loop().call_later(self._interval_s(), self._check_all)

    async def warm(self) -> Engine:
        """Load what the first connection would wait for, in a thread: the loop goes on meanwhile."""
        if self._engine is None:
            loop = asyncio.get_running_loop()
            module = await loop.run_in_executor(None, importlib.import_module, "mdslite.door.h2_streams")
            self._engine = self._engine or module.Engine(self._app)
        return self._engine

    async def close(self, grace_s: float) -> None:
        """Say goodbye to all clients, let what is in flight finish for up to `grace_s`, then close."""
        self._closing = True
        for connection in list(self._connections):
            connection.drain(patience_s=min(self.limits.patience_s, grace_s / 2))
        await self._wait(grace_s)
        for connection in list(self._connections):
            connection.abort()
        for task in self._tasks:
            task.cancel()
        await self._wait(self.limits.linger_s)
        if self._check is not None:
            self._check.cancel()
            self._check = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that `close` waits for and, in the end, cancels."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def count(self, reason: Reason) -> None:
        if self._on_policed is not None:
            self._on_policed(reason.value)

    def cancels(self, scope: Scope) -> bool:
        return self._cancels is not None and self._cancels(scope)

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)

    async def _wait(self, timeout_s: float) -> None:
        """Wait for the tasks there are, and for those that they start."""
        clock = asyncio.get_running_loop()
        until = clock.time() + timeout_s
        while self._tasks and clock.time() < until:
            await asyncio.wait(self._tasks, timeout=until - clock.time())

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.error("a task of an HTTP/2 connection failed", exc_info=exc)

    def _check_all(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._connections):
            connection.check(now)
        self._check = loop.call_later(self._interval_s(), self._check_all) if self._connections else None

    def _interval_s(self) -> float:
        limits = self.limits
        shortest = min(
            limits.header_timeout_s, limits.body_timeout_s, limits.write_timeout_s, limits.idle_timeout_s
        )
        return min(1.0, max(0.02, shortest / 4))
