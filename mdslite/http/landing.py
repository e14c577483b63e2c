"""Where a large body of known length comes down: one buffer, into which the transport reads from the socket.

llhttp would hand it over in pieces, each a copy, to be put together by another. So the parser sees no more of
such a message than its head and what came in the same read; the rest goes from the kernel to where the
runtime will read it. The buffer is laid so that what follows the JSON of a binary infer request, or the head
of a .npy file, is aligned for any runtime.
"""

from __future__ import annotations

import asyncio
import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from mdslite.errors import Unavailable

if TYPE_CHECKING:
    from mdslite.http.receiver import Receiver

ALIGNMENT = 64
_HEAP_BYTES = 4 * 1024 * 1024


class Landing(asyncio.BufferedProtocol):
    """The protocol of a connection while a body lands; everything else is the receiver's, as before.

    A page of the buffer costs memory only once something is written into it: a client that announces much and
    sends little gets little.
    """

    def __init__(self, receiver: Receiver, size_bytes: int, *, aligned_at: int) -> None:
        self._receiver = receiver
        try:
            space = _make_space(size_bytes + ALIGNMENT)
        except (MemoryError, OSError) as exc:
            raise Unavailable(
                f"there is no memory for a body of {size_bytes} bytes", retry_after_s=1
            ) from exc
        start = -(space.ctypes.data + aligned_at) % ALIGNMENT
        self.view = space[start : start + size_bytes].data
        self._rest = self.view

    @property
    def missing_bytes(self) -> int:
        return len(self._rest)

    def put(self, data: bytes | memoryview) -> int:
        """Take the next bytes, as many as there is room for; returns how many those were."""
        count = min(len(data), len(self._rest))
        self._rest[:count] = data[:count]
        self._rest = self._rest[count:]
        return count

    # The transport's side

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._rest

    def buffer_updated(self, nbytes: int) -> None:
        self._rest = self._rest[nbytes:]
        self._receiver.landed(nbytes)

    def pause_writing(self) -> None:
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self._receiver.resume_writing()

    def eof_received(self) -> bool | None:
        return self._receiver.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver.connection_lost(exc)


def _make_space(size_bytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Memory that is not touched yet. The heap's is quicker to have; but NumPy wants much in huge pages,
    and the first byte in one costs two megabytes."""
    if size_bytes < _HEAP_BYTES:
        return np.empty(size_bytes, np.uint8)
    pages = mmap.mmap(-1, size_bytes)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, np.uint8)
