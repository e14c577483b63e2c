"""A pipeline ready to run: its nodes by number, in the order in which they may run, with what runs each."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mdslite.errors import ModelError, clip
from mdslite.graph import END, Choice, Node, Pipeline
from mdslite.serving.nodes import Work

_read_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_read_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_text = msgspec.json.Decoder(str).decode


class Stop:
    """A node at work. Its targets are numbers of nodes; the number after the last node's is the end."""

    __slots__ = ("_choice", "_numbers", "key", "name", "only_target", "options", "quoted", "targets", "work")

    def __init__(self, node: Node, work: Work, numbers: Mapping[str, int]) -> None:
        self.name = node.name
        self.work = work
        self.quoted = msgspec.json.encode(node.name).decode()
        self.key = self.quoted.encode() + b":"  # of its answer, where several are merged
        self.options = tuple(tuple(numbers[name] for name in option or (END,)) for option in node.options)
        self.targets = tuple(numbers[name] for name in node.targets)
        self.only_target: int | None = (
            None  # where it leads if it leads nowhere else, and alone: the usual case
        )
        self._choice = node.next if isinstance(node.next, Choice) else None
        self._numbers = (
            {value: number for number, value in enumerate(self._choice.when)} if self._choice else {}
        )

    def choose(self, answer: bytes) -> tuple[int, ...]:
        """The nodes that follow an answer.

        :raises ModelError: the answer says none
        """
        choice = self._choice
        if choice is None:
            return self.options[0]
        value = _read_value(answer, choice.by)
        number = self._numbers.get(value, -1)
        if number < 0 and choice.otherwise is None:
            raise ModelError(
                f"it chose no next node: {_field(choice.by)} is {clip(value)}, expected one of "
                f"{clip(', '.join(choice.when))}",
                hint="add otherwise: to its choice in pipeline.yaml",
            )
        return self.options[number]  # what comes otherwise is the last one

    @property
    def chooses(self) -> bool:
        return self._choice is not None


class Network:
    """The stops of a pipeline, the first of them its start."""

    def __init__(self, pipeline: Pipeline, works: Mapping[str, Work]) -> None:
        names = [*(node.name for node in pipeline.order), END]
        numbers = {name: number for number, name in enumerate(names)}
        self.stops = tuple(Stop(node, works[node.name], numbers) for node in pipeline.order)
        self.end = len(self.stops)
        self.waits = [len(pipeline.sources[name]) for name in names]  # nodes that may lead to each
        self.merges = frozenset(numbers[name] for name in pipeline.merges)
        for stop in self.stops:
            if len(stop.targets) == 1 and self.waits[stop.targets[0]] == 1 and not stop.chooses:
                stop.only_target = stop.targets[0]


def _read_value(answer: bytes, by: tuple[str, ...]) -> str:
    """A field of a JSON text: text as it is, other values as JSON writes them. Parses nothing beside it."""
    found = answer
    for part in by:
        found = _step(found, part, by)
    found = found.strip()
    if found[:1] == b'"':
        return _read_text(found)
    if found[:1] in (b"{", b"["):
        kind = "an object" if found[:1] == b"{" else "a list"
        raise ModelError(f"it chose no next node: {_field(by)} is {kind}, expected text or a number")
    return found.decode()


def _step(found: bytes, part: str, by: tuple[str, ...]) -> bytes:
    start = found.lstrip()[:1]
    if start == b"{":
        fields = _read_object(found)
        if part in fields:
            return bytes(fields[part])
    elif start == b"[" and part.isdecimal():
        items = _read_list(found)
        if int(part) < len(items):
            return bytes(items[int(part)])
    raise ModelError(f"it chose no next node: its answer has no {_field(by)}")


def _field(by: tuple[str, ...]) -> str:
    return ".".join(by) or "its answer"
