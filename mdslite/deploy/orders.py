"""What an apply is given and what it gives back, and the registry's rows as the states that plans compare.
Loads, stores and routes nothing.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from mdslite import deployments
from mdslite import spec as specs
from mdslite.deploy.intake import refuse_unsupported
from mdslite.deploy.plan import Plan, State, Wanted
from mdslite.deployments import Deployments
from mdslite.document import decode
from mdslite.errors import InvalidRequest, MdsliteError, NotFound, Unprocessable
from mdslite.fields import make_name
from mdslite.store.registry import VersionRow

WEIGHT_MAX = 1_000_000
_SPEC_SUFFIXES = frozenset({".yaml", ".yml", ".json"})


@dataclass(frozen=True, slots=True)
class FileSource:
    """A deployments.yaml: its text, what to call it in messages, and the folder that its paths start from.
    `is_model` says that `file` is a model, whose text nobody wrote."""

    text: str
    file: str
    base: Path
    prune: bool = False
    is_model: bool = False


@dataclass(frozen=True, slots=True)
class RevisionSource:
    """The state after a revision; `previous` is the state before the latest one that was applied."""

    revision: int | Literal["previous"]


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """What is deployed now, with other weights for some versions of one model. A shadow that is given one
    is a shadow no more; `shadows` become shadows, and need the weight 0. `place` is where in a request the
    weights stand."""

    project: str
    model: str
    weights: Mapping[str, float]
    shadows: frozenset[str] = frozenset()
    place: str = ""


@dataclass(frozen=True, slots=True)
class VersionSource:
    """What is deployed now, with one version added, changed or (`spec` None) deleted. `spec` is as in a file,
    with nothing in it relative."""

    project: str
    model: str
    version: str
    spec: Mapping[str, Any] | None


Source = FileSource | RevisionSource | WeightsSource | VersionSource


def needs_models(source: Source) -> bool:
    """May it name models that are not in the store yet?"""
    return isinstance(source, FileSource | VersionSource)


# What must hold of what is deployed, with the latest revision, when an order's turn has come.
Check = Callable[[Sequence[VersionRow], int], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What to apply, who wants it and why. `expect_revision` is the latest one that they saw, 0 for none;
    `expect_digests` are those of the plan that they saw, by `PROJECT/MODEL@VERSION`. `check` raises what is
    to refuse the order before it begins."""

    source: Source
    author: str
    reason: str = ""
    expect_revision: int | None = None
    expect_digests: Mapping[str, str] = field(default_factory=dict)
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """What an order would change, seen from `base_revision` (0 before the first one)."""

    base_revision: int
    current: State
    plan: Plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an apply ended. `revision` is the one that it made (None when none could be recorded), or, when
    nothing had to change, the one in force."""

    state: Literal["applied", "failed", "unchanged"]
    revision: int | None
    plan: Plan | None
    seconds: float
    error: MdsliteError | None = None


def parse(source: Source) -> Deployments | None:
    if not isinstance(source, FileSource):
        return None
    parsed = deployments.load(source.text, file=source.file, base=source.base)
    refuse_unsupported(parsed)
    return parsed


def revision_number(source: RevisionSource, latest: int) -> int:
    if source.revision != "previous":
        return source.revision
    if not latest:
        raise NotFound(
            "nothing has been applied yet, so there is nothing to go back to",
            hint="mdslite apply -f deployments.yaml is what there would be to undo",
        )
    return latest - 1


def reweigh(current: State, source: WeightsSource) -> State:
    """The state of one model with its new weights.

    :raises NotFound: the model or a version is not deployed
    :raises Unprocessable: a weight is no share, or no version would have one
    """
    key = (source.project, source.model)
    name = "/".join(key)
    versions = current.get(key)
    if versions is None:
        raise NotFound(f"no model {name} is deployed", hint="mdslite ls")
    changed = dict(versions)
    for version, weight in source.weights.items():
        if version not in versions:
            raise NotFound.version(*key, version, versions)
        if not (math.isfinite(weight) and 0 <= weight <= WEIGHT_MAX):
            raise Unprocessable(
                f"a weight is a number from 0 to {WEIGHT_MAX:,}, got {weight:g}",
                field=f"{source.place}.{version}".removeprefix("."),
                hint="only the ratio of weights counts: 80 and 20 are as 4 and 1",
            )
        old = versions[version]
        info = msgspec.structs.replace(
            old.spec.service_info,
            weight=int(weight) if weight == int(weight) else weight,
            shadow=not weight and (version in source.shadows or old.spec.service_info.shadow),
        )
        spec = msgspec.structs.replace(old.spec, service_info=info)
        changed[version] = replace(old, spec=spec)
    if not any(one.spec.service_info.weight for one in changed.values()):
        raise Unprocessable(
            f"every weight of {name} would be 0, so no version would answer",
            field=source.place or None,
            hint="give one version a weight above 0",
        )
    return {key: changed}


def source_text(source: Source) -> str:
    return source.text if isinstance(source, FileSource) else ""


def wanted_of(row: VersionRow) -> Wanted:
    return Wanted(
        spec=specs.from_plain(dict(row.spec)),
        digest=row.digest,
        size_bytes=row.size_bytes,
        memory_bytes=row.memory_bytes,
    )


def state_of(rows: Sequence[VersionRow]) -> State:
    state: dict[tuple[str, str], dict[str, Wanted]] = {}
    for row in rows:
        state.setdefault((row.project, row.model), {})[row.version] = wanted_of(row)
    return state


def rows_of(state: State) -> list[VersionRow]:
    return [
        VersionRow(
            project=project,
            model=model,
            version=version,
            spec=specs.to_plain(wanted.spec),
            digest=wanted.digest,
            size_bytes=wanted.size_bytes,
            memory_bytes=wanted.memory_bytes,
        )
        for (project, model), versions in state.items()
        for version, wanted in versions.items()
    ]


def read_source(file: Path) -> FileSource:
    """What `up FILE` applies: a deployments file as it is; a model as `default/NAME` v1.

    :raises InvalidRequest: there is no such file
    :raises SpecError: it is no text
    """
    try:
        if file.suffix.lower() in _SPEC_SUFFIXES:
            return FileSource(decode(file.read_bytes(), file=str(file)), str(file), file.resolve().parent)
        file.stat()
    except OSError as exc:
        raise InvalidRequest(
            f"cannot read {file}: {os.strerror(exc.errno or 0)}",
            hint="expected a deployments.yaml, a model file or a package's folder: mdslite up --help",
        ) from exc
    entry = {"version": "v1", "spec": {"uri": str(file.resolve())}}
    wanted = {"project": "default", "model": make_name(file.stem), "versions": [entry]}
    text = f"{json.dumps({'deployments': [wanted]}, indent=2)}\n"
    return FileSource(text, str(file), file.resolve().parent, is_model=True)
