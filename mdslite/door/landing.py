"""Where a large body of known length comes down: one buffer, into which the transport reads from the socket.

llhttp would hand it over in pieces, each a copy, to be put together by another. So the parser sees no more of
such a message than its head and what came in the same read; the rest goes from the kernel to where the
runtime will read it. The buffer is laid so that what follows the JSON of a binary infer request, or the head
of a .npy file, is aligned for any runtime.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from mdslite.errors import MdsliteError, Unavailable
from mdslite.http.budget import Claim, bind, claim_body, make_space

if TYPE_CHECKING:
    from mdslite.door.receiver import Receiver

ALIGNMENT = 64


class Landing(asyncio.BufferedProtocol):
    """The protocol of a connection while a body lands; everything else is the receiver's, as before.

    A page of the buffer costs memory only once something is written into it: a client that announces much and
    sends little gets little.
    """

    def __init__(self, receiver: Receiver, size_bytes: int, *, aligned_at: int) -> None:
        self._receiver = receiver
        self._claim = claim_body(size_bytes)
        try:
            space = make_space(size_bytes + ALIGNMENT)
        except (MemoryError, OSError) as exc:
            raise Unavailable(
                f"there is no memory for a body of {size_bytes} bytes", retry_after_s=1
            ) from exc
        bind(self._claim, space)
        start = -(space.ctypes.data + aligned_at) % ALIGNMENT
        self._rest = self._view = space[start : start + size_bytes].data

    @property
    def missing_bytes(self) -> int:
        return len(self._rest)

    def put(self, data: bytes | memoryview) -> int:
        """Take the next bytes, as many as there is room for; returns how many those were.

        :raises Unavailable: large bodies have taken all there is for them
        """
        count = min(len(data), len(self._rest))
        self.count(count)
        self._rest[:count] = data[:count]
        self._rest = self._rest[count:]
        return count

    def count(self, size_bytes: int) -> None:
        """:raises Unavailable: as `put`"""
        if self._claim is not None:
            self._claim.grow(size_bytes)

    def take(self) -> memoryview:
        """The body, which is whole. It is its taker's alone: a transport may remember who it read for."""
        view = self._view
        self._view = self._rest = memoryview(b"")
        if self._claim is not None:
            self._claim.settle(len(view))
        return view

    def drop(self) -> None:
        """Make room for others at once: whoever was told that there was none may still know this buffer."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    # The transport's side

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._rest

    def buffer_updated(self, nbytes: int) -> None:
        self._rest = self._rest[nbytes:]
        try:
            self.count(nbytes)
        except MdsliteError as exc:
            self._receiver.cannot_land(exc)
            return
        self._receiver.landed(nbytes)

    def pause_writing(self) -> None:
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self._receiver.resume_writing()

    def eof_received(self) -> bool | None:
        return self._receiver.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver.connection_lost(exc)


def whole_body(
    landing: Landing | None, pieces: bytes | bytearray, claim: Claim | None, *, is_tensor: bool
) -> bytes | memoryview:
    """A large body that landed, or came in pieces and has a claim. Only tensors stay where they came down."""
    if landing is not None:
        view = landing.take()
        return view if is_tensor else bytes(view)
    if not is_tensor:
        return bytes(pieces)
    space = np.frombuffer(pieces, np.uint8)
    bind(claim, space)
    return space.data
