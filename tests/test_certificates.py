"""Authorities and subjects of certificates, and the pair of mdslite's own making."""

from __future__ import annotations

import asyncio
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from authority import trusting
from doors import PAIR, open_site, run
from h1_client import predict

from mdslite.errors import InvalidRequest, StorageFull
from mdslite.http.certificates import expires_at, self_signed
from mdslite.http.tls import TlsFiles, server_context, subject_of


@pytest.mark.parametrize(
    ("name", "words"), [("absent.pem", "no such file"), ("localhost.key", "no certificate")]
)
def test_authorities_that_cannot_be_read_are_named(name: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=f"--tls-client-ca .*{name}.*{words}"):
        server_context(PAIR / "localhost.pem", key=PAIR / "localhost.key", client_ca=PAIR / name)


def test_damaged_authorities_are_named(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(InvalidRequest, match="could not be read as certificates"):
        server_context(PAIR / "localhost.pem", key=PAIR / "localhost.key", client_ca=damaged)


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ({}, None),
        ({"subject": ((("commonName", "ann"),),)}, "ann"),
        ({"subject": ((("organizationName", "o"),), (("organizationalUnitName", "u"),))},
         "organizationName=o, organizationalUnitName=u"),
        ({"subject": ()}, None),
    ],
)  # fmt: skip
def test_a_subject_is_its_common_name_or_all_of_it(subject: dict[str, Any], name: str | None) -> None:
    found = subject_of(subject)
    assert found == (name if subject != {"subject": ()} else "a certificate without a subject")


# A pair of its own making


def test_a_pair_for_a_first_try_is_trusted_by_who_has_its_certificate(tmp_path: Path) -> None:
    pair = self_signed(tmp_path, host="127.0.0.1")
    assert stat.S_IMODE(pair.key.stat().st_mode) == 0o600

    async def test() -> None:
        async with open_site(tmp_path) as site:
            site.server.close()
            site.address = await site.listen_securely(TlsFiles(pair.cert, pair.key))
            context = trusting(pair.cert)
            context.verify_flags |= ssl.VERIFY_X509_STRICT
            site.tls = context
            assert (await site.ask(predict())).status == 200
            for name in ("127.0.0.1", "::1", "localhost"):
                _, writer = await asyncio.open_connection(*site.address, ssl=context, server_hostname=name)
                writer.transport.abort()
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection(*site.address, ssl=context, server_hostname="example.org")

    run(test())


def test_the_pair_is_kept_until_it_no_longer_serves(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    first = self_signed(tmp_path, host="127.0.0.1", now=now).cert.read_bytes()
    assert self_signed(tmp_path, host="127.0.0.1", now=now + timedelta(days=300)).cert.read_bytes() == first
    named = self_signed(tmp_path, host="box.lan", now=now).cert.read_bytes()
    assert named != first
    everywhere = self_signed(tmp_path, host="0.0.0.0", now=now).cert.read_bytes()
    assert everywhere != named
    assert self_signed(tmp_path, host="0.0.0.0", now=now).cert.read_bytes() == everywhere
    late = now + timedelta(days=340)
    pair = self_signed(tmp_path, host="0.0.0.0", now=late)
    assert pair.cert.read_bytes() != everywhere
    assert expires_at(pair.cert) > late + timedelta(days=360)


@pytest.mark.parametrize("damage", ["cert", "key"])
def test_a_damaged_pair_is_made_again(tmp_path: Path, damage: str) -> None:
    pair = self_signed(tmp_path, host="127.0.0.1")
    getattr(pair, damage).write_text("nothing")
    again = self_signed(tmp_path, host="127.0.0.1")
    server_context(again.cert, key=again.key)


def test_a_pair_that_cannot_be_kept_is_an_error_of_ours(small_disk: Path) -> None:
    with (small_disk / "filler").open("wb") as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(bytes(1 << 16))
            filler.flush()
    with pytest.raises(StorageFull):
        self_signed(small_disk, host="127.0.0.1")


def test_when_a_certificate_ends_is_read_or_said_to_be_missing() -> None:
    assert expires_at(PAIR / "localhost.pem") > datetime.now(UTC)
    with pytest.raises(InvalidRequest, match="no certificate that can be read"):
        expires_at(PAIR / "localhost.key")
