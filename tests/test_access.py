"""Who is let in, for what and how often: decided in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from clocks import Clock
from hypothesis import given
from hypothesis import strategies as st
from minted import make_token

from mdslite.errors import Forbidden, InvalidRequest, RateLimited, Unauthorized
from mdslite.http.access import ANYBODY, Access, Bucket, Grant
from mdslite.store.tokens import Rate, Token

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
        ANYBODY.require(scope)
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


def test_an_author_is_who_says_so_and_the_token_behind_it() -> None:
    ours = Grant("the token ci", token_id="k3v7")
    assert ours.author("ann@desk") == "ann@desk (the token ci)"
    assert ours.author(None) == "the token ci"
    assert (ANYBODY.author("ann@desk"), ANYBODY.author("")) == ("ann@desk", "anybody")
    with pytest.raises(InvalidRequest, match="author: expected a name in printable characters"):
        ours.author("ann\n")


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
            grant.require(scope)
        else:
            with pytest.raises(Forbidden, match=f"needs the scope {scope}; .* has {' and '.join(scopes)}"):
                grant.require(scope)


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
