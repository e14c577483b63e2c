"""The operations of the admin API, and the list of them. Each takes the appliance's parts and a checked call,
and returns a reply that schema.py describes. Owns no state.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from time import monotonic

import msgspec

from mdslite import deployments
from mdslite.api import news, past, resources, views
from mdslite.api.conditions import revision_tag, rows_of, tag_of, tagged
from mdslite.api.known import versions_of
from mdslite.api.ndjson import until_left
from mdslite.api.operations import NDJSON, Answer, Call, Nothing, Operation, Raw, declare
from mdslite.api.ordering import carry_out, make_order, remark
from mdslite.api.parts import Parts
from mdslite.api.plan_schema import (
    ApplyBody,
    ApplyLine,
    ApplyReply,
    PlanBody,
    PlanEvent,
    PlanLine,
    PlanReply,
    ResultEvent,
    RevisionDetail,
    RevisionInfo,
    RevisionPath,
    RevisionsQuery,
)
from mdslite.api.progress import result_event, tell
from mdslite.api.schema import (
    AtQuery,
    BackupBody,
    BackupReply,
    FindingInfo,
    ModelInfo,
    ModelPath,
    ModelsQuery,
    PrintedInfo,
    Status,
    VersionPath,
)
from mdslite.deploy.drafting import DraftEnded
from mdslite.deploy.events import Event, Feed
from mdslite.deploy.orders import FileSource, Outcome, RevisionSource, Source, VersionSource, WeightsSource
from mdslite.deploy.plan import Plan
from mdslite.errors import BODY_HINT, Conflict, InvalidRequest, MdsliteError, quoted
from mdslite.http.access import Grant
from mdslite.store.registry import Revision, VersionRow

_PAGE = 200
_WISHES = ("source", "revision", "weights", "remove")
_NOT_APPLIED = (404, 409, 422, 507)


async def get_status(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> Status:
    """The appliance: version, uptime, revision in force, devices"""
    latest = await parts.worker.call(parts.registry.latest)
    return views.status_of(parts, latest.id if latest else 0, call.caller.grant)


async def list_models(parts: Parts, call: Call[Nothing, ModelsQuery, Nothing]) -> list[ModelInfo] | Answer:
    """Every model and its versions, with the traffic of the last minute; or what was deployed at a time"""
    query, grant = call.query, call.caller.grant
    if query.at is not None:
        at = past.read_moment(query.at)
        then = await parts.worker.call(parts.registry.at_time, at)
        revision = await _revision_at(parts, at)
        number = revision.id if revision else 0
        return past.past_models(then, at=at, revision=number, project=query.project, grant=grant)
    rows = await parts.worker.call(parts.registry.current)
    latest = await parts.worker.call(parts.registry.latest)
    found = views.models_of(parts, rows, project=query.project, grant=grant)
    return tagged(found, revision_tag(latest.id if latest else 0), call.headers)


async def get_model(parts: Parts, call: Call[ModelPath, AtQuery, Nothing]) -> ModelInfo | Answer:
    """One model, now or at a time of the past"""
    path = call.path
    if call.query.at is None:
        rows = await parts.worker.call(parts.registry.current)
        found = _model(parts, path, rows)
        tag = tag_of(rows_of(rows, path.project, path.model))
        return found if tag is None else tagged(found, tag, call.headers)
    at = past.read_moment(call.query.at)
    rows = await parts.worker.call(parts.registry.at_time, at)
    revision = await _revision_at(parts, at)
    return views.past_model(path.project, path.model, rows, at=at, revision=revision.id if revision else 0)


async def get_output(parts: Parts, call: Call[VersionPath, Nothing, Nothing]) -> list[PrintedInfo]:
    """What the package of a version has printed, by replica: the end of it. Empty for other models"""
    path = call.path
    served = parts.fleet.find(path.project, path.model, path.version)
    if served is None:
        known = await versions_of(parts, path.project, path.model)
        raise parts.fleet.router.unknown(path.project, path.model, path.version, known)
    return views.printed_of(served)


async def plan(parts: Parts, call: Call[Nothing, Nothing, PlanBody]) -> PlanReply | Answer:
    """What an apply would change. Fetches and probes artifacts, changes nothing; ends when its caller does"""
    source = _source(call.body)
    await _check_reach(call.caller.grant, source)
    if NDJSON not in call.accept:
        task = parts.deployer.own(parts.deployer.plan(source), name="plan")
        draft = await until_left(task, call.receive)
        etag = revision_tag(draft.base_revision).encode()
        return Raw(msgspec.json.encode(views.plan_reply(draft)), headers=((b"etag", etag),))

    feed = Feed()
    telling = parts.deployer.own(_plan_told(parts, source, feed), name="plan")
    return await tell(telling, feed, call.receive, last=lambda: telling, goes_on=False)


async def apply(parts: Parts, call: Call[Nothing, Nothing, ApplyBody]) -> ApplyReply | Answer:
    """Apply a file, or go back to a revision: all of it or nothing. It goes on when its caller leaves"""
    body = call.body
    source = _source(body)
    await _check_reach(call.caller.grant, source)
    order = make_order(
        call,
        source,
        author=body.author,
        reason=body.reason or "",
        tag_of=lambda rows, latest: revision_tag(latest),
        expect_revision=body.expect_revision,
        expect_digests=body.expect_digests,
    )
    if NDJSON not in call.accept:
        return await carry_out(parts, call, order)
    replayed = await parts.once.replay(call)
    if replayed is not None:
        return replayed
    feed = Feed()

    def hear(event: Event) -> None:
        feed.post(event)
        parts.bulletin.progress(event)

    task = parts.deployer.begin(order, progress=hear)
    task.add_done_callback(lambda _: remark(call.caller, task))
    parts.deployer.own(parts.once.keep(call, lambda: _last_line(task)), name="receipt")
    return await tell(task, feed, call.receive, last=lambda: _end(task), goes_on=True)


async def list_revisions(parts: Parts, call: Call[Nothing, RevisionsQuery, Nothing]) -> list[RevisionInfo]:
    """Revisions, newest first, failed ones too"""
    found = await parts.worker.call(parts.registry.revisions, call.query.limit, call.query.before)
    return [views.revision_of(one) for one in found]


async def get_revision(parts: Parts, call: Call[RevisionPath, Nothing, Nothing]) -> RevisionDetail | Answer:
    """One revision: its diff, the text that was applied, and what was deployed after it"""
    found = await parts.worker.call(parts.registry.revision, call.path.revision)
    rows = await parts.worker.call(parts.registry.at_revision, call.path.revision)
    info = views.revision_of(found)
    fields = {name: getattr(info, name) for name in RevisionInfo.__struct_fields__}
    versions = [views.deployed_of(row) for row in rows]
    detail = RevisionDetail(**fields, source=found.source, versions=versions)
    return tagged(detail, revision_tag(found.id), call.headers)


async def backup(parts: Parts, call: Call[Nothing, Nothing, BackupBody]) -> BackupReply:
    """Copy the store into one file while it serves"""
    path = call.body.path
    if path is not None and not os.path.isabs(path):
        raise InvalidRequest(f"expected an absolute path, got {quoted(path)}", field="path")
    call.caller.remark = f"to {path}" if path is not None else ""
    made = await asyncio.to_thread(_back_up, parts.settings.store, path, call.body.log)
    call.caller.remark = f"to {made.path}"
    return made


async def doctor(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> list[FindingInfo]:
    """What is wrong with this machine and the store, and how to mend it"""
    findings = await asyncio.to_thread(_examine, parts.settings.store)
    trouble = views.log_trouble(parts)
    if trouble is not None:
        hint = "mend that, and they are written; those that find no room in memory are lost and counted"
        findings.append(FindingInfo(level="error", what=f"request log: {trouble}", hint=hint))
    return findings


def make_operations() -> list[Operation]:
    """Every operation under /api/v1."""
    root = "/api/v1"
    model = f"{root}/projects/{{project}}/models/{{model}}"
    return [
        declare("GET", f"{root}/status", get_status, group="appliance", reach="own"),
        declare(
            "GET", f"{root}/models", list_models, group="models", errors=(412,), reach="own", tagged=True
        ),
        # Who predicts may know what the model takes.
        declare("GET", model, get_model, group="models", errors=(404,), also="predict", tagged=True),
        *resources.make_operations(),
        *news.make_operations(),
        *past.make_operations(),
        declare("GET", f"{model}/versions/{{version}}/output", get_output, group="models", errors=(404,)),
        declare(
            "POST",
            f"{root}/plan",
            plan,
            group="deployments",
            errors=_NOT_APPLIED,
            stream=PlanLine,
            unary=True,
            reach="own",
        ),
        declare(
            "POST",
            f"{root}/apply",
            apply,
            group="deployments",
            errors=_NOT_APPLIED,
            stream=ApplyLine,
            reach="own",
            tagged=True,
            once=True,
        ),
        declare("GET", f"{root}/revisions", list_revisions, group="deployments"),
        declare(
            "GET",
            f"{root}/revisions/{{revision}}",
            get_revision,
            group="deployments",
            errors=(404, 412),
            tagged=True,
        ),
        declare("POST", f"{root}/backup", backup, group="appliance", errors=(409, 422, 507)),
        declare("GET", f"{root}/doctor", doctor, group="appliance"),
    ]


def _model(parts: Parts, path: ModelPath, rows: list[VersionRow]) -> ModelInfo:
    for model in views.models_of(parts, rows, project=path.project):
        if model.model == path.model:
            return model
    raise parts.fleet.router.unknown(path.project, path.model)


async def _revision_at(parts: Parts, unix_s: float) -> Revision | None:
    """The latest revision applied at a time."""
    before = None
    while page := await parts.worker.call(parts.registry.revisions, _PAGE, before):
        for revision in page:
            if revision.state == "applied" and revision.time <= unix_s:
                return revision
        before = page[-1].id
    return None


async def _check_reach(grant: Grant, source: Source) -> None:
    """Let a grant for some models change those alone.

    :raises Forbidden: more than they would change
    :raises SpecError: the file is wrong
    """
    if grant.project is None:
        return
    if isinstance(source, WeightsSource | VersionSource):
        grant.require_model(source.project, source.model)
        return
    if not isinstance(source, FileSource) or source.prune:
        grant.require_all()
        return
    wanted = await asyncio.to_thread(deployments.load, source.text, file=source.file, base=source.base)
    for deployment in wanted.deployments:
        grant.require_model(deployment.project, deployment.model)


def _source(body: PlanBody) -> Source:
    given = [name for name in _WISHES if getattr(body, name) is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        raise InvalidRequest(f"expected one of {', '.join(_WISHES)}; got {got}", hint=BODY_HINT)
    if body.revision is not None:
        return RevisionSource(body.revision)
    if body.weights is not None:
        wish = body.weights
        return WeightsSource(wish.project, wish.model, wish.weights, place="weights.weights")
    if body.remove is not None:
        return VersionSource(body.remove.project, body.remove.model, body.remove.version, None)
    assert body.source is not None
    if body.base is None or not os.path.isabs(body.base) or "\0" in body.base:
        got = "none" if body.base is None else quoted(body.base)
        raise InvalidRequest(f"expected the absolute path of the file's folder, got {got}", field="base")
    return FileSource(body.source, body.file, Path(body.base), prune=body.prune)


async def _plan_told(parts: Parts, source: Source, feed: Feed) -> PlanEvent | ResultEvent:
    """:raises MdsliteError: what is wrong shows before anything was told, or is known of the plan"""
    sketches, started = list[Plan](), monotonic()
    try:
        draft = await parts.deployer.plan(source, progress=feed.post, sketched=sketches.append)
    except MdsliteError as exc:
        if not (sketches or feed.begun):
            raise
        sketch = sketches[-1] if sketches else None
        return result_event(Outcome("failed", None, sketch, monotonic() - started, exc))
    return views.plan_event(draft)


async def _last_line(task: asyncio.Task[Outcome]) -> Raw:
    """All that is told again of an apply whose steps were streamed."""
    return Raw(msgspec.json.encode(result_event(await task)) + b"\n", NDJSON)


async def _end(task: asyncio.Task[Outcome]) -> ResultEvent:
    try:
        return result_event(await asyncio.shield(task))
    except (Conflict, DraftEnded) as exc:  # found out only after something was fetched, which has been told
        return result_event(Outcome("failed", None, None, 0.0, exc))


def _back_up(store: Path, path: str | None, log: bool) -> BackupReply:
    from mdslite.store.backup import backup, measure  # seldom needed, and tarfile is slow to import

    made = backup(store, Path(path) if path is not None else None, log=log)
    size_bytes = made.stat().st_size
    return BackupReply(
        path=str(made.absolute()), store=str(store.absolute()), size_bytes=size_bytes, parts=measure(made)
    )


def _examine(store: Path) -> list[FindingInfo]:
    from mdslite.runtimes.check import check_machine
    from mdslite.store.check import check_store

    findings = [*check_machine(), *check_store(store)]
    return [FindingInfo(level=one.level, what=one.what, hint=one.hint) for one in findings]
