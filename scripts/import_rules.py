"""Checks that imports between the rooms of mdslite point one way. `import_rules.py [ROOT]`, exit 1 if not.

A room is a module or package directly under `mdslite`, or a module with a row of its own in ROOMS.
Imports under `if TYPE_CHECKING` count as well: a room that names another's types depends on it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What each room may import beside itself. A room that is missing here is a breach: give it a row.
ROOMS: dict[str, frozenset[str]] = {
    name: frozenset(allowed.split())
    for name, allowed in {
        "errors": "",
        "findings": "",
        "sizes": "",
        "blame": "",
        "guises": "sizes",
        "process": "errors",
        "runtimes.protocol": "errors",
        "document": "errors",
        "mistakes": "errors document",
        "fields": "",
        "advice": "document fields",
        "planning": "fields",
        "pictures": "",
        "contents": "pictures",
        "graph": "",
        "pipelines": "errors document mistakes fields graph",
        "drawing": "graph",
        "targets": "",
        "declarations": "",
        "intervals": "",
        "uris": "document fields",
        "settings": "",
        "logrules": "",
        "spec": "errors declarations fields logrules settings targets",
        "deployments": "errors document mistakes advice fields logrules settings spec targets uris",
        "hosts": "",
        "wire": "",
        "mds": "",
        "media": "errors",
        "syntax": "",
        "npy": "errors syntax",
        "packing": "errors npy runtimes.protocol",
        "tensors": "errors media npy packing runtimes.protocol",
        "data": "errors mds media npy runtimes.protocol tensors",
        "oip": "errors media npy packing runtimes.protocol tensors data",
        "runtimes": "errors findings guises mds runtimes.protocol sizes syntax wire process",
        "drift": "",
        "store": "errors blame drift findings guises sizes wire process",
        "recent": "blame store",
        "exposition": "",
        "metrics": "blame store recent exposition",
        "serving": "errors declarations mds media targets logrules fields spec graph pipelines packing "
        "tensors data oip runtimes.protocol runtimes store",
        "deploy": "errors intervals document fields spec deployments uris pipelines runtimes.protocol "
        "runtimes store serving",
        "http": "errors store",
        "predict": "errors media npy packing tensors data oip runtimes.protocol store serving http",
        "door": "errors hosts http predict",
        "api": "errors blame mistakes document media intervals hosts fields logrules spec deployments graph "
        "drawing npy data oip runtimes.protocol runtimes drift store exposition history metrics serving "
        "deploy http predict",
        "rpc": "errors data packing tensors oip runtimes.protocol serving http predict door api",
        "history": "runtimes",
        "spans": "",
        "tracing": "errors exposition process serving predict spans",
        "gauges": "exposition runtimes store metrics serving door",
        "trial": "errors",
        "links": "errors hosts replies",
        "replies": "errors",
        "retries": "",
        "payloads": "errors replies",
        "asks": "replies",
        "calls": "asks payloads replies",
        "drift_calls": "asks replies",
        "label_calls": "asks replies",
        "log_calls": "asks replies",
        "triton": "errors fields",
        "client": "links asks calls drift_calls label_calls log_calls payloads replies retries",
        "cli": "errors fields hosts sizes planning contents pictures client asks payloads replies",
        "tui": "errors blame hosts client asks calls drift_calls label_calls log_calls "
        "contents pictures planning replies",
    }.items()
}
# Composition roots, and the way to start one.
UNRULED = frozenset({"appliance", "assembly", "rehearsal", "__main__", ""})
# What a command may import inside a function: `up` the appliance, `restore` and a `doctor` with nobody to
# ask the store and the machine. At the top of a module it would slow every other command's start.
_STARTERS = UNRULED - {"__main__", ""}
LAZY = {"cli": _STARTERS | {"triton", "trial", "store", "runtimes", "runtimes.protocol", "tui"}}


@dataclass(frozen=True, slots=True)
class Import:
    file: Path
    line: int
    module: str  # dotted, below mdslite
    lazy: bool  # inside a function


def package_folders(root: Path) -> dict[str, Path]:
    """Where each dotted prefix lives; the same mapping as in pyproject.toml's package-dir."""
    folders = {"": root / "mdslite"}
    for room in ("runtimes", "store", "tui"):
        if (root / room).is_dir():
            folders[room] = root / room
    return folders


def find_modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Every module below mdslite as its dotted name ("" for the package itself) and its file."""
    for prefix, folder in package_folders(root).items():
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            names = [part for part in (prefix, *parts) if part and part != "__init__"]
            yield ".".join(names), file


def find_imports(module: str, file: Path) -> Iterator[Import]:
    """The imports of mdslite in one file, relative ones resolved."""
    tree = ast.parse(file.read_text(), filename=str(file))
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    package = [part for part in package if part]
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, lazy = pending.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "mdslite":
                    yield Import(file, node.lineno, alias.name[len("mdslite.") :], lazy)
                elif alias.name.partition(".")[0] == "mds":
                    yield Import(file, node.lineno, alias.name, lazy)
        elif isinstance(node, ast.ImportFrom):
            base = _resolve(node, package)
            if base is not None:
                for alias in node.names:
                    yield Import(file, node.lineno, f"{base}.{alias.name}".lstrip("."), lazy)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        pending.extend((child, inside) for child in ast.iter_child_nodes(node))


def _resolve(node: ast.ImportFrom, package: list[str]) -> str | None:
    """The module that a `from` names, below mdslite; None when it is somebody else's."""
    if node.level:
        kept = package[: len(package) - (node.level - 1)]
        return ".".join([*kept, *([node.module] if node.module else [])])
    if node.module == "mdslite":
        return ""
    if node.module is not None and node.module.startswith("mdslite."):
        return node.module[len("mdslite.") :]
    if node.module is not None and node.module.partition(".")[0] == "mds":
        return node.module  # it stands beside mdslite, and is a room all the same
    return None


def room_of(module: str) -> str:
    """The longest row of ROOMS that holds the module, or its first name."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in ROOMS:
            return name
    return parts[0]


def find_breaches(root: Path) -> list[str]:
    breaches = []
    modules = list(find_modules(root))
    known = {module.split(".")[0] for module, _ in modules} | set(ROOMS) | UNRULED
    for module, file in modules:
        room = room_of(module)
        if room in UNRULED:
            continue
        place = file.relative_to(root)
        if room not in ROOMS:
            breaches.append(f"{place}:1: room {room!r} has no row in scripts/import_rules.py")
            continue
        for found in find_imports(module, file):
            target = room_of(found.module)
            if target == room or target not in known:
                continue  # its own room, or a name out of mdslite/__init__.py
            if target in ROOMS[room] or (found.lazy and target in LAZY.get(room, frozenset())):
                continue
            allowed = ", ".join(sorted(ROOMS[room])) or "nothing"
            breaches.append(f"{place}:{found.line}: {room} imports {target}; it may import {allowed}")
    return list(dict.fromkeys(breaches))  # an import of several names is one breach


def main(arguments: list[str]) -> int:
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    breaches = find_breaches(root)
    for breach in breaches:
        print(breach)
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
