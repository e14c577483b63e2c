"""Which addresses a download may connect to, decided on what DNS answered and not on what a URL says.

The address that was checked is the one connected to, so that a name which answers differently the next time
gains nothing.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import httpcore2

from mdslite.errors import ArtifactError, InvalidRequest, quoted

Resolve = Callable[[str, int], Sequence[str]]
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Networks whose addresses end in an IPv4 address: NAT64, IPv4-compatible, and IPv4-translated (SIIT).
_ENDS_IN_IPV4 = tuple(ipaddress.ip_network(text) for text in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96"))
# Global by their number, but answered by the cloud's own machinery: Azure's host channel.
_MACHINERY = frozenset({ipaddress.ip_address("168.63.129.16")})
_ENTRY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/@\[\]]+)(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class AllowList:
    """Hosts, each with a port or None for any, whose addresses may be internal ones."""

    entries: frozenset[tuple[str, int | None]] = frozenset()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Read `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`.

        :raises InvalidRequest: one of them is neither
        """
        return cls(frozenset(_parse_entry(text) for text in texts))

    def covers(self, host: str, port: int) -> bool:
        host = _plain_host(host)
        return (host, None) in self.entries or (host, port) in self.entries


def is_internal(text: str) -> bool:
    """Tell whether an address is anything but one unicast host of the public internet."""
    address: _Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded(address)
        if inner is not None:
            return is_internal(str(inner))
    return not address.is_global or address.is_multicast or address in _MACHINERY


def is_machinery(host: str) -> bool:
    """Tell whether a host is written as an address that answers only the machine itself, as those do where
    clouds keep a machine's credentials. Names are not looked up."""
    text = _plain_host(host).partition("%")[0]
    with suppress(OSError):  # the system reads numbers such as 0xa9fea9fe as addresses too
        text = socket.inet_ntoa(socket.inet_aton(text))
    try:
        address: _Address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        address = _embedded(address) or address
    return address.is_link_local or address in _MACHINERY


def resolve_host(host: str, port: int) -> list[str]:
    """Ask the system's resolver for a host's addresses, in the order in which to try them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in found))


def check_host(host: str, port: int, *, allowed: AllowList, resolve: Resolve) -> Sequence[str]:
    """Resolve a host and refuse it if any of its addresses is internal and it is not allowed.

    :raises ArtifactError: names the address and the option that allows it
    """
    try:
        addresses = resolve(host, port)
    except (OSError, UnicodeError) as exc:
        raise ArtifactError(
            f"the host {host} of the uri was not found: {exc}", hint="check its spelling"
        ) from exc
    if allowed.covers(host, port):
        return addresses
    for address in addresses:
        if is_internal(address):
            shown = f"[{host}]" if ":" in host else host
            raise ArtifactError(
                f"the uri leads to {shown}:{port} at the internal address {address}, which is not allowed",
                hint=f"if you trust it, start the appliance with: mdslite up --allow-internal {shown}:{port}",
            )
    return addresses


class CheckedBackend(httpcore2.NetworkBackend):
    """Connects to addresses that were checked, each by its number."""

    def __init__(self, allowed: AllowList, resolve: Resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        failure: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in check_host(host, port, allowed=self._allowed, resolve=self._resolve):
            try:
                return self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as exc:
                failure = exc
        raise failure


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to this one end up at, through whichever tunnel."""
    if any(address in network for network in _ENDS_IN_IPV4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _plain_host(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _parse_entry(text: str) -> tuple[str, int | None]:
    found = _ENTRY.fullmatch(text.strip())
    port = None if found is None or found["port"] is None else int(found["port"])
    if found is None or (port is not None and not 0 < port < 65536):
        raise InvalidRequest(
            f"--allow-internal {quoted(text)} is no host; expected HOST or HOST:PORT, such as models.lan:8080"
        )
    return _plain_host(found["host"]), port
