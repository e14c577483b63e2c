"""What has to change between two states of the registry, as values. Loads, stores and routes nothing."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from mdslite import spec as specs
from mdslite.spec import Spec

# The parts of a spec that a session is made from. All else changes under a running one: a weight, the
# batcher's knobs, where the log finds the confidence, where the artifact came from.
RELOADING = frozenset(
    {
        "digest",
        "package_type",
        "runtime",
        "operator",
        "container_parameter",
        "resource",
        "service_info.replicas",
        "service_info.endpoints_infos",
        "isolation",
    }
)


class Action(enum.StrEnum):
    RETAIN = "RETAIN"
    ADD = "ADD"
    UPDATE = "UPDATE"
    DELETE = "DELETE"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version with the artifact it serves. `digest` is `sha256:` and hex digits; `memory_bytes` is what one
    replica is predicted to take, None when unknown."""

    spec: Spec
    digest: str
    size_bytes: int
    memory_bytes: int | None = None


# By (project, model), then by version; insertion order is the file's.
State = Mapping[tuple[str, str], Mapping[str, Wanted]]


@dataclass(frozen=True, slots=True)
class Change:
    """One field of a spec, by its dotted path, or `digest`. None stands for a default or an absent key."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one version. `reload` says that it takes a new session."""

    action: Action
    project: str
    model: str
    version: str
    before: Wanted | None = None
    after: Wanted | None = None
    changes: tuple[Change, ...] = ()
    reload: bool = False


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A model's versions, those that stay included: in the order wanted, then those to be deleted."""

    project: str
    model: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    models: tuple[ModelPlan, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        """What is to be done, in order: all ADD, then all UPDATE, then all DELETE."""
        return tuple(
            step
            for action in (Action.ADD, Action.UPDATE, Action.DELETE)
            for model in self.models
            for step in model.steps
            if step.action is action
        )

    @property
    def changed(self) -> bool:
        return bool(self.steps)


def make_plan(current: State, wanted: State, *, prune: bool) -> Plan:
    """The way from one state to another.

    A version that `wanted` lacks is deleted when `wanted` names its model, or in any case with `prune`.
    """
    named = list(wanted)
    if prune:
        named += [key for key in current if key not in wanted]
    return Plan(tuple(_plan_model(key, current.get(key, {}), wanted.get(key, {})) for key in named))


def target_state(current: State, plan: Plan) -> State:
    """What `current` is once a plan has been carried out."""
    target = dict(current)
    for model in plan.models:
        key = (model.project, model.model)
        versions = {step.version: step.after for step in model.steps if step.after is not None}
        target.pop(key, None)
        if versions:
            target[key] = versions
    return target


def to_plain(plan: Plan) -> dict[str, Any]:
    """A plan as JSON-able values."""
    return {
        "changed": plan.changed,
        "models": [
            {
                "project": model.project,
                "model": model.model,
                "steps": [_plain_step(step) for step in model.steps],
            }
            for model in plan.models
        ],
    }


def _plan_model(
    key: tuple[str, str], current: Mapping[str, Wanted], wanted: Mapping[str, Wanted]
) -> ModelPlan:
    project, model = key
    kept = tuple(
        _plan_version(project, model, version, current.get(version), after)
        for version, after in wanted.items()
    )
    deleted = tuple(
        Step(Action.DELETE, project, model, version, before=before)
        for version, before in current.items()
        if version not in wanted
    )
    return ModelPlan(project, model, kept + deleted)


def _plan_version(project: str, model: str, version: str, before: Wanted | None, after: Wanted) -> Step:
    if before is None:
        return Step(Action.ADD, project, model, version, after=after, reload=True)
    changes = tuple(_changes(before, after))
    return Step(
        Action.UPDATE if changes else Action.RETAIN,
        project,
        model,
        version,
        before=before,
        after=after,
        changes=changes,
        reload=any(_reloads(change.field) for change in changes),
    )


def _changes(before: Wanted, after: Wanted) -> Iterator[Change]:
    if before.digest != after.digest:
        yield Change("digest", before.digest, after.digest)
    old, new = dict(_leaves(before.spec)), dict(_leaves(after.spec))
    for path in dict.fromkeys((*old, *new)):
        was, is_now = old.get(path), new.get(path)
        # To Python 1 is True, to a container's parameters it is not.
        if was != is_now or isinstance(was, bool) != isinstance(is_now, bool):
            yield Change(".".join(path), was, is_now)


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value below a spec that holds no others, with the names that lead to it."""
    if isinstance(value, msgspec.Struct):
        pairs = [(name, getattr(value, name)) for name in value.__struct_fields__]
    elif isinstance(value, dict):
        pairs = list(value.items())
    else:
        yield path, msgspec.json.decode(msgspec.json.encode(value))
        return
    for name, inner in pairs:
        yield from _leaves(inner, (*path, name))


def _reloads(field: str) -> bool:
    return any(field == part or field.startswith(f"{part}.") for part in RELOADING)


def _plain_step(step: Step) -> dict[str, Any]:
    return {
        "action": step.action.value,
        "version": step.version,
        "before": _plain_wanted(step.before),
        "after": _plain_wanted(step.after),
        "changes": [
            {"field": change.field, "before": change.before, "after": change.after} for change in step.changes
        ],
        "reload": step.reload,
    }


def _plain_wanted(wanted: Wanted | None) -> dict[str, Any] | None:
    if wanted is None:
        return None
    return {
        "spec": specs.to_plain(wanted.spec),
        "digest": wanted.digest,
        "size_bytes": wanted.size_bytes,
        "memory_bytes": wanted.memory_bytes,
    }
