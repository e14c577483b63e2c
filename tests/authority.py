"""An authority and what it signs, for tests of TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Signed:
    """PEM files; `both` holds the certificate and its key."""

    cert: Path
    key: Path
    both: Path


class Authority:
    """`cert` is its own certificate."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._cert = self._sign(self._name, self._key, is_authority=True)
        self.cert = folder / f"{name}.pem"
        self.cert.write_bytes(self._cert.public_bytes(serialization.Encoding.PEM))

    def sign(self, name: str, *, hours: float = 48) -> Signed:
        """A new pair for localhost, and for a client that is called `name`. `hours` from now it expires."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert = self._sign(_name(name), key, hours=hours)
        pem = cert.public_bytes(serialization.Encoding.PEM)
        plain = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        made = Signed(*(self._folder / f"{name}{suffix}" for suffix in (".pem", ".key", ".both")))
        made.cert.write_bytes(pem)
        made.key.write_bytes(plain)
        made.both.write_bytes(pem + plain)
        return made

    def revoke(self, signed: Signed) -> bytes:
        """The PEM of a list that says that it is no longer good."""
        now = datetime.now(UTC)
        serial = x509.load_pem_x509_certificate(signed.cert.read_bytes()).serial_number
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        made = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - timedelta(hours=1))
            .next_update(now + timedelta(days=2))
            .add_revoked_certificate(revoked)
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)

    def _sign(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        is_authority: bool = False,
        hours: float = 48,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        issuer_id = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        names: list[x509.GeneralName] = [
            x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1")),
        ]  # fmt: skip
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=2))
            .not_valid_after(now + timedelta(hours=hours))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def trusting(*authorities: Path, client: Signed | None = None, protocols: tuple[str, ...] = ()) -> Any:
    context = ssl.create_default_context()
    for authority in authorities:
        context.load_verify_locations(authority)
    if client is not None:
        context.load_cert_chain(client.cert, client.key)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context
