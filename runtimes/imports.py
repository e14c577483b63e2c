"""Imports one package's modules under private names, so that packages which are served in one process, and
both have a `model.py`, say, never see each other's.

The folder becomes a package of a made-up name, which makes relative imports between its modules work.
Absolute ones work because the modules are run with an `__import__` of their own, which looks into the folder
first: in CPython an import statement calls the one among its module's builtins. Nothing of the process
changes but one entry in `sys.meta_path`, no bytecode is written beside the sources, and `remove` takes it all
back.

What cannot hold: `importlib.import_module("helper")`, pickle and other code that imports for a package do not
find its modules by their plain names, unless they are exposed, which a process with one package does.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import secrets
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any


class Modules(MetaPathFinder):
    """The modules of the package in `folder`; with `only`, that one file of it."""

    def __init__(self, folder: Path, *, only: Path | None = None) -> None:
        self.name = f"mds_package_{secrets.token_hex(4)}"
        self._folder = folder
        self._only = only
        self._owned: dict[str, bool] = {}
        self._exposed: _Exposed | None = None
        own = {"__import__": self._import}
        self._loader = partial(_PrivateLoader, vars(builtins) | own)

    def install(self, *, exposed: bool = False) -> None:
        """Make the private names importable; `exposed` the plain ones too, where they are nobody else's."""
        sys.meta_path.insert(0, self)
        if exposed:
            self._exposed = _Exposed(self)
            sys.meta_path.append(self._exposed)

    def remove(self) -> None:
        """Take the modules out of the process."""
        for finder in (self, self._exposed):
            if finder in sys.meta_path:
                sys.meta_path.remove(finder)
        for name, module in sys.modules.copy().items():  # other threads import meanwhile
            if self.holds(name) or self.holds(str(getattr(module, "__name__", ""))):
                del sys.modules[name]

    def private_name(self, module: str) -> str:
        """The name of a module of the package; "" is the folder's own."""
        return f"{self.name}.{module}" if module else self.name

    def holds(self, name: str) -> bool:
        return name.partition(".")[0] == self.name

    def owns(self, name: str) -> bool:
        """Is a top-level name one of the package's? A folder without `__init__.py` only if nobody has it."""
        if name not in self._owned:
            self._owned[name] = False  # as it is for the search below, which comes by here again
            self._owned[name] = self._find_owner(name)
        return self._owned[name]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == self.name:
            return self._root_spec()
        if not self.holds(fullname):
            return None
        if self._only is not None:
            if fullname != f"{self.name}.{self._only.stem}":
                return None
            return importlib.util.spec_from_file_location(
                fullname, self._only, loader=self._loader(fullname, str(self._only))
            )
        kinds: list[Any] = [(self._loader, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES)]
        specs = (FileFinder(entry, *kinds).find_spec(fullname) for entry in path or ())
        return next((spec for spec in specs if spec is not None), None)

    def _root_spec(self) -> ModuleSpec:
        file = self._folder / "__init__.py"
        if self._only is None and file.is_file():
            loader = self._loader(self.name, str(file))
            spec = ModuleSpec(self.name, loader, origin=str(file), is_package=True)
            spec.has_location = True
        else:
            spec = ModuleSpec(self.name, None, is_package=True)
        spec.submodule_search_locations = [str(self._folder)]
        return spec

    def _find_owner(self, name: str) -> bool:
        if self._only is not None:
            return name == self._only.stem
        suffixes = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
        folder = self._folder / name
        if any((self._folder / f"{name}{suffix}").is_file() for suffix in suffixes):
            return True
        if (folder / "__init__.py").is_file():
            return True
        return folder.is_dir() and any(folder.rglob("*.py")) and not _exists_elsewhere(name)

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`__import__` for the package's own code."""
        top = name.partition(".")[0]
        if level or not self.owns(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        private = self.private_name(name)
        if fromlist:
            return builtins.__import__(private, globals, locals, fromlist, 0)
        importlib.import_module(private)
        return sys.modules[self.private_name(top)]


class _PrivateLoader(SourceFileLoader):
    """Runs a module with builtins of its own, and neither reads nor writes bytecode beside it."""

    def __init__(self, own_builtins: dict[str, Any], fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self._builtins = own_builtins

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._builtins
        super().exec_module(module)


class _Exposed(MetaPathFinder):
    """Finds a package's modules by their plain names, behind everything else that has such a name."""

    def __init__(self, modules: Modules) -> None:
        self._modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not self._modules.owns(fullname.partition(".")[0]):
            return None
        return ModuleSpec(fullname, _SameModule(self._modules.private_name(fullname)))


class _SameModule(Loader):
    """Loads a module that is there under another name: the very same object."""

    def __init__(self, private: str) -> None:
        self._private = private
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._private)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the machinery wrote the plain name's there


def _exists_elsewhere(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ValueError, ImportError):
        return True
