"""Files that say the same to protobuf in other bytes than anybody writes: nothing in them may hide."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import models
import onnx
import pytest

from mdslite.errors import LoadFailed
from mdslite.runtimes.onnx import OnnxRuntime
from mdslite.runtimes.protocol import LoadOptions
from mdslite.store.external import external_locations
from mdslite.wire import Malformed, fields, integer

GRAPH = b"\x3a"  # the tag of ModelProto.graph: field 7, bytes
GROUP, GROUP_END, TEN = b"\xa3\x06", b"\xa4\x06", b"\x50\x0a"  # of field 100, and field 10 with a number

Write = Callable[[bytes, bytes], bytes]


def plainly(graph: bytes, rest: bytes) -> bytes:
    return rest + GRAPH + length(graph) + graph


def behind_a_group(graph: bytes, rest: bytes) -> bytes:
    return GROUP + TEN + GROUP + GROUP_END + GROUP_END + plainly(graph, rest)


def with_a_long_tag(graph: bytes, rest: bytes) -> bytes:
    """A tag of five bytes, whose bits beyond the 32nd protobuf drops."""
    return rest + b"\xba\x80\x80\x80\x70" + length(graph) + graph


def in_two_parts(graph: bytes, rest: bytes) -> bytes:
    """A message whose field comes twice is both of them together."""
    return rest + GRAPH + length(b"") + GRAPH + length(graph) + graph


WAYS: list[Write] = [plainly, behind_a_group, with_a_long_tag, in_two_parts]


def length(content: bytes) -> bytes:
    size, written = len(content), b""
    while size > 0x7F:
        written += bytes([size & 0x7F | 0x80])
        size >>= 7
    return written + bytes([size])


def rewrite(path: Path, write: Write) -> Path:
    model = onnx.load(path, load_external_data=False)
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    path.write_bytes(write(graph, model.SerializeToString()))
    return path


@pytest.mark.parametrize("write", WAYS)
def test_a_model_that_onnxruntime_opens_is_seen_as_it_is(tmp_path: Path, write: Write) -> None:
    path = rewrite(models.loop(tmp_path / "m.onnx"), write)
    OnnxRuntime().open(path, LoadOptions()).close()
    assert not OnnxRuntime().inspect(path)


@pytest.mark.parametrize("write", WAYS)
def test_data_outside_of_the_file_are_found(tmp_path: Path, write: Write) -> None:
    path = rewrite(models.external(tmp_path / "m.onnx"), write)
    OnnxRuntime().open(path, LoadOptions()).close()
    assert external_locations(path) == ["m.onnx.data"]
    os.link(tmp_path / "m.onnx.data", tmp_path / "another name")
    with pytest.raises(LoadFailed, match="a hard link"):
        OnnxRuntime().inspect(path)


def mapped(tmp_path: Path, content: bytes) -> mmap.mmap:
    path = tmp_path / "content"
    path.write_bytes(content)
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def test_a_number_is_the_last_one_in_its_field(tmp_path: Path) -> None:
    with mapped(tmp_path, b"\x08\x03" + TEN + b"\x08\x96\x01" + GROUP + b"\x08\x05" + GROUP_END) as data:
        assert integer(data, 0, len(data), number=1) == 150
        assert integer(data, 0, len(data), number=10) == 10
        assert integer(data, 0, len(data), number=2) is None


@pytest.mark.parametrize(
    "broken",
    [
        GROUP,
        GROUP_END,
        GROUP + b"\x08",
        b"\x3a\x05abc",
        b"\x09abc",
        b"\x0dabc",
        b"\x0f",
        b"\x08" + b"\x80" * 10,
    ],
)
def test_what_comes_before_a_break_is_told_of_and_then_the_break(tmp_path: Path, broken: bytes) -> None:
    before = b"\x3a\x02ok"
    with mapped(tmp_path, before + broken) as data:
        seen = fields(data, 0, len(data))
        assert next(seen) == (7, 2, 4)
        with pytest.raises(Malformed):
            next(seen)
