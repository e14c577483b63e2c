"""Batches in shared memory: what goes in comes out, and what does not hold together is found out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import mds
from mdslite.errors import InvalidRequest, MdsliteError, ModelError, OutOfMemory, Unavailable
from mdslite.runtimes import frames
from mdslite.runtimes.blocks import LARGEST_BYTES, SMALLEST_BYTES, Block, make_block
from mdslite.runtimes.frames import BadFrame, Fault, Frame, Table, find_refused, make_frames, read_rows
from mdslite.runtimes.protocol import Answers


def new_block(size_bytes: int = 0) -> Block:
    block, descriptor = make_block(1, size_bytes)
    os.close(descriptor)
    return block


def cross(rows: list[Any], confidences: list[float | None] | None = None) -> Answers:
    """What is read of a frame of these rows."""
    frame = Frame(rows, confidences or [])
    block = new_block(frame.size_bytes)
    frame.write(block)
    return read_rows(block, len(frame.table))


def write_table(table: Table) -> tuple[Block, int]:
    block = new_block()
    data = msgspec.msgpack.encode(table)
    block.write(0, data)
    return block, len(data)


# What crosses


def test_texts_bodies_arrays_and_errors_keep_their_places() -> None:
    rows = [
        b'{"a": 1}',
        mds.Body(b"\x89PNG", "image/png"),
        np.arange(6, dtype=np.int16).reshape(2, 3),
        ModelError("no luck", hint="try again"),
        b"",
        np.array(2.5),
    ]
    found = cross(rows, [0.5, None, None, None, 1.0, None])
    assert found[0] == rows[0] and type(found[0]) is bytes
    assert isinstance(found[1], mds.Body)
    assert (bytes(found[1]), found[1].content_type) == (b"\x89PNG", "image/png")
    assert isinstance(found[2], np.ndarray)
    assert found[2].dtype == np.int16
    np.testing.assert_array_equal(found[2], rows[2])
    error = found[3]
    assert isinstance(error, ModelError)
    assert (error.message, error.hint) == ("no luck", "try again")
    assert found[4] == b""
    assert isinstance(found[5], np.ndarray) and found[5].shape == () and found[5] == 2.5
    assert found.confidences == [0.5, None, None, None, 1.0, None]


@pytest.mark.parametrize(
    "dtype", ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", ">f4", "U3", "S2", "M8[s]", "m8[ms]"]
)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (0,), (4, 0), ()])
def test_arrays_of_every_plain_type_cross(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype)
    array.fill(np.array("1").astype(dtype) if dtype not in ("M8[s]", "m8[ms]") else np.array(1, dtype))
    for rows in ([array, array], [array, b"1"]):
        found = cross(rows)[0]
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)


def test_arrays_cross_whatever_their_layout() -> None:
    fortran = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    strided = np.arange(24, dtype=np.float32).reshape(3, 8)[:, ::2]
    for one in (fortran, strided):
        for rows in ([one, one], [one, b"1"]):
            found = cross(rows)[0]
            np.testing.assert_array_equal(found, one)


def test_arrays_that_crossed_cannot_be_written_to() -> None:
    for array in (np.zeros(3), np.zeros(100_000)):
        (found,) = cross([array])
        assert isinstance(found, np.ndarray)
        assert not found.flags.writeable


def test_errors_keep_their_kind_and_are_cut_where_they_are_long() -> None:
    found = cross([OutOfMemory("none left"), Unavailable("x" * 100_000), InvalidRequest("bad")])
    assert [type(one) for one in found] == [OutOfMemory, Unavailable, InvalidRequest]
    assert isinstance(found[1], MdsliteError)
    assert len(found[1].message) < 10_000


def test_what_is_too_large_for_one_block_crosses_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "LARGEST_BYTES", 10_000)
    rows = [b"x" * 4000, b"y" * 4000, b"z" * 4000, b"1", b"2"]
    parts = list(make_frames(rows, [1.0, 2.0, 3.0, 4.0, 5.0]))
    assert len(parts) > 1
    assert all(part.size_bytes <= 10_000 for part in parts)
    assert [row for part in parts for row in part.rows] == rows


def test_data_that_no_block_holds_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "LARGEST_BYTES", 1 << 20)
    structured = np.zeros(1, dtype=[("a", "i4")])
    found = find_refused([b"1", b"x" * (2 << 20), structured, np.array([None])])
    assert sorted(found) == [1, 2, 3]
    assert found[1].message == "the instance takes 2 MiB: at most 1 MiB can cross at once"
    assert "dtype [('a', '<i4')]: expected numbers" in found[2].message
    assert "dtype object" in found[3].message


# What does not hold together


@pytest.mark.parametrize(
    "table",
    [
        Table([SMALLEST_BYTES + 1]),
        Table([-1]),
        Table([8], ("<f8", (2,))),
        Table([8], ("<f8", ())),
        Table([8], ("O", (1,))),
        Table([8], ("no such type", (1,))),
        Table([8], ("<f8", (-1,))),
        Table([1 << 40], ("<f8", (1 << 37,))),
        Table([8], arrays={0: ("<f8", (2,))}),
        Table([8], arrays={0: ("V8", (1,))}),
        Table([1], confidences=[1.0, 2.0]),
    ],
)
def test_a_table_that_lies_is_found_out(table: Table) -> None:
    block, size_bytes = write_table(table)
    with pytest.raises(BadFrame):
        read_rows(block, size_bytes)


@pytest.mark.parametrize("size_bytes", [-1, 0, 5, SMALLEST_BYTES + 1])
def test_a_table_that_is_none_is_found_out(size_bytes: int) -> None:
    with pytest.raises(BadFrame):
        read_rows(new_block(), size_bytes)


def test_an_unknown_error_becomes_the_model_s() -> None:
    block, size_bytes = write_table(Table([0], faults={0: Fault("never_heard_of", "odd")}))
    (found,) = read_rows(block, size_bytes)
    assert isinstance(found, ModelError)


# Blocks


def test_a_block_is_lent_as_long_as_anybody_reads_from_it() -> None:
    block = new_block()
    view: Any = block.borrow(0, (4, 8), np.dtype(np.float32))
    row = view[0]
    del view
    assert block.lent
    seen = memoryview(row)
    del row
    assert block.lent
    del seen
    assert not block.lent


def test_small_arrays_do_not_keep_a_block_lent() -> None:
    frame = Frame([np.zeros(64, np.float32)] * 32)
    block = new_block(frame.size_bytes)
    frame.write(block)
    rows = read_rows(block, len(frame.table))
    assert not block.lent
    assert len(rows) == 32


def test_a_block_cannot_be_taken_away_by_the_other_side(tmp_path: Path) -> None:
    block, descriptor = make_block(1, 0)
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        block.write(0, b"still there")
    finally:
        os.close(descriptor)


def test_a_block_may_not_be_larger_than_the_largest() -> None:
    with pytest.raises(OutOfMemory, match="no shared memory of 257 MiB"):
        make_block(1, LARGEST_BYTES + 1)


def test_blocks_grow_by_doubling_up_to_the_largest() -> None:
    assert new_block(1).size_bytes == SMALLEST_BYTES
    assert new_block(SMALLEST_BYTES + 1).size_bytes == 2 * SMALLEST_BYTES
    assert new_block(LARGEST_BYTES - 1).size_bytes == LARGEST_BYTES
