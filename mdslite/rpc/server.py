"""The gRPC port: a server of grpc.aio in the appliance's own event loop. Owns the port and its limits; what
is answered is calls.py's and operations.py's.

Pages of other sites cannot reach it: browsers speak no HTTP/2 without TLS, and with it they ask first whether
they may send what gRPC takes, which nobody here answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from mdslite.errors import InvalidRequest, Unauthorized, Unavailable
from mdslite.http.access import Access
from mdslite.http.app import HTML, make_operations
from mdslite.http.caller import Caller
from mdslite.http.guard import make_request_id
from mdslite.http.operations import Operation
from mdslite.http.parts import Parts
from mdslite.http.reading import MAX_BODY_BYTES
from mdslite.http.tls import TlsFiles
from mdslite.rpc.calls import InferService
from mdslite.rpc.credentials import Certificates
from mdslite.rpc.operations import AdminRpc, make_oip_rpcs
from mdslite.rpc.public import PublicCalls
from mdslite.rpc.schema import ADMIN, INFERENCE, Schema, rpc_name
from mdslite.rpc.statuses import refuse

HEALTH = "grpc.health.v1.Health"
CALLS_MAX = 4096  # under way at a time
STREAMS_MAX = 256  # of one connection
METADATA_BYTES = 16 * 1024
_OPEN = frozenset({"ServerLive", "ServerReady", "ServerMetadata"})

Options = tuple[tuple[str, int], ...]


def make_options(*, max_body_bytes: int) -> Options:
    """What gRPC's core is told. Times are milliseconds."""
    return (
        ("grpc.max_receive_message_length", max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", STREAMS_MAX),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.so_reuseport", 0),  # a second server on the port is a mistake
        # A client that is gone is noticed within a minute and a half.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # One that pings more often than this is told to calm down, and cut off.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 3),
    )


class RpcServer:
    """`open` it to listen, `serve` when requests may come, `drain` to end it."""

    def __init__(self, parts: Parts, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        operations = [
            one
            for one in make_operations()
            if one.handler is not None and one.group != "oip" and one.media_type != HTML
        ]
        self._parts = parts
        self._schema = Schema(operations)
        self._infer = InferService(parts.predictor, self._schema)
        self._stopping = self._infer.draining
        self._health = Health(self._stopping)
        self._server = grpc.aio.server(
            options=make_options(max_body_bytes=max_body_bytes), maximum_concurrent_rpcs=CALLS_MAX
        )
        self._server.add_generic_rpc_handlers((self._make_methods(operations),))

    async def open(self, host: str, port: int, files: TlsFiles | None) -> int:
        """Listen, and answer that nothing is served yet; returns the port.

        :raises InvalidRequest: the address cannot be had, or a certificate not be read
        """
        await self._health.say(serving=False)
        address = f"[{host}]:{port}" if ":" in host else f"{host or '[::]'}:{port}"
        try:
            if files is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, Certificates(files).credentials())
        except RuntimeError as exc:
            raise InvalidRequest(
                f"cannot listen on {host}:{port} for gRPC: it is taken, or no address of this machine",
                hint="choose another with --grpc-port, or --grpc-port 0 for any free one",
            ) from exc
        await self._server.start()
        return port

    async def serve(self) -> None:
        """Say that requests may come."""
        await self._health.say(serving=True)

    async def announce_stop(self) -> None:
        """Say that no more requests should come, while they are still taken."""
        await self._health.say(serving=False)

    async def drain(self, *, grace_s: float) -> None:
        """Take no more, and end when what is under way is answered, at the latest after `grace_s`."""
        self._stopping.set()
        await self._server.stop(grace_s)

    def _make_methods(self, operations: list[Operation]) -> Methods:
        unary, streamed = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        found: dict[str, Any] = {
            f"/{INFERENCE}/{name}": unary(rpc.answer)
            for name, rpc in make_oip_rpcs(self._parts, self._schema).items()
        }
        found[f"/{INFERENCE}/ModelInfer"] = unary(self._infer.infer)
        found[f"/{INFERENCE}/ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._infer.stream)
        public = {f"/{INFERENCE}/{name}" for name in _OPEN}
        for path, handler in self._make_public().items():
            found[path] = handler
            public.add(path)
        for operation in operations:
            rpc = AdminRpc(operation, self._parts, self._schema)
            path = f"/{ADMIN}/{rpc_name(operation)}"
            found[path] = unary(rpc.answer) if operation.stream is None else streamed(rpc.stream)
            if operation.scope is None:
                public.add(path)
        calls = PublicCalls()
        found |= {path: calls.bound(found[path]) for path in public}
        return Methods(found, public, self._parts.issuer.access, self._refuse_stranger)

    async def _refuse_stranger(self, method: str, error: Unauthorized, context: Any) -> None:
        if method.startswith(f"/{INFERENCE}/"):
            await self._infer.refuse_stranger(context)
        request_id = make_request_id()
        caller = Caller(context.peer(), is_here=False, remark=error.message)
        self._parts.issuer.record(caller.act(method.rpartition("/")[2], method, error.status, request_id))
        await refuse(context, error, request_id)

    def _make_public(self) -> dict[str, Any]:
        """What tells a stranger what there is: health checks and reflection."""
        collected = _Collector()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, collected)
        for module in (health_pb2, reflection_pb2):
            described = descriptor_pb2.FileDescriptorProto()
            module.DESCRIPTOR.CopyToProto(described)
            self._schema.pool.AddSerializedFile(described.SerializeToString())
        names = (INFERENCE, ADMIN, HEALTH, reflection.SERVICE_NAME)
        described_by = reflection.aio.ReflectionServicer(names, pool=self._schema.pool)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(described_by, collected)
        return collected.methods


class _Collector:
    """Stands for a server where generated code adds what it serves."""

    def __init__(self) -> None:
        self.methods: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """The same methods, not by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.methods |= {f"/{service}/{name}": one for name, one in handlers.items()}


class Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds who answers a method; of a stranger's request nothing is read."""

    def __init__(
        self,
        methods: Mapping[str, Any],
        public: set[str],
        access: Access,
        refuse_stranger: Callable[[str, Unauthorized, Any], Awaitable[None]],
    ) -> None:
        self._methods = methods
        self._public = public
        self._access = access
        self._refuse_stranger = refuse_stranger

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        found = self._methods.get(method)
        if found is None or not self._access.required or method in self._public:
            return found
        given = dict(handler_call_details.invocation_metadata).get("authorization", "")
        error = self._access.stranger(given.encode("latin-1", "replace"))
        if error is None:
            return found

        async def turn_away(requests: Any, context: Any) -> None:
            await self._refuse_stranger(method, error, context)

        return grpc.stream_stream_rpc_method_handler(turn_away)


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    """gRPC's own health checks. Who watches is let go when the server stops."""

    def __init__(self, stopping: asyncio.Event) -> None:
        super().__init__()
        self._stopping = stopping

    async def say(self, *, serving: bool) -> None:
        states = health_pb2.HealthCheckResponse
        for service in ("", INFERENCE, ADMIN):
            await self.set(service, states.SERVING if serving else states.NOT_SERVING)

    async def Watch(self, request: Any, context: Any) -> None:
        watching = asyncio.create_task(super().Watch(request, context))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            stopping.cancel()
            await asyncio.gather(watching, stopping, return_exceptions=True)
        await refuse(context, Unavailable("this appliance is stopping"), make_request_id())
