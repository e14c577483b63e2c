"""The header of an RPC, from its compressed block to what is asked. A client sends the same block again and
again: as long as none of those between has changed the table that it refers to, what it means is remembered.
Owns one connection's table.
"""

from __future__ import annotations

import math
import re
from typing import Any

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from mdslite.errors import HeadTooLong, InvalidRequest, MdsliteError, UnsupportedMedia
from mdslite.http.request import UNPACKED_BYTES, check_repeated, is_long, long_head
from mdslite.rpc.frames import read_timeout

_HEADS_MAX = 64
_TYPE = b"application/grpc"
# What RFC 9113 demands and forbids, in 8.2.1, 8.2.2 and 8.3.1.
_REQUIRED = frozenset({b":method", b":path", b":scheme"})
_PSEUDO = _REQUIRED | {b":authority"}
_OF_CONNECTIONS = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_NAME = re.compile(rb"[!-9;-@\[-~]+")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_STRAY = re.compile(rb"[\0\r\n]|\A[ \t]|[ \t]\Z")


class BadBlock(Exception):
    """A block that cannot be read: what comes after it cannot be, either."""


class LongBlock(BadBlock):
    """One that stands for more than is unpacked."""


class Head:
    """What an RPC begins with. `malformed`: it is no request of HTTP/2 (RFC 9113, 8.1.1). `error` is what
    else is wrong with it; `length` how many bytes of messages it announces, infinite where it does not say;
    `method` whoever answers it, once asked."""

    __slots__ = (
        "coding",
        "error",
        "fields",
        "is_grpc",
        "length",
        "malformed",
        "metadata",
        "method",
        "path",
        "timeout_s",
    )

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.metadata = [field for field in headers if not field[0].startswith(b":")]
        self.fields = dict(self.metadata)
        pseudo = {name: value for name, value in headers if name.startswith(b":")}
        self.path = pseudo.get(b":path", b"").decode("latin-1")
        self.coding = self.fields.get(b"grpc-encoding", b"identity")
        kind, _, _ = self.fields.get(b"content-type", b"").partition(b";")
        self.is_grpc = kind == _TYPE or kind.startswith(_TYPE + b"+")
        self.timeout_s = math.inf
        self.method: Any = None
        self.error: MdsliteError | None = None
        self.malformed = self._is_malformed(headers, pseudo)
        length = self.fields.get(b"content-length")
        self.length = math.inf if length is None or self.malformed else int(length)
        try:
            self._check(headers, pseudo)
        except MdsliteError as exc:
            self.error = exc.with_traceback(None)

    def _is_malformed(self, headers: list[tuple[bytes, bytes]], pseudo: dict[bytes, bytes]) -> bool:
        first = headers[: len(headers) - len(self.metadata)]
        lengths = {value for name, value in self.metadata if name == b"content-length"}
        return (
            len(pseudo) != len(first)
            or not all(name.startswith(b":") for name, _ in first)
            or not _REQUIRED <= pseudo.keys() <= _PSEUDO
            or not pseudo[b":path"]
            or not _OF_CONNECTIONS.isdisjoint(self.fields)
            or any(value != b"trailers" for name, value in self.metadata if name == b"te")
            or len(lengths) > 1
            or any(_LENGTH.fullmatch(value) is None for value in lengths)
            or any(_NAME.fullmatch(name) is None for name, _ in self.metadata)
            or any(_STRAY.search(value) is not None for _, value in headers)
        )

    def _check(self, headers: list[tuple[bytes, bytes]], pseudo: dict[bytes, bytes]) -> None:
        names = [name for name, _ in headers]
        # HTTP/1.1 has the authority among its fields, too.
        if is_long(pseudo.get(b":path", b""), [one for one in headers if one[0] not in _REQUIRED]):
            raise long_head()
        if pseudo.get(b":method") != b"POST":
            raise InvalidRequest("expected the method POST")
        check_repeated(self.metadata)
        for name in (b"grpc-timeout", b"grpc-encoding"):
            if names.count(name) > 1:
                raise InvalidRequest(f"expected one {name.decode()}, got {names.count(name)}")
        if b"grpc-timeout" in self.fields:
            try:
                self.timeout_s = read_timeout(self.fields[b"grpc-timeout"])
            except ValueError:
                raise InvalidRequest("grpc-timeout: expected up to 8 digits and one of H M S m u n") from None
        if self.coding not in (b"identity", b"gzip", b"deflate"):
            raise UnsupportedMedia("grpc-encoding: expected identity, gzip or deflate")


class Heads:
    """Reads the header blocks of one connection, each of them and in their order."""

    def __init__(self) -> None:
        self._decoder = Decoder(UNPACKED_BYTES)
        self._known: dict[bytes, Head] = {}
        self.get = self._known.get  # what a block means, if that is remembered

    def read(self, block: bytes) -> Head:
        """:raises BadBlock: it cannot be read, or is too long"""
        known = self._known.get(block)
        if known is not None:
            return known
        before = self._state()
        try:
            headers = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError as exc:
            raise LongBlock(str(exc)) from exc
        except HPACKError as exc:
            raise BadBlock(str(exc)) from exc
        head = Head([(bytes(name), bytes(value)) for name, value in headers])
        after = self._state()
        if before[0] != after[0] or before[1] is not after[1] or before[2] is not after[2]:
            self._known.clear()
        elif len(self._known) < _HEADS_MAX and not isinstance(head.error, HeadTooLong):
            self._known[block] = head
        return head

    def _state(self) -> tuple[int, object, object]:
        """What tells the table from itself after a change: its ends are other objects."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return (table.maxsize, entries[0], entries[-1]) if entries else (table.maxsize, None, None)
