"""What the operations on replays take and give."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from mdslite.api.comparison import Comparison
from mdslite.api.operations import Name
from mdslite.api.schema import Given, Time, Value

TOTAL_MAX = 100_000
State = Literal["counting", "running", "done", "cancelled", "failed", "interrupted"]

_RATE = r"^([0-9]{1,6}(\.[0-9]{1,6})?)(x|/s)$(?!\n)"
RateText = Annotated[
    str,
    Meta(
        pattern=_RATE,
        description="2x: twice the pace of before; 50/s: so many a second",
        examples=["2x"],
        extra={"word": "a rate such as 2x (twice the pace of before) or 50/s"},
    ),
]


class ReplayPath(Given, frozen=True, kw_only=True):
    id: Annotated[int, Meta(ge=1, le=2**62)]


class ReplaysQuery(Given, frozen=True, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=200)] = 20


class ReplayBody(Given, frozen=True, kw_only=True):
    """Which logged requests to send again, to which version, how fast."""

    filter: Annotated[
        str,
        Meta(
            max_length=2000,
            description="of the log's language. Without project= and model= it means the version's; "
            "without shadow, requests alone and not the copies that shadows got",
        ),
    ]
    project: Name
    model: Name
    version: Name
    rate: RateText = "1x"
    compare: Annotated[bool, Meta(description="put the answers beside those of before")] = False
    limit: Annotated[int, Meta(ge=1, le=TOTAL_MAX, description="send the first so many")] = 10_000
    author: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class ReplayInfo(Value, frozen=True, kw_only=True):
    """A replay. `matched` counts logged requests that pass the filter, `with_body` those whose body was kept,
    `truncated` those kept in part and `unreadable` those kept without what tells how to read them (redacted,
    or binary): neither can be sent. With `limited` all but `matched` is of the first requests alone, as
    many as were looked at until the limit was met. `total` are to be sent, `sent` were; of these `answered`
    well, `failed` with an error of the version's, `refused` for want of room or time. `behind_s` is how far
    it lags behind its pace: it gives way to everybody else."""

    id: int
    project: str
    model: str
    version: str
    filter: str
    rate: str
    compare: bool
    author: str
    state: State
    message: str
    started_at: Time
    ended_at: Time | None
    matched: int
    with_body: int
    truncated: int
    unreadable: int
    limited: bool = False
    total: int
    sent: int
    answered: int
    failed: int
    refused: int
    behind_s: float
    comparison: Comparison | None
