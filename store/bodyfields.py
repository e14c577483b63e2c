"""Fields within logged bodies: what stands under a name such as `label` in a JSON body, and whether it is
what a filter asks for. Owns no file.

A name is followed from the top of the body, and from each of its instances, predictions, inputs or outputs;
lists are gone through. So `text` finds `{"text": ...}` as well as `{"instances": [{"text": ...}, ...]}`, and
`label` an output of the Open Inference Protocol that is called so.
"""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import orjson

Scalar: TypeAlias = str | int | float | bool | None
Path: TypeAlias = tuple[str, ...]

MAX_ITEMS = 1000  # of one list, and of one body: what is more is not looked at
_MAX_DEPTH = 32  # of lists in lists
_ABSENT = object()
_SCALARS = frozenset({str, int, float, bool})
_WRAPPERS = ("instances", "predictions", "inputs", "outputs")


def body_holds(body: str | bytes, path: str, operator: str, value: str) -> bool:
    """Whether some value under `path` passes; with `!=` and `!~`, whether none is or contains `value`.

    Numbers are compared with numbers, text with text. A body that is no JSON, or was cut, holds nothing.
    An empty `value` stands for what is not there, null or empty.
    """
    try:
        document = orjson.loads(body)
    except ValueError:
        return False
    found = find_values(document, make_path(path))
    if operator in ("!=", "!~"):
        return not _any(found, operator[1], value)
    return _any(found, operator, value)


def read_values(body: str | bytes, path: Path) -> list[Scalar]:
    """The values under a path of a body as it is stored; none for what is no JSON."""
    try:
        return find_values(orjson.loads(body), path)
    except ValueError:
        return []


@functools.lru_cache(maxsize=64)
def make_path(text: str) -> Path:
    return tuple(text.split("."))


def find_values(document: Any, path: Path) -> list[Scalar]:
    """The scalars under a path, of a long list those of its first MAX_ITEMS."""
    if (alone := _find_alone(document, path)) is not _ABSENT:
        return [alone]
    found: list[Scalar] = []
    if type(document) is not dict:
        _gather(document, path, 0, found)
        return found
    if path[0] in document or "name" in document:
        _gather(document, path, 0, found)
    for name in _WRAPPERS:
        if name in document and name != path[0]:
            _gather(document[name], path, 0, found)
    return found


def _find_alone(document: Any, path: Path) -> Any:
    """What most bodies come to, without the way to it: the one instance's or prediction's own field."""
    if type(document) is dict and len(document) == 1 and len(path) == 1:
        ((wrapper, items),) = document.items()
        (name,) = path  # a number would be a place in the list
        if wrapper in _WRAPPERS and name != wrapper and not name.isdecimal():
            item = items[0] if type(items) is list and len(items) == 1 else None
            if type(item) is dict and type(value := item.get(name)) in _SCALARS:
                return value
    return _ABSENT


def _gather(value: Any, path: Path, at: int, found: list[Scalar], depth: int = 0) -> None:
    """Follow a path from its part `at` on. This is what a query over bodies spends its time with."""
    kind = type(value)
    if kind is dict:
        if at == len(path):
            return
        inner = value.get(path[at], _ABSENT)
        if inner is _ABSENT:
            if value.get("name") != path[at] or "data" not in value:
                return
            inner = value["data"]
        _gather(inner, path, at + 1, found, depth)
    elif kind is list:
        if depth >= _MAX_DEPTH:
            return
        if at < len(path) and path[at].isdecimal():
            if int(path[at]) < len(value):
                _gather(value[int(path[at])], path, at + 1, found, depth + 1)
            return
        last = path[at] if at + 1 == len(path) else None
        for item in value[:MAX_ITEMS]:
            # Most lists hold objects with the name: one call less for each.
            if last is not None and type(item) is dict and type(item.get(last)) in _SCALARS:
                found.append(item[last])
            else:
                _gather(item, path, at, found, depth + 1)
            if len(found) >= MAX_ITEMS:
                return
    elif at == len(path):
        found.append(value)


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
    if not text.isascii() or "_" in text:  # what Python takes for a number, too
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return int(text) if text.lstrip("+-").isdecimal() else number
