"""All that the appliance listens on: the port, plain or with TLS, and the owner's socket. Owns both until
they are closed; what they accept is the door's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mdslite.door.door import Door
from mdslite.door.listener import TlsListener, drop_new, open_sockets, unheard
from mdslite.door.local import LocalListener
from mdslite.errors import InvalidRequest
from mdslite.hosts import is_loopback
from mdslite.http.access import Access
from mdslite.http.tls import Renewal, TlsFiles

logger = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
LAST_S = 0.1  # for those that are connecting when the port closes: a packet's way there and back
_BACKLOG = 2048
_WARN_BEFORE = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen. `self_signed` makes the certificate, where none is given."""

    host: str
    port: int
    store: Path
    tls: TlsFiles | None = None
    self_signed: bool = False
    client_ca: Path | None = None  # with `self_signed`
    insecure: bool = False


class Front:
    """`open` it once the store is locked; `close` stops accepting, `finish` ends what never became a
    connection."""

    def __init__(self, place: Place, door: Door, access: Access) -> None:
        self._place = place
        self._door = door
        self._access = access
        self._local = LocalListener(place.store, door, access)
        self._port: asyncio.Server | TlsListener | None = None
        self._renewal: Renewal | None = None
        self.files: TlsFiles | None = None  # of the open port, where it speaks TLS
        self.notes: list[str] = []  # what whoever started it should know

    def check_exposure(self) -> None:
        """Open to others only for who shows a token, unless that was asked for.

        :raises InvalidRequest: nobody would need a token where everybody can come
        """
        place = self._place
        if is_loopback(place.host):
            return
        create = f"mdslite token create --scope admin --store {shlex.quote(str(place.store))}"
        if self._access.required:
            if place.tls is None and not place.self_signed:
                self.notes.append(
                    f"! {place.host} is reached without TLS: tokens and data can be read on their way; "
                    "--tls-cert and --tls-key, or --tls-self-signed, change that"
                )
        elif place.insecure:
            self.notes.append(
                f"! whoever can reach {place.host} can use the models and change what is deployed, until "
                f"there is a token: {create}"
            )
        else:
            raise InvalidRequest(
                f"not serving on {place.host}: there are no tokens, so whoever can reach this machine could "
                "use its models and change what is deployed",
                hint=f"{create}, then start again; or add --insecure where the network is trusted",
            )

    async def open(self) -> str:
        """Listen; returns the URL.

        :raises AddressInUse: somebody else has the port
        :raises InvalidRequest: the address cannot be had, or a certificate not be read
        """
        place = self._place
        files = place.tls
        if place.self_signed:
            files = await asyncio.to_thread(self._make_certificate)
        self.files = files
        try:
            if files is None:
                port = await self._open_plain()
            else:
                port = await self._open_tls(files)
        except OSError as exc:
            hint = "choose another with --port, or --port 0 for any free one"
            raise unheard(exc, f"{place.host}:{place.port}", hint=hint) from exc
        await self._local.start()
        return f"{'http' if files is None else 'https'}://{shown_host(place.host)}:{port}"

    async def close(self) -> None:
        """Accept no more, once those that are connecting have been."""
        for listening in self._port.sockets if self._port is not None else ():
            with socket.socket(fileno=os.dup(listening.fileno())) as known:  # a server shows only a likeness
                drop_new(known)
        await asyncio.sleep(LAST_S)
        self._close()

    def _close(self) -> None:
        if self._port is not None:
            self._port.close()
        self._local.close()

    async def finish(self) -> None:
        self._close()
        if isinstance(self._port, TlsListener):
            await self._port.finish()
        if self._renewal is not None:
            await self._renewal.close()

    async def _open_plain(self) -> int:
        server = await asyncio.get_running_loop().create_server(
            self._door.connection, self._place.host, self._place.port, backlog=_BACKLOG
        )
        self._port = server
        return int(server.sockets[0].getsockname()[1])

    async def _open_tls(self, files: TlsFiles) -> int:
        self._renewal = renewal = Renewal(files)
        await asyncio.to_thread(self._note_expiry, files)
        sockets = await asyncio.to_thread(open_sockets, self._place.host, self._place.port, backlog=_BACKLOG)
        self._port = listener = TlsListener(
            sockets,
            self._door.connection,
            lambda: renewal.context,
            timeout_s=HANDSHAKE_S,
            bound=self._door.limits.connections,
            count=self._door.count_closed,
        )
        listener.start()
        renewal.start()
        return int(sockets[0].getsockname()[1])

    def _make_certificate(self) -> TlsFiles:
        from mdslite.http.certificates import self_signed  # seldom needed, and slow to import

        pair = self_signed(self._place.store, host=self._place.host)
        trust = f"curl --cacert {shlex.quote(os.path.relpath(pair.cert))}"
        self.notes.append(f"✓ TLS with a certificate made here, trusted by: {trust}")
        return TlsFiles(pair.cert, pair.key, self._place.client_ca)

    def _note_expiry(self, files: TlsFiles) -> None:
        from mdslite.http.certificates import expires_at

        left = expires_at(files.cert) - datetime.now(UTC)
        if left < _WARN_BEFORE:
            when = (
                "has expired"
                if left < timedelta(0)
                else f"expires in {left.days} day{'s' * (left.days != 1)}"
            )
            self.notes.append(f"! the certificate {files.cert} {when}")


def shown_host(host: str) -> str:
    """A host as it stands before a port."""
    return f"[{host}]" if ":" in host else host
