"""A block: shared memory of a fixed size, through which the appliance and a package's process exchange data.

It knows bytes and nothing of what they mean. Whoever holds a view of a block's array keeps its memory alive
after the block was given up, and `lent` tells whether anybody does: what was lent is not written over.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdslite.errors import OutOfMemory
from mdslite.process import size_text

SMALLEST_BYTES = 256 << 10
LARGEST_BYTES = 257 << 20  # the largest body of a request, and what is said about it
ALIGNMENT = 64
# A copy of as many bytes is worth releasing the interpreter lock for, which NumPy does and a slice does not.
_LONG_BYTES = 32 << 10


class Block:
    """`size_bytes` of shared memory, mapped into this process. `number` is its name on both sides."""

    def __init__(self, number: int, size_bytes: int, descriptor: int) -> None:
        self.number = number
        self.size_bytes = size_bytes
        self.memory = mmap.mmap(descriptor, size_bytes)
        self._view = memoryview(self.memory)
        self._array: np.ndarray[Any, Any] = np.frombuffer(self.memory, np.uint8)
        self._references = sys.getrefcount(self._array)

    @property
    def lent(self) -> bool:
        """Does anybody hold a view that `borrow` gave?"""
        return sys.getrefcount(self._array) > self._references

    def write(self, at: int, data: bytes) -> None:
        """Copy bytes to [at, at + len(data))."""
        if len(data) < _LONG_BYTES:
            self._view[at : at + len(data)] = data
        else:
            np.copyto(self._array[at : at + len(data)], np.frombuffer(data, np.uint8))

    def write_array(self, at: int, array: np.ndarray[Any, Any]) -> None:
        """Copy an array's elements, in C order whatever its own."""
        target = np.frombuffer(self.memory, array.dtype, array.size, at)
        np.copyto(target.reshape(array.shape), array)

    def write_stack(self, at: int, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        """Copy arrays of one dtype and shape, back to back."""
        first = arrays[0]
        target = np.frombuffer(self.memory, first.dtype, first.size * len(arrays), at)
        np.stack(arrays, out=target.reshape(len(arrays), *first.shape))

    def read(self, at: int, size_bytes: int) -> bytes:
        """A copy of [at, at + size_bytes)."""
        return self.memory[at : at + size_bytes]

    def borrow(self, at: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """A view of an array in here, which cannot be written to."""
        count = dtype.itemsize
        for size in shape:
            count *= size
        view = self._array[at : at + count].view(dtype).reshape(shape)
        view.flags.writeable = False
        return view


def make_block(number: int, needs_bytes: int) -> tuple[Block, int]:
    """A new block with room for at least `needs_bytes`, and its descriptor to send to the other side.

    :raises OutOfMemory: this machine has no memory for it, or it would be too large
    """
    size = SMALLEST_BYTES
    while size < min(needs_bytes, LARGEST_BYTES):
        size *= 2
    size = min(size, LARGEST_BYTES)
    if size < needs_bytes or size > _available_bytes():
        raise OutOfMemory(
            f"there is no shared memory of {size_text(needs_bytes)} for the batch", retry_after_s=1
        )
    descriptor = os.memfd_create(f"mdslite block {number}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, size)  # which a batch would wait for otherwise, page by page
        # The other side cannot take away what is mapped here.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return Block(number, size, descriptor), descriptor
    except OSError as exc:
        os.close(descriptor)
        raise OutOfMemory(f"no shared memory for the batch: {exc.strerror}", retry_after_s=1) from exc
    except BaseException:
        os.close(descriptor)
        raise


def aligned(at: int) -> int:
    """The next offset from which an array of any type may begin."""
    return -(-at // ALIGNMENT) * ALIGNMENT


def _available_bytes() -> int:
    """Memory that this machine can give without taking it from anybody. A block is really taken when it is
    made, and the kernel would sooner kill a process than refuse that."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return LARGEST_BYTES
