"""gRPC's reflection: the services that there are, and the files that describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mdslite.rpc.exchange import Exchange, Method
from mdslite.rpc.schema import REFLECTION, Schema, parse
from mdslite.rpc.statuses import NOT_FOUND, UNIMPLEMENTED


class Reflection:
    """Answers both versions: their messages are the same."""

    def __init__(self, schema: Schema, services: Sequence[str]) -> None:
        self._pool = schema.pool
        self._services = sorted(services)
        self._request = schema.find("grpc.reflection.v1.ServerReflectionRequest")
        self._reply = schema.find("grpc.reflection.v1.ServerReflectionResponse")

    def methods(self) -> Mapping[str, Method]:
        method = Method(self._answer_all, reads=True, public=True)
        return {f"/{service}/ServerReflectionInfo": method for service in REFLECTION}

    async def _answer_all(self, exchange: Exchange) -> None:
        async for body in exchange.messages():
            request = parse(self._request, body)
            reply = self._reply(valid_host=request.host, original_request=request)
            self._answer(request, reply)
            await exchange.write(reply.SerializeToString())

    def _answer(self, request: Any, reply: Any) -> None:
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                for name in self._services:
                    reply.list_services_response.service.add(name=name)
            elif kind == "file_by_filename":
                self._describe(self._pool.FindFileByName(request.file_by_filename), reply)
            elif kind == "file_containing_symbol":
                self._describe(self._pool.FindFileContainingSymbol(request.file_containing_symbol), reply)
            elif kind == "all_extension_numbers_of_type":  # nothing here has any
                found = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                reply.all_extension_numbers_response.base_type_name = found.full_name
            elif kind == "file_containing_extension":
                raise KeyError
            else:
                reply.error_response.error_code = UNIMPLEMENTED
                reply.error_response.error_message = "no such question"
        except KeyError:
            reply.error_response.error_code = NOT_FOUND
            reply.error_response.error_message = "there is none of that name"

    def _describe(self, file: Any, reply: Any) -> None:
        """Name a file and all that it needs."""
        waiting, seen = [file], {file.name}
        while waiting:
            one = waiting.pop()
            reply.file_descriptor_response.file_descriptor_proto.append(one.serialized_pb)
            for needed in one.dependencies:
                if needed.name not in seen:
                    seen.add(needed.name)
                    waiting.append(needed)
