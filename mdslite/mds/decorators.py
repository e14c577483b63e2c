"""The decorators. Each checks what it was given, writes it down, and returns what it decorates unchanged."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from mds.description import describe
from mds.marks import (
    Batch,
    ClassMarks,
    DecorationError,
    Role,
    calling_place,
    mark_class,
    mark_method,
    method_place,
)
from mds.parameters import ContextAttribute

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
RUNTIMES = ("python", "onnx", "pytorch", "tensorflow")
DEFAULT_BATCH_SIZE = 32
MAX_BATCH_SIZE = 1024
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[|[<>=!~;@(]|$)")


def _checked(decorator: Callable[P, R]) -> Callable[P, R]:
    """Turn a call with the wrong arguments into an error that names the line."""
    name = f"@mds.{decorator.__name__}"
    signature = inspect.signature(decorator)

    @functools.wraps(decorator)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as exc:
            expected = ", ".join(signature.parameters)
            raise _wrong(f"{name}: {exc}; expected {name}({expected})") from None
        return decorator(*args, **kwargs)

    return call


@_checked
def model(name: str, version: str) -> Callable[[type[C]], type[C]]:
    """Make a class the model of a package, and check all of its decorators."""
    if inspect.isclass(name):
        raise _wrong("@mds.model takes a name and a version: write @mds.model('name', 'v1')")
    for what, value in (("name", name), ("version", version)):
        if not isinstance(value, str) or not NAME.fullmatch(value):
            raise _wrong(
                f"@mds.model: {what} {value!r} is no name: expected 1 to 63 letters, digits, _ or -, "
                "the first one no _ or -"
            )

    def decorate(cls: type[C]) -> type[C]:
        marks = _mark(cls, "model")
        marks.model = _once(marks.model, (name, version), cls, "model")
        describe(cls)
        return cls

    return decorate


@_checked
def runtime(name: str) -> Callable[[type[C]], type[C]]:
    """Say which library a class needs: `python`, `onnx`, `pytorch` or `tensorflow`."""
    if not isinstance(name, str) or name not in RUNTIMES:
        near = difflib.get_close_matches(str(name).lower(), RUNTIMES, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise _wrong(f"@mds.runtime: {name!r} is none of {', '.join(map(repr, RUNTIMES))}{meant}")

    def decorate(cls: type[C]) -> type[C]:
        marks = _mark(cls, "runtime")
        marks.runtime = _once(marks.runtime, name, cls, "runtime")
        return cls

    return decorate


@_checked
def context(parameters: Mapping[str, Any]) -> Callable[[type[C]], type[C]]:
    """Give a class parameters, which its instances find on `self.context`."""
    if not isinstance(parameters, Mapping) or not all(isinstance(key, str) for key in parameters):
        raise _wrong(f"@mds.context takes a dict with names as keys, not {_shown(parameters)}")
    kept = dict(parameters)

    def decorate(cls: type[C]) -> type[C]:
        marks = _mark(cls, "context")
        marks.context = _once(marks.context, kept, cls, "context")
        if not isinstance(inspect.getattr_static(cls, "context"), ContextAttribute):
            raise _wrong(f"@mds.context: {cls.__name__} has an attribute of its own named context; rename it")
        return cls

    return decorate


@_checked
def requirements(packages: Iterable[str]) -> Callable[[type[C]], type[C]]:
    """List what a class imports beside the standard library, as pip names it: `["numpy>=2", "pillow"]`."""
    if isinstance(packages, str) or not isinstance(packages, Iterable):
        raise _wrong(f'@mds.requirements takes a list, such as ["numpy>=2"], not {_shown(packages)}')
    kept = tuple(packages)
    for one in kept:
        if not isinstance(one, str) or "\n" in one or not _REQUIREMENT.match(one.strip()):
            raise _wrong(
                f'@mds.requirements: {one!r} is no requirement; expected such as "numpy" or "numpy>=2"'
            )

    def decorate(cls: type[C]) -> type[C]:
        marks = _mark(cls, "requirements")
        marks.requirements = _once(marks.requirements, kept, cls, "requirements")
        return cls

    return decorate


@_checked
def pre(method: F) -> F:
    """Called with one datum; what it returns goes to `predict`."""
    return _give_role(method, "pre")


@_checked
def predict(method: F) -> F:
    """Called with one datum, or below or above `@mds.batch` with a list of them; returns as many answers."""
    return _give_role(method, "predict")


@_checked
def post(method: F) -> F:
    """Called with one answer of `predict`; what it returns goes into the reply."""
    return _give_role(method, "post")


@_checked
def health_check(method: F) -> F:
    """Polled while the model serves; raising, or a status other than OK, takes it out of rotation."""
    return _give_role(method, "health_check")


@_checked
def warmup(method: F) -> F:
    """Called once after the class was built; the version is ready when it returns."""
    return _give_role(method, "warmup")


@_checked
def batch(
    batch_size: int = DEFAULT_BATCH_SIZE,
    batch_timeout_ms: float | None = None,
    prediction_time_ms: float | None = None,
) -> Callable[[F], F]:
    """Have `predict` called with lists of up to `batch_size` data.

    A datum waits `batch_timeout_ms` at most for others; a prediction that takes longer than
    `prediction_time_ms` is given up.
    """
    if callable(batch_size):
        raise _wrong("@mds.batch takes arguments: write @mds.batch(batch_size=32)")
    if type(batch_size) is not int or not 1 <= batch_size <= MAX_BATCH_SIZE:
        raise _wrong(f"@mds.batch: batch_size={batch_size!r}: expected a whole number, 1 to {MAX_BATCH_SIZE}")
    if batch_timeout_ms is not None and not _is_time(batch_timeout_ms, least=0):
        raise _wrong(f"@mds.batch: batch_timeout_ms={batch_timeout_ms!r}: expected milliseconds, 0 or more")
    if prediction_time_ms is not None and not _is_time(prediction_time_ms, least=1):
        raise _wrong(
            f"@mds.batch: prediction_time_ms={prediction_time_ms!r}: expected milliseconds, 1 or more"
        )
    wanted = Batch(batch_size, batch_timeout_ms, prediction_time_ms)

    def decorate(method: F) -> F:
        marks = _mark_callable(method, "batch")
        if marks.batch is not None:
            raise DecorationError(f"@mds.batch stands twice on {_name(method)}", place=marks.place)
        marks.batch = wanted
        return method

    return decorate


def _give_role(method: F, role: Role) -> F:
    marks = _mark_callable(method, role)
    if marks.role is not None:
        other = "twice" if marks.role == role else f"beside @mds.{marks.role}"
        raise DecorationError(
            f"@mds.{role} stands {other} on {_name(method)}: a method has one part to play", place=marks.place
        )
    marks.role = role
    return method


def _mark_callable(method: Any, name: str) -> Any:
    if not callable(method) and not isinstance(method, staticmethod | classmethod):
        raise _wrong(f"@mds.{name} goes on a method, not on {_shown(method)}")
    if inspect.isclass(method):
        raise _wrong(f"@mds.{name} goes on a method, not on the class {method.__name__}")
    place = method_place(method) or calling_place()
    if "." not in getattr(method, "__qualname__", "."):
        raise DecorationError(
            f"@mds.{name} goes on a method, but {_name(method)} is a function outside of a class", place=place
        )
    try:
        return mark_method(method, place)
    except (AttributeError, TypeError):
        raise _wrong(f"@mds.{name} goes on a method, not on {_shown(method)}") from None


def _mark(cls: Any, name: str) -> ClassMarks:
    if not inspect.isclass(cls):
        raise _wrong(f"@mds.{name} goes on a class, not on {_shown(cls)}")
    marks = mark_class(cls, calling_place())
    if not hasattr(cls, "context"):
        cls.context = ContextAttribute()  # type: ignore[attr-defined]
    return marks


def _once(present: R | None, value: R, cls: type, name: str) -> R:
    if present is not None:
        raise _wrong(f"@mds.{name} stands twice on {cls.__name__}")
    return value


def _wrong(message: str) -> DecorationError:
    return DecorationError(message, place=calling_place())


def _is_time(value: object, *, least: float) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= least  # type: ignore[arg-type,operator]


def _name(method: Any) -> str:
    return str(getattr(method, "__qualname__", None) or getattr(method, "__name__", None) or method)


def _shown(value: object) -> str:
    if inspect.isroutine(value):
        return f"the function {_name(value)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
