"""The operations on replays."""

from __future__ import annotations

from mdslite.api.operations import Call, Nothing, Operation, declare
from mdslite.api.parts import Parts
from mdslite.api.replay_schema import ReplayBody, ReplayInfo, ReplayPath, ReplaysQuery
from mdslite.errors import NotFound


async def begin_replay(parts: Parts, call: Call[Nothing, Nothing, ReplayBody]) -> ReplayInfo:
    """Send logged requests to a version once more, behind everybody else's. It ends with the process"""
    body, grant = call.body, call.caller.grant
    grant.require_model(body.project, body.model)
    made = await parts.replays.begin(body, grant=grant)
    call.caller.remark = f"replay {made.id} to {body.project}/{body.model} {body.version}: {body.filter}"
    return made


async def list_replays(parts: Parts, call: Call[Nothing, ReplaysQuery, Nothing]) -> list[ReplayInfo]:
    """Replays, the newest first"""
    covers = call.caller.grant.covers
    return [one for one in await parts.replays.all(call.query.limit) if covers(one.project, one.model)]


async def get_replay(parts: Parts, call: Call[ReplayPath, Nothing, Nothing]) -> ReplayInfo:
    """How far a replay is, and what came of it"""
    return await _find(parts, call)


async def cancel_replay(parts: Parts, call: Call[ReplayPath, Nothing, Nothing]) -> ReplayInfo:
    """End a replay; what is under way is not waited for. One that has ended stays as it is"""
    await _find(parts, call)
    return await parts.replays.cancel(call.path.id)


def make_operations() -> list[Operation]:
    url = "/api/v1/replays"
    one = f"{url}/{{id}}"
    return [
        declare("GET", url, list_replays, group="requests", reach="own"),
        declare("POST", url, begin_replay, group="requests", errors=(404, 507), reach="own"),
        declare("GET", one, get_replay, group="requests", errors=(404,), reach="own"),
        declare("DELETE", one, cancel_replay, group="requests", errors=(404, 507), reach="own"),
    ]


async def _find(parts: Parts, call: Call[ReplayPath, Nothing, Nothing]) -> ReplayInfo:
    found = await parts.replays.find(call.path.id)
    if not call.caller.grant.covers(found.project, found.model):
        raise NotFound(f"there is no replay {found.id}", hint="mdslite replay --list")
    return found
