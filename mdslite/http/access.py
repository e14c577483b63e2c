"""Who may ask, for what, and how often: the decision on each request, from memory alone. Owns the present
state of tokens and limits; the registry keeps them, and issuer.py changes both.

    Access.enter(authorization) -> Grant -> Grant.require(scope, project, model)

Until the first token is made, everybody who can reach the port may do everything. From then on each request
needs a token, on loopback too, and the end of the last one does not open the door again.

A header that was found good is remembered as it was sent, so that the next request costs one dict lookup.
Nothing of a header that was not is remembered or repeated.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from time import time

from mdslite.errors import Forbidden, InvalidRequest, RateLimited, Unauthorized
from mdslite.store.tokens import SCOPES, Rate, Scope, Token, digest_of, id_of

_REMEMBERED_MAX = 4096
_SLACK = 1e-6  # of an interval: what adding up floats may be off by
_EXPECTED = "expected the header Authorization: Bearer TOKEN"
_HINT = "whoever owns the store makes tokens: mdslite token create --help"


class Bucket:
    """A token bucket, kept as the moment at which it will be full again (the generic cell rate algorithm).

    Times are seconds of one monotonic clock.
    """

    __slots__ = ("_depth_s", "_full_at", "_interval_s", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._interval_s = rate.interval_s
        self._depth_s = (rate.count - 1 + _SLACK) * self._interval_s
        self._full_at = 0.0

    def take(self, now: float) -> float:
        """Take one if there is one; else the seconds until there will be."""
        full_at = self._full_at
        if full_at < now:
            full_at = now
        wait_s = full_at - now - self._depth_s
        if wait_s > 0:
            return wait_s
        self._full_at = full_at + self._interval_s
        return 0.0


class Grant:
    """What one caller may do. `client` is what the request log calls it; `used_at` is when it last entered,
    in Unix seconds; `is_local` says that it needs no token, as it came by a way that only the store's owner
    can take."""

    __slots__ = (
        "bucket",
        "client",
        "expires_at",
        "is_local",
        "model",
        "name",
        "project",
        "scopes",
        "token_id",
        "used_at",
    )

    def __init__(
        self,
        name: str,
        *,
        token_id: str | None = None,
        client: str | None = None,
        scopes: Iterable[Scope] = SCOPES,
        project: str | None = None,
        model: str | None = None,
        bucket: Bucket | None = None,
        expires_at: float | None = None,
        is_local: bool = False,
    ) -> None:
        self.name = name
        self.token_id = token_id
        self.client = client
        self.scopes = frozenset(scopes)
        self.project = project
        self.model = model
        self.bucket = bucket
        self.expires_at = expires_at
        self.is_local = is_local
        self.used_at = 0.0

    def allows(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def covers(self, project: str, model: str) -> bool:
        return self.project in (None, project) and self.model in (None, model)

    def require(self, scope: Scope, *, also: Scope | None = None) -> None:
        """Pass who has the scope, or the other one that will do.

        :raises Forbidden: naming what is missing
        """
        if not (self.allows(scope) or (also is not None and self.allows(also))):
            wanted = scope if also is None else f"{scope} or {also}"
            has = " and ".join(one for one in SCOPES if one in self.scopes)
            raise Forbidden(f"this needs the scope {wanted}; {self.name} has {has}", hint=_HINT)

    def require_model(self, project: str, model: str | None = None) -> None:
        """:raises Forbidden: it is for other models. Whether the asked one exists is not said"""
        if self.project not in (None, project) or self.model not in (None, model):
            asked = project if model is None else f"{project}/{model}"
            raise Forbidden(f"{self.name} is for {self.reach} alone, not for {asked}", hint=_HINT)

    def require_all(self) -> None:
        """:raises Forbidden: it is for some models only"""
        if self.project is not None:
            raise Forbidden(
                f"this concerns all projects, and {self.name} is for {self.reach} alone", hint=_HINT
            )

    def author(self, said: str | None) -> str:
        """Whom the record of a change names: who the caller says to be and the token that says so, or the
        one of them that there is.

        :raises InvalidRequest: that is no name
        """
        if not said:
            return self.name
        if not said.isprintable():
            raise InvalidRequest("expected a name in printable characters", field="author")
        return said if self.token_id is None else f"{said} ({self.name})"

    @property
    def reach(self) -> str:
        """The models that it is for, in words."""
        if self.project is None:
            return "all projects"
        return self.project if self.model is None else f"{self.project}/{self.model}"


ANYBODY = Grant("anybody")  # while there are no tokens
NOBODY = Grant("nobody", scopes=())  # who has none, where none is asked for


class Access:
    """Decides. Used from the event loop's thread only.

    `required` says that requests need a token, `idle` that there is nothing to decide on a prediction.
    """

    def __init__(self, *, clock: Callable[[], float] = time) -> None:
        self.required = False
        self.idle = True
        self.refused = 0  # requests without a token, or without a good one
        self.now = clock
        self._tokens: dict[str, tuple[Token, Grant]] = {}
        self._limits: dict[tuple[str, str], Bucket] = {}
        self._remembered: dict[bytes, Grant] = {}
        self._vouched: dict[bytes, Grant] = {}
        self._headers: dict[str, bytes] = {}  # of `vouch`, by name

    def replace(self, tokens: Iterable[Token], limits: Mapping[tuple[str, str], Rate]) -> None:
        """Decide by these from now on. What stays limited as it was goes on from where it was."""
        former = {token_id: grant for token_id, (_, grant) in self._tokens.items()}
        self._tokens = {token.id: (token, _grant(token, former.get(token.id))) for token in tokens}
        self._limits = {model: _bucket(rate, self._limits.get(model)) for model, rate in limits.items()}
        self._remembered.clear()
        self.required = self.required or bool(self._tokens)
        self.idle = not (self.required or self._limits)

    def vouch(self, name: str) -> bytes:
        """An authorization that lasts as long as this object and allows everything, for callers who are known
        by other means than a token."""
        header = self._headers.get(name)
        if header is None:
            header = self._headers[name] = b"Local " + secrets.token_urlsafe(32).encode()
            self._vouched[header] = Grant(name, is_local=True)
        return header

    def enter(self, authorization: bytes, now: float) -> Grant:
        """Let a request in by its Authorization header; `now` is of a monotonic clock.

        :raises Unauthorized: no token, or one that is unknown, revoked or expired
        :raises RateLimited: it came too often
        """
        try:
            grant = self.recognise(authorization)
        except Unauthorized:
            self.refused += 1
            raise
        bucket = grant.bucket
        if bucket is not None and (wait_s := bucket.take(now)):
            raise RateLimited(
                f"{grant.name} may ask {bucket.rate} and has asked more often", retry_after_s=wait_s
            )
        return grant

    def recognise(self, authorization: bytes) -> Grant:
        """What a header is good for, however often it comes.

        :raises Unauthorized: no token, or one that is unknown, revoked or expired
        """
        if not self.required:
            return self._vouched.get(authorization, ANYBODY)
        grant = self._remembered.get(authorization)
        if grant is None:
            grant = self._look_up(authorization)
        wall = self.now()
        if grant.expires_at is not None and grant.expires_at <= wall:
            raise Unauthorized(f"{grant.name} has expired")
        grant.used_at = wall
        return grant

    def holds(self, grant: Grant) -> bool:
        """Is what was granted still so? For answers that take long."""
        if grant.token_id is None:
            return grant is not ANYBODY or not self.required
        token, _ = self._tokens.get(grant.token_id, (None, None))
        return token is not None and token.is_live(self.now())

    def admit(self, grant: Grant, project: str, model: str, now: float) -> None:
        """Let a prediction through to a model.

        :raises Forbidden: the grant is not for this model
        :raises RateLimited: the model is asked too often
        """
        if grant.project is not None:
            grant.require_model(project, model)
        if self._limits:
            bucket = self._limits.get((project, model))
            if bucket is not None and (wait_s := bucket.take(now)):
                raise RateLimited(
                    f"{project}/{model} may be asked {bucket.rate} and was asked more often",
                    retry_after_s=wait_s,
                )

    def stranger(self, authorization: bytes) -> Unauthorized | None:
        """Why nothing much is to be read from a sender with this header; None for all others."""
        if not self.required or authorization in self._remembered:
            return None
        try:
            self.recognise(authorization)
        except Unauthorized as exc:
            return exc
        return None

    def uses(self) -> dict[str, float]:
        """When each token was last shown, for those that were: Unix seconds by id."""
        return {token_id: grant.used_at for token_id, (_, grant) in self._tokens.items() if grant.used_at}

    def _look_up(self, authorization: bytes) -> Grant:
        if authorization in self._vouched:
            return self._vouched[authorization]
        if not authorization:
            raise Unauthorized(f"a token is needed: {_EXPECTED}")
        kind, _, given = authorization.strip().partition(b" ")
        given = given.strip()
        token_id = id_of(given) if kind.lower() == b"bearer" else None
        if token_id is None:
            raise Unauthorized(f"the Authorization header holds no token: {_EXPECTED}")
        token, grant = self._tokens.get(token_id, (None, None))
        if token is None or grant is None or not hmac.compare_digest(token.digest, digest_of(given)):
            raise Unauthorized("there is no such token")
        if token.revoked_at is not None:
            raise Unauthorized(f"{grant.name} was revoked")
        if len(self._remembered) >= _REMEMBERED_MAX:
            self._remembered.clear()
        self._remembered[authorization] = grant
        return grant


def _grant(token: Token, former: Grant | None) -> Grant:
    """A token's grant, with what the former one remembers."""
    grant = Grant(
        f"the token {token.name}",
        token_id=token.id,
        client=token.name,
        scopes=token.scopes,
        project=token.project,
        model=token.model,
        bucket=None if token.rate is None else _bucket(token.rate, former.bucket if former else None),
        expires_at=token.expires_at,
    )
    grant.used_at = former.used_at if former is not None else 0.0
    return grant


def _bucket(rate: Rate, former: Bucket | None) -> Bucket:
    return former if former is not None and former.rate == rate else Bucket(rate)
