"""The operations on labels: the queue of requests that wait for one, what people said, who was right."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from mdslite.api.known import require_model
from mdslite.api.label_export import export
from mdslite.api.label_schema import (
    AccuracyReply,
    ExportedInfo,
    ExportQuery,
    ForgottenReply,
    LabelBody,
    LabelInfo,
    LabelPath,
    LabelsQuery,
    LabelsReply,
    OneModelQuery,
    QueueQuery,
    QueueReply,
    RulesBody,
    RulesInfo,
    ScoreInfo,
    Share,
    UndoQuery,
    VersionScore,
    item_info,
    label_info,
    rules_info,
)
from mdslite.api.logs import ROWS, Download
from mdslite.api.operations import NDJSON, Answer, Call, Nothing, Operation, declare
from mdslite.api.parts import Parts
from mdslite.api.schema import ModelPath
from mdslite.errors import NotFound
from mdslite.http.access import Grant
from mdslite.intervals import share_interval
from mdslite.store.exports import MEDIA_TYPES
from mdslite.store.labels import Count, Item, Rules

ROOT = "/api/v1/labels"
_ENOUGH = 30  # labels below which an interval is wide whatever it holds


async def get_queue(parts: Parts, call: Call[Nothing, QueueQuery, Nothing]) -> QueueReply:
    """Requests that wait for a label, the newest first, with what each version answered"""
    query = call.query
    project, model = _within(call.caller.grant, query.project, query.model)
    found = await parts.labeling.queue(
        project=project, model=model, reason=query.rule, limit=query.limit, before=query.before
    )
    full = len(found.items) == query.limit
    return QueueReply(
        items=[item_info(one) for one in found.items],
        waiting=found.waiting,
        next=found.items[-1].id if full else None,
        classes=found.classes,
    )


async def list_labels(parts: Parts, call: Call[Nothing, LabelsQuery, Nothing]) -> LabelsReply:
    """Requests that have a label, the newest first"""
    query = call.query
    project, model = _within(call.caller.grant, query.project, query.model)
    found = await parts.labeling.page(
        project=project, model=model, label=query.label, limit=query.limit, before=query.before
    )
    return LabelsReply(
        labels=[label_info(one) for one in found],
        next=found[-1].item.id if len(found) == query.limit else None,
    )


async def get_accuracy(parts: Parts, call: Call[Nothing, OneModelQuery, Nothing]) -> AccuracyReply:
    """How often each version answered as the labels say, with its interval"""
    query = call.query
    call.caller.grant.require_model(query.project, query.model)
    counts = await parts.labeling.counts(query.project, query.model)
    if not counts:
        await require_model(parts, query.project, query.model)
    return judge(query.project, query.model, counts)


async def export_labels(parts: Parts, call: Call[Nothing, ExportQuery, Nothing]) -> ExportedInfo | Answer:
    """A model's labels as a training set: JSON lines, CSV or Parquet"""
    query = call.query
    call.caller.grant.require_model(query.project, query.model)
    size = await parts.labeling.size(query.project, query.model)
    if not size:  # labels outlive their model
        await require_model(parts, query.project, query.model)
    pieces = export(parts.labeling, query.project, query.model, query.format)
    first = await anext(pieces)  # what is missing for it is said with a status of its own
    return Download(
        _joined(first, pieces),
        call.receive,
        MEDIA_TYPES[query.format],
        f"labels.{query.format}",
        b"%d" % size,
    )


async def get_label(parts: Parts, call: Call[LabelPath, Nothing, Nothing]) -> LabelInfo:
    """A request's label with its history"""
    found = await parts.labeling.get(call.path.id)
    _check(call.caller.grant, found.item)
    return label_info(found)


async def put_label(parts: Parts, call: Call[LabelPath, Nothing, LabelBody]) -> LabelInfo:
    """Say what the answer to a request should have been; again to say otherwise"""
    body, grant = call.body, call.caller.grant
    item = await parts.labeling.find_item(call.path.id)
    _check(grant, item)
    text = body.label.strip() or body.label
    author = grant.author(body.author)
    made = await parts.labeling.put(call.path.id, text, note=body.note, author=author)
    call.caller.remark = f"{item.project}/{item.model} {item.request_id}: {text}"
    return label_info(made)


async def undo_label(parts: Parts, call: Call[LabelPath, UndoQuery, Nothing]) -> LabelInfo:
    """Take the last label of a request back: it has the one before it again, or waits for one"""
    grant = call.caller.grant
    item = (await parts.labeling.get(call.path.id)).item
    _check(grant, item)
    call.caller.remark = f"{item.project}/{item.model} {item.request_id}"
    return label_info(await parts.labeling.undo(call.path.id, author=grant.author(call.query.author)))


async def get_labeling(parts: Parts, call: Call[ModelPath, Nothing, Nothing]) -> RulesInfo:
    """By which rules a model's requests are put before people"""
    if not parts.labeling.has_rules(call.path.project, call.path.model):
        await require_model(parts, call.path.project, call.path.model)
    return rules_info(call.path, parts.labeling.rules(call.path.project, call.path.model))


async def put_labeling(parts: Parts, call: Call[ModelPath, Nothing, RulesBody]) -> RulesInfo:
    """Choose by which rules a model's requests are put before people from now on"""
    await require_model(parts, call.path.project, call.path.model)
    given = {name: getattr(call.body, name) for name in Rules.__struct_fields__}
    rules = Rules(**{**given, "classes": tuple(dict.fromkeys(call.body.classes))})
    await parts.labeling.set_rules(call.path.project, call.path.model, rules)
    return rules_info(call.path, rules)


async def forget_labels(parts: Parts, call: Call[ModelPath, Nothing, Nothing]) -> ForgottenReply:
    """Drop all labels of a model with their history. Export them before"""
    count = await parts.labeling.forget(call.path.project, call.path.model)
    if not count:
        await require_model(parts, call.path.project, call.path.model)
    call.caller.remark = f"{count} labels"
    return ForgottenReply(labels=count)


def make_operations() -> list[Operation]:
    model = "/api/v1/projects/{project}/models/{model}"
    one = f"{ROOT}/{{id}}"
    return [
        declare("GET", f"{ROOT}/queue", get_queue, group="labels", reach="own"),
        declare("GET", f"{ROOT}/accuracy", get_accuracy, group="labels", errors=(404,), reach="own"),
        replace(
            declare("GET", f"{ROOT}/export", export_labels, group="labels", errors=(404,), reach="own"),
            media_type=NDJSON,
            produces=(MEDIA_TYPES["csv"], MEDIA_TYPES["parquet"]),
            headers=((ROWS.decode(), "how many labels there are"),),
        ),
        declare("GET", ROOT, list_labels, group="labels", reach="own"),
        declare("GET", one, get_label, group="labels", errors=(404,), reach="own"),
        declare("PUT", one, put_label, group="labels", errors=(404, 409, 422, 507), reach="own"),
        declare("DELETE", one, undo_label, group="labels", errors=(404, 507), reach="own"),
        declare("GET", f"{model}/labeling", get_labeling, group="labels", errors=(404,)),
        declare("PUT", f"{model}/labeling", put_labeling, group="labels", errors=(404, 409, 507)),
        declare("DELETE", f"{model}/labels", forget_labels, group="labels", errors=(404, 507)),
    ]


def judge(project: str, model: str, counts: Sequence[Count]) -> AccuracyReply:
    """Scores by version. Labels of the random share are kept apart: what was chosen for being doubtful is
    harder than most, and its accuracy is not the version's. Intervals are Wilson's (1927)."""
    versions = sorted({one.version for one in counts})
    scores = [
        VersionScore(
            version=version,
            random=_score([one for one in counts if one.version == version and one.reason == "random"]),
            picked=_score([one for one in counts if one.version == version and one.reason != "random"]),
        )
        for version in versions
    ]
    notes = []
    if any(one.picked.labelled for one in scores):
        notes.append(
            "picked: chosen by confidence, by disagreement or by hand, so harder than most requests; "
            "these figures tell of such requests alone"
        )
    if not any(one.random.labelled for one in scores):
        notes.append(
            "random: nothing of the random share is labelled, so there is no accuracy over all traffic"
        )
    for one in scores:
        if 0 < one.random.labelled < _ENOUGH:
            notes.append(f"{one.version}: {one.random.labelled} random labels tell little")
    if any(one.random.labelled for one in scores):
        notes.append(
            "random: true of all traffic as far as every random request was labelled that was shown; "
            "skipping the hard ones makes versions look better"
        )
    labels = max((one.random.labelled + one.picked.labelled for one in scores), default=0)
    return AccuracyReply(project=project, model=model, labels=labels, versions=scores, notes=notes)


def _score(counts: Sequence[Count]) -> ScoreInfo:
    labelled = sum(one.count for one in counts if one.answer is not None)
    correct = sum(one.count for one in counts if one.answer == one.label)
    found = share_interval(correct, labelled)
    share = None if found is None else Share(value=found.value, low=found.low, high=found.high)
    return ScoreInfo(labelled=labelled, correct=correct, accuracy=share)


def _check(grant: Grant, item: Item) -> None:
    """:raises NotFound: the request is not the grant's to know"""
    if not grant.covers(item.project, item.model):
        raise NotFound(f"there is no request {item.id}")


async def _joined(first: bytes, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async with aclosing(pieces):
        async for piece in pieces:
            yield piece


def _within(grant: Grant, project: str | None, model: str | None) -> tuple[str | None, str | None]:
    """What was asked for, as far as it is the grant's to know.

    :raises Forbidden: it asked for others
    """
    project, model = project or grant.project, model or grant.model
    if project is not None:
        grant.require_model(project, model)
    return project, model
