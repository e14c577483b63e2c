"""What a request asked and what it was told, as named values: of the JSON bodies that the log keeps, one row.
Owns no count.

A row is what an instance is: an object's fields by their names (nested ones with dots), an array of numbers
by place, or beyond VECTOR_MAX of them by its mean, deviation, least and greatest; anything else is the one
value `value`. Of texts, what stands there, or when it is long that it is long; and how long it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, TypeAlias

import msgspec

# A number, a text (also of true and false), or None for what is there and says nothing.
Reading: TypeAlias = dict[str, float | str | None]

VECTOR_MAX = 16
TEXT_MAX = 64
DEPTH_MAX = 4
NAME_MAX = 64
FIELDS_MAX = 128  # of one row
LONG = "(long)"
OUTPUT = "output"
INPUT = "input"
LENGTH = ".length"
# The field of an answer that tells its class, as comparisons of versions take it.
_LABELS = ("label", "class", "prediction", "answer", "category")
_ROWS = ("instances", "predictions")
_COLUMNS = ("inputs", "outputs")

_decode = msgspec.json.Decoder().decode


def read_bodies(request: str | bytes | None, reply: str | bytes | None, random: Random) -> Reading | None:
    """One row of a request, chosen at random, and what it was answered; None when neither can be read."""
    asked, told = _rows(_parse(request)), _rows(_parse(reply))
    if asked is None and told is None:
        return None
    count = max(len(asked or ()), len(told or ()))
    if not count:
        return None
    place = random.randrange(count)
    found: Reading = {}
    if told is not None and place < len(told):
        _read_output(told[place], found)
    if asked is not None and place < len(asked):
        _flatten(INPUT, asked[place], found, 0)
    return found or None


def _parse(body: str | bytes | None) -> Any:
    if not body:
        return None
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _rows(value: Any) -> Sequence[Any] | None:
    """The rows of a body, whatever form it has; None of what is no JSON."""
    if value is None:
        return None
    if isinstance(value, dict):
        for name in _ROWS:
            if isinstance(value.get(name), list):
                rows: list[Any] = value[name]
                return rows
        for name in _COLUMNS:
            if name in value:
                return _rows_of_columns(value[name])
    return [value]


def _rows_of_columns(columns: Any) -> Sequence[Any]:
    if isinstance(columns, list) and all(isinstance(one, dict) and "data" in one for one in columns):
        columns = {str(one.get("name", "")): _shaped(one) for one in columns}  # Open Inference Protocol
    if not isinstance(columns, dict):
        return [columns]
    lists = {name: one for name, one in columns.items() if isinstance(one, list)}
    count = max((len(one) for one in lists.values()), default=0)
    rows: list[Any] = [{name: one[at] for name, one in lists.items() if at < len(one)} for at in range(count)]
    if len(lists) == 1:
        rows = [next(iter(row.values())) for row in rows]
    return rows


def _shaped(tensor: Mapping[str, Any]) -> list[Any]:
    """The rows of a tensor whose data may be flat."""
    data, shape = tensor.get("data"), tensor.get("shape")
    if not isinstance(data, list):
        return []
    if not isinstance(shape, list) or len(shape) < 2 or (data and isinstance(data[0], list)):
        return data
    count = shape[0] if isinstance(shape[0], int) and 0 < shape[0] <= len(data) else 1
    width = len(data) // count
    return [data[at * width : (at + 1) * width] for at in range(count)]


def _flatten(name: str, value: Any, found: Reading, depth: int) -> None:
    if len(found) >= FIELDS_MAX:
        return
    if isinstance(value, dict) and depth < DEPTH_MAX:
        for key, one in value.items():
            _flatten(f"{name}.{_shown(str(key)[:NAME_MAX])}", one, found, depth + 1)
        return
    if depth == 0 and not isinstance(value, list):
        name = f"{name}.value"
    if isinstance(value, list):
        _read_list(name, value, found)
    elif isinstance(value, str):
        found[name] = value if len(value) <= TEXT_MAX else LONG
        found[f"{name}{LENGTH}"] = float(len(value))
    else:
        found[name] = _scalar(value)


def _shown(name: str) -> str:
    return name if name.isprintable() else ascii(name)[1:-1]


def _read_list(name: str, values: list[Any], found: Reading) -> None:
    numbers = _numbers(values)
    if numbers is None:
        found[f"{name}{LENGTH}"] = float(len(values))
        return
    if len(numbers) <= VECTOR_MAX:
        for place, number in enumerate(numbers):
            found[f"{name}[{place}]"] = number
        return
    mean = math.fsum(numbers) / len(numbers)
    found[f"{name}.mean"] = mean
    found[f"{name}.deviation"] = math.sqrt(math.fsum((one - mean) ** 2 for one in numbers) / len(numbers))
    found[f"{name}.least"] = min(numbers)
    found[f"{name}.greatest"] = max(numbers)
    found[f"{name}{LENGTH}"] = float(len(numbers))


def _numbers(values: list[Any]) -> list[float] | None:
    """All numbers of an array, nested ones too; None when something in it is none."""
    found: list[float] = []
    pending = list(reversed(values))
    while pending:
        one = pending.pop()
        if isinstance(one, list):
            pending.extend(reversed(one))
            continue
        number = None if isinstance(one, bool) else _scalar(one)
        if not isinstance(number, float) or not math.isfinite(number):
            return None
        found.append(number)
    return found


def _scalar(value: Any) -> float | str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if math.isfinite(number) else None
    return None


def _read_output(value: Any, found: Reading) -> None:
    """A class by its name or its place, a number by its value."""
    if isinstance(value, dict):
        for name in _LABELS:
            if name in value:
                value = value[name]
                break
        else:
            value = next((one for name, one in value.items() if "prob" in name.lower()), None)
    if isinstance(value, list):
        numbers = _numbers(value)
        if numbers is None or not numbers:
            return
        if len(numbers) == 1:
            found[OUTPUT] = numbers[0]
        elif len(numbers) == len(value):
            found[OUTPUT] = str(numbers.index(max(numbers)))
    elif isinstance(value, str):
        found[OUTPUT] = value if len(value) <= TEXT_MAX else LONG
    elif isinstance(value, bool):
        found[OUTPUT] = "true" if value else "false"
    elif isinstance(value, int) and abs(value) < 1 << 31:
        found[OUTPUT] = str(value)
    elif isinstance(value, float) and math.isfinite(value):
        found[OUTPUT] = value
