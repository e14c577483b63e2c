"""What a model's file says that ONNX Runtime does not report: its nodes and where its data lie.

Walks the protobuf's wire format (see `wire`), since the `onnx` package (and its protobuf) is no dependency.
Follows ModelProto in the ONNX repository's `onnx.proto`; whatever is malformed is left for ONNX Runtime
to refuse.
"""

from __future__ import annotations

import mmap
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from mdslite.errors import LoadFailed, clip
from mdslite.guises import recognize
from mdslite.runtimes.operators import NONE, OF_SHAPES, RANDOM, SIZES, TIMED_BY_SHAPE
from mdslite.wire import BYTES, VARINT, Malformed, fields, integer, records

# Message → field number → the message in that field.
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Initializer", 11: "Input", 12: "Value", 13: "Value", 15: "SparseInitializer"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "Initializer": {13: "Entry"},
    "SparseInitializer": {1: "Initializer", 2: "Tensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Input": {},
    "Value": {},
    "Entry": {},
}
# Message → the fields whose text is of interest.
_INPUT, _OUTPUT, _OPERATOR, _INITIALIZER_NAME, _INPUT_NAME, _KEY, _VALUE = 1, 2, 4, 8, 1, 1, 2
_TEXTS: dict[str, frozenset[int]] = {
    "Node": frozenset({_INPUT, _OUTPUT, _OPERATOR}),
    "Initializer": frozenset({_INITIALIZER_NAME}),
    "Input": frozenset({_INPUT_NAME}),
    "Value": frozenset({_INPUT_NAME}),
    "Entry": frozenset({_KEY, _VALUE}),
}
_COPY_WEIGHTS = "copy it there, as it was exported: a model and the files of its weights go together"
_IR_VERSION = 1
# A model's own fields with their wire types, and how many of them are looked at to tell that it is one.
_GRAPH = 7
_FIELDS = {_IR_VERSION: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, _GRAPH: BYTES, 8: BYTES}
_FIELDS |= dict.fromkeys((14, 20, 25, 26), BYTES)
_FIELDS_MOST = 10_000
_TYPE, _TENSOR_TYPE, _ELEMENT = 2, 1, 1  # of a value's declaration
_ATTRIBUTE, _ATTRIBUTE_INTEGER, _ATTRIBUTE_TENSOR, _DATA_TYPE, _RAW_DATA = 5, 3, 5, 2, 9
# The types whose values are looked at, and where they stand if not as raw data.
_WHOLE: Mapping[int, tuple[np.dtype[Any], int]] = {6: (np.dtype("<i4"), 5), 7: (np.dtype("<i8"), 7)}
_MINUS_ONE = b"\xff" * 9 + b"\x01"  # as a varint
_TYPED = frozenset({"Cast", "Constant", "ConstantOfShape"})  # an attribute says what type they give
_REPLACEABLE_SINCE = 4  # before, initializers had to be listed as inputs, and were constants all the same


@dataclass(frozen=True, slots=True)
class Node:
    """Values by their names as they stand in the file; an input or output that is left out is empty.
    `element` is the type of what it gives, where it says that itself, as ONNX numbers types; else 0."""

    operator: str
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    element: int = 0


@dataclass(frozen=True, slots=True)
class Graph:
    """`nodes` are those of sub-graphs and functions too, `constants` the initializers that no request can
    replace, `locations` the external data's, as the file gives them. `plain`: it was read to its end, and no
    function in it gives an operator's name another meaning. `types` are those of the elements of declared
    values, `divisors` those constants of whole numbers of which none is -1."""

    nodes: tuple[Node, ...]
    constants: frozenset[bytes]
    locations: frozenset[str]
    plain: bool
    types: Mapping[bytes, int] = field(default_factory=dict)
    divisors: frozenset[bytes] = frozenset()

    @property
    def bounded(self) -> bool:
        """The time of a run is a function of its inputs' shapes.

        It is where every operator's is, given the sizes that some take as values, and all those sizes follow
        from constants and shapes.
        """
        known = self.follows
        for node in self.nodes:
            sizes = node.inputs[SIZES.get(node.operator, NONE)]
            if node.operator not in TIMED_BY_SHAPE or not known.issuperset(sizes):
                return False
        return self.plain and bool(self.nodes)

    @property
    def follows(self) -> frozenset[bytes]:
        """Values that follow from constants and shapes: the same whatever stands in the inputs."""
        known = {b"", *self.constants}
        for node in self.nodes:
            # A branch or a loop takes more than its inputs.
            settled = node.operator in TIMED_BY_SHAPE and node.operator not in RANDOM
            if node.operator in OF_SHAPES or (settled and known.issuperset(node.inputs)):
                known.update(node.outputs)
        return frozenset(known)


def find_end(path: Path) -> int | None:
    """Where the ONNX model in the file at `path` ends, at the least: behind the file's end where that was cut
    off. None where the file is not laid out as one, as far as its outermost fields tell."""
    size_bytes = path.stat().st_size
    if not size_bytes:
        return None
    seen: set[int] = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            for number, wire, _, _ in islice(records(data, 0, size_bytes), _FIELDS_MOST):
                # Whoever writes one begins with its first field.
                if _FIELDS.get(number) != wire or (not seen and number != _IR_VERSION):
                    return None
                seen.add(number)
        except Malformed as exc:
            return size_bytes + exc.missing_bytes if seen and exc.number == _GRAPH else None
    return size_bytes if _GRAPH in seen else None


def read_graph(path: Path) -> Graph:
    """Read what the model file at `path` says of its nodes and of where its data lie."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return Graph((), frozenset(), frozenset(), plain=False)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Walk(data).graph()


class _Walk:
    """Goes through a file's messages level by level, so that the nodes of one graph keep their order."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._nodes: list[Node] = []
        self._initializers: set[bytes] = set()
        self._inputs: set[bytes] = set()
        self._locations: set[str] = set()
        self._types: dict[bytes, int] = {}
        self._divisors: set[bytes] = set()
        self._others: set[bytes] = set()  # constants that are none
        self._plain = True

    def graph(self) -> Graph:
        pending = deque([("Model", 0, len(self._data))])
        while pending:
            message, start, stop = pending.popleft()
            texts: list[tuple[int, bytes]] = []
            try:
                for number, at, end in fields(self._data, start, stop):
                    if inner := _MESSAGES[message].get(number):
                        pending.append((inner, at, end))
                    elif number in _TEXTS.get(message, ()):
                        texts.append((number, self._data[at:end]))
            except Malformed:  # what came before the break counts
                self._plain = False
            self._note(message, texts)
            try:
                self._note_type(message, dict(texts), start, stop)
            except Malformed:
                self._plain = False
        given = {name for node in self._nodes for name in node.outputs}
        if self._lists_replaceable():
            given |= self._inputs
        constants = frozenset(self._initializers - given)
        made = {name for node in self._nodes if node.operator == "Constant" for name in node.outputs}
        return Graph(
            tuple(self._nodes),
            constants,
            frozenset(self._locations),
            self._plain,
            self._types,
            frozenset(self._divisors & (constants | made)),
        )

    def _note(self, message: str, texts: list[tuple[int, bytes]]) -> None:
        last = dict(texts)  # as protobuf has it
        if message == "Node":
            operator = last.get(_OPERATOR, b"").decode("utf-8", "replace")
            self._nodes.append(Node(operator, tuple(_all(texts, _INPUT)), tuple(_all(texts, _OUTPUT))))
        elif message == "Initializer":
            self._initializers.add(last.get(_INITIALIZER_NAME, b""))
        elif message == "Input":
            self._inputs.add(last.get(_INPUT_NAME, b""))
        elif message == "Function":
            self._plain = False
        elif message == "Entry" and last.get(_KEY) == b"location":
            self._locations.add(last.get(_VALUE, b"").decode("utf-8", "replace"))

    def _note_type(self, message: str, texts: dict[int, bytes], start: int, stop: int) -> None:
        """What is said of elements: their type, and whether whole numbers would do as divisors."""
        if message in ("Input", "Value"):
            self._declare(
                texts.get(_INPUT_NAME, b""), self._integer(start, stop, _TYPE, _TENSOR_TYPE, _ELEMENT)
            )
        elif message == "Initializer":
            self._note_constant(texts.get(_INITIALIZER_NAME, b""), start, stop)
        elif message == "Node" and (operator := self._nodes[-1].operator) in _TYPED:
            for at, end in self._spans(start, stop, _ATTRIBUTE):
                if operator == "Cast":
                    element = self._integer(at, end, _ATTRIBUTE_INTEGER)
                else:
                    element = self._integer(at, end, _ATTRIBUTE_TENSOR, _DATA_TYPE)
                if element:
                    self._nodes[-1] = replace(self._nodes[-1], element=element)
                if operator == "Constant" and self._nodes[-1].outputs:
                    for begin, close in self._spans(at, end, _ATTRIBUTE_TENSOR):
                        self._note_constant(self._nodes[-1].outputs[0], begin, close)

    def _note_constant(self, name: bytes, start: int, stop: int) -> None:
        element = self._integer(start, stop, _DATA_TYPE)
        self._declare(name, element)
        if element is not None and element in _WHOLE:
            dtype, number = _WHOLE[element]
            raw = [self._data[at:end] for at, end in self._spans(start, stop, _RAW_DATA)]
            packed = [self._data[at:end] for at, end in self._spans(start, stop, number)]
            fits = all(len(one) % dtype.itemsize == 0 and -1 not in np.frombuffer(one, dtype) for one in raw)
            known = self._types[name] == element and name not in self._others
            if known and (raw or packed) and fits and not any(_MINUS_ONE in one for one in packed):
                self._divisors.add(name)
            else:  # or there are two of that name
                self._others.add(name)
                self._divisors.discard(name)

    def _declare(self, name: bytes, element: int | None) -> None:
        self._types[name] = element or 0 if self._types.get(name, element) == element else 0

    def _spans(self, start: int, stop: int, number: int) -> Iterator[tuple[int, int]]:
        return ((at, end) for one, at, end in fields(self._data, start, stop) if one == number)

    def _integer(self, start: int, stop: int, *path: int) -> int | None:
        """The integer at the end of a path of fields, each but the last a message; None where one is missing,
        or there are several, of which protobuf would make one."""
        for number in path[:-1]:
            spans = list(self._spans(start, stop, number))
            if len(spans) != 1:
                return None
            start, stop = spans[0]
        return integer(self._data, start, stop, number=path[-1])

    def _lists_replaceable(self) -> bool:
        """Whether an initializer among the inputs is what holds where a request has nothing else."""
        try:
            version = integer(self._data, 0, len(self._data), number=_IR_VERSION)
        except Malformed:
            version = None
        return version is None or version >= _REPLACEABLE_SINCE


def _all(texts: list[tuple[int, bytes]], field: int) -> Iterator[bytes]:
    return (text for number, text in texts if number == field)


def check_locations(graph: Graph, folder: Path) -> None:
    """Refuse external data that are not plain files of the model's own folder.

    ONNX Runtime 1.31 itself refuses `..`, absolute paths and links that lead out, but follows links inside
    and reads a hard link, behind which any file of the same file system may lie.

    :raises LoadFailed: naming the location
    """
    for location in sorted(graph.locations):
        shown = f'the model keeps weights in "{clip(location)}"'
        parts = PurePosixPath(location.replace("\\", "/")).parts
        if not parts or ".." in parts or location.startswith("/") or PureWindowsPath(location).drive:
            raise LoadFailed(f"{shown}: expected a file beside the model, without .. or an absolute path")
        at = folder
        for part in parts:
            at = at / part
            try:
                found = at.lstat()
            except (OSError, ValueError) as exc:
                raise LoadFailed(f"{shown}, which is missing beside it", hint=_COPY_WEIGHTS) from exc
            if stat.S_ISLNK(found.st_mode):
                raise LoadFailed(f"{shown}, a link: put the file itself beside the model")
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise LoadFailed(f"{shown}, no plain file of its own (a hard link?): put a copy beside the model")
        with at.open("rb") as file:
            guise = recognize(file, name=at.name)
        if guise is not None and guise.stand_in:
            raise LoadFailed(f"{shown}, which is {guise.what}: expected the weights", hint=guise.hint)
