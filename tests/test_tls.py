"""The TLS context: what it offers, and what it says about files that do not fit."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from mdslite.errors import InvalidRequest
from mdslite.http.tls import server_context

PAIR = Path(__file__).parent / "data" / "tls"


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """Do a handshake in memory; returns the client's side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return sides[0]


def trusting_client(*protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=PAIR / "localhost.pem")
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


@pytest.fixture
def server() -> ssl.SSLContext:
    return server_context(PAIR / "localhost.pem", key=PAIR / "localhost.key")


def test_a_client_that_speaks_both_gets_http2(server: ssl.SSLContext) -> None:
    assert shake_hands(server, trusting_client("http/1.1", "h2")).selected_alpn_protocol() == "h2"


def test_a_client_of_http1_gets_http1(server: ssl.SSLContext) -> None:
    assert shake_hands(server, trusting_client("http/1.1")).selected_alpn_protocol() == "http/1.1"


def test_a_client_without_alpn_is_served(server: ssl.SSLContext) -> None:
    side = shake_hands(server, trusting_client())
    assert side.selected_alpn_protocol() is None
    assert side.version() == "TLSv1.3"


def test_tls_1_2_uses_forward_secrecy_and_authenticated_encryption(server: ssl.SSLContext) -> None:
    client = trusting_client("h2")
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    cipher = shake_hands(server, client).cipher()
    assert cipher is not None
    assert cipher[0].startswith("ECDHE") and ("GCM" in cipher[0] or "CHACHA" in cipher[0])


def test_nothing_older_than_tls_1_2_is_spoken(server: ssl.SSLContext) -> None:
    assert server.minimum_version == ssl.TLSVersion.TLSv1_2
    assert server.options & ssl.OP_NO_COMPRESSION
    assert server.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        ("absent.pem", "localhost.key", r"--tls-cert .*absent\.pem cannot be read: no such file"),
        ("localhost.pem", "absent.key", r"--tls-key .*absent\.key cannot be read: no such file"),
        (".", "localhost.key", r"--tls-cert .* cannot be read: is a directory"),
        ("localhost.key", "localhost.key", r"--tls-cert .* holds no certificate"),
        ("localhost.pem", "localhost.pem", r"--tls-key .* holds no private key"),
        (
            "localhost.pem",
            "other.key",
            r"--tls-key .*other\.key is not the key of --tls-cert .*localhost\.pem",
        ),
        ("localhost.pem", "locked.key", r"--tls-key .*locked\.key is protected by a passphrase"),
    ],
)
def test_files_that_do_not_fit_are_named(cert: str, key: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        server_context(PAIR / cert, key=PAIR / key)
    assert caught.value.hint


def test_a_damaged_certificate_is_named(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n")
    with pytest.raises(InvalidRequest, match=r"damaged\.pem and .* could not be read as a PEM pair"):
        server_context(damaged, key=PAIR / "localhost.key")
