"""One version of a model put or deleted, as the file that would do so: the model with the others as they are.

So that a version that comes alone is held to the same rules, in the same words, as one that comes in a file.
Fetches and loads nothing.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import structs

from mdslite import deployments
from mdslite import spec as specs
from mdslite.deploy.intake import refuse_unsupported
from mdslite.deploy.orders import Source, VersionSource
from mdslite.deploy.plan import State, Wanted
from mdslite.deployments import Deployment, Deployments, Version
from mdslite.document import place_text
from mdslite.errors import NotFound, SpecError, quoted
from mdslite.fields import UNKNOWN_DIGEST

_FILE = "the request"
_PREFIX = re.compile(r"^.*?: (?:deployments\[0\]\.)?(?:versions\[\d+\]\.)?", re.DOTALL)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def rewrite(current: State, source: VersionSource) -> Deployments:
    """The model of `source` as a file with the change would have it.

    :raises NotFound: what is to be deleted is not deployed
    :raises SpecError: the spec is wrong, by itself or beside the model's others; it names the field
    """
    before = current.get((source.project, source.model), {})
    if source.spec is None and source.version not in before:
        raise NotFound.version(source.project, source.model, source.version, before)
    versions = {version: specs.to_plain(wanted.spec) for version, wanted in before.items()}
    if source.spec is None:
        del versions[source.version]
    else:
        _refuse_relative(source.spec)
        versions[source.version] = dict(source.spec)
    entry: dict[str, Any] = {
        "project": source.project,
        "model": source.model,
        "versions": [{"version": version, "spec": spec} for version, spec in versions.items()],
    }
    stickies = (_inner(spec, "service_info", "sticky") for spec in versions.values())
    sticky = next((one for one in stickies if one is not None), None)
    if sticky is not None:  # of the model: a version that comes without takes it on
        entry["sticky"] = sticky
    try:
        found = deployments.load(json.dumps({"deployments": [entry]}, indent=1), file=_FILE, base=Path("/"))
    except SpecError as exc:
        raise _in_the_request(exc, list(versions), source) from exc
    refuse_unsupported(found)
    return _with_others_as_they_are(found, source, before)


def _in_the_request(error: SpecError, versions: Sequence[str], source: VersionSource) -> SpecError:
    """A mistake by the place that it has in the version that came: lines and columns of a text that nobody
    wrote would lead nowhere."""
    mine = [("deployments", 0, "versions", at) for at, one in enumerate(versions) if one == source.version]
    if error.path[:4] in mine:
        return SpecError(error.wrong, field=place_text(error.path[4:]), file=_FILE, hint=error.hint)
    return SpecError(_PREFIX.sub("", error.message, count=1), file=_FILE, hint=error.hint)


def _with_others_as_they_are(
    found: Deployments, source: VersionSource, before: Mapping[str, Wanted]
) -> Deployments:
    """The model with the endpoints that its other versions have: a path of an old release's, which starts
    nowhere, starts nowhere still."""

    def kept(one: Version) -> Version:
        if one.version == source.version:
            return one
        endpoints = before[one.version].spec.service_info.endpoints_infos
        info = structs.replace(one.spec.service_info, endpoints_infos=endpoints)
        return structs.replace(one, spec=structs.replace(one.spec, service_info=info))

    (deployment,) = found.deployments
    versions = tuple(kept(one) for one in deployment.versions)
    return Deployments((structs.replace(deployment, versions=versions),))


async def complete(parsed: Deployments | None, current: State, source: Source) -> Deployments | None:
    """What an order says, once it is known what is deployed.

    :raises NotFound, SpecError: see `rewrite`
    """
    if not isinstance(source, VersionSource):
        return parsed
    return await asyncio.to_thread(rewrite, current, source)


def alone(parsed: Deployments, source: Source) -> Deployments:
    """What an order wants fetched and probed: of a rewritten model the version that is put, or nothing."""
    if not isinstance(source, VersionSource):
        return parsed
    (deployment,) = parsed.deployments
    versions = tuple(one for one in deployment.versions if one.version == source.version)
    return Deployments((Deployment(deployment.project, deployment.model, versions),))


def guess(current: State, asked: Deployments, admitted: State) -> State:
    """What would be wanted, when the taking in of it broke off: a version that it did not come to has the
    bytes that it is deployed with, unless its uri is another one."""
    found: dict[tuple[str, str], dict[str, Wanted]] = {}
    for deployment in asked.deployments:
        key = (deployment.project, deployment.model)
        versions = found[key] = {}
        for one in deployment.versions:
            before = current.get(key, {}).get(one.version)
            known = admitted.get(key, {}).get(one.version)
            if known is None and before is not None and before.spec.uri == one.spec.uri:
                known = replace(before, spec=one.spec)
            versions[one.version] = known or Wanted(spec=one.spec, digest=UNKNOWN_DIGEST, size_bytes=0)
    return found


def merge(current: State, parsed: Deployments, admitted: State, source: Source) -> State:
    """The state that is wanted: what was admitted, and beside a version that came alone the model's others
    with the bytes that they have."""
    if not isinstance(source, VersionSource):
        return admitted
    (deployment,) = parsed.deployments
    key = (deployment.project, deployment.model)
    before, fresh = current.get(key, {}), admitted.get(key, {})
    found: dict[str, Wanted] = {}
    for one in deployment.versions:
        found[one.version] = fresh.get(one.version) or replace(before[one.version], spec=one.spec)
    return {key: found}


def _refuse_relative(spec: Mapping[str, Any]) -> None:
    uri = spec.get("uri")
    endpoints = _inner(spec, "service_info", "endpoints_infos")
    if endpoints:  # served elsewhere: the uri leads to nothing
        for number, one in enumerate(endpoints if isinstance(endpoints, list) else ()):
            ca = _inner(one, "options", "ca")
            if isinstance(ca, str) and not ca.startswith("/"):
                place = f"spec.service_info.endpoints_infos[{number}].options.ca"
                raise _relative(place, "an absolute path", ca)
    elif isinstance(uri, str) and not uri.startswith("/") and not _ADDRESS.match(uri):
        raise _relative("spec.uri", "an absolute path or an address", uri)


def _relative(place: str, expected: str, got: str) -> SpecError:
    hint = "a path is one of the appliance's machine"
    return SpecError(f"expected {expected}, got {quoted(got)}", field=place, file=_FILE, hint=hint)


def _inner(value: Any, *names: str) -> Any:
    """What stands at a place in a spec that nobody has checked yet, None where there is no such place."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
