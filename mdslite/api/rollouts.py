"""The operations on rollouts."""

from __future__ import annotations

from time import time
from typing import Annotated, Literal

from msgspec import Meta

from mdslite.api.known import require_model
from mdslite.api.operations import Call, Name, Nothing, Operation, declare
from mdslite.api.parts import Parts
from mdslite.api.schema import Given, ModelPath, Time, Value
from mdslite.deploy.rollout import Rollout, Wish
from mdslite.errors import InvalidRequest, NotFound
from mdslite.store.moments import time_text


class NoteInfo(Value, frozen=True, kw_only=True):
    """Something that happened to a rollout."""

    time: Time
    what: str


class FindingInfo(Value, frozen=True, kw_only=True):
    """What a gate said when it was looked at last."""

    gate: str
    state: Literal["pass", "fail", "open"]
    text: str


class RolloutInfo(Value, frozen=True, kw_only=True):
    """A rollout. `step` counts from 1; `share` is what the version has of the traffic at that step."""

    id: int
    project: str
    model: str
    version: str
    state: Literal["running", "paused", "promoted", "aborted", "rolled_back"]
    message: str
    steps: list[float]
    step: int
    share: float
    every_s: float
    since: Time
    until: Annotated[Time | None, Meta(description="when the next step is due, while it is running")]
    gates: list[str]
    findings: list[FindingInfo]
    author: str
    reason: str
    started_at: Time
    notes: list[NoteInfo]


class RolloutBody(Given, frozen=True, kw_only=True):
    """What to roll out, and how."""

    version: Name
    steps: Annotated[tuple[float, ...], Meta(description="rising percentages, such as 5, 25, 50, 100")] = (
        5.0,
        25.0,
        50.0,
        100.0,
    )
    every_s: Annotated[float, Meta(description="how long each step lasts at least, in seconds")] = 600.0
    gates: Annotated[
        tuple[str, ...], Meta(max_length=20, description="such as error_rate<1% or p99<1.2x")
    ] = ()
    ungated: Annotated[bool, Meta(description="without gates, step it up whatever it does")] = False
    author: Annotated[str, Meta(max_length=200)] | None = None
    reason: Annotated[str, Meta(max_length=2000)] = ""


class ActionBody(Given, frozen=True, kw_only=True):
    """What to do with the rollout that a model has."""

    action: Literal["pause", "resume", "promote", "abort"]
    author: Annotated[str, Meta(max_length=200)] | None = None


class ListQuery(Given, frozen=True, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=200)] = 20


async def begin_rollout(parts: Parts, call: Call[ModelPath, Nothing, RolloutBody]) -> RolloutInfo:
    """Step a version up while its gates hold, and back where one fails"""
    body, path = call.body, call.path
    if not all(step == step for step in body.steps):
        raise InvalidRequest("expected numbers", field="steps")
    wish = Wish(
        project=path.project,
        model=path.model,
        version=body.version,
        steps=body.steps,
        every_s=body.every_s,
        gates=body.gates,
        ungated=body.ungated,
        author=call.caller.grant.author(body.author),
        reason=body.reason,
    )
    return _info(await parts.rollouts.begin(wish))


async def change_rollout(parts: Parts, call: Call[ModelPath, Nothing, ActionBody]) -> RolloutInfo:
    """Pause, resume, promote or abort the rollout that a model has"""
    act = getattr(parts.rollouts, call.body.action)
    author = call.caller.grant.author(call.body.author)
    return _info(await act(call.path.project, call.path.model, author=author))


async def get_rollout(parts: Parts, call: Call[ModelPath, Nothing, Nothing]) -> RolloutInfo:
    """A model's rollout: the one under way, else the one that ended last"""
    path = call.path
    for rollout in await parts.rollouts.all(limit=200):
        if (rollout.project, rollout.model) == (path.project, path.model):
            return _info(parts.rollouts.find(path.project, path.model) or rollout)
    await require_model(parts, path.project, path.model)
    raise NotFound(
        f"{path.project}/{path.model} has had no rollout",
        hint=f"mdslite rollout {path.project}/{path.model} VERSION begins one",
    )


async def list_rollouts(parts: Parts, call: Call[Nothing, ListQuery, Nothing]) -> list[RolloutInfo]:
    """All rollouts, the newest first"""
    grant = call.caller.grant
    found = await parts.rollouts.all(limit=call.query.limit)
    return [_info(one) for one in found if grant.covers(one.project, one.model)]


def make_operations() -> list[Operation]:
    url = "/api/v1/projects/{project}/models/{model}/rollout"
    return [
        declare("GET", "/api/v1/rollouts", list_rollouts, group="models", reach="own"),
        declare("GET", url, get_rollout, group="models", errors=(404,)),
        declare("POST", url, begin_rollout, group="models", errors=(404, 409, 422)),
        declare("POST", f"{url}/action", change_rollout, group="models", errors=(404, 422)),
    ]


def _info(one: Rollout) -> RolloutInfo:
    runs = one.state == "running"
    return RolloutInfo(
        id=one.id,
        project=one.project,
        model=one.model,
        version=one.version,
        state=one.state,
        message=one.message,
        steps=list(one.steps),
        step=one.at + 1,
        share=one.steps[one.at],
        every_s=one.every_s,
        since=time_text(one.since),
        until=time_text(one.since + one.every_s) if runs and one.since + one.every_s > time() else None,
        gates=list(one.gates),
        findings=[FindingInfo(gate=it.gate, state=it.state, text=it.text) for it in one.findings],
        author=one.author,
        reason=one.reason,
        started_at=time_text(one.started_at),
        notes=[NoteInfo(time=time_text(note.time), what=note.what) for note in one.notes],
    )
