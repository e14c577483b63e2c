"""Finds the class of a package without running any of its code, and loads it.

A package is a folder, or a single `.py` file. Its class is the one with `@mds.model` above it: in a module of
the folder itself, or else somewhere below it. What it requires is read from the source as well: it has to be
installed before the code is imported.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mds
from mdslite.errors import LoadFailed
from mdslite.runtimes.imports import Modules
from mdslite.runtimes.kinds import LIBRARIES, require
from mdslite.runtimes.tracebacks import exception_text, find_line, write_traceback
from mdslite.syntax import built

SOURCE_BYTES = 4 << 20  # a larger module is data, and is not looked into
MODULES_MOST = 2000
# What a folder may hold beside the package itself.
_SKIPPED = frozenset({"__pycache__", "tests", "test", "node_modules", "site-packages"})
# The words of @mds.runtime, as the runtimes' own names.
RUNTIME_NAMES = {"tensorflow": "TENSORFLOW", "pytorch": "PYTORCH", "onnx": "ONNXRUNTIME"}
_MODEL_EXAMPLE = "@mds.model('name', 'v1')"


@dataclass(frozen=True, slots=True)
class PackageSource:
    """Where a package's class stands. `module` is dotted below `folder`, "" for the folder's `__init__.py`;
    `alone` says that the package is this one file and nothing beside it."""

    folder: Path
    file: Path
    module: str
    class_name: str
    line: int
    alone: bool = False
    requirements: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.file.relative_to(self.folder)}:{self.line}"


def find_package(path: Path, handler: str | None = None) -> PackageSource:
    """Find the class of the package at `path`; `handler` is the dotted module that has to hold it.

    :raises LoadFailed: there is no such class, or more than one
    """
    path = path.resolve()
    if path.is_file():
        found = list(_find_classes(path.parent, path, alone=True))
        missing = f"{path.name} holds no class with {_MODEL_EXAMPLE} above it"
        return _choose(found, missing, [path], path.parent)
    if not path.is_dir():
        raise LoadFailed(f"there is no package {path.name}: expected a folder, or a .py file")
    if handler is not None:
        file = _module_file(path, handler)
        missing = f"handler_module {handler} holds no class with {_MODEL_EXAMPLE} above it"
        return _choose(list(_find_classes(path, file)), missing, [file], path)
    seen: list[Path] = []
    for files in (_modules_in(path), _modules_below(path)):
        found = [one for file in files for one in _find_classes(path, file)]
        seen += files
        if found:
            return _choose(found, "", [], path)
    missing = f"no class with {_MODEL_EXAMPLE} above it in the {len(seen)} modules of the package"
    return _choose([], missing, seen, path)


def load_class(source: PackageSource, *, exposed: bool = False) -> type:
    """Import a package's module and return its class, checked as a whole.

    The modules get private names, so that packages in one process never see each other's. `exposed` lets
    the rest of the process (pickle, say) import them by their plain names as well, for a process that has
    this one package. Prints the traceback of what the package raises.

    :raises LoadFailed: naming the line
    """
    modules = Modules(source.folder, only=source.file if source.alone else None)
    modules.install(exposed=exposed)
    try:
        cls = _import(modules, source)
        description = mds.describe(cls)
        _check_requirements(description, source)
        _check_runtime(description, source)
    except BaseException as exc:
        modules.remove()
        if isinstance(exc, LoadFailed):
            raise
        raise _load_failed(exc, source) from exc
    return cls


def unload_class(cls: type) -> None:
    """Forget the modules that `load_class` imported for a class; instances of it go on working."""
    for finder in list(sys.meta_path):
        if isinstance(finder, Modules) and finder.holds(cls.__module__):
            finder.remove()


def _import(modules: Modules, source: PackageSource) -> type:
    module = importlib.import_module(modules.private_name(source.module))
    cls = getattr(module, source.class_name, None)
    if not isinstance(cls, type):
        raise LoadFailed(f"{source.place}: {source.class_name} is no class once the module was imported")
    return cls


def _check_runtime(description: mds.Description, source: PackageSource) -> None:
    name = RUNTIME_NAMES.get(description.runtime or "")
    if name is not None:
        try:
            require(name)
        except LoadFailed as exc:
            wants = f"@mds.runtime({description.runtime!r})"
            message = f"{source.place}: {description.cls.__name__} needs {wants}: {exc.message}"
            raise LoadFailed(message, hint=exc.hint) from exc


def _load_failed(exc: BaseException, source: PackageSource) -> LoadFailed:
    """What an import raised, with the line of the package where it came from."""
    if isinstance(exc, mds.DecorationError):
        return LoadFailed(str(exc))
    write_traceback(exc)
    line = find_line(exc, source.folder) or source.place
    hint = _missing_hint(exc, source.folder) if isinstance(exc, ModuleNotFoundError) else None
    return LoadFailed(f"{line}: {exception_text(exc)}", hint=hint)


def _check_requirements(description: mds.Description, source: PackageSource) -> None:
    """Refuse a class that requires something else than was read from its source, and may be installed."""
    if set(description.requirements) != set(source.requirements):
        raise _unreadable(source.place)


def _unreadable(place: str) -> LoadFailed:
    return LoadFailed(
        f"{place}: what @mds.requirements is given cannot be read without running the package's code",
        hint='write it out: @mds.requirements(["numpy>=2"])',
    )


def _missing_hint(exc: ModuleNotFoundError, folder: Path) -> str:
    name = (exc.name or "").partition(".")[0]
    within = next((one.name for one in sorted(folder.iterdir()) if (one / f"{name}.py").is_file()), None)
    if within is not None:
        or_else = f"write from {within} import {name}"
        return f"{name}.py stands in {within}/: give that folder as the package, or {or_else}"
    for library in LIBRARIES.values():
        if library.module == name and library.extra is not None:
            return f"run: pip install 'mdslite[{library.extra}]', or write @mds.requirements([\"{name}\"])"
    return f'write @mds.requirements(["{name}"]) above the class, with the name that pip knows'


def _choose(found: list[PackageSource], missing: str, seen: list[Path], folder: Path) -> PackageSource:
    if len(found) == 1:
        return found[0]
    if found:
        places = ", ".join(f"{one.class_name} ({one.place})" for one in found)
        raise LoadFailed(
            f"{len(found)} classes have @mds.model above them: {places}; expected one",
            hint="keep one of them, or make the folder a pipeline, whose nodes name a module each",
        )
    for file in seen:
        _check_syntax(file, folder)
    raise LoadFailed(missing, hint="write a package that works at once with: mdslite init NAME")


def _modules_in(folder: Path) -> list[Path]:
    return sorted(one for one in folder.glob("*.py") if one.is_file())


def _modules_below(folder: Path) -> list[Path]:
    """The modules of a folder's folders, without what is hidden, tests, or an environment."""
    found: list[Path] = []
    pending = [folder]
    while pending and len(found) < MODULES_MOST:
        for one in sorted(pending.pop().iterdir()):
            if one.name.startswith(".") or one.name in _SKIPPED or not one.is_dir():
                continue
            if not (one / "pyvenv.cfg").exists():
                found += _modules_in(one)
                pending.append(one)
    return found[:MODULES_MOST]


def _module_file(folder: Path, handler: str) -> Path:
    """The file of a dotted module below a folder."""
    parts = handler.split(".")
    if all(part.isidentifier() for part in parts):
        base = folder.joinpath(*parts)
        for file in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if file.is_file():
                return file
    raise LoadFailed(f"handler_module {handler}: the package has no module {'/'.join(parts)}.py")


def _find_classes(folder: Path, file: Path, *, alone: bool = False) -> Iterator[PackageSource]:
    """The decorated classes of one module. A module that cannot be read has none."""
    tree = _parse(file)
    if tree is None:
        return
    names = _Names(tree)
    for node in _statements(tree.body):
        if not isinstance(node, ast.ClassDef):
            continue
        calls = {name: call for call in node.decorator_list if (name := names.decorator(call))}
        if "model" not in calls:
            continue
        parts = file.relative_to(folder).with_suffix("").parts
        place = f"{file.relative_to(folder)}:{node.lineno}"
        requirements = names.literal(calls.get("requirements"), place)
        yield PackageSource(
            folder,
            file,
            module=".".join(part for part in parts if part != "__init__"),
            class_name=node.name,
            line=node.lineno,
            alone=alone,
            requirements=tuple(requirements) if isinstance(requirements, list | tuple) else (),
        )


def _parse(file: Path) -> ast.Module | None:
    try:
        if file.stat().st_size > SOURCE_BYTES:
            return None
        data = file.read_bytes()
        return built(lambda: ast.parse(data, filename=file.name)) if b"mds" in data else None
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _check_syntax(file: Path, folder: Path) -> None:
    """Say why nothing was found in a module that means to hold a class.

    :raises LoadFailed: it is no Python
    """
    name = file.relative_to(folder)
    try:
        data = file.read_bytes()
        if b"mds" in data:
            built(lambda: ast.parse(data, filename=file.name))
    except OSError as exc:
        raise LoadFailed(f"{name} cannot be read: {exc.strerror}") from exc
    except SyntaxError as exc:
        raise LoadFailed(f"{name}:{exc.lineno}: {exc.msg}") from exc
    except (ValueError, RecursionError, MemoryError) as exc:
        raise LoadFailed(f"{name} is no Python source: {exception_text(exc)}") from exc


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that a module runs itself, out of its conditions too."""
    for node in body:
        yield node
        for field in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _statements(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from _statements(handler.body)


class _Names:
    """What a module calls `mds` and its decorators, and its constants."""

    def __init__(self, tree: ast.Module) -> None:
        self._modules: set[str] = set()
        self._decorators: dict[str, str] = {}
        self._constants: dict[str, ast.expr] = {}
        for node in _statements(tree.body):
            if isinstance(node, ast.Import):
                self._modules |= {one.asname or one.name for one in node.names if one.name == "mds"}
            elif isinstance(node, ast.ImportFrom) and node.module == "mds" and not node.level:
                self._decorators |= {one.asname or one.name: one.name for one in node.names}
            elif isinstance(node, ast.Assign) and len(node.targets) == 1:
                target = node.targets[0]
                if isinstance(target, ast.Name):
                    self._constants[target.id] = node.value

    def decorator(self, node: ast.expr) -> str | None:
        """Which of mds's decorators this is."""
        called = node.func if isinstance(node, ast.Call) else node
        if isinstance(called, ast.Name):
            return self._decorators.get(called.id)
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            return called.attr if called.value.id in self._modules else None
        return None

    def literal(self, call: ast.expr | None, place: str) -> Any:
        """What `@mds.requirements` is called with: written out, or a constant of the module.

        :raises LoadFailed: it would have to be computed
        """
        if not isinstance(call, ast.Call):
            return None
        given = [*call.args, *(one.value for one in call.keywords)]
        if len(given) != 1:
            return None  # importing it will say what is wrong
        value = given[0]
        if isinstance(value, ast.Name):
            value = self._constants.get(value.id, value)
        try:
            return ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as exc:
            raise _unreadable(place) from exc
