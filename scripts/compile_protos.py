"""Compiles mdslite's .proto files into the descriptors that it ships. `compile_protos.py [--check]`, exit 1
when what is checked in differs. Needs grpcio-tools.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "mdslite" / "rpc"
SOURCES = ("inference.proto", "admin.proto", "health.proto", "reflection.proto")
DESCRIPTORS = FOLDER / "descriptors.binpb"


def compile_protos(folder: Path = FOLDER) -> bytes:
    """The serialized FileDescriptorSet of the files.

    :raises RuntimeError: protoc refuses one of them
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / DESCRIPTORS.name
        # A process of its own: protoc's C++ protobuf and TensorFlow's crash in one.
        protoc = (sys.executable, "-m", "grpc_tools.protoc")
        paths = (f"--proto_path={folder}", f"--descriptor_set_out={out}")
        ended = subprocess.run([*protoc, *paths, *SOURCES], capture_output=True, text=True, timeout=60)
        if ended.returncode:
            raise RuntimeError(f"protoc ended with {ended.returncode}: {ended.stderr.strip()}")
        return out.read_bytes()


def main(arguments: list[str]) -> int:
    compiled = compile_protos()
    if arguments == ["--check"]:
        return int(DESCRIPTORS.read_bytes() != compiled)
    DESCRIPTORS.write_bytes(compiled)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
