"""A batch in a block: data on their way to a package's process, and answers on their way back.

A frame is a table, and after it what the table lists: JSON texts and bodies as they are, arrays aligned and
in C order. Nothing is pickled. The reader checks every number in a table before it uses it: a package's
process may have gone wild, and is then found out rather than misread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import msgspec
import numpy as np

import mds
from mdslite.errors import (
    ClientClosed,
    DeadlineExceeded,
    InvalidJson,
    InvalidRequest,
    MdsliteError,
    ModelError,
    OutOfMemory,
    TooLarge,
    Unavailable,
)
from mdslite.process import size_text
from mdslite.runtimes.blocks import ALIGNMENT, LARGEST_BYTES, Block, aligned
from mdslite.runtimes.protocol import Answers, Datum

Row = Datum | MdsliteError

# A smaller array is copied when it is read, so that it keeps no block from being used again.
_LENT_FROM_BYTES = 64 << 10
_LONGEST_MESSAGE = 4000  # characters of an error's that cross
_MAX_RANK = 32
_PLAIN_KINDS = "biufcSUmM"
_ERRORS: dict[str, type[MdsliteError]] = {
    kind.code: kind
    for kind in (
        ModelError,
        InvalidJson,
        InvalidRequest,
        Unavailable,
        OutOfMemory,
        TooLarge,
        DeadlineExceeded,
        ClientClosed,
    )
}


class BadFrame(Exception):
    """A frame that does not hold together."""


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """An error that one row met."""

    code: str
    message: str
    hint: str | None = None


Kind = tuple[str, tuple[int, ...]]  # dtype and shape of an array


class Table(msgspec.Struct, frozen=True, array_like=True):
    """What a frame holds: the bytes of each row, and by its place what it is if no JSON text. Where all are
    arrays of one kind, `stack` is it, and they lie there as one array, whose first axis is rows."""

    sizes: list[int]
    stack: Kind | None = None
    arrays: dict[int, Kind] = {}
    bodies: dict[int, str] = {}  # media types
    faults: dict[int, Fault] = {}
    confidences: list[float | None] = []


class Frame:
    """Rows that are about to be written into a block, where they take no more than `size_bytes`."""

    def __init__(self, rows: Sequence[Row], confidences: Sequence[float | None] = ()) -> None:
        self.rows = rows
        self._stack = _as_stack(rows)
        table = (
            _make_table(rows, confidences) if self._stack is None else _stack_table(self._stack, confidences)
        )
        self.table = _encode(table)
        self.size_bytes = len(self.table) + sum(table.sizes) + ALIGNMENT * (1 + len(table.arrays))

    def write(self, block: Block) -> None:
        block.write(0, self.table)
        at = aligned(len(self.table))
        if self._stack is not None:
            block.write_stack(at, self._stack)
            return
        for row in self.rows:
            if isinstance(row, bytes):
                block.write(at, row)
                at += len(row)
            elif isinstance(row, np.ndarray):
                at = aligned(at)
                block.write_array(at, row)
                at += row.nbytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Table).decode


def make_frames(rows: Sequence[Row], confidences: Sequence[float | None] = ()) -> Iterator[Frame]:
    """One frame, or as many as it takes for each to fit into a block. No row alone may be too large."""
    frame = Frame(rows, confidences)
    if frame.size_bytes <= LARGEST_BYTES or len(rows) == 1:
        yield frame
    else:
        half = len(rows) // 2
        yield from make_frames(rows[:half], confidences[:half])
        yield from make_frames(rows[half:], confidences[half:])


def find_obstacle(row: Row, what: str) -> str | None:
    """Why a row cannot cross, None when it can. `what` names it, such as `the instance`."""
    if isinstance(row, bytes):
        size_bytes = len(row)
    elif isinstance(row, np.ndarray):
        if not _is_plain(row.dtype):
            return f"{what} is an array of dtype {row.dtype}: expected numbers, texts or times"
        size_bytes = row.nbytes
    else:
        return None
    if size_bytes + _LONGEST_MESSAGE > LARGEST_BYTES:
        return f"{what} takes {size_text(size_bytes)}: at most {size_text(LARGEST_BYTES)} can cross at once"
    return None


def find_refused(data: Sequence[Datum]) -> dict[int, MdsliteError]:
    """Those data that no package can be given, however it is isolated, by their place."""
    found: dict[int, MdsliteError] = {}
    for place, datum in enumerate(data):
        obstacle = find_obstacle(datum, "the instance")
        if obstacle is not None:
            found[place] = InvalidRequest(obstacle)
    return found


def with_refused(answers: Answers, refused: dict[int, MdsliteError]) -> Answers:
    """The answers to all data, when those that were refused had been left out."""
    if refused:
        rows, confidences = list(answers), list(answers.confidences)
        for place, error in refused.items():
            rows.insert(place, error)
            confidences.insert(place, None)
        answers = Answers(rows, confidences=confidences)
    return answers


def read_data(block: Block, table_bytes: int) -> list[Datum]:
    """Read a frame of data.

    :raises BadFrame: it does not hold together
    """
    return [row for row in read_rows(block, table_bytes) if not isinstance(row, MdsliteError)]


def read_rows(block: Block, table_bytes: int) -> Answers:
    """Read a frame. Texts and small arrays are copied; large arrays are views, which keep the block lent.

    :raises BadFrame: it does not hold together
    """
    if not 0 <= table_bytes <= block.size_bytes:
        raise BadFrame("a table that is larger than its block")
    try:
        table = _decode(block.read(0, table_bytes))
    except msgspec.DecodeError as exc:
        raise BadFrame(f"a table that is none: {exc}") from exc
    count = len(table.sizes)
    if table.confidences and len(table.confidences) != count:
        raise BadFrame(f"{len(table.confidences)} confidences for {count} rows")
    at = aligned(table_bytes)
    if table.stack is not None:
        name, shape = table.stack
        if not shape:
            raise BadFrame("a stack of scalars")
        stack = _read_array(block, at, sum(table.sizes), name, (count, *shape))
        return Answers(stack, confidences=table.confidences)
    rows: list[Row] = []
    for place, size in enumerate(table.sizes):
        if place in table.arrays:
            at = aligned(at)
        if size < 0 or at + size > block.size_bytes:
            raise BadFrame("a row that reaches beyond its block")
        rows.append(_read_row(block, at, size, place, table))
        at += size
    return Answers(rows, confidences=table.confidences)


def _read_row(block: Block, at: int, size: int, place: int, table: Table) -> Row:
    shape = table.arrays.get(place)
    if shape is not None:
        return _read_array(block, at, size, *shape)
    fault = table.faults.get(place)
    if fault is not None:
        return _ERRORS.get(fault.code, ModelError)(fault.message, hint=fault.hint)
    kind = table.bodies.get(place)
    data = block.read(at, size)
    return data if kind is None else mds.Body(data, kind)


def _read_array(block: Block, at: int, size: int, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError) as exc:
        raise BadFrame(f"an array of dtype {name!r}") from exc
    wrong = len(shape) > _MAX_RANK or min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != size
    if wrong or at + size > block.size_bytes or not _is_plain(dtype):
        raise BadFrame(f"an array of shape {list(shape)} and {dtype} in {size} bytes")
    view = block.borrow(at, shape, dtype)
    if size >= _LENT_FROM_BYTES:
        return view
    own = view.copy()
    own.flags.writeable = False  # as the large ones, and as those of a body are
    return own


def _as_stack(rows: Sequence[Row]) -> Sequence[np.ndarray[Any, Any]] | None:
    """The rows, if all are arrays of one kind."""
    arrays = [row for row in rows if isinstance(row, np.ndarray)]
    if not arrays or len(arrays) < len(rows):
        return None
    dtype, shape = arrays[0].dtype, arrays[0].shape
    alike = bool(shape) and all(one.shape == shape and one.dtype == dtype for one in arrays)
    return arrays if alike else None


def _stack_table(arrays: Sequence[np.ndarray[Any, Any]], confidences: Sequence[float | None]) -> Table:
    first = arrays[0]
    return Table([first.nbytes] * len(arrays), (first.dtype.str, first.shape), confidences=list(confidences))


def _make_table(rows: Sequence[Row], confidences: Sequence[float | None]) -> Table:
    sizes: list[int] = []
    arrays: dict[int, Kind] = {}
    bodies: dict[int, str] = {}
    faults: dict[int, Fault] = {}
    for place, row in enumerate(rows):
        if isinstance(row, bytes):
            sizes.append(len(row))
            if isinstance(row, mds.Body):
                bodies[place] = row.content_type
        elif isinstance(row, np.ndarray):
            sizes.append(row.nbytes)
            arrays[place] = row.dtype.str, row.shape
        else:
            sizes.append(0)
            faults[place] = Fault(row.code, row.message[:_LONGEST_MESSAGE], row.hint)
    return Table(sizes, None, arrays, bodies, faults, list(confidences))


def _is_plain(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in _PLAIN_KINDS and dtype.type.__module__ == "numpy"
