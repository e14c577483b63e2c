"""From a request to an order of the deployer, and from what became of it to a reply. Carries nothing out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from mdslite.api import views
from mdslite.api.caller import Caller
from mdslite.api.conditions import Conditions
from mdslite.api.operations import Answer, Call, Raw
from mdslite.api.parts import Parts
from mdslite.api.plan_schema import ApplyReply, DiffInfo
from mdslite.deploy.intake import NONE_PLANNED
from mdslite.deploy.orders import Check, Order, Outcome, Source
from mdslite.deploy.plan import to_plain
from mdslite.http.guard import error_body
from mdslite.store.registry import VersionRow

Show = Callable[[], Awaitable[Raw]]
TagOf = Callable[[list[VersionRow], int], str | None]


def make_order(
    call: Call[Any, Any, Any],
    source: Source,
    *,
    author: str | None,
    reason: str,
    tag_of: TagOf,
    expect_revision: int | None = None,
    expect_digests: Mapping[str, str] = NONE_PLANNED,
) -> Order:
    """`tag_of` finds the present tag of what the request changes, for its If-Match and If-None-Match.

    :raises InvalidRequest: one of them is no list of tags
    """
    conditions = Conditions.parse(call.headers)

    def check(rows: Any, latest: int) -> None:
        conditions.require(tag_of(list(rows), latest))

    wanted: Check | None = check if conditions != Conditions() else None
    who = call.caller.grant.author(author)
    return Order(source, who, reason, expect_revision, expect_digests, wanted)


async def carry_out(
    parts: Parts, call: Call[Any, Any, Any], order: Order, *, show: Show | None = None
) -> Answer:
    """Have an order carried out, whether or not its caller stays, and say what became of it: `show` is the
    reply to one that was; by default what the revision is."""

    async def work() -> Raw:
        task = parts.deployer.begin(order, progress=parts.bulletin.progress)
        task.add_done_callback(lambda _: remark(call.caller, task))
        outcome = await task
        if outcome.error is not None:
            body = error_body(outcome.error, call.request_id, revision=outcome.revision)
            return Raw(body, status=outcome.error.status)
        return Raw(msgspec.json.encode(_applied(outcome))) if show is None else await show()

    replayed = await parts.once.replay(call)
    if replayed is not None:
        return replayed
    return await asyncio.shield(parts.deployer.own(parts.once.keep(call, work), name="change"))


def _applied(outcome: Outcome) -> ApplyReply:
    assert outcome.plan is not None and outcome.revision is not None and outcome.state != "failed"
    return ApplyReply(
        revision=outcome.revision,
        state=outcome.state,
        seconds=round(outcome.seconds, 3),
        summary=views.summary_of(msgspec.convert(to_plain(outcome.plan), DiffInfo)),
    )


def remark(caller: Caller, task: asyncio.Task[Outcome]) -> None:
    """Have the audit log say what became of an apply."""
    if not task.cancelled() and task.exception() is None:
        outcome = task.result()
        caller.remark = (
            outcome.state if outcome.revision is None else f"revision {outcome.revision} {outcome.state}"
        )
