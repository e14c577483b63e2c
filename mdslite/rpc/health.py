"""gRPC's own health checks: whether the appliance takes traffic. Who watches is let go when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from mdslite.errors import NotFound, Unavailable, quoted
from mdslite.rpc.exchange import Exchange, Message, Method
from mdslite.rpc.schema import HEALTH, Schema, parse

_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3


class Health:
    """`services` are the names that have a state; they share one, as the process does."""

    def __init__(self, schema: Schema, services: Collection[str], stopping: asyncio.Event) -> None:
        self._request = schema.find("grpc.health.v1.HealthCheckRequest")
        self._reply = schema.find("grpc.health.v1.HealthCheckResponse")
        self._services = {"", *services}
        self._stopping = stopping
        self._status = _NOT_SERVING
        self._changed = asyncio.Event()  # of this state; the next one has another

    def methods(self) -> Mapping[str, Method]:
        return {
            f"/{HEALTH}/Check": Method(self._check, public=True),
            f"/{HEALTH}/Watch": Method(self._watch, public=True),
        }

    def say(self, *, serving: bool) -> None:
        self._status = _SERVING if serving else _NOT_SERVING
        self._changed.set()
        self._changed = asyncio.Event()

    async def _check(self, body: Message, exchange: Exchange) -> bytes:
        service = parse(self._request, body).service
        if service not in self._services:
            raise NotFound(f"no service {quoted(service)}")
        return self._write(self._status)

    async def _watch(self, body: Message, exchange: Exchange) -> None:
        service = parse(self._request, body).service
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            told = None
            while True:
                event = self._changed
                status = self._status if service in self._services else _SERVICE_UNKNOWN
                if status != told:
                    await exchange.write(self._write(status))
                    told = status
                if self._stopping.is_set():
                    break
                changed = asyncio.ensure_future(event.wait())
                try:
                    await asyncio.wait((changed, stopping), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
        finally:
            stopping.cancel()
        raise Unavailable("this appliance is stopping")

    def _write(self, status: int) -> bytes:
        return self._reply(status=status).SerializeToString()  # type: ignore[no-any-return]
