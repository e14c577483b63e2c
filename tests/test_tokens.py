"""Tokens, limits and the audit log in the registry: what is kept, what is not, and how much of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from clocks import Clock

from mdslite.errors import Conflict, InvalidRequest, NotFound
from mdslite.store import audit, tokens
from mdslite.store.audit import Act, Audit
from mdslite.store.migrations import MIGRATION_SET
from mdslite.store.registry import Registry
from mdslite.store.tokens import Rate, Tokens, Wish, digest_of, id_of, mint, parse_span

DAY_S = 86_400.0


@pytest.fixture
def kept(registry: Registry, clock: Clock) -> Tokens:
    return Tokens(registry, clock=clock)


# Texts


def test_a_token_carries_its_id_and_256_random_bits() -> None:
    token_id, text = mint()
    assert id_of(text.encode()) == token_id
    assert len(text) == len(f"mdslite_{token_id}_") + 43  # base64 of 32 bytes
    assert len({mint()[1] for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "text", ["", "mdslite_", "mdslite_abc_def", "secret", "mdslite_abcdefghij_" + "x" * 42, "x" * 5000]
)
def test_what_is_no_token_has_no_id(text: str) -> None:
    assert id_of(text.encode()) is None


@pytest.mark.parametrize(
    ("text", "interval_s"), [("100/s", 0.01), ("6000/m", 0.01), ("1/h", 3600.0), (" 5/s ", 0.2)]
)
def test_a_rate_is_read(text: str, interval_s: float) -> None:
    rate = Rate.parse(text)
    assert rate.interval_s == pytest.approx(interval_s)
    assert str(rate) == text.strip()


@pytest.mark.parametrize("text", ["", "100", "0/s", "-1/s", "1.5/s", "100/d", "100 / s", "9" * 30 + "/s"])
def test_what_is_no_rate_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(InvalidRequest, match="expected such as 100/s"):
        Rate.parse(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400.0), ("12h", 43_200.0), ("30d", 30 * DAY_S), ("1y", 365 * DAY_S)]
)
def test_a_span_is_read(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "0d", "-1d", "d", "30 days", "999999d", "101y"])
def test_what_is_no_span_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(InvalidRequest, match="expected such as 12h, 30d"):
        parse_span(text)


# Tokens


def test_a_token_is_kept_as_it_was_wished_for(kept: Tokens, clock: Clock) -> None:
    wish = Wish(("predict", "read"), "ci", "mail", "spam", Rate(100, "s"), 30 * DAY_S)
    made, text = kept.create(wish, by="ann")
    assert kept.all() == [made]
    assert (made.name, made.scopes, made.project, made.model) == ("ci", ("predict", "read"), "mail", "spam")
    assert made.rate == Rate(100, "s")
    assert (made.created_at, made.created_by) == (clock.now, "ann")
    assert made.expires_at == clock.now + 30 * DAY_S
    assert (made.revoked_at, made.used_at) == (None, None)
    assert made.digest == digest_of(text.encode())


def test_the_secret_is_nowhere_in_the_store(kept: Tokens, registry: Registry, tmp_path: Path) -> None:
    made, text = kept.create(Wish(("admin",)), by="ann")
    registry.close()
    secret = text.rpartition(made.id)[2][1:]
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()
    assert secret not in repr(made)
    assert repr(made.digest) not in repr(made)
    registry.open()


def test_a_token_without_a_name_is_called_by_its_id(kept: Tokens) -> None:
    made, _ = kept.create(Wish(("read",)), by="ann")
    assert made.name == made.id


def test_two_live_tokens_never_share_a_name(kept: Tokens) -> None:
    first, _ = kept.create(Wish(("read",), "ci"), by="ann")
    for taken in ("ci", first.id):
        with pytest.raises(Conflict, match="already"):
            kept.create(Wish(("read",), taken), by="ann")
    kept.revoke("ci")
    kept.create(Wish(("read",), "ci"), by="ann")


def test_a_wish_is_read_as_it_is_written() -> None:
    assert Wish.parse(["read", "predict", "read"]) == Wish(("predict", "read"))
    assert Wish.parse(["admin"], name="a@b", project="p", model="m", rate="5/m", expires="2h") == Wish(
        ("admin",), "a@b", "p", "m", Rate(5, "m"), 7200.0
    )


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"scopes": []}, "scopes: expected one or more of predict, read, admin"),
        ({"scopes": ["read", "root"]}, "got 'root'"),
        ({"scopes": ["read"], "name": "../x"}, "name: expected up to 63 letters"),
        ({"scopes": ["read"], "name": "x" * 64}, "name: expected up to 63 letters"),
        ({"scopes": ["read"], "model": "m"}, "model: .* names its project"),
        ({"scopes": ["read"], "project": "a/b"}, "project: expected the name of one"),
        ({"scopes": ["read"], "project": "p", "model": ""}, "model: expected the name of one"),
        ({"scopes": ["read"], "rate": "5"}, "rate: "),
        ({"scopes": ["read"], "expires": "5"}, "expires: "),
    ],
)
def test_a_wish_that_makes_no_sense_says_what_does(wish: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        Wish.parse(**wish)


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_token_is_revoked_by_name_or_id_and_stays_listed(kept: Tokens, clock: Clock, by: str) -> None:
    made, _ = kept.create(Wish(("read",), "ci"), by="ann")
    clock.now += 5
    kept.revoke(getattr(made, by))
    (listed,) = kept.all()
    assert listed.revoked_at == clock.now
    assert not listed.is_live(clock.now)
    with pytest.raises(NotFound, match="no live token"):
        kept.revoke(made.id)


def test_a_token_lives_until_it_expires(kept: Tokens, clock: Clock) -> None:
    made, _ = kept.create(Wish(("read",), "ci", expires_s=60), by="ann")
    assert made.is_live(clock.now + 59)
    assert not made.is_live(clock.now + 60)
    clock.now += 60
    with pytest.raises(NotFound):
        kept.revoke("ci")


def test_when_a_token_was_used_is_kept(kept: Tokens) -> None:
    made, _ = kept.create(Wish(("read",)), by="ann")
    other, _ = kept.create(Wish(("read",)), by="ann")
    kept.note_uses({made.id: 1_000_123.0})
    assert {token.id: token.used_at for token in kept.all()} == {made.id: 1_000_123.0, other.id: None}


def test_the_dead_are_bounded_and_the_last_of_them_is_never_forgotten(
    kept: Tokens, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "DEAD_MAX", 3)
    for number in range(6):
        clock.now += 1
        kept.create(Wish(("read",), f"t{number}"), by="ann")
        kept.revoke(f"t{number}")
    assert [token.name for token in kept.all()] == ["t3", "t4", "t5"]


def test_there_are_only_so_many_live_tokens_and_limits(kept: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "LIVE_MAX", 2)
    for name in ("a", "b"):
        kept.create(Wish(("read",), name), by="ann")
        kept.limit("p", name, Rate(1, "s"))
    with pytest.raises(Conflict, match="as many as there may be"):
        kept.create(Wish(("read",), "c"), by="ann")
    with pytest.raises(Conflict, match="as many as there may be"):
        kept.limit("p", "c", Rate(1, "s"))
    assert len(kept.all()) == len(kept.limits()) == 2


# Limits


def test_a_models_limit_is_kept_replaced_and_lifted(kept: Tokens) -> None:
    kept.limit("mail", "spam", Rate(100, "s"))
    kept.limit("mail", "ham", Rate(5, "m"))
    kept.limit("mail", "spam", Rate(200, "s"))
    assert kept.limits() == {("mail", "ham"): Rate(5, "m"), ("mail", "spam"): Rate(200, "s")}
    kept.limit("mail", "spam", None)
    kept.limit("no", "such", None)
    assert kept.limits() == {("mail", "ham"): Rate(5, "m")}


# The audit log


def act(number: int, *, status: int = 200) -> Act:
    return Act(float(number), "the token ci", "apply", "/api/v1/apply", "10.0.0.1", status, "", f"r{number}")


def test_acts_are_listed_newest_first_page_by_page(registry: Registry) -> None:
    kept = Audit(registry)
    acts = [act(number) for number in range(5)]
    for one in acts:
        kept.add(one)
    first = kept.page(2)
    assert [entry.act for entry in first] == [acts[4], acts[3]]
    assert [entry.act for entry in kept.page(9, first[-1].id)] == [acts[2], acts[1], acts[0]]


def test_refused_acts_push_out_no_others(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "ADMITTED_MAX", 2)
    monkeypatch.setattr(audit, "REFUSED_MAX", 3)
    kept = Audit(registry)
    for number in range(4):
        kept.add(act(number))
    for number in range(10, 20):
        kept.add(act(number, status=401 if number % 2 else 403))
    assert [entry.act.time for entry in kept.page(99)] == [19, 18, 17, 3, 2]


# Older registries


def test_an_older_registry_gets_the_tables_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    registry = Registry(path)
    registry.open()
    registry.add_artifact("sha256:1", kind="file", size_bytes=1, origin="somewhere")
    registry.close()
    with closing(sqlite3.connect(path)) as db, db:
        for table in ("tokens", "limits", "audit"):
            db.execute(f"drop table {table}")
        db.execute("delete from _sqlite_migrations where name like '0002%'")
        sets = db.execute("select distinct migration_set from _sqlite_migrations").fetchall()
        assert sets == [(MIGRATION_SET,)]
    registry.open()
    assert [row.digest for row in registry.artifacts()] == ["sha256:1"]
    assert Tokens(registry).all() == []
    registry.close()
