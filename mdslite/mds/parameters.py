"""`self.context`: the parameters that `@mds.context` gave a class, and the folder of its own files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mds.marks import class_marks


class Context(dict[str, Any]):
    """The parameters, as a dict; `folder` is where the module that defines the class lies."""

    def __init__(self, parameters: Mapping[str, Any], *, folder: Path) -> None:
        super().__init__(parameters)
        self.folder = folder


class ContextAttribute:
    """Gives each instance a `Context` of its own, when it first asks for it."""

    def __get__(self, instance: object | None, owner: type) -> Context:
        context = Context(read_parameters(owner), folder=find_folder(owner))
        kept = getattr(instance, "__dict__", None)
        if kept is not None:
            kept["context"] = context
        return context


def read_parameters(cls: type) -> dict[str, Any]:
    """The parameters of a class: its bases' first, so that its own replace them."""
    found: dict[str, Any] = {}
    for owner in reversed(cls.__mro__):
        marks = class_marks(owner)
        if marks is not None and marks.context is not None:
            found |= marks.context
    return found


def find_folder(cls: type) -> Path:
    """The folder of the module that defines a class; the working directory when that is no file."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return Path(file).resolve().parent if file else Path.cwd()
