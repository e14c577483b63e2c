"""Which data files an ONNX model refers to: its large tensors may lie in files of their own beside it.

Reads just enough of protobuf's wire format to find the `location` entries of external tensors, in graphs,
attributes, functions and training graphs, however nested. A file that is no ONNX model refers to nothing;
whether it loads is the probe's question.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

from mdslite.errors import ArtifactError
from mdslite.wire import Malformed, fields

# Field numbers of onnx.proto: which fields of a message lead to tensors.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_MAX_FIELDS = 20_000_000
_WORD = b"location"


def may_refer(chunks: Iterable[bytes]) -> bool:
    """Tell cheaply that a file refers to nothing, as nearly every model does: the word does not occur."""
    tail = b""
    for chunk in chunks:
        if _WORD in chunk or _WORD in tail + chunk[: len(_WORD)]:
            return True
        tail = chunk[-len(_WORD) :]
    return False


def external_locations(path: Path) -> list[str]:
    """List the locations as the model spells them, sorted; none when it is no ONNX model.

    The file must be the store's own: it is mapped, and one that shrinks meanwhile would end the process.

    :raises ArtifactError: the model has more parts than are looked through
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return sorted(set(_walk(content)))


def _walk(content: mmap.mmap) -> Iterator[str]:
    waiting = [("model", 0, len(content))]  # messages [start, stop) to look into
    budget = _MAX_FIELDS
    while waiting:
        kind, start, stop = waiting.pop()
        try:
            for number, begin, end in fields(content, start, stop):
                budget -= 1
                if budget < 0:
                    raise ArtifactError(
                        f"the model has more than {_MAX_FIELDS} parts; it is not looked through"
                    )
                below = _FIELDS[kind].get(number)
                if below == "entry":
                    yield from _location(content, begin, end)
                elif below is not None:
                    waiting.append((below, begin, end))
        except Malformed:
            continue


def _location(content: mmap.mmap, start: int, stop: int) -> Iterator[str]:
    """A tensor's entries are pairs of key (1) and value (2)."""
    pair = {number: content[begin:end] for number, begin, end in fields(content, start, stop)}
    if pair.get(1) == _WORD:
        yield pair.get(2, b"").decode(errors="replace")
