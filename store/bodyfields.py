"""Fields within logged bodies: what stands under a name such as `label` in a JSON body, and whether it is
what a filter asks for. Owns no file.

A name is followed from the top of the body, and from each of its instances, predictions, inputs or outputs;
lists are gone through. So `text` finds `{"text": ...}` as well as `{"instances": [{"text": ...}, ...]}`, and
`label` an output of the Open Inference Protocol that is called so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import orjson

Scalar: TypeAlias = str | int | float | bool | None

MAX_VALUES = 1000  # of one body: a longer list is not gone through to its end
_WRAPPERS = ("instances", "predictions", "inputs", "outputs")


def body_holds(body: str | bytes, path: str, operator: str, value: str) -> bool:
    """Whether some value under `path` passes; with `!=` and `!~`, whether none is or contains `value`.

    Numbers are compared with numbers, text with text. A body that is no JSON, or was cut, holds nothing.
    An empty `value` stands for what is not there, null or empty.
    """
    try:
        found = list(find_values(orjson.loads(body), path))
    except ValueError:
        return False
    if operator in ("!=", "!~"):
        return not _any(found, operator[1], value)
    return _any(found, operator, value)


def read_values(body: str | bytes | None, path: str) -> list[Scalar]:
    """The distinct values under `path` of a body as it is stored; none for what is no JSON."""
    if body is None:
        return []
    try:
        found = find_values(orjson.loads(body), path)
        # A key with its type: True and 1 are equal, and two things.
        return list({(type(value), value): value for value in found}.values())
    except ValueError:
        return []


def find_values(body: Any, path: str) -> Iterator[Scalar]:
    """The scalars under a dotted path, at most MAX_VALUES."""
    names = tuple(path.split("."))
    starts = [body]
    if isinstance(body, dict):
        starts += [body[name] for name in _WRAPPERS if name != names[0] and isinstance(body.get(name), list)]
        starts += [body[name] for name in _WRAPPERS if name != names[0] and isinstance(body.get(name), dict)]
    left = MAX_VALUES
    for start in starts:
        for value in _follow(start, names):
            if not left:
                return
            left -= 1
            yield value


def _follow(value: Any, names: tuple[str, ...]) -> Iterator[Scalar]:
    """Depth first, with a stack of its own: a body may be nested deeper than Python calls."""
    pending: list[tuple[Any, tuple[str, ...]]] = [(value, names)]
    while pending:
        here, left = pending.pop()
        if isinstance(here, list):
            if left and left[0].isdigit():
                if int(left[0]) < len(here):
                    pending.append((here[int(left[0])], left[1:]))
            else:
                pending += [(item, left) for item in reversed(here[:MAX_VALUES])]
        elif not left:
            if not isinstance(here, dict):
                yield here
        elif isinstance(here, dict):
            if left[0] in here:
                pending.append((here[left[0]], left[1:]))
            elif here.get("name") == left[0] and "data" in here:
                pending.append((here["data"], left[1:]))


def _any(found: list[Scalar], operator: str, value: str) -> bool:
    if operator == "=":
        if not value:
            return all(one is None or one == "" for one in found)
        number = _number(value)
        return any(_equals(one, value, number) for one in found)
    if operator == "~":
        sought = value.lower()
        return any(sought in _text(one).lower() for one in found if one is not None)
    number = _number(value)
    return any(_compares(one, operator, value, number) for one in found)


def _equals(one: Scalar, value: str, number: float | None) -> bool:
    if isinstance(one, str):
        return one == value
    if isinstance(one, bool):
        return value.lower() == ("true" if one else "false")
    if one is None:
        return value.lower() == "null"
    return number is not None and one == number


def _compares(one: Scalar, operator: str, value: str, number: float | None) -> bool:
    if isinstance(one, bool) or one is None:
        return False
    left: Any
    right: Any
    if isinstance(one, str):
        if number is not None:
            return False
        left, right = one, value
    else:
        if number is None:
            return False
        left, right = one, number
    if operator == "<":
        return bool(left < right)
    if operator == "<=":
        return bool(left <= right)
    return bool(left > right) if operator == ">" else bool(left >= right)


def _text(one: Scalar) -> str:
    if isinstance(one, bool):
        return "true" if one else "false"
    return str(one)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return int(text) if text.lstrip("+-").isdecimal() else number
