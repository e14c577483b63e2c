"""What a decorated class is, read from its marks and those of its bases, and checked as a whole.

A method keeps its part in subclasses that override it without a decorator. An override that is decorated
says anew what it is, and None in its place takes the part away.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mds.marks import (
    Batch,
    ClassMarks,
    DecorationError,
    MethodMarks,
    Place,
    Role,
    class_marks,
    method_marks,
    method_place,
)
from mds.parameters import read_parameters

_TAKES_A_DATUM = ("pre", "predict", "post")


@dataclass(frozen=True, slots=True)
class Description:
    """A class that can be served. The five parts are names of methods, None where there is no such method."""

    cls: type
    name: str
    version: str
    runtime: str | None
    context: Mapping[str, Any]
    requirements: tuple[str, ...]
    pre: str | None
    predict: str
    post: str | None
    health_check: str | None
    warmup: str | None
    batch: Batch | None
    streams: bool  # predict is a generator
    is_async: bool  # predict is a coroutine function or an asynchronous generator


def describe(cls: type) -> Description:
    """Read and check what the decorators say of a class.

    :raises DecorationError: it has no `@mds.model`, no `@mds.predict`, or parts that do not fit together
    """
    marks = class_marks(cls)
    if marks is None or marks.model is None:
        place = marks.place if marks is not None else _class_place(cls)
        raise DecorationError(f"{cls.__name__} has no @mds.model('name', 'v1') above it", place=place)
    parts, batch = _find_parts(cls)
    _check_built(cls, marks)
    for role, name in parts.items():
        _check_part(cls, role, name, marks.place)
    if "predict" not in parts:
        raise DecorationError(f"{cls.__name__} has no method with @mds.predict", place=marks.place)
    predict = inspect.unwrap(getattr(cls, parts["predict"]))
    streams = inspect.isgeneratorfunction(predict) or inspect.isasyncgenfunction(predict)
    if streams and batch is not None:
        raise DecorationError(
            f"{cls.__name__}.{parts['predict']} is a generator, which answers one datum at a time: "
            "it cannot stand beside @mds.batch",
            place=method_place(predict) or marks.place,
        )
    name, version = marks.model
    return Description(
        cls=cls,
        name=name,
        version=version,
        runtime=_find_runtime(cls),
        context=read_parameters(cls),
        requirements=marks.requirements or (),
        pre=parts.get("pre"),
        predict=parts["predict"],
        post=parts.get("post"),
        health_check=parts.get("health_check"),
        warmup=parts.get("warmup"),
        batch=batch,
        streams=streams,
        is_async=inspect.iscoroutinefunction(predict) or inspect.isasyncgenfunction(predict),
    )


def _find_parts(cls: type) -> tuple[dict[Role, str], Batch | None]:
    """Which method plays which part, the most derived class's word last, and how predict is batched."""
    parts: dict[Role, str] = {}
    batch: Batch | None = None
    for owner in reversed(cls.__mro__):
        declared: dict[Role, tuple[str, MethodMarks]] = {}
        for name, value in list(vars(owner).items()):
            marks = method_marks(value)
            if marks is None:
                continue
            role = marks.role or next((one for one, held in parts.items() if held == name), None)
            if marks.batch is not None and role != "predict":
                raise DecorationError(
                    f"@mds.batch stands on {owner.__name__}.{name}, but goes beside @mds.predict",
                    place=marks.place,
                )
            if role is None:
                continue
            known = declared.get(role)
            if known is not None and known[1] is not marks:
                raise DecorationError(
                    f"@mds.{role} stands on two methods of {owner.__name__}, {known[0]} "
                    f"(line {known[1].place.line}) and {name}: expected one",
                    place=marks.place,
                )
            if known is None:
                declared[role] = name, marks
        taken = {name for name, _ in declared.values()}
        parts = {role: name for role, name in parts.items() if name not in taken}
        parts |= {role: name for role, (name, _) in declared.items()}
        if "predict" in declared:
            batch = declared["predict"][1].batch
    return {role: name for role, name in parts.items() if getattr(cls, name, None) is not None}, batch


def _find_runtime(cls: type) -> str | None:
    """The runtime of a class, or of the nearest base that names one."""
    found = (class_marks(owner) for owner in cls.__mro__)
    return next((marks.runtime for marks in found if marks is not None and marks.runtime), None)


def _check_built(cls: type, marks: ClassMarks) -> None:
    """Refuse a class that cannot be built without arguments."""
    init = inspect.getattr_static(cls, "__init__")
    if not _accepts(init, 1):
        raise DecorationError(
            f"{cls.__name__}.__init__ asks for arguments, and is called without any: put parameters into "
            "@mds.context and read them from self.context",
            place=method_place(init) or marks.place,
        )


def _check_part(cls: type, role: Role, name: str, place: Place) -> None:
    """Refuse a method that cannot be called as its part is."""
    static = inspect.getattr_static(cls, name)
    method = getattr(cls, name)
    where = method_place(static) or place
    if not callable(method):
        raise DecorationError(f"{cls.__name__}.{name} is to be @mds.{role}, but is no method", place=where)
    takes = 1 if role in _TAKES_A_DATUM else 0
    own = 0 if isinstance(static, staticmethod | classmethod) else 1
    if not _accepts(method, takes + own):
        expected = "one argument beside self, the datum" if takes else "no argument beside self"
        raise DecorationError(f"{cls.__name__}.{name} is @mds.{role}: it must take {expected}", place=where)
    plain = inspect.unwrap(method)
    if role != "predict" and (inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)):
        raise DecorationError(
            f"{cls.__name__}.{name} is @mds.{role} and a generator: only @mds.predict may yield", place=where
        )


def _accepts(function: Any, count: int) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: it will say itself
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _class_place(cls: type) -> Place:
    """Where a class stands that carries no mark, as near as can be told."""
    places = (method_place(value) for value in vars(cls).values())
    return next((place for place in places if place is not None), Place(cls.__module__, 1))
