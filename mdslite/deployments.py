"""deployments.yaml: projects' models and their versions as typed structs, and their loading from text.

Owns the short forms and the rules between the versions of a model. What a single spec may say is `spec`'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from mdslite import document as documents
from mdslite.advice import Adviser
from mdslite.document import Document, quote
from mdslite.errors import SpecError
from mdslite.fields import Name, Replicas, Weight
from mdslite.logrules import Log, Some
from mdslite.mistakes import convert
from mdslite.settings import ContainerParameter
from mdslite.spec import ServiceInfo, Spec
from mdslite.targets import Sticky
from mdslite.uris import resolve

_VARIABLE = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")


class Version(Struct, frozen=True):
    version: Name
    spec: Spec


class Deployment(Struct, frozen=True):
    project: Name
    model: Name
    versions: tuple[Version, ...]


class Deployments(Struct, frozen=True):
    """A file. A project's model occurs once, a model's version once, each model with some weight above 0."""

    deployments: tuple[Deployment, ...]


def load(text: str, *, file: str, base: Path) -> Deployments:
    """Read a deployments.yaml. `base` is the folder that relative uris start from.

    :raises SpecError: for the first mistake, with its place and what to write
    """
    document = documents.read_document(text, file=file)
    if document.value is None:
        raise document.error((), "the file is empty", hint="begin with deployments: and a list of models")
    parsed = convert(document, _File, advise=Adviser(document).advise)
    _refuse_repeats(
        document, ("deployments",), [(entry.project, entry.model) for entry in parsed.deployments]
    )
    return Deployments(tuple(_deployments(document, parsed, base)))


def place(text: str, names: tuple[str, str, str], *, field: tuple[str, ...], file: str) -> SpecError | None:
    """Where a text that could be loaded says `field` of a version's spec, or else where that spec stands.

    `names` are project, model and version. None where the version is not in the text.
    """
    document = documents.read_document(text, file=file)
    for at, model in enumerate(document.value["deployments"]):
        if (model["project"], model["model"]) != names[:2]:
            continue
        for number, version in enumerate(model["versions"]):
            if version["version"] == names[2]:
                return document.error(("deployments", at, "versions", number, "spec", *field), "")
    return None


class _Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """A version as a file has it, short form included."""

    version: Name
    spec: Annotated[Spec, Meta(description="what to serve, such as {uri: ./model.onnx}")]
    weight: Weight | UnsetType = UNSET
    shadow: bool | UnsetType = UNSET
    replicas: Replicas | UnsetType = UNSET


class _Model(Struct, frozen=True, forbid_unknown_fields=True):
    project: Annotated[Name, Meta(extra={"also": ("namespace",)})]
    model: Annotated[Name, Meta(extra={"also": ("name",)})]
    versions: Annotated[
        tuple[_Entry, ...], Meta(description="a list of versions, each with version: and spec:")
    ]
    sticky: Sticky | UnsetType = UNSET


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    deployments: Annotated[
        tuple[_Model, ...], Meta(description="a list of models, each with project:, model: and versions:")
    ]


def _deployments(document: Document, parsed: _File, base: Path) -> Iterator[Deployment]:
    for index, entry in enumerate(parsed.deployments):
        path: documents.Path = ("deployments", index, "versions")
        _refuse_repeats(document, path, [(item.version,) for item in entry.versions])
        versions = tuple(
            _version(document, (*path, at), item, base, entry.sticky)
            for at, item in enumerate(entry.versions)
        )
        _refuse_two_keys(document, path, versions)
        _refuse_silence(document, path, f"{entry.project}/{entry.model}", versions)
        yield Deployment(project=entry.project, model=entry.model, versions=versions)


def _version(
    document: Document, path: documents.Path, entry: _Entry, base: Path, sticky: Sticky | UnsetType
) -> Version:
    spec_path = (*path, "spec")
    parameter_path = (*spec_path, "container_parameter")
    if document.has(parameter_path):
        parameter = convert(document, ContainerParameter, base=parameter_path)
        _refuse_odd_variables(document, (*parameter_path, "env"), parameter.env)
    spec = msgspec.structs.replace(
        entry.spec,
        uri=resolve(document, spec_path, entry.spec.uri, entry.spec.source_type, base=base),
        service_info=_anchored(_service_info(document, path, entry, sticky), base),
    )
    _refuse_no_body(document, spec_path, spec.log)
    _refuse_odd_ports(document, (*spec_path, "service_info", "endpoints_infos"), spec.service_info)
    return Version(version=entry.version, spec=spec)


def _anchored(info: ServiceInfo, base: Path) -> ServiceInfo:
    """Certificates of authorities are files as the uri's is: their paths, too, start from `base`."""
    endpoints = tuple(
        msgspec.structs.replace(one, options={**one.options, "ca": os.path.abspath(base / one.options["ca"])})
        if isinstance(one.options.get("ca"), str)
        else one
        for one in info.endpoints_infos
    )
    return msgspec.structs.replace(info, endpoints_infos=endpoints)


def _refuse_odd_variables(document: Document, path: documents.Path, env: Mapping[str, str]) -> None:
    """A name that a shell or a cluster would not take is a slip, and with a = no process can have it."""
    for name in env:
        if not _VARIABLE.fullmatch(name):
            message = "expected the name of a variable: letters, digits, _, - and ., no digit first"
            raise document.error((*path, name), message, hint="such as env: {LEVEL: debug}", at_key=True)


def _refuse_no_body(document: Document, path: documents.Path, log: Log) -> None:
    """Rules that no request can meet are not what somebody meant."""
    if log.bodies == Some():
        message = "expected share, below_confidence or errors: no request could meet this"
        raise document.error(
            (*path, "log", "bodies"), message, hint="such as {share: 0.01}; or write bodies: never"
        )


def _refuse_odd_ports(document: Document, path: documents.Path, info: ServiceInfo) -> None:
    for index, endpoint in enumerate(info.endpoints_infos):
        try:
            port = urlsplit(endpoint.url).port
        except ValueError:  # above 65535, or no number
            port = 0
        if port == 0:
            message = f"expected an address with a port of 1 to 65535, or none, got {quote(endpoint.url)}"
            raise document.error((*path, index, "url"), message, hint="such as http://host:8500")


def _service_info(
    document: Document, path: documents.Path, entry: _Entry, sticky: Sticky | UnsetType
) -> ServiceInfo:
    """The long form with the short one, and what the model says for all its versions, merged into it."""
    info = entry.spec.service_info
    places = {name: (*path, "spec", "service_info", name) for name in ("weight", "shadow", "replicas")}
    for name, place in places.items():
        short = getattr(entry, name)
        if short is UNSET:
            continue
        if document.has(place) and getattr(info, name) != short:
            long = quote(getattr(info, name))
            message = f"{quote(short)} here, but {long} in service_info on line {document.line(place)}"
            raise document.error((*path, name), message, hint="keep one of the two")
        info = msgspec.structs.replace(info, **{name: short})
        places[name] = (*path, name)
    if info.shadow:
        if document.has(places["weight"]) and info.weight > 0:
            message = f"a shadow answers nobody, so it has no weight, got {info.weight:g}"
            raise document.error(places["weight"], message, hint="remove weight, or write shadow: false")
        if info.match:
            message = "a shadow answers nobody, so no request can be matched with it"
            place = (*path, "spec", "service_info", "match")
            raise document.error(place, message, hint="remove match, or write shadow: false")
        info = msgspec.structs.replace(info, weight=0)
    if sticky is not UNSET and info.sticky is None:
        info = msgspec.structs.replace(info, sticky=sticky)
    return info


def _refuse_two_keys(document: Document, path: documents.Path, versions: Sequence[Version]) -> None:
    """A model's requests stick by one key: its versions cannot each have their own."""
    keys = [item.spec.service_info.sticky for item in versions]
    for at, key in enumerate(keys):
        place = (*path, at, "spec", "service_info", "sticky")
        if not document.has(place):
            place = (*path[:-1], "sticky")
        if key is not None and (key.header is None) == (key.body is None):
            message = "expected exactly one of header and body"
            raise document.error(place, message, hint="such as sticky: {header: x-user}")
        if key != keys[0]:
            message = "another key than that of the model's first version"
            raise document.error(place, message, hint="write sticky once, beside model:")


def _refuse_repeats(document: Document, path: documents.Path, names: Sequence[tuple[str, ...]]) -> None:
    seen: dict[tuple[str, ...], int] = {}
    for index, name in enumerate(names):
        first = seen.setdefault(name, index)
        if first != index:
            last = "version" if len(name) == 1 else "model"
            line = document.line((*path, first, last))
            message = f"{'/'.join(name)} is listed twice, first on line {line}"
            hint = "give it another name" if len(name) == 1 else "list all its versions in one place"
            raise document.error((*path, index, last), message, hint=hint)


def _refuse_silence(
    document: Document, path: documents.Path, model: str, versions: Sequence[Version]
) -> None:
    """A model whose every weight is 0 would answer nobody."""
    if not versions or any(item.spec.service_info.weight > 0 for item in versions):
        return
    if all(item.spec.service_info.shadow for item in versions):
        raise document.error(
            path,
            f"every version of {model} is a shadow, so none would answer",
            hint="add a version without shadow",
        )
    raise document.error(
        path,
        f"every weight of {model} is 0, so no version would answer",
        hint="give one version a weight above 0",
    )
