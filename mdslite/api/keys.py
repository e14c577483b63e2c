"""The operations on tokens, limits and the audit log, with what they take and give. Owns no state."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mdslite.api.caller import Caller
from mdslite.api.operations import Call, Name, Nothing, Operation, declare
from mdslite.api.parts import Parts
from mdslite.api.schema import Given, Limit, ModelPath, Time, Value
from mdslite.errors import Forbidden
from mdslite.store.tokens import Rate, Scope, Wish

_RATE = r"^[1-9]\d{0,6}/[smh]$(?!\n)"
_SPAN = r"^[1-9]\d{0,4}[mhdwy]$(?!\n)"
_TOKEN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}$(?!\n)"
RateText = Annotated[
    str,
    Meta(
        pattern=_RATE,
        description="requests per second, minute or hour, all of them at once if need be",
        examples=["100/s", "6000/m"],
        extra={"word": "a rate such as 100/s, 6000/m or 50/h"},
    ),
]
ScopeName = Annotated[
    Scope,
    Meta(description="predict: predictions; read: what GET answers, metrics and logs; admin: everything"),
]
TokenName = Annotated[
    str,
    Meta(
        pattern=_TOKEN_NAME,
        description="up to 63 characters",
        extra={"word": "1 to 63 letters, digits, _, ., @ or -, the first one a letter or digit"},
    ),
]


class TokenPath(Given, frozen=True, kw_only=True):
    token: Annotated[TokenName, Meta(description="its id or its name")]


class AuditQuery(Given, frozen=True, kw_only=True):
    limit: Limit = 100
    before: Annotated[
        Annotated[int, Meta(ge=0, le=2**63 - 1)] | None, Meta(description="only lines before this one")
    ] = None


class TokenBody(Given, frozen=True, kw_only=True):
    """What a new token is to be."""

    scopes: Annotated[list[ScopeName], Meta(min_length=1, max_length=8)]
    name: TokenName | None = None
    project: Annotated[Name | None, Meta(description="for this project alone")] = None
    model: Annotated[Name | None, Meta(description="for this model of the project alone")] = None
    rate: RateText | None = None
    expires: Annotated[
        Annotated[
            str,
            Meta(pattern=_SPAN, examples=["30d"], extra={"word": "a span such as 30m, 12h, 30d, 2w or 1y"}),
        ]
        | None,
        Meta(description="how long it is good for; without it for ever"),
    ] = None


class LimitBody(Given, frozen=True, kw_only=True):
    rate: RateText


class TokenInfo(Value, frozen=True, kw_only=True):
    """A token as it is listed: all but itself."""

    id: str
    name: str
    scopes: list[Scope]
    project: str | None
    model: str | None
    rate: str | None
    state: Literal["live", "expired", "revoked"]
    created_at: Time
    created_by: str
    expires_at: Time | None
    revoked_at: Time | None
    used_at: Annotated[Time | None, Meta(description="when it was last shown")]


class NewToken(TokenInfo, frozen=True, kw_only=True):
    """A token that was just made."""

    token: Annotated[str, Meta(description="the token itself, which nobody is told again")]


class LimitInfo(Value, frozen=True, kw_only=True):
    """How often a model may be asked, by all callers together."""

    project: str
    model: str
    rate: str | None


class AuditLine(Value, frozen=True, kw_only=True):
    """One call that was to change something, or was refused. Predictions are in the request log."""

    id: int
    time: Time
    who: str
    what: Annotated[str, Meta(description="the operation's name in this document")]
    target: Annotated[str, Meta(description="the path of the request")]
    origin: Annotated[str, Meta(description="the caller's address, empty for the store's own socket")]
    status: int
    remark: str
    request_id: str


async def list_tokens(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> list[TokenInfo]:
    """Every token that is known, those that are revoked or expired too"""
    now = parts.issuer.access.now()
    return [TokenInfo(**token.describe(now)) for token in await parts.issuer.tokens()]


async def create_token(parts: Parts, call: Call[Nothing, Nothing, TokenBody]) -> NewToken:
    """Make a token. From the first one on, every request needs one"""
    issuer, caller, body = parts.issuer, call.caller, call.body
    if not (issuer.access.required or caller.is_here or caller.grant.is_local):
        raise Forbidden(
            "the first token is made on the machine itself",
            hint="there: mdslite token create --scope admin --store DIR",
        )
    wish = Wish.parse(**msgspec.to_builtins(body))
    token, text = await issuer.create(wish, by=caller.grant.name)
    caller.remark = f"{token.name} ({token.id})"
    return NewToken(**token.describe(issuer.access.now()), token=text)


async def revoke_token(parts: Parts, call: Call[TokenPath, Nothing, Nothing]) -> TokenInfo:
    """End a token, by its id or name; requests that come after this are refused"""
    token = await parts.issuer.revoke(call.path.token)
    call.caller.remark = f"{token.name} ({token.id})"
    return TokenInfo(**token.describe(parts.issuer.access.now()))


async def list_limits(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> list[LimitInfo]:
    """How often models may be asked"""
    covers = call.caller.grant.covers
    return [
        LimitInfo(project=project, model=model, rate=str(rate))
        for (project, model), rate in (await parts.issuer.limits()).items()
        if covers(project, model)
    ]


async def set_limit(parts: Parts, call: Call[ModelPath, Nothing, LimitBody]) -> LimitInfo:
    """Limit how often a model may be asked, by all callers together"""
    return await _limit(parts, call.caller, call.path, Rate.parse(call.body.rate))


async def lift_limit(parts: Parts, call: Call[ModelPath, Nothing, Nothing]) -> LimitInfo:
    """Let a model be asked as often as anybody likes"""
    return await _limit(parts, call.caller, call.path, None)


async def list_acts(parts: Parts, call: Call[Nothing, AuditQuery, Nothing]) -> list[AuditLine]:
    """Who did what, newest first: calls that change something, and calls that were refused"""
    entries = await parts.issuer.acts(call.query.limit, call.query.before)
    return [AuditLine(**entry.describe()) for entry in entries]


def make_operations() -> list[Operation]:
    """Every operation of who may do what."""
    root = "/api/v1"
    limit = f"{root}/projects/{{project}}/models/{{model}}/limit"
    return [
        declare("GET", f"{root}/tokens", list_tokens, group="access", scope="admin"),
        declare("POST", f"{root}/tokens", create_token, group="access", errors=(409, 507)),
        declare("DELETE", f"{root}/tokens/{{token}}", revoke_token, group="access", errors=(404, 507)),
        declare("GET", f"{root}/limits", list_limits, group="access", reach="own"),
        declare("PUT", limit, set_limit, group="access", errors=(409, 507)),
        declare("DELETE", limit, lift_limit, group="access", errors=(507,)),
        declare("GET", f"{root}/audit", list_acts, group="access", scope="admin"),
    ]


async def _limit(parts: Parts, caller: Caller, path: ModelPath, rate: Rate | None) -> LimitInfo:
    text = None if rate is None else str(rate)
    await parts.issuer.limit(path.project, path.model, rate)
    caller.remark = f"{path.project}/{path.model} {text or 'unlimited'}"
    return LimitInfo(project=path.project, model=path.model, rate=text)
