"""What is said over gRPC: the messages and services of the .proto files beside this module, and the service
that follows from the admin API's operations.

They stand in a pool of their own: a process that also holds a client's generated classes of the same protocol
would have two descriptions of one name.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from mdslite.api.operations import Operation
from mdslite.errors import InvalidRequest

INFERENCE = "inference.GRPCInferenceService"
ADMIN = "mdslite.v1.Admin"
HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
DESCRIPTORS = "descriptors.binpb"
_ADMIN_FILE = "mdslite/v1/admin_service.proto"


class Schema:
    """`pool` describes everything; the classes are those of its messages that are made or read by name."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.pool = descriptor_pool.DescriptorPool()
        described = descriptor_pb2.FileDescriptorSet.FromString(
            files("mdslite.rpc").joinpath(DESCRIPTORS).read_bytes()
        )
        for file in described.file:
            for one in (file, _former(file)) if file.package == "grpc.reflection.v1" else (file,):
                self.pool.AddSerializedFile(one.SerializeToString())
        self.pool.AddSerializedFile(_describe_admin(operations).SerializeToString())
        self.InferRequest = self.find("inference.ModelInferRequest")
        self.InferResponse = self.find("inference.ModelInferResponse")
        self.StreamResponse = self.find("inference.ModelStreamInferResponse")
        self.AdminRequest = self.find("mdslite.v1.AdminRequest")
        self.AdminReply = self.find("mdslite.v1.AdminReply")

    def find(self, name: str) -> type[Any]:
        """The class of a message by its full name."""
        found: type[Message] = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))
        return found

    def methods(self, service: str) -> dict[str, tuple[type[Any], type[Any]]]:
        """The classes of each of a service's requests and replies, by the method's name."""
        described = self.pool.FindServiceByName(service)
        return {
            method.name: (
                message_factory.GetMessageClass(method.input_type),
                message_factory.GetMessageClass(method.output_type),
            )
            for method in described.methods
        }


def parse(kind: type[Any], body: bytes | memoryview) -> Any:
    """:raises InvalidRequest: the bytes are no such message"""
    try:
        return kind.FromString(bytes(body))
    except DecodeError as exc:
        raise InvalidRequest(f"the request is no {kind.DESCRIPTOR.full_name}") from exc


def streams(operation: Operation) -> bool:
    """Is it answered line by line?"""
    return operation.stream is not None and not operation.unary


def rpc_name(operation: Operation) -> str:
    """`list_models` as `ListModels`."""
    return "".join(part.capitalize() for part in operation.name.split("_"))


def _former(file: Any) -> Any:
    """Reflection as it was called before it became v1: all else is the same."""
    found = descriptor_pb2.FileDescriptorProto()
    found.CopyFrom(file)
    found.name, found.package = "reflection_v1alpha.proto", "grpc.reflection.v1alpha"
    for message in found.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(".v1.", ".v1alpha.")
    for method in found.service[0].method:
        method.input_type = method.input_type.replace(".v1.", ".v1alpha.")
        method.output_type = method.output_type.replace(".v1.", ".v1alpha.")
    return found


def _describe_admin(operations: Sequence[Operation]) -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name=_ADMIN_FILE, package="mdslite.v1", syntax="proto3", dependency=["admin.proto"]
    )
    service = file.service.add(name="Admin")
    for operation in operations:
        service.method.add(
            name=rpc_name(operation),
            input_type=".mdslite.v1.AdminRequest",
            output_type=".mdslite.v1.AdminReply",
            server_streaming=streams(operation),
        )
    return file
