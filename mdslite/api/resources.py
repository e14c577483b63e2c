"""The operations that change one version, or the weights of one model: revisions like any other apply."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mdslite.api import views
from mdslite.api.conditions import rows_of, tag_of, tagged
from mdslite.api.operations import Answer, Call, Name, Nothing, Operation, Raw, declare
from mdslite.api.ordering import Show, carry_out, make_order
from mdslite.api.parts import Parts
from mdslite.api.plan_schema import ApplyReply, WeightValue
from mdslite.api.schema import Given, ModelPath, VersionInfo, VersionPath
from mdslite.deploy.orders import Source, VersionSource, WeightsSource
from mdslite.errors import InvalidRequest, quoted
from mdslite.spec import Spec, from_plain
from mdslite.store.registry import VersionRow

_ERRORS = (404, 409, 422, 507)


class ChangeQuery(Given, frozen=True, kw_only=True):
    """Who makes the change and why, for the revision."""

    reason: Annotated[str, Meta(max_length=4096)] | None = None
    author: Annotated[str, Meta(max_length=256)] | None = None


class VersionBody(Given, frozen=True, kw_only=True):
    """A version's spec. The names may be left out: they are the URL's."""

    spec: Spec
    project: Name | None = None
    name: Annotated[Name | None, Meta(description="the model's")] = None
    version: Name | None = None


class VersionWish(Given, frozen=True, kw_only=True):
    """The same, with a spec that is still to be judged: as one in a file is, in the same words."""

    spec: dict[str, Any]
    project: Name | None = None
    name: Name | None = None
    version: Name | None = None


class VersionResource(VersionInfo, frozen=True, kw_only=True):
    """A version as it serves, with its spec as a PUT takes it."""

    project: str
    name: Annotated[str, Meta(description="the model's")]
    spec: Annotated[dict[str, Any], Meta(description="as in a deployments.yaml, without defaults")]


async def get_version(parts: Parts, call: Call[VersionPath, Nothing, Nothing]) -> VersionResource | Answer:
    """One version of a model, with its spec"""
    rows = await parts.worker.call(parts.registry.current)
    found = _resource(parts, call.path, rows)
    tag = tag_of(_mine(rows, call.path))
    return found if tag is None else tagged(found, tag, call.headers)


async def put_version(
    parts: Parts, call: Call[VersionPath, ChangeQuery, VersionWish]
) -> VersionResource | Answer:
    """Add or change one version; the model's others stay as they are. What a file that adds it would do"""
    path = call.path
    _refuse_other_names(path, call.body)
    source = VersionSource(path.project, path.model, path.version, call.body.spec)
    before = _mine(await parts.worker.call(parts.registry.current), path)

    async def show() -> Raw:
        rows = await parts.worker.call(parts.registry.current)
        tag = tag_of(_mine(rows, path)) or ""
        body = msgspec.json.encode(_resource(parts, path, rows))
        return Raw(body, status=200 if before else 201, headers=((b"etag", tag.encode()),))

    return await _change(parts, call, source, f"set {_label(path)}", version=path.version, show=show)


async def delete_version(parts: Parts, call: Call[VersionPath, ChangeQuery, Nothing]) -> ApplyReply | Answer:
    """Delete one version; with its last one the model is gone"""
    path = call.path
    source = VersionSource(path.project, path.model, path.version, None)
    return await _change(parts, call, source, f"delete {_label(path)}", version=path.version)


async def get_weights(parts: Parts, call: Call[ModelPath, Nothing, Nothing]) -> dict[str, float] | Answer:
    """The weight of each version of a model"""
    rows = rows_of(await parts.worker.call(parts.registry.current), call.path.project, call.path.model)
    tag = tag_of(rows)
    if tag is None:
        raise parts.fleet.router.unknown(call.path.project, call.path.model)
    weights = {row.version: from_plain(dict(row.spec)).service_info.weight for row in rows}
    return tagged(weights, tag, call.headers)


async def put_weights(
    parts: Parts, call: Call[ModelPath, ChangeQuery, dict[Name, WeightValue]]
) -> ApplyReply | Answer:
    """Give versions of a model other weights; those that are not named keep theirs. Nothing is loaded"""
    path, weights = call.path, call.body
    named = ", ".join(f"{version} {weight:g}" for version, weight in weights.items())
    source = WeightsSource(path.project, path.model, weights)
    return await _change(parts, call, source, f"weights of {path.project}/{path.model}: {named}"[:4096])


def make_operations() -> list[Operation]:
    model = "/api/v1/projects/{project}/models/{model}"
    version, weights = f"{model}/versions/{{version}}", f"{model}/weights"
    group = "deployments"
    put = declare(
        "PUT", version, put_version, group=group, errors=_ERRORS, same=(201,), tagged=True, once=True
    )
    return [
        declare("GET", version, get_version, group="models", errors=(404,), also="predict", tagged=True),
        dataclasses.replace(put, body=VersionBody, reads=VersionWish),
        declare("DELETE", version, delete_version, group=group, errors=_ERRORS, tagged=True, once=True),
        declare("GET", weights, get_weights, group="models", errors=(404,), tagged=True),
        declare("PUT", weights, put_weights, group=group, errors=_ERRORS, tagged=True, once=True),
    ]


async def _change(
    parts: Parts,
    call: Call[Any, ChangeQuery, Any],
    source: Source,
    what: str,
    *,
    version: str | None = None,
    show: Show | None = None,
) -> Answer:
    project, model = call.path.project, call.path.model
    order = make_order(
        call,
        source,
        author=call.query.author,
        reason=call.query.reason or what,
        tag_of=lambda rows, latest: tag_of(rows_of(rows, project, model, version)),
    )
    return await carry_out(parts, call, order, show=show)


def _resource(parts: Parts, path: VersionPath, rows: list[VersionRow]) -> VersionResource:
    """:raises NotFound: it is neither served nor deployed
    :raises StillLoading: that is not known yet
    """
    models = views.models_of(parts, rows, project=path.project)
    versions = next((one.versions for one in models if one.model == path.model), [])
    info = next((one for one in versions if one.version == path.version), None)
    if info is None:
        known = [one.version for one in versions]
        raise parts.fleet.router.unknown(path.project, path.model, path.version, known)
    spec = next((dict(row.spec) for row in _mine(rows, path)), {})  # none where it is only draining yet
    fields = {field: getattr(info, field) for field in VersionInfo.__struct_fields__}
    return VersionResource(**fields, project=path.project, name=path.model, spec=spec)


def _mine(rows: list[VersionRow], path: VersionPath) -> list[VersionRow]:
    return rows_of(rows, path.project, path.model, path.version)


def _refuse_other_names(path: VersionPath, body: VersionWish) -> None:
    for field, said, wanted in (
        ("project", body.project, path.project),
        ("name", body.name, path.model),
        ("version", body.version, path.version),
    ):
        if said not in (None, wanted):
            raise InvalidRequest(f"expected {quoted(wanted)} as in the URL, got {quoted(said)}", field=field)


def _label(path: VersionPath) -> str:
    return f"{path.project}/{path.model} {path.version}"
