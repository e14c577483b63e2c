"""What the operations on plans, applies and revisions take and give."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from mdslite.api.operations import Name
from mdslite.api.schema import Digest, Given, Limit, Time, Value
from mdslite.deploy.events import FetchEvent, InstallEvent, StepEvent, TryEvent
from mdslite.deploy.orders import WEIGHT_MAX

REVISION_MAX = 2**63 - 1  # what the registry can count to
RevisionNumber = Annotated[int, Meta(ge=1, le=REVISION_MAX)]
RevisionOrNone = Annotated[int, Meta(ge=0, le=REVISION_MAX)]  # 0: before the first
# The bounds that are told are the order's to keep: a number that is no weight is 422, as in a file.
WeightValue = Annotated[
    float,
    Meta(
        description="relative weight, 0 or more",
        extra_json_schema={"minimum": 0, "maximum": WEIGHT_MAX},
    ),
]


class RevisionPath(Given, frozen=True, kw_only=True):
    revision: RevisionNumber


class RevisionsQuery(Given, frozen=True, kw_only=True):
    limit: Limit = 50
    before: Annotated[RevisionNumber | None, Meta(description="only revisions older than this one")] = None


class WeightsWish(Given, frozen=True, kw_only=True):
    """Other weights for some versions of a model; those that are not named keep theirs."""

    project: Name
    model: Name
    weights: dict[Name, WeightValue]


class RemovalWish(Given, frozen=True, kw_only=True):
    """One version to delete."""

    project: Name
    model: Name
    version: Name


class PlanBody(Given, frozen=True, kw_only=True):
    """One of these: a deployments file (`source`, with its `base`), a `revision` to go back to, `weights`, or
    one version to `remove`."""

    source: Annotated[str | None, Meta(description="the text of a deployments.yaml")] = None
    file: Annotated[str, Meta(max_length=4096, description="what messages call it")] = "deployments.yaml"
    base: Annotated[
        str | None, Meta(description="the folder that relative uris start from, an absolute path")
    ] = None
    prune: Annotated[bool, Meta(description="also delete the models that the file does not name")] = False
    revision: Annotated[
        RevisionOrNone | Literal["previous"] | None,
        Meta(description="go back to the state after it; previous is the state before the latest one"),
    ] = None
    weights: WeightsWish | None = None
    remove: RemovalWish | None = None


class ApplyBody(PlanBody, frozen=True, kw_only=True):
    """What to apply, with who and why."""

    reason: Annotated[str, Meta(max_length=4096)] | None = None
    author: Annotated[str, Meta(max_length=256)] | None = None
    expect_revision: Annotated[
        RevisionOrNone | None,
        Meta(description="refuse (409) when another one is the latest applied by now"),
    ] = None
    expect_digests: Annotated[
        dict[str, Digest],
        Meta(description="by PROJECT/MODEL@VERSION; refuse (409) when an artifact has another one by now"),
    ] = field(default_factory=dict)


class ChangeInfo(Value, frozen=True, kw_only=True):
    field: str
    before: Any
    after: Any


class WantedInfo(Value, frozen=True, kw_only=True):
    spec: Annotated[dict[str, Any], Meta(description="as in a deployments.yaml, without defaults")]
    digest: Digest
    size_bytes: int
    memory_bytes: int | None


class StepInfo(Value, frozen=True, kw_only=True):
    action: Literal["RETAIN", "ADD", "UPDATE", "DELETE"]
    version: str
    before: WantedInfo | None
    after: WantedInfo | None
    changes: list[ChangeInfo]
    reload: Annotated[bool, Meta(description="does it take a new session?")]


class ModelPlanInfo(Value, frozen=True, kw_only=True):
    project: str
    model: str
    steps: list[StepInfo]


class DiffInfo(Value, frozen=True, kw_only=True):
    changed: bool
    models: list[ModelPlanInfo]


class PlanReply(DiffInfo, frozen=True, kw_only=True):
    """What would change. `base_revision` is for `expect_revision` of the apply, and the digests after it
    are for `expect_digests`."""

    base_revision: int


class PlanEvent(PlanReply, frozen=True, kw_only=True, tag_field="event", tag="plan"):
    """The end of a plan that was made, always the last line."""


class ResultEvent(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="result"):
    """The end of an apply, or of a plan that could not be made; always the last line. `revision` is the one
    that the apply made (a failed one when it failed), or, when nothing had to change, the one in force; null
    where there is none. A failure brings what an error reply would (`error`, `code`, `status` and its
    details), and `diff`: what was to be done, as far as that was known."""

    revision: int | None
    state: Literal["applied", "failed", "unchanged"]
    seconds: float
    error: str | None = None
    code: str | None = None
    status: int | None = None
    hint: str | None = None
    file: str | None = None
    line: int | None = None
    column: int | None = None
    excerpt: str | None = None
    diff: DiffInfo | None = None


PlanLine = FetchEvent | InstallEvent | TryEvent | PlanEvent | ResultEvent
ApplyLine = FetchEvent | InstallEvent | TryEvent | StepEvent | ResultEvent


class Summary(Value, frozen=True, kw_only=True):
    """How many versions each action concerned."""

    add: int
    update: int
    delete: int
    retain: int


class ApplyReply(Value, frozen=True, kw_only=True):
    """`revision` is the new one, or the one in force when nothing had to change."""

    revision: int
    state: Literal["applied", "unchanged"]
    seconds: float
    summary: Summary


class RevisionInfo(Value, frozen=True, kw_only=True):
    id: int
    time: Time
    author: str
    reason: str
    state: Literal["applied", "failed"]
    error: str | None
    summary: Summary
    diff: DiffInfo


class DeployedInfo(Value, frozen=True, kw_only=True):
    project: str
    model: str
    version: str
    spec: dict[str, Any]
    digest: Digest
    size_bytes: int
    memory_bytes: int | None
    since_revision: int | None


class RevisionDetail(RevisionInfo, frozen=True, kw_only=True):
    """A revision with the text that was applied (empty for one that went back) and the state after it."""

    source: str
    versions: list[DeployedInfo]
