"""What a model's file says that ONNX Runtime does not report: its operators and where its data lie.

Walks the protobuf's wire format (see `wire`), since the `onnx` package (and its protobuf) is no dependency.
Follows ModelProto in the ONNX repository's `onnx.proto`; whatever is malformed is left for ONNX Runtime
to refuse.
"""

from __future__ import annotations

import mmap
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from mdslite.errors import LoadFailed
from mdslite.runtimes.operators import TIMED_BY_SHAPE
from mdslite.wire import Malformed, fields

# Message → field number → the message in that field.
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Function": {7: "Node"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}
_OPERATOR, _KEY, _VALUE = 4, 1, 2  # Node.op_type, Entry.key, Entry.value


@dataclass(frozen=True, slots=True)
class Graph:
    """`locations` are the external data's, as the file gives them."""

    operators: frozenset[str]
    locations: frozenset[str]

    @property
    def bounded(self) -> bool:
        """The time of a run is a function of its inputs' shapes."""
        return self.operators <= TIMED_BY_SHAPE


def read_graph(path: Path) -> Graph:
    """Read the operators (of sub-graphs and functions too) and data locations of the model file at `path`."""
    operators: set[str] = set()
    locations: set[str] = set()
    with path.open("rb") as file:
        if not path.stat().st_size:
            return Graph(frozenset(), frozenset())
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            pending = [("Model", 0, len(data))]
            while pending:
                message, start, stop = pending.pop()
                entry: dict[int, str] = {}
                with suppress(Malformed):  # what came before the break counts
                    for field, at, end in fields(data, start, stop):
                        if inner := _MESSAGES[message].get(field):
                            pending.append((inner, at, end))
                        elif message == "Node" and field == _OPERATOR:
                            operators.add(_text(data, at, end))
                        elif message == "Entry" and field in (_KEY, _VALUE):
                            entry[field] = _text(data, at, end)
                if entry.get(_KEY) == "location":
                    locations.add(entry.get(_VALUE, ""))
    return Graph(frozenset(operators), frozenset(locations))


def check_locations(graph: Graph, folder: Path) -> None:
    """Refuse external data that are not plain files of the model's own folder.

    ONNX Runtime 1.31 itself refuses `..`, absolute paths and links that lead out, but follows links inside
    and reads a hard link, behind which any file of the same file system may lie.

    :raises LoadFailed: naming the location
    """
    for location in sorted(graph.locations):
        shown = f'the model keeps weights in "{location[:200]}"'
        parts = PurePosixPath(location.replace("\\", "/")).parts
        if not parts or ".." in parts or location.startswith("/") or PureWindowsPath(location).drive:
            raise LoadFailed(f"{shown}: expected a file beside the model, without .. or an absolute path")
        at = folder
        for part in parts:
            at = at / part
            try:
                found = at.lstat()
            except (OSError, ValueError) as exc:
                raise LoadFailed(f"{shown}, which is missing beside it") from exc
            if stat.S_ISLNK(found.st_mode):
                raise LoadFailed(f"{shown}, a link: put the file itself beside the model")
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise LoadFailed(f"{shown}, no plain file of its own (a hard link?): put a copy beside the model")


def _text(data: mmap.mmap, start: int, stop: int) -> str:
    return data[start:stop].decode("utf-8", "replace")
