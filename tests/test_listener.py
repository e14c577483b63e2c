"""The port that speaks TLS: what it says to who does not, renewal, and clients with certificates."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import ssl
from pathlib import Path
from typing import Any, cast

import h2.config
import h2.connection
import pytest
from authority import Authority, Signed, trusting
from doors import PAIR, Site, open_site, run
from h1_client import connect, predict, request
from waiting import until

from mdslite.door.listener import open_sockets
from mdslite.http.tls import Renewal, TlsFiles, server_context, subject_of


def copy(made: Signed, to: TlsFiles) -> None:
    """Put a pair in the place of another, each file at once, as renewals do."""
    for source, target in ((made.cert, to.cert), (made.key, to.key)):
        draft = target.with_suffix(".new")
        shutil.copy(source, draft)
        os.replace(draft, target)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


# Who speaks something else


@pytest.mark.parametrize(
    "data", [request(), predict(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00", b"SSH-2.0-x\r\n"]
)
def test_who_speaks_no_tls_is_told_so(tmp_path: Path, data: bytes) -> None:
    async def test() -> None:
        async with open_site(tmp_path, secure=True) as site:
            async with connect(site.address) as wire:
                wire.send(data)
                reply = await wire.reply()
                assert (reply.status, reply.code, reply.closes) == (400, "invalid_request", True)
                assert "https://" in reply.json["error"]
                assert await wire.rest() == b""
            assert site.door.closed_for == {"plain_http": 1}
            assert (await site.ask(request())).status == 200

    run(test())


def test_tls_on_a_plain_port_ends_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            with pytest.raises(ssl.SSLError):
                async with connect(site.address, tls=trusting(PAIR / "localhost.pem")):
                    pass
            assert (await site.ask(request())).status == 200
            assert not site.rows

    run(test())


def test_who_says_nothing_or_stops_in_the_handshake_is_let_go(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            site.server.close()
            files = TlsFiles(PAIR / "localhost.pem", PAIR / "localhost.key")
            address = await site.listen_securely(files, timeout_s=0.2)
            async with connect(address) as silent, connect(address) as halting:
                halting.send(b"\x16\x03\x01\x02\x00")
                assert await silent.rest() == b""
                assert await halting.rest() == b""
            await until(lambda: len(site.door.closed_for) == 2)
            assert site.door.closed_for == {"slow_handshake": 1, "failed_handshake": 1}

    run(test())


def test_what_only_looks_like_a_handshake_fails_alone(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, secure=True) as site:
            async with connect(site.address) as wire:
                wire.send(b"\x16" + b"nonsense" * 100)
                await wire.rest()
            await until(lambda: site.door.closed_for)
            assert site.door.closed_for == {"failed_handshake": 1}
            assert (await site.ask(request())).status == 200

    run(test())


def test_connections_that_say_nothing_are_bounded(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            site.server.close()
            files = TlsFiles(PAIR / "localhost.pem", PAIR / "localhost.key")
            address = await site.listen_securely(files, bound=3)
            wires = [await asyncio.open_connection(*address) for _ in range(5)]
            await until(lambda: site.door.closed_for)
            await until(lambda: site.door.closed_for["too_many"] == 2)
            for _, writer in wires:
                writer.transport.abort()
            site.tls = trusting(PAIR / "localhost.pem")
            site.address = address
            await until(lambda: not cast(Any, site.server)._silent)
            assert (await site.ask(request())).status == 200

    run(test())


def test_a_closing_listener_leaves_nothing_behind(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, secure=True) as site, connect(site.address) as silent:
            listener: Any = site.server
            async with connect(site.address) as halting:
                halting.send(b"\x16\x03\x01\x02\x00")
                await until(lambda: len(listener._silent) == len(listener._tasks) == 1)
                await listener.finish()
                assert await silent.rest() == b""
                assert await halting.rest() == b""

    run(test())


def test_one_free_port_serves_all_addresses_of_a_name() -> None:
    sockets = open_sockets("localhost", 0, backlog=1)
    assert len({one.getsockname()[1] for one in sockets}) == 1
    for one in sockets:
        one.close()


def test_a_port_that_is_taken_is_an_error_and_nothing_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        open_sockets("127.0.0.1", taken.getsockname()[1], backlog=1)


# Renewal


def test_a_renewed_certificate_is_shown_to_the_next_and_breaks_no_connection(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def shown(site: Site) -> str | None:
        _, writer = await asyncio.open_connection(*site.address, ssl=site.tls, server_hostname="localhost")
        subject = subject_of(writer.get_extra_info("peercert"))
        writer.transport.abort()
        return subject

    async def test() -> None:
        async with open_site(tmp_path) as site:
            site.server.close()
            first = authority.sign("first")
            files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
            copy(first, files)
            site.address = await site.listen_securely(files)
            site.tls = trusting(authority.cert)
            async with site.connect() as old:
                old.send(predict())
                assert (await old.reply()).status == 200
                assert await shown(site) == "first"
                copy(authority.sign("second"), files)
                site.renewal.look()
                assert await shown(site) == "first"  # it may be being written still
                site.renewal.look()
                assert await shown(site) == "second"
                old.send(predict())
                assert (await old.reply()).status == 200

    with caplog.at_level(logging.WARNING):
        run(test())
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("damage", ["no PEM", "another's key", "gone"])
def test_broken_files_leave_the_former_certificate_in_use_and_say_so_once(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    copy(authority.sign("first"), files)
    renewal = Renewal(files)
    former = renewal.context
    match damage:
        case "no PEM":
            files.cert.write_text("nothing")
        case "another's key":
            shutil.copy(authority.sign("other").key, files.key)
        case _:
            files.cert.unlink()
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            renewal.look()
    assert renewal.context is former
    (said,) = caplog.records
    assert said.levelname == "ERROR"
    assert "the former certificate stays in use" in said.message
    copy(authority.sign("second"), files)
    for _ in range(2):
        renewal.look()
    assert renewal.context is not former


def test_the_files_are_watched(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdslite.http.tls.LOOK_S", 0.01)

    async def test() -> None:
        files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
        copy(authority.sign("first"), files)
        renewal = Renewal(files)
        former = renewal.context
        renewal.start()
        copy(authority.sign("second"), files)
        await until(lambda: renewal.context is not former)
        await renewal.close()

    run(test())


# Clients with certificates


def test_without_a_certificate_of_the_authority_nobody_gets_in(tmp_path: Path, authority: Authority) -> None:
    stranger = Authority(tmp_path, "elsewhere").sign("mallory")

    async def test() -> None:
        async with open_site(tmp_path) as site:
            site.server.close()
            server = authority.sign("server")
            files = TlsFiles(server.cert, server.key, authority.cert)
            site.address = await site.listen_securely(files)
            for client in (None, stranger):
                site.tls = trusting(authority.cert, client=client)
                with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                    await site.ask(request())
            site.tls = trusting(authority.cert, client=authority.sign("ann"))
            assert (await site.ask(request())).status == 200
            assert not site.rows

    run(test())


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_the_audit_log_names_the_subject_of_a_clients_certificate(
    tmp_path: Path, authority: Authority, protocol: str
) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            site.server.close()
            server = authority.sign("server")
            site.address = await site.listen_securely(TlsFiles(server.cert, server.key, authority.cert))
            site.tls = trusting(authority.cert, client=authority.sign("ann"), protocols=(protocol,))
            access = site.predictor.access
            access.required = True
            access.idle = False
            async with site.connect() as wire:
                if protocol == "h2":
                    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
                    client.initiate_connection()
                    fields = [(":method", "GET"), (":path", "/metrics"), (":scheme", "https")]
                    client.send_headers(1, [*fields, (":authority", "localhost")], end_stream=True)
                    wire.send(client.data_to_send())
                else:
                    wire.send(request(target="/metrics"))
                await until(lambda: site.issuer.acts)
            (act,) = site.issuer.acts
            assert (act.who, act.origin, act.status) == ("nobody", "127.0.0.1 (ann)", 401)

    run(test())


def test_a_revoked_certificate_lets_nobody_in(tmp_path: Path, authority: Authority) -> None:
    server, good, gone = authority.sign("server"), authority.sign("good"), authority.sign("gone")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.cert.read_bytes() + authority.revoke(gone))
    context = server_context(server.cert, key=server.key, client_ca=trusted)

    def enters(shown: Signed) -> bool:
        client = ssl.create_default_context(cafile=authority.cert)
        client.load_cert_chain(shown.cert, shown.key)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        asking = client.wrap_bio(to_client, to_server, server_hostname="localhost")
        asked = context.wrap_bio(to_server, to_client, server_side=True)
        for side in (asking, asked, asking, asked):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as exc:
                assert "revoked" in str(exc)
                return False
        return True

    assert enters(good)
    assert not enters(gone)


def test_a_session_of_a_client_with_a_certificate_is_not_resumed(authority: Authority) -> None:
    server = authority.sign("server")
    context = server_context(server.cert, key=server.key, client_ca=authority.cert)
    assert context.num_tickets == 0
    assert context.options & ssl.OP_NO_TICKET
