"""The TLS context of the listening socket, made from the files that the command line names."""

from __future__ import annotations

import ssl
from pathlib import Path

from mdslite.errors import InvalidRequest

# Forward secrecy and authenticated encryption only: HTTP/2 forbids TLS 1.2's other suites (RFC 9113, 9.2.2).
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_MAKE_PAIR = (
    "to make a pair for trying out: openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=localhost "
    "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"
)


def server_context(cert: Path, *, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and up with a certificate chain and its key, both PEM; offers HTTP/2 and HTTP/1.1 by ALPN.

    :raises InvalidRequest: a file is missing, unreadable, of another kind, locked, or not the other's
    """
    _check_file(cert, "--tls-cert", marker="CERTIFICATE-----")
    _check_file(key, "--tls-key", marker="PRIVATE KEY-----")
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
    return context


class _Locked:
    """Called for a key's passphrase, which OpenSSL would else ask for on the terminal."""

    def __init__(self, key: Path) -> None:
        self._key = key

    def __call__(self) -> str:
        raise InvalidRequest(
            f"--tls-key {self._key} is protected by a passphrase: expected a plain key",
            hint=f"openssl pkey -in {self._key} -out plain.pem writes one without",
        )


def _check_file(path: Path, option: str, *, marker: str) -> None:
    try:
        text = path.read_text("latin-1")
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise InvalidRequest(f"{option} {path} cannot be read: {reason}", hint=_MAKE_PAIR) from exc
    if marker not in text:
        wanted = marker.rstrip("-").lower()
        raise InvalidRequest(f"{option} {path} holds no {wanted}: expected a PEM file", hint=_MAKE_PAIR)
