"""TLS of the listening socket: the context of each new connection, made from the files that the command line
names and made again when those change. What is connected already keeps the context that it began with.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdslite.errors import InvalidRequest, MdsliteError

logger = logging.getLogger(__name__)

LOOK_S = 2.0  # how often the files are looked at
# Forward secrecy and authenticated encryption only: HTTP/2 forbids TLS 1.2's other suites (RFC 9113, 9.2.2).
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_MAKE_PAIR = "for a first try, --tls-self-signed makes a pair"
Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate with its chain, the key, and maybe the authorities of which one
    must have signed a client's certificate."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """:raises InvalidRequest: as `server_context`"""
        return server_context(self.cert, key=self.key, client_ca=self.client_ca)

    def stamp(self) -> Stamp:
        """What tells these files from those that they replace. A link leads to what it points at."""
        return tuple(map(_stat, (self.cert, self.key, self.client_ca)))


def server_context(cert: Path, *, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 and up with a certificate chain and its key; offers HTTP/2 and HTTP/1.1 by ALPN.

    :raises InvalidRequest: a file is missing, unreadable, of another kind, locked, or not the other's
    """
    _check_file(cert, "--tls-cert", marker="CERTIFICATE-----", hint=_MAKE_PAIR)
    _check_file(key, "--tls-key", marker="PRIVATE KEY-----", hint=_MAKE_PAIR)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_Locked(key))
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise InvalidRequest(
                f"--tls-key {key} is not the key of --tls-cert {cert}",
                hint="the certificate file holds the server's own certificate first, then its chain",
            ) from exc
        raise InvalidRequest(
            f"--tls-cert {cert} and --tls-key {key} could not be read as a PEM pair: {exc.reason or exc}",
            hint=_MAKE_PAIR,
        ) from exc
    if client_ca is not None:
        _require_clients(context, client_ca)
    return context


def subject_of(certificate: dict[str, Any] | None) -> str | None:
    """What a client's certificate calls it, as `getpeercert` tells: its common name, or the whole subject."""
    if not certificate:
        return None
    pairs = [pair for part in certificate.get("subject", ()) for pair in part]
    common = next((value for name, value in pairs if name == "commonName"), None)
    return (
        common or ", ".join(f"{name}={value}" for name, value in pairs) or "a certificate without a subject"
    )


def tls_extension(certificate: dict[str, Any] | None) -> dict[str, Any]:
    """What ASGI's TLS extension says of a client's certificate, as far as anybody here asks for it."""
    subject = subject_of(certificate)
    return {} if subject is None else {"tls": {"client_cert_name": subject}}


class Renewal:
    """`context` is for the next connection: of the files as they are, or as they were when they last fitted.

    A change is acted on once it has been seen twice, so that files that are being written are let be.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = self._loaded = files.stamp()
        self.context = files.context()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch the files until `close`."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def look(self) -> None:
        """Take in files that have changed and not changed again since the last look."""
        stamp, before = self._files.stamp(), self._stamp
        self._stamp = stamp
        if stamp != before or stamp == self._loaded:
            return
        self._loaded = stamp
        try:
            self.context = self._files.context()
            logger.warning("TLS: new connections use the renewed %s", self._files.cert)
        except MdsliteError as exc:
            logger.error("TLS: the former certificate stays in use: %s", exc.message)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.look)


def _require_clients(context: ssl.SSLContext, client_ca: Path) -> None:
    _check_file(
        client_ca, "--tls-client-ca", marker="CERTIFICATE-----", hint="expected the PEM of an authority"
    )
    try:
        context.load_verify_locations(client_ca)
    except ssl.SSLError as exc:
        raise InvalidRequest(
            f"--tls-client-ca {client_ca} could not be read as certificates: {exc.reason or exc}"
        ) from exc
    if b"-----BEGIN X509 CRL-----" in client_ca.read_bytes():
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session is not verified again: after a change of authorities, the old ones would let it in.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET


class _Locked:
    """Called for a key's passphrase, which OpenSSL would else ask for on the terminal."""

    def __init__(self, key: Path) -> None:
        self._key = key

    def __call__(self) -> str:
        raise InvalidRequest(
            f"--tls-key {self._key} is protected by a passphrase: expected a plain key",
            hint=f"openssl pkey -in {self._key} -out plain.pem writes one without",
        )


def _check_file(path: Path, option: str, *, marker: str, hint: str) -> None:
    try:
        text = path.read_text("latin-1")
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise InvalidRequest(f"{option} {path} cannot be read: {reason}", hint=hint) from exc
    if marker not in text:
        wanted = marker.rstrip("-").lower()
        raise InvalidRequest(f"{option} {path} holds no {wanted}: expected a PEM file", hint=hint)


def _stat(path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
