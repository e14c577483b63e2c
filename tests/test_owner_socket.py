"""The owner's socket: who may open it, what it takes, where it lies."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import h2_client
import pytest
from door_tokens import LARGE
from doors import Site, open_site, run
from h1_client import Wire, predict, request, speak
from minted import make_token
from waiting import until

from mdslite.client import Client
from mdslite.door.local import LocalListener
from mdslite.errors import InvalidRequest, Unauthorized, Unavailable
from mdslite.hosts import SOCKET_NAME


@asynccontextmanager
async def owned(folder: Path) -> AsyncIterator[tuple[Site, Path]]:
    """A site that takes tokens, with the owner's socket in a store's folder."""
    async with open_site(folder) as site:
        site.predictor.access.replace([make_token()[0]], {})
        local = LocalListener(folder, site.door, site.predictor.access)
        await local.start()
        try:
            yield site, folder / SOCKET_NAME
        finally:
            local.close()
            assert not (folder / SOCKET_NAME).exists()


def test_the_owner_needs_no_token(tmp_path: Path) -> None:
    async def test() -> None:
        async with owned(tmp_path) as (site, path):
            assert (await speak(path, predict())).status == 200
            assert (await speak(path, request(target="/metrics"))).status == 200
            assert (await site.ask(request(target="/metrics"))).status == 401

    run(test())


def test_the_owner_is_known_by_the_socket_whatever_the_request_says(tmp_path: Path) -> None:
    async def test() -> None:
        async with owned(tmp_path) as (site, path):
            for fields in (
                [("Authorization", "Bearer nonsense")],
                [("authorization", "x"), ("Authorization", "y")],
            ):
                assert (await speak(path, predict(headers=fields))).status == 200
            # What the appliance tells such callers apart by opens nothing to anybody else.
            made = site.predictor.access._headers
            assert list(made) == [f"local user {pwd.getpwuid(os.getuid()).pw_name}"]
            for name in ("Local x", "Local ", "local user root"):
                assert (await site.ask(predict(headers=[("Authorization", name)]))).status == 401

    run(test())


def test_a_large_body_and_an_upgrade_of_the_owner_are_read(tmp_path: Path) -> None:
    async def test() -> None:
        async with owned(tmp_path) as (_, path):
            assert (await speak(path, predict(body=LARGE))).status == 200
            upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Authorization", "x")]
            assert (await speak(path, request(target="/metrics", headers=upgrade))).status == 200

    run(test())


def test_the_owners_socket_speaks_no_http_2(tmp_path: Path) -> None:
    async def test() -> None:
        async with owned(tmp_path) as (_, path):
            wire = Wire(*await asyncio.open_unix_connection(str(path)))
            wire.send(h2_client.PREFACE)
            assert await wire.rest() == b""
            await wire.close()

    run(test())


def test_only_the_owner_may_open_the_socket(tmp_path: Path) -> None:
    async def test() -> None:
        async with owned(tmp_path) as (_, path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    run(test())


def test_the_socket_of_a_dead_appliance_is_replaced(tmp_path: Path) -> None:
    async def test() -> None:
        async with owned(tmp_path) as (site, path):
            second = LocalListener(tmp_path, site.door, site.predictor.access)
            await second.start()
            assert (await speak(path, request())).status == 200
            second.close()

    run(test())


def test_a_store_deep_in_the_file_system_has_its_socket_too(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20)
    folder.mkdir(parents=True)

    async def test() -> None:
        async with owned(folder) as (_, path):
            assert len(str(path)) > 150
            assert (await speak(path, request(target="/metrics"))).status == 200

            def read() -> str:
                with Client(f"unix:{folder}") as client, client._http as http:
                    return http.get("/metrics").text

            assert "mdslite" in await asyncio.to_thread(read)

    run(test())


def test_where_no_socket_can_be_the_appliance_serves_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / SOCKET_NAME).mkdir()

    async def test() -> None:
        async with open_site(tmp_path) as site:
            local = LocalListener(tmp_path, site.door, site.predictor.access)
            await local.start()
            local.close()

    with caplog.at_level(logging.WARNING):
        run(test())
    assert "no socket for the owner" in caplog.text


def test_a_client_of_a_socket_that_is_not_there_is_told_whose_it_would_be(tmp_path: Path) -> None:
    for url in (f"unix:{tmp_path}", f"unix:{tmp_path}/none.sock", f"unix:{tmp_path}/{'x' * 200}/none.sock"):
        with pytest.raises(Unavailable) as caught, Client(url) as client:
            client.status()
        hint = caught.value.hint or ""
        assert hint.startswith(f"start it as the same user: mdslite up --store {tmp_path}")


def test_a_client_shows_a_certificate_from_one_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for name in (str(empty), str(tmp_path / "absent.pem")):
        with pytest.raises(InvalidRequest, match="no certificate with its key"):
            Client("https://127.0.0.1:1", cert_file=name)


def test_a_client_without_a_good_token_is_told_where_it_belongs(tmp_path: Path) -> None:
    async def test() -> None:
        async with owned(tmp_path) as (site, _):

            def fail() -> Unauthorized:
                with Client(f"http://127.0.0.1:{site.address[1]}", token="nonsense") as client:
                    with pytest.raises(Unauthorized) as caught:
                        client.status()
                    return caught.value

            error = await asyncio.to_thread(fail)
            assert "MDSLITE_TOKEN" in (error.hint or "")
            assert "unix:DIR" in (error.hint or "")
            await until(lambda: site.issuer.acts)

    run(test())
