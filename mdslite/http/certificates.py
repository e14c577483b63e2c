"""Certificates: one of the appliance's own making for a first try, and what a given one says of itself. Owns
the files of the former, in the store.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mdslite.errors import InvalidRequest
from mdslite.store.disk import draft_path, storage_errors

FOLDER_NAME = "tls"
_GOOD_FOR = timedelta(days=365)
_RENEW_BEFORE = timedelta(days=30)
_WILDCARDS = ("0.0.0.0", "::", "")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, both PEM files."""

    cert: Path
    key: Path


def self_signed(store: Path, *, host: str, now: datetime | None = None) -> Pair:
    """A pair for this machine's names and addresses, kept in the store: the one that is there as long as it
    is good for `host` and not about to expire, else a new one.

    Bound to all addresses, the certificate lists those that the machine had when it was made: to make another
    for each that comes and goes would betray the clients that trust the one there is.

    :raises StorageFull: it cannot be written
    """
    now = now or datetime.now(UTC)
    pair = Pair(store / FOLDER_NAME / "cert.pem", store / FOLDER_NAME / "key.pem")
    names, addresses = _names_of(host)
    if not _is_good(pair, names, addresses, now):
        _make(pair, names, [*addresses, *(_own_addresses() if host in _WILDCARDS else [])], now)
    return pair


def expires_at(cert: Path) -> datetime:
    """When the first certificate of a PEM file ends.

    :raises InvalidRequest: there is none
    """
    try:
        return x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as exc:
        raise InvalidRequest(f"{cert} holds no certificate that can be read: {exc}") from exc


def _is_good(pair: Pair, names: Iterable[str], addresses: Iterable[Address], now: datetime) -> bool:
    try:
        cert = x509.load_pem_x509_certificate(pair.cert.read_bytes())
        key = serialization.load_pem_private_key(pair.key.read_bytes(), password=None)
        known = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    return (
        key.public_key() == cert.public_key()
        and cert.not_valid_before_utc <= now
        and cert.not_valid_after_utc - _RENEW_BEFORE > now
        and set(names) <= set(known.get_values_for_type(x509.DNSName))
        and set(addresses) <= set(known.get_values_for_type(x509.IPAddress))
    )


def _make(pair: Pair, names: list[str], addresses: list[Address], now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"mdslite on {socket.gethostname()}"[:64])])
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    # No authority: who trusts it trusts this one machine, whoever gets hold of its key.
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage, True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName([*map(x509.DNSName, names), *map(x509.IPAddress, addresses)]), False),
        (own_id, False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), False),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + _GOOD_FOR)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    cert = builder.sign(key, hashes.SHA256())
    with storage_errors():
        pair.key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(
            pair.key,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
        _write(pair.cert, cert.public_bytes(serialization.Encoding.PEM))


def _write(path: Path, data: bytes) -> None:
    """Write a file that nobody else may read, wholly or not at all."""
    draft = draft_path(path)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.rename(draft, path)


def _names_of(host: str) -> tuple[list[str], list[Address]]:
    """What clients may call a machine that is bound to `host`."""
    names = ["localhost"]
    addresses = [ipaddress.ip_address(text) for text in ("127.0.0.1", "::1")]
    try:
        addresses += [] if host in _WILDCARDS else [ipaddress.ip_address(host.strip("[]"))]
    except ValueError:
        names.append(host.lower())
    if host in _WILDCARDS and (own := socket.gethostname()).isascii():
        names.append(own.lower())
    return list(dict.fromkeys(names)), list(dict.fromkeys(addresses))


def _own_addresses() -> list[Address]:
    found = (one for several in psutil.net_if_addrs().values() for one in several)
    families = (socket.AF_INET, socket.AF_INET6)
    texts = [one.address.partition("%")[0] for one in found if one.family in families]
    return [
        address for text in dict.fromkeys(texts) if not (address := ipaddress.ip_address(text)).is_loopback
    ]
