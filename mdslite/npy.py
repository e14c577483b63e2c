"""NumPy's `.npy` format, as it comes from strangers: one array, never a pickle."""

from __future__ import annotations

import io
import math
import re
import tokenize
from typing import Any

import numpy as np

from mdslite.errors import InvalidRequest, InvalidTensor, UnsupportedMedia
from mdslite.syntax import built

NPY = b"application/x-npy"
MAGIC = b"\x93NUMPY"  # what such a body begins with
MAX_RANK = 32
_HEAD_BYTES = 16 * 1024  # NumPy refuses a header of more than 10,000
_PICKLE = re.compile(rb"\x80[\x02-\x05]")  # what every protocol of it begins with that is in use
_NUMBERS_HINT = "numpy.save writes an array of numbers as .npy, without pickling"
# NumPy reads the header with `ast.literal_eval`, and what that raises on hostile text passes through.
_HEADER_ERRORS = (
    ValueError,
    KeyError,
    TypeError,
    SyntaxError,
    RecursionError,
    MemoryError,
    tokenize.TokenError,
)


def read_npy(body: bytes | memoryview) -> np.ndarray[Any, Any]:
    """Read one array; its bytes are not copied, and may be of any byte order and memory layout.

    :raises InvalidRequest: it is no `.npy` array
    :raises InvalidTensor: its shape disagrees with its bytes
    :raises UnsupportedMedia: it is a pickle, or holds pickled objects, which are never loaded
    """
    if _PICKLE.match(body[:2]):
        raise UnsupportedMedia("the body is a pickle, which is never loaded", hint=_NUMBERS_HINT)
    stream = io.BytesIO(body[:_HEAD_BYTES])
    try:
        shape, fortran, dtype = built(lambda: _read_header(stream))
    except _HEADER_ERRORS as exc:
        raise InvalidRequest(
            "the body is no .npy array of format 1.0 or 2.0", hint="numpy.save writes one"
        ) from exc
    if dtype.hasobject:
        raise UnsupportedMedia(
            "the .npy array holds pickled Python objects, which are never loaded", hint=_NUMBERS_HINT
        )
    if len(shape) > MAX_RANK or any(type(size) is not int for size in shape):
        raise InvalidTensor(f".npy header: expected a shape of at most {MAX_RANK} integers")
    size_bytes = len(body) - stream.tell()
    wrong = InvalidTensor(
        f".npy header says shape {list(shape)} of {dtype}, which is not the {size_bytes} bytes that follow"
    )
    count = math.prod(shape)
    if any(size < 0 for size in shape) or count * dtype.itemsize != size_bytes:
        raise wrong
    flat = np.frombuffer(body, dtype=dtype, count=count, offset=stream.tell())
    try:
        return flat.reshape(shape, order="F" if fortran else "C")
    except ValueError as exc:  # no bytes follow, and the sizes beside the 0 overflow
        raise wrong from exc


def _read_header(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream.seek(0)
    version = np.lib.format.read_magic(stream)
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return reader[version](stream)
