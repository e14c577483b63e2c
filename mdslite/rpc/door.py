"""The gRPC port's door: what its connections share, their limits and their end, and who answers what. Owns
the connections and the tasks that answer, not the listening socket.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from time import perf_counter
from typing import Any

from mdslite.errors import (
    MdsliteError,
    MethodNotAllowed,
    Overloaded,
    RateLimited,
    UnsupportedMedia,
    clip,
    without_frames,
)
from mdslite.http.policing import Reason
from mdslite.rpc.connection import RpcConnection
from mdslite.rpc.exchange import Exchange, Message, Method
from mdslite.rpc.limits import RpcLimits

logger = logging.getLogger(__name__)

_UNKNOWN = Method()


class RpcDoor:
    """Used on one event loop. `turn_away` is shown each call that is not public before anything is read of
    it, and says whether it has ended it; `count` is told why a connection or a call was cut."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        *,
        limits: RpcLimits | None = None,
        turn_away: Callable[[Exchange], bool] = lambda _: False,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.limits = limits or RpcLimits()
        self.connections: set[RpcConnection] = set()
        self._methods = methods
        self._turn_away = turn_away
        self._count = count
        self._calls = 0
        self._shares: Counter[str] = Counter()  # public calls under way, by address
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.call_later(self.limits.sweep_s, self._sweep)

    def connection(self) -> RpcConnection:
        """The protocol of one accepted socket."""
        return RpcConnection(self, self._loop)

    async def close(self, *, grace_s: float) -> None:
        """Take no more; end with the last answer, and what is left after `grace_s` all the same."""
        self._closing = True
        until = perf_counter() + grace_s
        for connection in list(self.connections):
            connection.drain()
        while self.connections and perf_counter() < until:
            await asyncio.sleep(0.02)
            for connection in list(self.connections):
                connection.check(perf_counter())
        for connection in list(self.connections):
            connection.abort()
        self._sweeper.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # The connections' side

    def admit(self, connection: RpcConnection) -> bool:
        if self._closing or len(self.connections) >= self.limits.connections:
            self.count(Reason.TOO_MANY_CONNECTIONS)
            return False
        self.connections.add(connection)
        return True

    def forget(self, connection: RpcConnection) -> None:
        self.connections.discard(connection)

    def count(self, reason: Reason) -> None:
        self._count(reason.value)

    def begin(self, exchange: Exchange) -> None:
        """A call begins; its message is to come."""
        head = exchange.head
        method = head.method
        if method is None:
            method = head.method = self._methods.get(head.path, _UNKNOWN)
        exchange.method = method
        self._calls += 1
        if head.error is None and not method.public and method is not _UNKNOWN and self._turn_away(exchange):
            return
        error = head.error or self._refusal(exchange)
        if error is not None:
            exchange.fail(error)
        elif method.reads:
            exchange.task = self._spawn(exchange.run())

    def whole(self, exchange: Exchange) -> None:
        """A call's last message is here."""
        if exchange.method.reads:
            return
        if exchange.is_compressed:
            exchange.task = self._spawn(self._inflate(exchange))
            return
        try:
            message = exchange.message()
        except MdsliteError as exc:
            exchange.break_off(exc)
            return
        self.give(exchange, message)

    def give(self, exchange: Exchange, message: Message) -> None:
        """Let the call's one message be answered."""
        begin = exchange.method.begin
        if begin is not None:
            begin(exchange, message)
        else:
            exchange.task = self._spawn(exchange.run(message))

    def left(self, exchange: Exchange) -> None:
        """A call is over."""
        self._calls -= 1
        if share := exchange.share:
            exchange.share = ""
            self._shares[share] -= 1
            if not self._shares[share]:
                del self._shares[share]

    def _refusal(self, exchange: Exchange) -> MdsliteError | None:
        """What keeps a call from being answered."""
        method, limits = exchange.method, self.limits
        if not exchange.head.is_grpc:
            return UnsupportedMedia("expected the content-type application/grpc")
        if method is _UNKNOWN:
            return MethodNotAllowed(f"there is no method {clip(exchange.head.path)}")
        if self._calls > limits.calls:
            return Overloaded(f"{limits.calls} calls are under way; expected fewer", retry_after_s=1)
        if not method.public:
            return None
        address = exchange.link.address
        if self._shares[address] >= limits.share:
            return RateLimited(
                f"{limits.share} calls from this address that need no token are under way; expected fewer"
            )
        self._shares[address] += 1
        exchange.share = address
        return None

    async def _inflate(self, exchange: Exchange) -> None:
        """In a thread: what is compressed well takes long to read."""
        try:
            message = await asyncio.to_thread(exchange.message)
        except MdsliteError as exc:
            exchange.fail(without_frames(exc))
            return
        exchange.task = None
        if not exchange.ended:
            self.give(exchange, message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.error("an RPC's task failed", exc_info=exc)

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(self.limits.sweep_s, self._sweep)
        now = perf_counter()
        for connection in list(self.connections):
            connection.check(now)
