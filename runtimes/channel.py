"""The control messages between the appliance and a process that computes for it, and the socket for them.

One message is one packet of a socket pair: something else that writes into the socket spoils one message,
which is found out, and not all that follow. Data never goes this way, only the descriptors of the blocks
(`blocks`) where it lies.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from mdslite.runtimes.protocol import LoadOptions, PackageReport, Signature

_PACKET_BYTES = 64 << 10
LONGEST_TEXT = 4000  # characters of a text in a message

Stage = Literal["imported", "built", "warmed up", "opened"]


class _Message(msgspec.Struct, array_like=True, tag=True):
    pass


# From the appliance


class Open(_Message):
    """The first message: what to import. With `build`, the class is then built and warmed up, and served."""

    path: str
    handler: str | None
    build: bool


class OpenModel(_Message):
    """The first message to a process that serves a model's file: what to open it with."""

    path: str
    runtime: str
    options: LoadOptions


class Share(_Message):
    """A block, whose descriptor comes with the message; block `instead_of` is not used any more."""

    number: int
    size_bytes: int
    instead_of: int | None = None


class Run(_Message):
    """A batch lies in block `data`; its answers go into block `answers`."""

    data: int
    answers: int
    table_bytes: int
    confidence: str | None
    tensors: bool
    streams: bool


class Next(_Message):
    """What lay in the block of answers was read, or a larger `block` (`Room`) is there. `go` is False when no
    more pieces are wanted, or there is no memory for a larger block."""

    go: bool = True
    block: int | None = None


class Check(_Message):
    """Run the health check."""


# From the process


class Entered(_Message):
    """It is now being imported, built or warmed up."""

    stage: Stage


class Described(_Message):
    """The package is imported; `report` says what it is."""

    report: PackageReport
    memory_bytes: int


class Ready(_Message):
    """The class is built and warm."""


class Serves(_Message):
    """The model is open."""

    signature: Signature
    provider: str
    threads: int


class Refused(_Message):
    """The package or the model could not be opened."""

    message: str
    hint: str | None = None


class Room(_Message):
    """The answers take so many bytes: a larger block is wanted (`Share`)."""

    size_bytes: int


class Part(_Message):
    """Answers lie in the block, and `last` says that no more follow. `lent`: the data's block is in use."""

    table_bytes: int
    last: bool
    lent: bool = False


class Piece(_Message):
    """One item of a stream lies in the block, as JSON text."""

    size_bytes: int


class Checked(_Message):
    """How the health check went: None is well."""

    problem: str | None


Order = Open | OpenModel | Share | Run | Next | Check
Reply = Entered | Described | Ready | Serves | Refused | Room | Part | Piece | Checked


class Channel:
    """One end of the socket pair. `receive` gives None when the other end is closed."""

    def __init__(self, end: socket.socket, kind: Any) -> None:
        self._end = end
        self._pid = os.getpid()
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._encode = msgspec.msgpack.Encoder().encode

    def send(self, message: Order | Reply, descriptors: Sequence[int] = ()) -> None:
        """Send one message.

        :raises OSError: the other end is closed
        """
        self.leave_fork()
        data = self._encode(message)
        if descriptors:
            socket.send_fds(self._end, [data], list(descriptors), socket.MSG_NOSIGNAL)
        else:
            self._end.send(data, socket.MSG_NOSIGNAL)

    def leave_fork(self) -> None:
        """Exit if this is a copy of the process that the channel belongs to: a fork that came out of user
        code, which shares the blocks and the socket, and would answer in its place."""
        if os.getpid() != self._pid:
            os._exit(0)

    def receive(self) -> Any:
        """The next message; None at the end.

        :raises msgspec.DecodeError: it is no message
        :raises OSError: the socket is broken, or its time limit passed (TimeoutError)
        """
        data = self._end.recv(_PACKET_BYTES)
        return self._decode(data) if data else None

    def receive_with_descriptor(self) -> tuple[Any, int]:
        """The next message and the descriptor that came with it, -1 if none did."""
        data, descriptors, _, _ = socket.recv_fds(self._end, _PACKET_BYTES, 1)
        return (self._decode(data) if data else None), (descriptors[0] if descriptors else -1)

    def limit(self, wait_s: float | None) -> None:
        """How long a `receive` may wait from now on."""
        self._end.settimeout(wait_s)

    def shut(self) -> None:
        """End the conversation: both sides' `receive` give None. From any thread."""
        try:
            self._end.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        self._end.close()


def shorten(text: str) -> str:
    """A text that fits into a message."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 3] + "..."
