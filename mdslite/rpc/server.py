"""The gRPC port: who answers which method, and the listening socket, which it owns.

Pages of other sites cannot reach it: browsers speak no HTTP/2 without TLS, and with it they ask first whether
they may send what gRPC takes, which nobody here answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mdslite.api.app import HTML, make_operations
from mdslite.api.caller import Caller
from mdslite.api.operations import Operation
from mdslite.api.parts import Parts
from mdslite.door.listener import TlsListener, open_sockets, unheard
from mdslite.errors import Unauthorized
from mdslite.http.tls import Renewal, TlsFiles
from mdslite.rpc.calls import InferService
from mdslite.rpc.door import RpcDoor
from mdslite.rpc.exchange import Exchange, Method
from mdslite.rpc.health import Health
from mdslite.rpc.limits import RpcLimits
from mdslite.rpc.operations import AdminRpc, make_oip_rpcs
from mdslite.rpc.reflection import Reflection
from mdslite.rpc.schema import ADMIN, HEALTH, INFERENCE, REFLECTION, Schema, rpc_name, streams

_BACKLOG = 2048
_HANDSHAKE_S = 10.0
_OPEN = frozenset({"ServerLive", "ServerReady", "ServerMetadata"})


class RpcServer:
    """`open` it to listen, `serve` when requests may come, `drain` to end it."""

    def __init__(
        self,
        parts: Parts,
        *,
        count: Callable[[str], None] = lambda _: None,
        limits: RpcLimits | None = None,
    ) -> None:
        operations = [
            one
            for one in make_operations()
            if one.handler is not None and one.group != "oip" and one.media_type != HTML
        ]
        self._parts = parts
        self._schema = Schema(operations)
        self._infer = InferService(parts.predictor, self._schema)
        self._health = Health(self._schema, (INFERENCE, ADMIN), self._infer.draining)
        self.door = RpcDoor(
            self._make_methods(operations),
            limits=limits,
            turn_away=self._turn_away,
            count=count,
        )
        self._count = count
        self._ports: list[asyncio.Server | TlsListener] = []
        self._renewal: Renewal | None = None

    async def open(self, host: str, port: int, files: TlsFiles | None) -> int:
        """Listen, and answer that nothing is served yet; returns the port.

        :raises AddressInUse: somebody else has the port
        :raises InvalidRequest: the address cannot be had, or a certificate not be read
        """
        try:
            sockets = await asyncio.to_thread(open_sockets, host, port, backlog=_BACKLOG)
        except OSError as exc:
            hint = "choose another with --grpc-port, or --grpc-port 0 for any free one"
            raise unheard(exc, f"{host}:{port} for gRPC", hint=hint) from exc
        if files is None:
            loop, make = asyncio.get_running_loop(), self.door.connection
            self._ports = [await loop.create_server(make, sock=one, backlog=_BACKLOG) for one in sockets]
        else:
            renewal = self._renewal = Renewal(files)
            listener = TlsListener(
                sockets,
                self.door.connection,
                lambda: renewal.context,
                timeout_s=_HANDSHAKE_S,
                bound=self.door.limits.connections,
                count=self._count,
            )
            self._ports = [listener]
            listener.start()
            renewal.start()
        return int(sockets[0].getsockname()[1])

    async def serve(self) -> None:
        """Say that requests may come."""
        self._health.say(serving=True)

    async def announce_stop(self) -> None:
        """Say that no more requests should come, while they are still taken."""
        self._health.say(serving=False)

    async def drain(self, *, grace_s: float) -> None:
        """Take no more, and end when what is under way is answered, at the latest after `grace_s`."""
        for port in self._ports:
            port.close()
        self._infer.draining.set()
        await self.door.close(grace_s=grace_s)
        for port in self._ports:
            if isinstance(port, TlsListener):
                await port.finish()
        if self._renewal is not None:
            await self._renewal.close()

    def _make_methods(self, operations: list[Operation]) -> dict[str, Method]:
        found = {
            f"/{INFERENCE}/{name}": Method(rpc.answer, public=name in _OPEN)
            for name, rpc in make_oip_rpcs(self._parts, self._schema).items()
        }
        found[f"/{INFERENCE}/ModelInfer"] = Method(begin=self._infer.infer)
        found[f"/{INFERENCE}/ModelStreamInfer"] = Method(self._infer.stream, reads=True)
        for operation in operations:
            rpc = AdminRpc(operation, self._parts, self._schema)
            answer = rpc.stream if streams(operation) else rpc.answer
            found[f"/{ADMIN}/{rpc_name(operation)}"] = Method(answer, public=operation.scope is None)
        reflection = Reflection(self._schema, (INFERENCE, ADMIN, HEALTH, *REFLECTION))
        return {**found, **self._health.methods(), **reflection.methods()}

    def _turn_away(self, exchange: Exchange) -> bool:
        """End a call of which nothing is to be read, as it shows no good token."""
        head = exchange.head
        error = self._parts.issuer.access.stranger(head.fields.get(b"authorization", b""))
        if error is None:
            return False
        if head.path.startswith(f"/{INFERENCE}/"):
            self._infer.turn_away(exchange)
        else:
            self._note(exchange, error)
            exchange.fail(error)
        return True

    def _note(self, exchange: Exchange, error: Unauthorized) -> None:
        """Write down who was turned away from an operation."""
        method, link = exchange.head.path, exchange.link
        origin = f"{link.address} ({link.subject})" if link.subject else link.address
        caller = Caller(origin, is_here=False, remark=error.message)
        act = caller.act(method.rpartition("/")[2], method, error.status, exchange.request_id)
        self._parts.issuer.record(act)
