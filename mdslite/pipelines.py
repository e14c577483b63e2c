"""pipeline.yaml into a `graph.Pipeline`, and the place and hint of every mistake in it.

Owns the form of the file. Knows the package's folder only to see whether handler modules are there; imports
and runs none of them.
"""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from mdslite import document as documents
from mdslite.document import Document, quote
from mdslite.errors import SpecError
from mdslite.fields import NAME_PATTERN, Name, make_name
from mdslite.graph import END, Choice, ModelName, Node, Pipeline, Targets, find_cycle
from mdslite.mistakes import convert

FILE = "pipeline.yaml"
MAX_NODES = 64
MAX_OPTIONS = 64

_NAME = NAME_PATTERN.removeprefix(r"\A").removesuffix(r"\Z")
_Target = Annotated[
    str | tuple[Name, ...],
    Meta(
        description=f"a node's name, a list of names that run side by side, or {END}",
        extra={"word": "the name of a node, or a list of them"},
    ),
]


class _Choice(Struct, frozen=True, forbid_unknown_fields=True):
    when: Annotated[
        dict[str, _Target],
        Meta(
            description="values and the nodes that they lead to, such as {spam: block, ham: deliver}",
        ),
    ]
    by: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="the field of the answer that decides, such as label or top.label",
                extra={"word": "the name of a field"},
            ),
        ]
        | UnsetType
    ) = UNSET
    otherwise: Annotated[_Target | UnsetType, Meta(extra={"also": ("default", "else")})] = UNSET


_Next = Annotated[
    str | tuple[Name, ...] | _Choice,
    Meta(
        description="a node's name, a list of names, {by: FIELD, when: {VALUE: NODE}, otherwise: NODE}, or "
        f"{END}; left out, the node listed after it follows",
        extra={"word": "the name of a node, a list of names or a choice"},
    ),
]


class _Loading(Struct, frozen=True, forbid_unknown_fields=True):
    handler_module: Annotated[
        str,
        Meta(
            pattern=r"\A[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\Z",
            description="a module under this folder that holds one decorated class, such as nodes.tokenise",
            extra={"word": "a dotted module", "also": ("handler", "module")},
        ),
    ]


class _Node(Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[Name, Meta(extra={"also": ("node", "node_name", "id")})]
    model_load_meta: Annotated[
        _Loading | UnsetType, Meta(description="what the node runs, such as {handler_module: nodes.tokenise}")
    ] = UNSET
    model: (
        Annotated[
            str,
            Meta(
                pattern=rf"\A{_NAME}/{_NAME}(@{_NAME})?\Z",
                description="a deployed model: PROJECT/MODEL, or PROJECT/MODEL@VERSION",
                extra={"word": "the name of a deployed model"},
            ),
        ]
        | UnsetType
    ) = UNSET
    next: _Next | UnsetType = UNSET


class _Body(Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    nodes: Annotated[
        tuple[_Node, ...],
        Meta(description="a list of nodes, each with name: and model_load_meta: or model:"),
    ]
    start_node_name: Annotated[
        Name | UnsetType, Meta(description="the node that runs first", extra={"also": ("start", "first")})
    ] = UNSET


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    pipeline: Annotated[_Body, Meta(description="such as {name: ..., start_node_name: ..., nodes: [...]}")]


def read(folder: Path) -> Pipeline:
    """Read the pipeline.yaml of a package's folder, whose handler modules must be there.

    :raises SpecError: for the first mistake, with its place and what to write
    """
    try:
        data = (folder / FILE).read_bytes()
    except OSError as exc:
        raise SpecError(f"cannot be read: {os.strerror(exc.errno or 0)}", file=FILE) from exc
    return load(documents.decode(data, file=FILE), folder=folder)


def load(text: str, *, folder: Path | None = None, file: str = FILE) -> Pipeline:
    """Read a pipeline.yaml. With `folder`, its handler modules must be in there.

    :raises SpecError: for the first mistake, with its place and what to write
    """
    document = documents.read_document(text, file=file)
    if document.value is None:
        raise document.error((), "the file is empty", hint="begin with pipeline: and its name and nodes")
    body = convert(document, _File, advise=_Adviser(document).advise).pipeline
    return _Reading(document, body).pipeline(folder)


class _Adviser:
    """What the rest of the file adds to a field's hint."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def advise(self, path: documents.Path) -> str | None:
        if not path:
            return "begin the file with pipeline:"
        raw = self._document.raw(path)
        if path[-1] == "handler_module" and raw:
            module = raw.removesuffix(".py").strip("./").replace("/", ".").replace("-", "_")
            return f"such as {module}" if module else None
        if path[-1] in ("name", "start_node_name") and raw:
            return f"such as {make_name(raw)}"
        if path[-1] == "next" and self._document.has(path) and self._document.get(path) is None:
            return f"write {END} to end the pipeline here"
        return None


class _Reading:
    """One file's nodes, checked in the order in which they stand."""

    def __init__(self, document: Document, body: _Body) -> None:
        self._document = document
        self._body = body
        self._names = [node.name for node in body.nodes]

    def pipeline(self, folder: Path | None) -> Pipeline:
        self._check_count(("pipeline", "nodes"), len(self._names), MAX_NODES)
        for at, node in enumerate(self._body.nodes):
            self._check_name(at, node)
            self._check_work(at, node, folder)
        start = self._body.start_node_name
        if start is UNSET:
            start = self._names[0]
        elif start not in self._names:
            raise self._unknown(("pipeline", "start_node_name"), start)
        nodes = tuple(self._node(at, node) for at, node in enumerate(self._body.nodes))
        self._refuse_cycle(nodes)
        self._refuse_falling_through(nodes)
        return Pipeline(self._body.name, start, nodes)

    def _error(self, path: documents.Path, message: str, *, hint: str, at_key: bool = False) -> SpecError:
        return self._document.error(path, message, hint=hint, at_key=at_key)

    def _check_count(self, path: documents.Path, count: int, most: int) -> None:
        if not 0 < count <= most:
            got = f"got {count}" if count else "but it is empty"
            otherwise = "nodes: [{name: ..., model_load_meta: {handler_module: ...}}]"
            if path[-1] == "when":
                otherwise = "when: {VALUE: NODE}"
            split = "split the pipeline in two: a node may name a deployed pipeline"
            hint = split if count else f"such as {otherwise}"
            raise self._error(path, f"expected 1 to {most} entries, {got}", hint=hint)

    def _check_name(self, at: int, node: _Node) -> None:
        path = (*_place(at), "name")
        first = self._names.index(node.name)
        if first != at:
            line = self._document.line((*_place(first), "name"))
            message = f"{node.name} is listed twice, first on line {line}"
            raise self._error(path, message, hint="give it another name")
        if node.name == END:
            raise self._error(
                path,
                f"a node cannot have the name {END}: it stands for the end of the pipeline",
                hint="give it another name",
            )

    def _check_work(self, at: int, node: _Node, folder: Path | None) -> None:
        path = _place(at)
        if (node.model is UNSET) == (node.model_load_meta is UNSET):
            both = node.model is not UNSET
            raise self._error(
                (*path, "model") if both else path,
                "model_load_meta stands here too" if both else f"{node.name} has nothing to run",
                hint="keep one of the two"
                if both
                else "write model_load_meta: {handler_module: MODULE}, or model: PROJECT/MODEL",
                at_key=both,
            )
        if folder is None or node.model_load_meta is UNSET:
            return
        module = node.model_load_meta.handler_module
        base = folder.joinpath(*module.split("."))
        if not (base.with_name(base.name + ".py").is_file() or (base / "__init__.py").is_file()):
            raise self._error(
                (*path, "model_load_meta", "handler_module"),
                f"there is no {'/'.join(module.split('.'))}.py in the folder",
                hint=_suggest(module, list(_modules(folder)), otherwise="add the file, or mend the name"),
            )

    def _node(self, at: int, node: _Node) -> Node:
        path = (*_place(at), "next")
        if node.model_load_meta is not UNSET:
            work: str | ModelName = node.model_load_meta.handler_module
        else:
            assert node.model is not UNSET
            name, _, version = node.model.partition("@")
            project, _, model = name.partition("/")
            work = ModelName(project, model, version or None)
        if node.next is UNSET:
            return Node(node.name, work, tuple(self._names[at + 1 : at + 2]))
        if not isinstance(node.next, _Choice):
            return Node(node.name, work, self._targets(path, node.next))
        choice = node.next
        self._check_count((*path, "when"), len(choice.when), MAX_OPTIONS)
        when = {value: self._targets((*path, "when", value), target) for value, target in choice.when.items()}
        otherwise = None
        if choice.otherwise is not UNSET:
            otherwise = self._targets((*path, "otherwise"), choice.otherwise)
        by = () if choice.by is UNSET else tuple(choice.by.split("."))
        return Node(node.name, work, Choice(by, when, otherwise))

    def _targets(self, path: documents.Path, target: str | tuple[str, ...]) -> Targets:
        if target == END:
            return ()
        if not target:
            raise self._error(path, "no node is named", hint=f"write {END} to end the pipeline here")
        names = (target,) if isinstance(target, str) else target
        for number, name in enumerate(names):
            place = path if isinstance(target, str) else (*path, number)
            if name == END:
                message = f"{END} stands beside other nodes"
                raise self._error(place, message, hint=f"leave it out, or write {END} alone")
            if name not in self._names:
                raise self._unknown(place, name)
            if name in names[:number]:
                raise self._error(place, f"{name} is listed twice", hint="a node runs once: keep one")
        return names

    def _unknown(self, path: documents.Path, name: str) -> SpecError:
        otherwise = f"the nodes are {', '.join(self._names)}"
        hint = _suggest(name, self._names, otherwise=otherwise)
        return self._error(path, f"no node has the name {quote(name)}", hint=hint)

    def _refuse_cycle(self, nodes: Sequence[Node]) -> None:
        cycle = find_cycle(nodes)
        if cycle is None:
            return
        # One of its steps leads back up the file, and is written: what is left out leads down.
        at = next(
            self._names.index(name)
            for name, target in itertools.pairwise(cycle)
            if self._names.index(target) <= self._names.index(name)
        )
        raise self._error(
            (*_place(at), "next"),
            f"the nodes lead round in a circle: {' → '.join(cycle)}",
            hint=f"a node runs once a request: lead to another node, or write {END}",
        )

    def _refuse_falling_through(self, nodes: Sequence[Node]) -> None:
        """A branch of a fan-out or a choice that would go on into the branch listed after it.

        That is what leaving `next` out says, and hardly ever what is meant.
        """
        for node in nodes:
            if len(node.targets) < 2:
                continue
            for name in node.targets:
                at = self._names.index(name) if name != END else -1
                if at < 0 or self._body.nodes[at].next is not UNSET:
                    continue
                for after in nodes[at].targets:
                    if after != END and after in node.targets:
                        raise self._error(
                            _place(at),
                            f"next is left out, so {name} leads on to {after}, another branch of {node.name}",
                            hint=f"write next: {after} if that is meant, or else next: NODE or next: {END}",
                        )


def _place(at: int) -> documents.Path:
    return ("pipeline", "nodes", at)


def _modules(folder: Path) -> Iterator[str]:
    """The dotted modules of a folder."""
    for file in sorted(folder.rglob("*.py"))[:1000]:
        parts = file.relative_to(folder).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _suggest(name: str, known: Sequence[str], *, otherwise: str) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else otherwise
