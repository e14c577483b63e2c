"""What the journal and its writer's process say to each other over a socket: one question, one answer. Owns
the form of messages; rows themselves go through the ring."""

from __future__ import annotations

import socket
import struct
from time import monotonic
from typing import TypeVar

import msgspec

from mdslite.store.tallies import Tally

_LENGTH = struct.Struct("<I")
M = TypeVar("M", bound=msgspec.Struct)


class Order(msgspec.Struct, frozen=True):
    """What a new writer is started with: where it writes, and where it goes on."""

    folder: str
    ring: int  # this ring's number, by which the files know it
    start: int  # before it, all is settled
    counted: int  # before it, all is counted
    max_age_s: float
    max_bytes: int
    sample_bytes: int  # of bodies that no rule asked for, in all files
    drift: str = ""  # the folder of what is known of drift; without one nothing is watched


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """Write what stands before `head`."""

    head: int
    now: bool  # even if the disk refused a moment ago
    end: bool  # there will be no other question


class Report(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What was done since the last report. Before `settled` all is written or lost; before `counted` all is
    in the tallies."""

    settled: int
    counted: int
    written: int  # rows
    lost: int  # rows
    malformed: int  # rows
    bodies: int  # kept
    bodies_left_out: int  # chosen, but there was no room for them
    size_bytes: int  # of the log's files, when the folder was last looked at
    sampled_bytes: int  # of the log's own sample of bodies in them
    trouble: str | None
    set_aside: list[str]
    notes: list[str]  # what a person should read
    tallies: list[Tally]


def send(end: socket.socket, message: msgspec.Struct) -> None:
    """
    :raises OSError: the other side is gone, or does not read in the socket's time
    """
    end.sendall(frame(message))


def frame(message: msgspec.Struct) -> bytes:
    """A message as it goes over a socket."""
    data = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(data)) + data


def receive(end: socket.socket, kind: type[M], *, timeout_s: float | None = None) -> M | None:
    """The next message; None when the other side has closed.

    :raises TimeoutError: none came in time
    :raises OSError: the socket is broken
    """
    until = None if timeout_s is None else monotonic() + timeout_s
    head = _read(end, _LENGTH.size, until)
    if head is None:
        return None
    data = _read(end, _LENGTH.unpack(head)[0], until)
    return None if data is None else msgspec.msgpack.decode(data, type=kind)


def _read(end: socket.socket, size_bytes: int, until: float | None) -> bytes | None:
    data = bytearray()
    while len(data) < size_bytes:
        end.settimeout(None if until is None else max(0.001, until - monotonic()))
        some = end.recv(size_bytes - len(data))
        if not some:
            return None
        data += some
    return bytes(data)
