"""Who is let in, for what and how often: decided in memory, changed through the issuer."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clocks import Clock
from hypothesis import given
from hypothesis import strategies as st
from minted import make_token

from mdslite.api.issuer import Issuer
from mdslite.errors import Forbidden, NotFound, RateLimited, StorageFull, Unauthorized
from mdslite.http.access import ANYBODY, Access, Bucket
from mdslite.store.audit import Act
from mdslite.store.registry import Registry
from mdslite.store.tokens import Rate, Token, Wish
from mdslite.store.worker import Worker

NOW = 50.0  # of the monotonic clock


def make(*scopes: Any, **fields: Any) -> tuple[Token, bytes]:
    """A token and the header that shows it."""
    token, text = make_token(*scopes or ("admin",), **fields)
    return token, b"Bearer " + text.encode()


def revoked(token: Token) -> Token:
    return replace(token, revoked_at=1.0)


@pytest.fixture
def access(clock: Clock) -> Access:
    return Access(clock=clock)


# Who


def test_without_tokens_everybody_may_do_everything(access: Access) -> None:
    assert not access.required
    assert access.idle
    for header in (b"", b"Bearer nonsense", make()[1]):
        assert access.enter(header, NOW) is ANYBODY
    for scope in ("predict", "read", "admin"):
        ANYBODY.require(scope)  # type: ignore[arg-type]
    ANYBODY.require_model("mail", "spam")
    ANYBODY.require_all()


@pytest.mark.parametrize("form", [b"Bearer %b", b"bearer %b", b"BEARER   %b", b" Bearer %b "])
def test_a_token_is_known_however_its_header_is_spelt(access: Access, form: bytes) -> None:
    token, header = make("read", name="ci")
    access.replace([token], {})
    for _ in range(2):  # the second time from memory
        grant = access.enter(form % header.partition(b" ")[2], NOW)
        assert (grant.token_id, grant.name) == (token.id, "the token ci")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"", "a token is needed"),
        (b"Bearer", "holds no token"),
        (b"Bearer ", "holds no token"),
        (b"Basic dXNlcjpwYXNz", "holds no token"),
        (b"Bearer " + b"x" * 60_000, "holds no token"),
        (b"Bearer \xff\xfe\x00", "holds no token"),
        pytest.param(make()[1], "there is no such token", id="of another store-there is no such token"),
    ],
)
def test_anything_else_is_unauthorized_and_not_repeated(access: Access, header: bytes, words: str) -> None:
    access.replace([make()[0]], {})
    with pytest.raises(Unauthorized, match=words) as refused:
        access.enter(header, NOW)
    assert refused.value.challenge.startswith(b"Bearer")
    assert len(refused.value.message) < 100
    shown = header.partition(b" ")[2].decode("latin-1")
    assert not shown or shown not in refused.value.message


def test_a_secret_that_is_wrong_in_one_letter_is_no_token(access: Access) -> None:
    token, header = make()
    access.replace([token], {})
    access.enter(header, NOW)
    wrong = header[:-1] + (b"A" if header[-1:] != b"A" else b"B")
    with pytest.raises(Unauthorized, match="no such token"):
        access.enter(wrong, NOW)


def test_the_id_of_one_token_does_not_open_with_the_secret_of_another(access: Access) -> None:
    (one, header), (other, foreign) = make(), make()
    access.replace([one, other], {})
    mixed = header[: -len(one.id) - 44] + other.id.encode() + header[-44:]
    assert len(mixed) == len(foreign)
    with pytest.raises(Unauthorized, match="no such token"):
        access.enter(mixed, NOW)


def test_an_expired_token_is_told_so_from_the_moment_on(access: Access, clock: Clock) -> None:
    token, header = make(name="ci", expires_at=clock.now + 10)
    access.replace([token], {})
    access.enter(header, NOW)
    clock.now += 10
    with pytest.raises(Unauthorized, match="the token ci has expired"):
        access.enter(header, NOW)


def test_a_revoked_token_is_told_so_at_once(access: Access) -> None:
    token, header = make(name="ci")
    access.replace([token], {})
    access.enter(header, NOW)
    access.replace([make(name="ci")[0], revoked(token)], {})
    with pytest.raises(Unauthorized, match="the token ci was revoked"):
        access.enter(header, NOW)


def test_the_end_of_the_last_token_opens_nothing(access: Access) -> None:
    token, _ = make()
    access.replace([token], {})
    for left in ([revoked(token)], []):
        access.replace(left, {})
        assert access.required
        with pytest.raises(Unauthorized):
            access.enter(b"", NOW)


def test_who_is_vouched_for_may_do_everything_and_is_named(access: Access) -> None:
    header = access.vouch("local user ann")
    assert access.vouch("local user ann") == header
    assert access.enter(header, NOW).name == "local user ann"
    access.replace([make()[0]], {})
    grant = access.enter(header, NOW)
    grant.require("admin")
    grant.require_all()
    with pytest.raises(Unauthorized):
        access.enter(header[:-1] + b"!", NOW)


def test_memory_of_good_headers_is_bounded(access: Access) -> None:
    token, header = make()
    access.replace([token], {})
    for spaces in range(5_000):
        assert access.enter(header.replace(b" ", b" " * (spaces + 1)), NOW).token_id == token.id
    assert len(access._remembered) <= 4096


# For what


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (("predict",), {"predict"}),
        (("read",), {"read"}),
        (("predict", "read"), {"predict", "read"}),
        (("admin",), {"predict", "read", "admin"}),
    ],
)
def test_a_scope_allows_itself_and_admin_allows_all(
    access: Access, scopes: tuple[str, ...], allowed: set[str]
) -> None:
    token, header = make(*scopes)
    access.replace([token], {})
    grant = access.enter(header, NOW)
    for scope in ("predict", "read", "admin"):
        if scope in allowed:
            grant.require(scope)  # type: ignore[arg-type]
        else:
            with pytest.raises(Forbidden, match=f"needs the scope {scope}; .* has {' and '.join(scopes)}"):
                grant.require(scope)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "asked", "good"),
    [
        ({}, ("any", "thing"), True),
        ({"project": "mail"}, ("mail", "spam"), True),
        ({"project": "mail"}, ("Mail", "spam"), False),
        ({"project": "mail", "model": "spam"}, ("mail", "spam"), True),
        ({"project": "mail", "model": "spam"}, ("mail", "ham"), False),
        ({"project": "mail", "model": "spam"}, ("web", "spam"), False),
    ],
)
def test_a_token_is_for_its_project_and_model(
    access: Access, fields: dict[str, str], asked: tuple[str, str], good: bool
) -> None:
    token, header = make("predict", **fields)
    access.replace([token], {})
    grant = access.enter(header, NOW)
    assert grant.covers(*asked) is good
    if good:
        access.admit(grant, *asked, NOW)
    else:
        with pytest.raises(Forbidden, match=f"is for {'/'.join(fields.values())} alone, not for"):
            access.admit(grant, *asked, NOW)


def test_a_token_of_some_models_is_not_for_what_concerns_all(access: Access) -> None:
    token, header = make("admin", project="mail")
    access.replace([token], {})
    with pytest.raises(Forbidden, match="concerns all projects"):
        access.enter(header, NOW).require_all()


# How often


def test_a_token_may_ask_as_often_as_it_says_and_then_waits(access: Access) -> None:
    token, header = make("predict", name="ci", rate=Rate(100, "s"))
    access.replace([token], {})
    for _ in range(100):
        access.enter(header, NOW)
    with pytest.raises(RateLimited, match="the token ci may ask 100/s") as refused:
        access.enter(header, NOW)
    assert refused.value.retry_after_s == pytest.approx(0.01, abs=1e-4)
    access.enter(header, NOW + 0.0101)
    with pytest.raises(RateLimited):
        access.enter(header, NOW + 0.0102)


def test_a_models_limit_holds_for_everybody_together(access: Access) -> None:
    (one, first), (other, second) = make("predict"), make("predict")
    access.replace([one, other], {("mail", "spam"): Rate(2, "m")})
    access.admit(access.enter(first, NOW), "mail", "spam", NOW)
    access.admit(access.enter(second, NOW), "mail", "spam", NOW)
    with pytest.raises(RateLimited, match="mail/spam may be asked 2/m") as refused:
        access.admit(access.enter(first, NOW), "mail", "spam", NOW)
    assert refused.value.retry_after_s == pytest.approx(30, abs=0.1)
    access.admit(access.enter(first, NOW), "mail", "ham", NOW)


def test_a_model_is_limited_without_tokens_too(access: Access) -> None:
    access.replace([], {("mail", "spam"): Rate(1, "s")})
    assert not access.required
    assert not access.idle
    access.admit(access.enter(b"", NOW), "mail", "spam", NOW)
    with pytest.raises(RateLimited):
        access.admit(access.enter(b"", NOW), "mail", "spam", NOW)
    access.replace([], {})
    assert access.idle


def test_a_change_elsewhere_gives_nobody_a_full_bucket(access: Access) -> None:
    token, header = make("predict", rate=Rate(1, "h"))
    limits = {("mail", "spam"): Rate(1, "h")}
    access.replace([token], limits)
    access.admit(access.enter(header, NOW), "mail", "spam", NOW)
    access.replace([token, make()[0]], limits)
    with pytest.raises(RateLimited):
        access.enter(header, NOW + 1)
    with pytest.raises(RateLimited):
        access.admit(ANYBODY, "mail", "spam", NOW + 1)


@given(
    rate=st.builds(Rate, st.integers(1, 1000), st.sampled_from("smh")),
    gaps=st.lists(st.floats(0, 100, allow_nan=False), max_size=60),
)
def test_no_window_holds_more_than_the_rate_and_one_burst(rate: Rate, gaps: list[float]) -> None:
    bucket, now, taken = Bucket(rate), 1000.0, []
    for gap in gaps:
        now += gap
        wait_s = bucket.take(now)
        assert wait_s >= 0
        if not wait_s:
            taken.append(now)
        else:
            assert bucket.take(now + wait_s + 1e-6 * rate.interval_s) == 0 or wait_s < 1e-9
            taken.append(now + wait_s)
            now += wait_s
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            window_s = taken[last] - taken[first]
            assert last - first + 1 <= rate.count + window_s / rate.interval_s + 1


# The issuer


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
        "a call of the token ci (apply) could not be kept: no room",
        "a call of the token ci (apply) could not be kept: the registry is closed",
    ]
