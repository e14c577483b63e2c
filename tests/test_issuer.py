"""Who is let in changes through the issuer, which keeps books of what was done."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from clocks import Clock

from mdslite.api.issuer import Issuer
from mdslite.errors import NotFound, StorageFull, Unauthorized
from mdslite.http.access import Access, Bucket
from mdslite.store.audit import Act
from mdslite.store.registry import Registry
from mdslite.store.tokens import Rate, Wish
from mdslite.store.worker import Worker

NOW = 50.0  # of the monotonic clock


@asynccontextmanager
async def issuing(
    folder: Path, access: Access | None = None, *, registry: Registry | None = None
) -> AsyncIterator[Issuer]:
    worker, registry = Worker("registry"), registry or Registry(folder / "registry.db")
    await worker.call(registry.open)
    issuer = Issuer(registry, worker, access or Access())
    await issuer.open()
    try:
        yield issuer
    finally:
        issuer.close()
        await worker.call(registry.close)
        await asyncio.to_thread(worker.close)


def bearer(text: str) -> bytes:
    return f"Bearer {text}".encode()


def test_what_is_issued_is_in_force_when_its_maker_hears_of_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with issuing(tmp_path) as issuer:
            assert not issuer.access.required
            made, text = await issuer.create(Wish(("read",), "ci"), by="ann")
            assert issuer.access.enter(bearer(text), NOW).token_id == made.id
            await issuer.revoke("ci")
            with pytest.raises(Unauthorized, match="revoked"):
                issuer.access.enter(bearer(text), NOW)
            await issuer.limit("mail", "spam", Rate(1, "s"))
            assert await issuer.limits() == {("mail", "spam"): Rate(1, "s")}
            with pytest.raises(NotFound):
                await issuer.revoke("ci")

    asyncio.run(test())


def test_a_revocation_whose_maker_left_is_in_force_all_the_same(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class SlowRegistry(Registry):
        def writing(self) -> Any:
            begun.set()
            assert go_on.wait(20)
            return super().writing()

    async def test() -> None:
        go_on.set()
        async with issuing(tmp_path, registry=SlowRegistry(tmp_path / "registry.db")) as issuer:
            _, text = await issuer.create(Wish(("read",), "ci"), by="ann")
            begun.clear()
            go_on.clear()
            leaving = asyncio.create_task(issuer.revoke("ci"))
            assert await asyncio.to_thread(begun.wait, 20)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            go_on.set()
            await issuer.tokens()
            with pytest.raises(Unauthorized, match="revoked"):
                issuer.access.enter(bearer(text), NOW)

    asyncio.run(test())


def test_tokens_outlive_the_process_and_so_does_their_need(tmp_path: Path) -> None:
    async def test() -> None:
        async with issuing(tmp_path) as issuer:
            _, text = await issuer.create(Wish(("read",), "ci"), by="ann")
        async with issuing(tmp_path) as issuer:
            assert issuer.access.enter(bearer(text), NOW).name == "the token ci"
            await issuer.revoke("ci")
        async with issuing(tmp_path) as issuer:
            assert issuer.access.required

    asyncio.run(test())


def test_when_a_token_was_used_is_told_and_kept(tmp_path: Path) -> None:
    async def test() -> None:
        clock = Clock()
        async with issuing(tmp_path, Access(clock=clock)) as issuer:
            _, text = await issuer.create(Wish(("read",)), by="ann")
            assert [token.used_at for token in await issuer.tokens()] == [None]
            issuer.access.enter(bearer(text), NOW)
            assert [token.used_at for token in await issuer.tokens()] == [clock.now]
            clock.now += 7
            issuer.access.enter(bearer(text), NOW)
        async with issuing(tmp_path) as issuer:
            assert [token.used_at for token in await issuer.tokens()] == [clock.now]

    asyncio.run(test())


def act(status: int = 200, *, remark: str = "no token") -> Act:
    return Act(1.0, "the token ci", "apply", "/api/v1/apply", "10.0.0.1", status, remark, "r")


def test_a_flood_of_refused_calls_is_written_down_in_part_and_counted(tmp_path: Path) -> None:
    async def test() -> None:
        async with issuing(tmp_path) as issuer:
            for _ in range(200):
                issuer.record(act(status=401))
            issuer.record(act())
            issuer._refusals = Bucket(Rate(1, "s"))  # as after a while
            issuer.record(act(status=401))
            entries = await issuer.acts(500, None)
            assert len(entries) == 62
            assert entries[0].act.remark == "no token (140 like it before are not listed)"
            assert entries[1].act.status == 200

    asyncio.run(test())


def test_what_was_done_on_a_full_disk_is_written_down_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(tmp_path / "registry.db")

    def limit_pages(spare: int) -> None:
        connection = registry._db.conn
        pages = connection.execute("pragma page_count").fetchone()[0]
        connection.execute(f"pragma max_page_count = {pages + spare}")

    async def test() -> None:
        async with issuing(tmp_path, registry=registry) as issuer:
            await issuer._worker.call(limit_pages, 0)
            for number in range(3):
                issuer.record(act(remark=f"{number}" * 5000))
                assert not await issuer.acts(5, None)  # and that waits for what was asked before
            await issuer._worker.call(limit_pages, 1000)
            entries = await issuer.acts(5, None)
            assert [entry.act.remark[0] for entry in entries] == ["2", "1", "0"]

    with caplog.at_level(logging.WARNING):
        asyncio.run(test())
    assert "database or disk is full" in caplog.text


def test_books_that_cannot_be_kept_fail_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class FullDisk(Registry):
        def writing(self) -> Any:
            raise StorageFull("no room")

    async def test() -> None:
        worker, registry = Worker("registry"), FullDisk(tmp_path / "registry.db")
        await worker.call(registry.open)
        issuer = Issuer(registry, worker, Access())
        issuer.record(act())
        await worker.call(registry.close)
        await asyncio.to_thread(worker.close)
        issuer.record(act())

    with caplog.at_level(logging.WARNING):
        asyncio.run(test())
    assert [record.message for record in caplog.records] == [
        "the entry of mdslite audit for a call of the token ci (apply) could not be kept: no room",
        "the entry of mdslite audit for a call of the token ci (apply) could not be kept: "
        "the registry is closed",
    ]
