"""Names and addresses of hosts as people write them, the socket that is no host's, and who asks."""

from __future__ import annotations

import getpass
import ipaddress
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_PORT = 8500
UNIX = "unix:"  # before the folder of a store, or the path of its socket, where a URL is expected
SOCKET_NAME = "admin.sock"  # in the store's folder, for its owner
_PATH_MAX_BYTES = 100  # what fits into a Unix socket's address everywhere


def is_loopback(host: str) -> bool:
    """Can only this machine reach it? IPv6 addresses may stand in brackets."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def start_hint(url: str, store: str | None = None) -> str:
    """How an appliance is started that is to answer at `url` of this machine, on its `store` where that is
    known and is not the one that it would take."""
    port = urlsplit(url).port
    told = "" if port in (None, DEFAULT_PORT) else f" --port {port}"
    told += "" if store is None else f" --store {shlex.quote(store)}"
    return f"start it with: mdslite up{told}"


def socket_path(url: str) -> Path:
    """The socket that a URL with `unix:` leads to."""
    path = Path(url.removeprefix(UNIX))
    return path / SOCKET_NAME if path.is_dir() else path


def curl_address(url: str) -> tuple[list[str], str]:
    """How curl reaches an appliance from any folder: its options, and what its URL begins with."""
    if not url.startswith(UNIX):
        return [], url.rstrip("/")
    return ["--unix-socket", str(socket_path(url).absolute())], "http://localhost"


def author() -> str:
    """Who asks, for the record of what was changed: USER@HOST."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user without a passwd entry
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for a Unix socket that fits into an address, valid inside the block.

    :raises OSError: its folder cannot be opened
    """
    if len(os.fsencode(path)) <= _PATH_MAX_BYTES:
        yield os.fspath(path)
        return
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)
