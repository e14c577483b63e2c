"""The listening sockets of a port that speaks TLS. Owns what they accepted until the handshake is done; from
then on a connection is the protocol's that `make` returns.

It looks at a connection's first byte before it begins a handshake: each gets the context that is the present
one then, and one that speaks plain HTTP is told so in plain HTTP, where a TLS library would hang up.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import cast

from mdslite.errors import AddressInUse, InvalidRequest, MdsliteError
from mdslite.http.guard import error_body, make_request_id

logger = logging.getLogger(__name__)

_HANDSHAKE = b"\x16"  # the type of the record that every TLS connection begins with
_ACCEPTS = 64  # at most so many at once, then others have their turn
_REST_S = 0.1  # after the process ran out of files
_LINGER_S = 2.0
_LINGER_BYTES = 64 * 1024
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


# A packet that wants a new connection has the flag SYN and not ACK, in byte 13 of its head. As the kernel
# takes filters: an instruction is (code, jump if true, jump if false, operand).
_DROP_NEW = (
    (0x30, 0, 0, 13),  # load that byte
    (0x54, 0, 0, 0x12),  # of it, ACK and SYN
    (0x15, 0, 1, 0x02),  # just SYN?
    (0x06, 0, 0, 0),  # then take nothing of the packet
    (0x06, 0, 0, 0xFFFF_FFFF),  # else all of it
)
_SO_ATTACH_FILTER = 26


def drop_new(listening: socket.socket) -> None:
    """Have the kernel ignore who wants a new connection from now on, and take those that are under way.

    A socket that is closed resets those that it has not given out yet, requests and all; who is ignored tries
    again, and is refused once it is closed.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in _DROP_NEW))
    described = struct.pack("HP", len(_DROP_NEW), ctypes.addressof(program))
    with contextlib.suppress(OSError):  # a kernel that has no filters: as it would be without
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def open_sockets(host: str, port: int, *, backlog: int) -> list[socket.socket]:
    """Listen on every address of a host; on any free port, the same for all, when it is 0.

    :raises OSError: an address cannot be had
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            listening = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind((address[0], port, *address[2:]))
            listening.listen(backlog)
            port = listening.getsockname()[1]
    except OSError:
        for one in sockets:
            one.close()
        raise
    return sockets


def unheard(exc: OSError, place: str, *, hint: str) -> MdsliteError:
    """Why nobody can listen at a place; `hint` says what to do where it is its port that cannot be had."""
    reason = exc.strerror if isinstance(exc, socket.gaierror) else os.strerror(exc.errno or 0)
    kind = AddressInUse if exc.errno == errno.EADDRINUSE else InvalidRequest
    if isinstance(exc, socket.gaierror):
        hint = "check the name, or give an address of this machine with --host"
    elif exc.errno == errno.EADDRNOTAVAIL:
        hint = "give an address of this machine with --host (ip address lists them); 0.0.0.0 is all of them"
    return kind(f"cannot listen on {place}: {reason}", hint=hint)


class TlsListener:
    """Used on one event loop. `context` is asked for at the beginning of each handshake; no more than `bound`
    connections may be on the way to the end of theirs, and `timeout_s` is what one may take from its first
    moment on."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make: Callable[[], asyncio.Protocol],
        context: Callable[[], ssl.SSLContext],
        *,
        timeout_s: float,
        bound: int,
        count: Callable[[str], None],
    ) -> None:
        self._sockets = sockets
        self._make = make
        self._context = context
        self._timeout_s = timeout_s
        self._bound = bound
        self._count = count  # connections that came to nothing, by reason
        self._loop = asyncio.get_running_loop()
        self._silent: dict[socket.socket, asyncio.TimerHandle] = {}  # those that have not said a word
        self._tasks: set[asyncio.Task[None]] = set()
        self._explained: set[asyncio.Transport] = set()
        self._resting: asyncio.TimerHandle | None = None

    def start(self) -> None:
        for listening in self._sockets:
            listening.setblocking(False)
            self._loop.add_reader(listening, self._accept, listening)

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """Those that still listen."""
        return [one for one in self._sockets if one.fileno() >= 0]

    def close(self) -> None:
        """Accept no more. Handshakes go on, and connections are others' affair."""
        if self._resting is not None:
            self._resting.cancel()
        for listening in self._sockets:
            if listening.fileno() >= 0:
                self._loop.remove_reader(listening)
                listening.close()

    async def finish(self) -> None:
        """End what has not become a connection."""
        self.close()
        for connection in list(self._silent):
            self._forget(connection)
            connection.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for transport in list(self._explained):
            transport.abort()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                if exc.errno not in _EXHAUSTED:
                    raise
                logger.error("no connection can be accepted: %s", exc.strerror)
                for one in self._sockets:
                    self._loop.remove_reader(one)
                self._resting = self._loop.call_later(_REST_S, self.start)
                return
            if len(self._silent) + len(self._tasks) >= self._bound:
                self._count("too_many")
                connection.close()
                continue
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            until = perf_counter() + self._timeout_s
            self._silent[connection] = self._loop.call_later(self._timeout_s, self._give_up, connection)
            self._loop.add_reader(connection, self._look, connection, until)

    def _give_up(self, connection: socket.socket) -> None:
        self._forget(connection)
        self._count("slow_handshake")
        connection.close()

    def _look(self, connection: socket.socket, until: float) -> None:
        """A connection has said something, or left."""
        try:
            first = connection.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            first = b""
        self._forget(connection)
        if not first:
            connection.close()
            return
        work = self._shake_hands(connection, until) if first == _HANDSHAKE else self._explain(connection)
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._done(task, connection))

    def _done(self, task: asyncio.Task[None], connection: socket.socket) -> None:
        self._tasks.discard(task)
        if task.cancelled():  # maybe before it took its first step
            connection.close()

    def _forget(self, connection: socket.socket) -> None:
        self._loop.remove_reader(connection)
        self._silent.pop(connection).cancel()

    async def _shake_hands(self, connection: socket.socket, until: float) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make,
                connection,
                ssl=self._context(),
                ssl_handshake_timeout=max(0.1, until - perf_counter()),
                ssl_shutdown_timeout=self._timeout_s,
            )
        except (OSError, TimeoutError) as exc:  # which ssl.SSLError is one of
            self._count("failed_handshake")
            logger.debug("a TLS handshake failed: %s", exc)
            connection.close()

    async def _explain(self, connection: socket.socket) -> None:
        self._count("plain_http")
        await self._loop.connect_accepted_socket(lambda: _Explanation(self._explained), connection)


class _Explanation(asyncio.Protocol):
    """Tells who speaks no TLS that they should, and hangs up."""

    def __init__(self, known: set[asyncio.Transport]) -> None:
        self._known = known
        self._transport: asyncio.Transport
        self._end: asyncio.TimerHandle
        self._ignored_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        self._known.add(transport)
        request_id = make_request_id()
        error = InvalidRequest("this port speaks TLS: expected an https:// URL")
        body = error_body(error, request_id)
        transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"mdslite-request-id: %b\r\ncontent-length: %d\r\n\r\n%b" % (request_id.encode(), len(body), body)
        )
        # To close with bytes unread would reset the connection, and the answer be lost.
        transport.write_eof()
        self._end = asyncio.get_running_loop().call_later(_LINGER_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._ignored_bytes += len(data)
        if self._ignored_bytes > _LINGER_BYTES:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        self._known.discard(self._transport)
