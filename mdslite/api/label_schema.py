"""What the operations on labels take and give, and how what the store keeps becomes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from mdslite.api.inputs import read_input
from mdslite.api.operations import Name
from mdslite.api.schema import Given, Limit, ModelPath, Time, Value
from mdslite.store.labels import CLASSES_MAX, Item, Label, Reason, Rules, VersionAnswer
from mdslite.store.moments import time_text
from mdslite.store.requests import LoggedBody

ID_MAX = 2**62
LabelText = Annotated[str, Meta(min_length=1, max_length=256)]
RowId = Annotated[int, Meta(ge=1, le=ID_MAX, description="the `id` of the request's row in the log")]
Rule = Literal["confidence", "disagreement", "random"]


class LabelPath(Given, frozen=True, kw_only=True):
    id: RowId


class QueueQuery(Given, frozen=True, kw_only=True):
    project: Name | None = None
    model: Name | None = None
    rule: Annotated[Rule | None, Meta(description="only what this rule chose")] = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    before: Annotated[RowId | None, Meta(description="`next` of the page before")] = None


class LabelsQuery(Given, frozen=True, kw_only=True):
    project: Name | None = None
    model: Name | None = None
    label: LabelText | None = None
    limit: Limit = 100
    before: Annotated[RowId | None, Meta(description="`next` of the page before")] = None


class OneModelQuery(Given, frozen=True, kw_only=True):
    project: Name
    model: Name


class ExportQuery(OneModelQuery, frozen=True, kw_only=True):
    format: Literal["jsonl", "csv", "parquet"] = "jsonl"


AuthorText = Annotated[str, Meta(min_length=1, max_length=200, description="who says so; else the token")]


class UndoQuery(Given, frozen=True, kw_only=True):
    author: AuthorText | None = None


class LabelBody(Given, frozen=True, kw_only=True):
    """What the answer should have been."""

    label: LabelText
    note: Annotated[str, Meta(max_length=2000)] = ""
    author: AuthorText | None = None


class RulesBody(Given, frozen=True, kw_only=True):
    """Which requests are put before people; what is left out is as by default."""

    below_confidence: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None, Meta(description="those less sure; null for none")
    ] = Rules().below_confidence
    disagreements: Annotated[bool, Meta(description="those that a shadow answered otherwise")] = True
    share: Annotated[float, Meta(ge=0, le=1, description="of all, at random")] = Rules().share
    classes: Annotated[
        tuple[LabelText, ...],
        Meta(max_length=CLASSES_MAX, description="the labels to choose from; none: learned from answers"),
    ] = ()


class RulesInfo(RulesBody, frozen=True, kw_only=True):
    project: str
    model: str


class AnswerInfo(Value, frozen=True, kw_only=True):
    """What a version answered: `answer` is the class or value in a word, null where there is none."""

    version: str
    shadow: bool
    replay: Annotated[bool, Meta(description="it was asked again later, by a replay")]
    answer: str | None
    confidence: float | None
    reply: LoggedBody | None


class ItemInfo(Value, frozen=True, kw_only=True):
    """A request that waits for a label, and why. `other` is the first of the answers but the primary's."""

    id: int
    request_id: str
    time: Time
    project: str
    model: str
    version: str
    reason: Reason
    confidence: float | None
    input: Annotated[Any, Meta(description="the instance that was asked about, as JSON")]
    request: LoggedBody
    answer: str | None
    reply: LoggedBody | None
    other: AnswerInfo | None
    answers: Annotated[list[AnswerInfo], Meta(description="all, the primary's first")]


class QueueReply(Value, frozen=True, kw_only=True):
    """Requests that wait for a label, the newest first. `waiting` counts all; `classes` are known labels and
    answers, when one model was asked for."""

    items: list[ItemInfo]
    waiting: int
    next: int | None
    classes: list[str]


class ChangeInfo(Value, frozen=True, kw_only=True):
    label: str
    note: str
    author: str
    time: Time
    undone_by: str | None
    undone_at: Time | None


class LabelInfo(Value, frozen=True, kw_only=True):
    """A request and the label it has, null when everything was taken back. `history` has all changes, the
    oldest first."""

    id: int
    request_id: str
    time: Time
    project: str
    model: str
    version: str
    reason: Annotated[Reason, Meta(description="why it was in the queue; chosen: somebody looked it up")]
    label: str | None
    note: str | None
    author: str | None
    labelled_at: Time | None
    confidence: float | None
    input: Any
    request: LoggedBody
    answers: list[AnswerInfo]
    history: list[ChangeInfo]


class LabelsReply(Value, frozen=True, kw_only=True):
    labels: list[LabelInfo]
    next: int | None


class Share(Value, frozen=True, kw_only=True):
    """A share and its 95 % interval."""

    value: float
    low: float
    high: float


class ScoreInfo(Value, frozen=True, kw_only=True):
    """Labelled requests that a version answered, and how many of them as the label says."""

    labelled: int
    correct: int
    accuracy: Share | None


class VersionScore(Value, frozen=True, kw_only=True):
    """`random` is over the random share, which tells of all traffic; `picked` over what was chosen for being
    doubtful, which is harder than most and tells of itself alone."""

    version: str
    random: ScoreInfo
    picked: ScoreInfo


class AccuracyReply(Value, frozen=True, kw_only=True):
    """How often versions answered as labels say. `notes` tell what the figures leave open."""

    project: str
    model: str
    labels: int
    versions: list[VersionScore]
    notes: list[str]


class ExportedInfo(Value, frozen=True, kw_only=True):
    """A line of a training set: an instance, what the answer should have been, and what each version said."""

    id: int
    time: Time
    request_id: str
    project: str
    model: str
    version: str
    input: Any
    label: str
    note: str
    author: str
    labelled_at: Time
    reason: Reason
    answer: str | None
    confidence: float | None
    answers: dict[str, str | None]


class ForgottenReply(Value, frozen=True, kw_only=True):
    labels: int


def item_info(item: Item) -> ItemInfo:
    answers = [answer_info(one) for one in item.answers]
    first = answers[0] if answers else None
    return ItemInfo(
        id=item.id,
        request_id=item.request_id,
        time=time_text(item.time),
        project=item.project,
        model=item.model,
        version=item.version,
        reason=item.reason,
        confidence=item.confidence,
        input=read_input(item.request),
        request=item.request,
        answer=first.answer if first else None,
        reply=first.reply if first else None,
        other=answers[1] if len(answers) > 1 else None,
        answers=answers,
    )


def answer_info(one: VersionAnswer) -> AnswerInfo:
    return AnswerInfo(
        version=one.version,
        shadow=one.shadow,
        replay=one.replay,
        answer=one.answer,
        confidence=one.confidence,
        reply=one.reply,
    )


def label_info(one: Label) -> LabelInfo:
    item, now = one.item, one.current
    return LabelInfo(
        id=item.id,
        request_id=item.request_id,
        time=time_text(item.time),
        project=item.project,
        model=item.model,
        version=item.version,
        reason=item.reason,
        label=now.label if now else None,
        note=now.note if now else None,
        author=now.author if now else None,
        labelled_at=time_text(now.time) if now else None,
        confidence=item.confidence,
        input=read_input(item.request),
        request=item.request,
        answers=[answer_info(answer) for answer in item.answers],
        history=[
            ChangeInfo(
                label=change.label,
                note=change.note,
                author=change.author,
                time=time_text(change.time),
                undone_by=change.undone_by,
                undone_at=None if change.undone_at is None else time_text(change.undone_at),
            )
            for change in one.changes
        ],
    )


def rules_info(path: ModelPath, rules: Rules) -> RulesInfo:
    given: Mapping[str, Any] = {name: getattr(rules, name) for name in Rules.__struct_fields__}
    return RulesInfo(project=path.project, model=path.model, **given)
