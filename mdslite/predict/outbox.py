"""Replies on their way to their sockets: those of one batch are held until all of them are put, then written.

A client on the same machine that has nothing else to do sleeps again before the next answer is put, and to
wake it costs as much as to write. So it is woken once for many answers. The first of them waits for the last,
some tenths of a millisecond.
"""

from __future__ import annotations

import asyncio

LARGE_BYTES = 16 * 1024  # such a reply takes longer to write than somebody to wake


class Outbox:
    """Holds replies within a `with`; none is held back once that is left, however it is. Used on the event
    loop's thread only, and never left to the loop in between: whose connection is open stays so."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: list[tuple[asyncio.WriteTransport, bytes]] | None = None

    def send(self, transport: asyncio.WriteTransport, reply: bytes) -> None:
        """Write a whole reply, now or at the end."""
        held = self._held
        if held is None or len(reply) > LARGE_BYTES:
            transport.write(reply)
        else:
            held.append((transport, reply))

    def __enter__(self) -> None:
        self._held = []

    def __exit__(self, *_: object) -> None:
        held, self._held = self._held or (), None
        for transport, reply in held:
            transport.write(reply)
