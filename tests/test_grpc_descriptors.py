"""What is told of gRPC's messages is what the proto files say, and what clients were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tritonclient.grpc")
import compile_protos
from google.protobuf import descriptor_pool, message_factory
from tritonclient.grpc import service_pb2


def test_the_descriptors_are_those_of_the_proto_files() -> None:
    pytest.importorskip("grpc_tools")
    assert compile_protos.compile_protos() == compile_protos.DESCRIPTORS.read_bytes()


def test_the_descriptors_agree_with_the_clients() -> None:
    served = message_factory.GetMessages(
        _files(compile_protos.DESCRIPTORS), pool=descriptor_pool.DescriptorPool()
    )
    for name, kind in served.items():
        if not name.startswith("inference."):
            continue
        theirs = service_pb2.DESCRIPTOR.pool.FindMessageTypeByName(name)
        for field in kind.DESCRIPTOR.fields:
            other = theirs.fields_by_name[field.name]
            assert (field.number, field.type) == (other.number, other.type), f"{name}.{field.name}"


def _files(path: Path) -> Any:
    from google.protobuf import descriptor_pb2

    return descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file
