"""What the decorators leave on classes and methods, and the error that names the line of a wrong one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, Literal

Role = Literal["pre", "predict", "post", "health_check", "warmup"]

_METHOD_MARKS = "__mds_method__"
_CLASS_MARKS = "__mds_class__"
_PACKAGE = __name__.partition(".")[0]


class DecorationError(TypeError):
    """A decorator that was used wrongly; `file` and `line` are where it stands."""

    def __init__(self, message: str, *, place: Place) -> None:
        super().__init__(f"{place}: {message}")
        self.file = place.file
        self.line = place.line


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a source file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


@dataclass(frozen=True, slots=True)
class Batch:
    """How `predict` wants its data: lists of up to `batch_size`; None leaves the choice to who serves it."""

    batch_size: int
    batch_timeout_ms: float | None = None
    prediction_time_ms: float | None = None


@dataclass(slots=True)
class MethodMarks:
    """What stands above one method."""

    place: Place
    role: Role | None = None
    batch: Batch | None = None


@dataclass(slots=True)
class ClassMarks:
    """What stands above one class; None where nothing does."""

    place: Place
    model: tuple[str, str] | None = None  # name, version
    runtime: str | None = None
    context: Mapping[str, Any] | None = None
    requirements: tuple[str, ...] | None = None


def class_marks(cls: type) -> ClassMarks | None:
    """The marks of a class itself, not those of its bases."""
    found = vars(cls).get(_CLASS_MARKS)
    return found if isinstance(found, ClassMarks) else None


def mark_class(cls: type, place: Place) -> ClassMarks:
    """The marks of a class, made at the first decorator."""
    found = class_marks(cls)
    if found is None:
        found = ClassMarks(place)
        setattr(cls, _CLASS_MARKS, found)
    return found


def method_marks(value: object) -> MethodMarks | None:
    """The marks of what a class holds under a name, through decorators that stand above ours."""
    for layer in _layers(value):
        found = _own(layer, _METHOD_MARKS)
        if isinstance(found, MethodMarks):
            return found
    return None


def mark_method(method: Any, place: Place) -> MethodMarks:
    """The marks of a method, made at the first decorator.

    :raises AttributeError: nothing can be written on the method
    """
    found = method_marks(method)
    if found is None:
        found = MethodMarks(method_place(method) or place)
        setattr(method, _METHOD_MARKS, found)
    return found


def method_place(method: object) -> Place | None:
    """The line where a method's code starts, its decorators included."""
    codes = [_own(layer, "__code__") or getattr(layer, "__code__", None) for layer in _layers(method)]
    code = next((one for one in reversed(codes) if isinstance(one, CodeType)), None)
    return None if code is None else Place(code.co_filename, code.co_firstlineno)


def calling_place() -> Place:
    """The line outside of this package that is being run."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__") == _PACKAGE:
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno)


def _layers(value: object) -> Iterator[object]:
    """A callable, and what it was wrapped around."""
    seen = 0
    while value is not None and seen < 100:
        seen += 1
        yield value
        inner = value.__func__ if isinstance(value, staticmethod | classmethod) else None
        value = inner if inner is not None else _own(value, "__wrapped__")


def _own(value: object, name: str) -> Any:
    """An attribute that was really written on an object: never one that it makes up when asked."""
    try:
        return vars(value).get(name)
    except TypeError:  # it has no attributes of its own
        return None
