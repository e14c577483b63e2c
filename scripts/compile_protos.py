"""Compiles mdslite's .proto files into the descriptors that it ships. `compile_protos.py [--check]`, exit 1
when what is checked in differs. Needs grpcio-tools.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "mdslite" / "rpc"
SOURCES = ("inference.proto", "admin.proto")
DESCRIPTORS = FOLDER / "descriptors.binpb"


def compile_protos(folder: Path = FOLDER) -> bytes:
    """The serialized FileDescriptorSet of both files.

    :raises RuntimeError: protoc refuses one of them
    """
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / DESCRIPTORS.name
        status = protoc.main(["protoc", f"--proto_path={folder}", f"--descriptor_set_out={out}", *SOURCES])
        if status:
            raise RuntimeError(f"protoc ended with {status}")
        return out.read_bytes()


def main(arguments: list[str]) -> int:
    compiled = compile_protos()
    if arguments == ["--check"]:
        return int(DESCRIPTORS.read_bytes() != compiled)
    DESCRIPTORS.write_bytes(compiled)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
