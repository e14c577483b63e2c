"""The way in for the store's owner: a Unix socket in its folder, which needs no token. The file system says
who may open it, so nobody can be locked out of a store that is theirs. Owns the socket.

It speaks HTTP/1.1 through the same door as everybody. A request that comes this way is given an authorization
of the appliance's own making, in the place of whatever it had, so that all that follows knows one kind of
caller.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import socket
import struct
from contextlib import suppress
from pathlib import Path

from mdslite.door.connection import Connection
from mdslite.door.door import Door
from mdslite.hosts import SOCKET_NAME, short_path
from mdslite.http.access import Access

logger = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_BACKLOG = 64


class LocalListener:
    """Listens while the store's lock is held: what stands in the socket's place is a dead one's."""

    def __init__(self, store: Path, door: Door, access: Access) -> None:
        self._store = store
        self._door = door
        self._access = access
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Where that is not possible, on some network file systems, there is no such way in."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listening.fileno(), 0o600)  # what `bind` makes is born with it
            with short_path(self._store / SOCKET_NAME) as path:
                with suppress(FileNotFoundError):
                    os.unlink(path)
                listening.bind(path)
                os.chmod(path, 0o600)  # elsewhere than on Linux
        except OSError as exc:
            listening.close()
            logger.warning("no socket for the owner in %s: %s", self._store, exc.strerror or exc)
            return
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._make, sock=listening, backlog=_BACKLOG)

    def close(self) -> None:
        """Accept no more; connections are the door's."""
        if self._server is not None:
            self._server.close()
            self._server = None
            with suppress(OSError):
                os.unlink(self._store / SOCKET_NAME)

    def _make(self) -> Connection:
        return _LocalConnection(self._door, asyncio.get_running_loop(), self._access)


class _LocalConnection(Connection):
    __slots__ = ("_access", "_authorization")

    def __init__(self, door: Door, loop: asyncio.AbstractEventLoop, access: Access) -> None:
        super().__init__(door, loop)
        self._access = access
        self._authorization = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._authorization = self._access.vouch(_peer(transport.get_extra_info("socket")))
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        super().on_header(b"authorization", self._authorization)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() != b"authorization":
            super().on_header(name, value)

    def hand_over(self, data: bytes) -> None:
        self.abort()  # HTTP/2 would be somebody else's requests


def _peer(connection: socket.socket) -> str:
    """The user at the other end."""
    if not hasattr(socket, "SO_PEERCRED"):
        return "a local user"
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    try:
        return f"local user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"local user {uid}"
