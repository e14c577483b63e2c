"""Tokens and limits in the registry: who may ask for what, and how often. Owns two of the registry's tables
and the form of a token; who is let in is decided elsewhere.

A token is `mdslite_ID_SECRET`. The secret is 256 random bits and leaves this module once, in what `mint`
returns; what is kept is the SHA-256 of the whole token. A plain hash is enough for so much randomness: there
is nothing to guess, and so nothing to make slow.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

from mdslite.errors import Conflict, InvalidRequest, NotFound, quoted
from mdslite.store.moments import time_text
from mdslite.store.registry import Registry

Scope = Literal["predict", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

LIVE_MAX = 10_000
DEAD_MAX = 1_000  # revoked and expired ones that are still listed
_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_ID_LENGTH = 10
_SECRET_BYTES = 32
_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}")
_TOKEN = re.compile(rb"mdslite_([a-z2-7]{10})_[A-Za-z0-9_-]{43}")
_SPAN_UNITS_S = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0, "y": 31_536_000.0}
_SPAN_MAX_S = 100 * 31_536_000.0
_SPAN = re.compile(r"([1-9]\d{0,4})([mhdwy])")
_RATE_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
_RATE = re.compile(r"([1-9]\d{0,6})/([smh])")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so long, all of them at once if need be; as text `100/s`, `6000/m` or `50/h`."""

    count: int
    unit: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """:raises InvalidRequest: it is no rate"""
        found = _RATE.fullmatch(text.strip())
        if found is None:
            raise InvalidRequest(f"expected such as 100/s, 6000/m or 50/h; got {quoted(text)}", field="rate")
        return cls(int(found[1]), found[2])

    def __str__(self) -> str:
        return f"{self.count}/{self.unit}"

    @property
    def interval_s(self) -> float:
        return _RATE_UNITS_S[self.unit] / self.count


@dataclass(frozen=True, slots=True)
class Token:
    """One token as it is kept. Times in Unix seconds; without `project` it is for all projects, without
    `model` for all of the project's models; without `expires_at` for ever."""

    id: str
    name: str
    digest: bytes = field(repr=False)
    scopes: tuple[Scope, ...]
    project: str | None
    model: str | None
    rate: Rate | None
    created_at: float
    created_by: str
    expires_at: float | None = None
    revoked_at: float | None = None
    used_at: float | None = None

    def is_live(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)

    def describe(self, now: float) -> dict[str, Any]:
        """All that may be told of it, as plain values; times as ISO 8601 in UTC."""
        ended = "expired" if self.revoked_at is None else "revoked"
        return {
            "id": self.id,
            "name": self.name,
            "scopes": list(self.scopes),
            "project": self.project,
            "model": self.model,
            "rate": None if self.rate is None else str(self.rate),
            "state": "live" if self.is_live(now) else ended,
            "created_at": time_text(self.created_at),
            "created_by": self.created_by,
            "expires_at": None if self.expires_at is None else time_text(self.expires_at),
            "revoked_at": None if self.revoked_at is None else time_text(self.revoked_at),
            "used_at": None if self.used_at is None else time_text(self.used_at),
        }


@dataclass(frozen=True, slots=True)
class Wish:
    """What a new token is to be. Its name is its id when none is given."""

    scopes: tuple[Scope, ...]
    name: str | None = None
    project: str | None = None
    model: str | None = None
    rate: Rate | None = None
    expires_s: float | None = None

    @classmethod
    def parse(
        cls,
        scopes: Sequence[str],
        *,
        name: str | None = None,
        project: str | None = None,
        model: str | None = None,
        rate: str | None = None,
        expires: str | None = None,
    ) -> Self:
        """Read a wish as people write it.

        :raises InvalidRequest: naming what was wrong, and what was expected
        """
        unknown = set(scopes) - set(SCOPES)
        if unknown or not scopes:
            got = quoted(min(unknown)) if unknown else "none"
            raise InvalidRequest(f"expected one or more of {', '.join(SCOPES)}; got {got}", field="scopes")
        if name is not None and not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"expected up to 63 letters, digits and _.@-; got {quoted(name)}", field="name"
            )
        for what, given in (("project", project), ("model", model)):
            if given is not None and not _PLACE.fullmatch(given):
                raise InvalidRequest(f"expected the name of one; got {quoted(given)}", field=what)
        if model is not None and project is None:
            raise InvalidRequest("a token for one model names its project, too", field="model")
        return cls(
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            name=name,
            project=project,
            model=model,
            rate=None if rate is None else Rate.parse(rate),
            expires_s=None if expires is None else parse_span(expires),
        )


def parse_span(text: str) -> float:
    """Seconds of `90m`, `12h`, `30d`, `4w` or `1y`.

    :raises InvalidRequest: it is no span
    """
    found = _SPAN.fullmatch(text.strip())
    seconds = 0.0 if found is None else int(found[1]) * _SPAN_UNITS_S[found[2]]
    if not 0 < seconds <= _SPAN_MAX_S:
        raise InvalidRequest(
            f"expected such as 12h, 30d or 1y, up to 100y; got {quoted(text)}", field="expires"
        )
    return seconds


def mint() -> tuple[str, str]:
    """A new token's id, and the token itself."""
    token_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
    return token_id, f"mdslite_{token_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def id_of(token: bytes) -> str | None:
    """The id in a token, None when it has not the form of one."""
    found = _TOKEN.fullmatch(token)
    return None if found is None else found[1].decode()


def digest_of(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


class Tokens:
    """The tables. Like the registry, it belongs to the one thread that opened that."""

    def __init__(self, registry: Registry, *, clock: Callable[[], float] = time.time) -> None:
        self._registry = registry
        self._clock = clock

    def all(self) -> list[Token]:
        """Every token that is known, the oldest first."""
        return [_token(row) for row in self._registry.read("select * from tokens order by created_at, id")]

    def create(self, wish: Wish, *, by: str) -> tuple[Token, str]:
        """Make a token; returns it with its text, which is kept nowhere.

        :raises Conflict: a live token has this name, or there are too many
        """
        now = self._clock()
        token_id, text = mint()
        token = Token(
            id=token_id,
            name=wish.name or token_id,
            digest=digest_of(text.encode()),
            scopes=wish.scopes,
            project=wish.project,
            model=wish.model,
            rate=wish.rate,
            created_at=now,
            created_by=by,
            expires_at=None if wish.expires_s is None else now + wish.expires_s,
        )
        with self._registry.writing() as db:
            known = [_token(row) for row in db.query("select * from tokens")]
            _check_room(token, known, now)
            for dead in _surplus(known, now):
                db.execute("delete from tokens where id = ?", (dead.id,))
            db.execute(
                "insert into tokens (id, name, digest, scopes, project, model, rate, created_at, created_by,"
                " expires_at) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                _values(token),
            )
        return token, text

    def revoke(self, which: str) -> Token:
        """End a live token, named by its id or its name.

        :raises NotFound: there is none
        """
        now = self._clock()
        with self._registry.writing() as db:
            known = [_token(row) for row in db.query("select * from tokens")]
            token = next((one for one in known if one.is_live(now) and which in (one.id, one.name)), None)
            if token is None:
                raise NotFound(f"there is no live token {quoted(which)}", hint="mdslite token list")
            db.execute("update tokens set revoked_at = ? where id = ?", (now, token.id))
        return replace(token, revoked_at=now)

    def note_uses(self, uses: Mapping[str, float]) -> None:
        """Keep when tokens were last shown: Unix seconds by id."""
        with self._registry.writing() as db:
            for token_id, used_at in uses.items():
                db.execute("update tokens set used_at = ? where id = ?", (used_at, token_id))

    def limits(self) -> dict[tuple[str, str], Rate]:
        """How often each limited model (project, model) may be asked."""
        rows = self._registry.read("select * from limits order by project, model")
        return {(row["project"], row["model"]): Rate.parse(row["rate"]) for row in rows}

    def limit(self, project: str, model: str, rate: Rate | None) -> None:
        """Limit a model, or stop doing so. It need not be deployed."""
        with self._registry.writing() as db:
            db.execute("delete from limits where project = ? and model = ?", (project, model))
            if rate is not None:
                db.execute(
                    "insert into limits (project, model, rate) values (?, ?, ?)", (project, model, str(rate))
                )
                count = db.execute("select count(*) from limits").fetchone()[0]
                if count > LIVE_MAX:
                    raise Conflict(f"there are {LIVE_MAX} limits already, which is as many as there may be")


def _check_room(token: Token, known: Sequence[Token], now: float) -> None:
    live = [one for one in known if one.is_live(now)]
    if any(token.name in (one.name, one.id) for one in live):
        raise Conflict(
            f"there is a token {quoted(token.name)} already",
            hint=f"choose another name, or end that one first: mdslite token revoke {token.name}",
        )
    if len(live) >= LIVE_MAX:
        raise Conflict(
            f"there are {LIVE_MAX} tokens already, which is as many as there may be",
            hint="mdslite token list shows which are not used any more",
        )


def _surplus(known: Sequence[Token], now: float) -> list[Token]:
    """The dead that need not be listed any longer, the first to have died first."""
    dead = sorted(
        (one for one in known if not one.is_live(now)),
        key=lambda one: one.revoked_at or one.expires_at or 0.0,
    )
    return dead[: max(0, len(dead) - DEAD_MAX + 1)]


def _values(token: Token) -> tuple[Any, ...]:
    return (
        token.id,
        token.name,
        token.digest,
        " ".join(token.scopes),
        token.project,
        token.model,
        None if token.rate is None else str(token.rate),
        token.created_at,
        token.created_by,
        token.expires_at,
    )


def _token(row: Mapping[str, Any]) -> Token:
    kept = set(row["scopes"].split())
    return Token(
        id=row["id"],
        name=row["name"],
        digest=row["digest"],
        scopes=tuple(scope for scope in SCOPES if scope in kept),
        project=row["project"],
        model=row["model"],
        rate=None if row["rate"] is None else Rate.parse(row["rate"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        used_at=row["used_at"],
    )
