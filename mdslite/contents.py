"""What a logged body holds, told by its kind: numbers, a text, a picture, JSON or plain bytes. Reads what the
log kept of it, which may end in the middle; owns neither the log nor how it is drawn.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from mdslite.pictures import Picture, decode, from_numbers

Kind: TypeAlias = Literal["none", "numbers", "picture", "text", "json", "bytes"]

MAX_SIDE: Final = 1024
_LEAST_SIDE: Final = 4  # nested lists of fewer rows are a table, not a picture
_LEAST_SQUARE: Final = 8  # a plain list may be a picture from 8 by 8 on
_NPY: Final = b"\x93NUMPY"
_NPY_TYPES: Final = {
    "b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip
_BASE64: Final = re.compile(r"(data:[\w/+.-]+;base64,)?[A-Za-z0-9+/]{16,}={0,2}")
_OPENING: Final = {"[": "]", "{": "}"}
_DEEPEST: Final = 64  # what is nested deeper is shown as the text that it is


@dataclass(frozen=True, slots=True)
class Content:
    """What a body holds. `count` is how many instances or predictions it has, of which this is `place`."""

    kind: Kind
    note: str = ""  # what was cut off
    name: str = ""  # of the input or output
    text: str = ""
    numbers: tuple[float, ...] = ()
    picture: Picture | None = None
    value: Any = None  # as JSON has it
    place: int = 0
    count: int = 1


def read_content(body: Mapping[str, Any] | None, place: int = 0) -> Content:
    """What the body of a row (`content`, `encoding`, `size_bytes`, `truncated`) holds at `place`."""
    if body is None:
        return Content("none")
    kept = str(body.get("content", ""))
    note = f"cut: {body.get('size_bytes', 0):,} bytes" if body.get("truncated") else ""
    if body.get("encoding") == "base64":
        return _of_bytes(_from_base64(kept) or b"", note)
    if kept[:2] in ("P1", "P2", "P3"):
        picture = decode(kept.encode())
        if picture is not None:
            return Content("picture", note, picture=picture, text=kept)
    value = parse_json(kept)
    if value is None:
        return Content("text", note, text=kept)
    data, name, count, at = _choose(value, place)
    return _of_value(data, note=note, name=name, count=count, place=at)


def parse_json(text: str) -> Any:
    """The value of a JSON text, as far as it goes when its end is missing; None when it is no JSON."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    if _is_deep(text):
        return None
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return json.loads(_close(text))
    except ValueError:
        return None


def answers_agree(mine: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool | None:
    """Whether two reply bodies give one answer; None where that cannot be said.

    What names a label, class, prediction or answer decides where it is there, else the place of the greatest
    of several numbers, else all of it within a thousandth.
    """
    if mine is None or other is None or mine.get("truncated") or other.get("truncated"):
        return None
    first, second = parse_json(str(mine.get("content"))), parse_json(str(other.get("content")))
    if first is None or second is None:
        return None
    mine_all, other_all = (
        value.get("predictions") if isinstance(value, Mapping) else None for value in (first, second)
    )
    if isinstance(mine_all, list) and isinstance(other_all, list):
        return len(mine_all) == len(other_all) and all(
            map(_same, map(_told, mine_all), map(_told, other_all))
        )
    return _same(first, second)


def _told(answer: Any) -> Any:
    if isinstance(answer, Mapping):
        for name in ("label", "class", "prediction", "answer", "category"):
            if name in answer:
                return answer[name]
        doubt = ("confidence", "probability", "probabilities", "score", "scores")
        return {name: value for name, value in answer.items() if name not in doubt}
    if is_numbers(answer) and len(answer) > 1:
        return answer.index(max(answer))
    return answer


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, int | float) and isinstance(second, int | float):
        try:
            return math.isclose(first, second, rel_tol=1e-3, abs_tol=1e-3)
        except OverflowError:  # an integer that no float holds
            return first == second
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same(first[name], second[name]) for name in first)
    return bool(first == second)


def _choose(value: Any, place: int) -> tuple[Any, str, int, int]:
    """One instance or prediction of a body: its value, its name, how many there are, and which it is."""
    if not isinstance(value, Mapping):
        return value, "", 1, 0
    for key in ("instances", "predictions"):
        found = value.get(key)
        if isinstance(found, list) and found:
            at = place % len(found)
            return found[at], "", len(found), at
    for key in ("inputs", "outputs"):
        found = value.get(key)
        if isinstance(found, list) and found and all(isinstance(one, Mapping) for one in found):
            at = place % len(found)
            return _tensor(found[at]), str(found[at].get("name", "")), len(found), at
        if isinstance(found, Mapping) and found:
            at = place % len(found)
            name = list(found)[at]
            rows = found[name]
            return (rows[0] if isinstance(rows, list) and len(rows) == 1 else rows), name, len(found), at
    return value, "", 1, 0


def _tensor(tensor: Mapping[str, Any]) -> Any:
    """A tensor of the Open Inference Protocol as nested lists."""
    data, shape = tensor.get("data"), tensor.get("shape")
    if (
        not isinstance(data, list)
        or not isinstance(shape, list)
        or not all(isinstance(n, int) for n in shape)
    ):
        return data if data is not None else dict(tensor)
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    nested: list[Any] = data
    if data and isinstance(data[0], list):  # it was sent nested
        return data
    for size in reversed(shape[1:]):
        if size < 1:
            break
        nested = [nested[at : at + size] for at in range(0, len(nested), size)]
    return nested


def _of_value(value: Any, **told: Any) -> Content:
    if isinstance(value, Mapping) and set(value) == {"b64"}:
        return _of_bytes(_from_base64(str(value["b64"])) or b"", told["note"])
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, value),) = value.items()
        told["name"] = str(name)
    if isinstance(value, str):
        held = _from_base64(value.partition(",")[2] or value) if _BASE64.fullmatch(value) else None
        picture = decode(held) if held else None
        if picture is not None:
            return Content("picture", picture=picture, **told)
        return Content("text", text=value, value=value, **told)
    if isinstance(value, list) and value:
        return _of_list(value, **told)
    return Content("json", text=json.dumps(value, ensure_ascii=False, indent=2), value=value, **told)


def _of_list(value: list[Any], **told: Any) -> Content:
    if is_numbers(value):
        side = math.isqrt(len(value))
        is_square = side * side == len(value) and side >= _LEAST_SQUARE
        picture = from_numbers(value, side, side) if is_square and min(value) >= 0 else None
        return Content(
            "picture" if picture else "numbers", numbers=tuple(value), picture=picture, value=value, **told
        )
    picture = _nested_picture(value)
    if picture is not None:
        return Content("picture", numbers=tuple(_flat(value)), picture=picture, value=value, **told)
    flat = list(_flat(value))
    if flat and is_numbers(flat):
        return Content("numbers", numbers=tuple(flat), value=value, **told)
    return Content("json", text=json.dumps(value, ensure_ascii=False, indent=2), value=value, **told)


def _nested_picture(value: list[Any]) -> Picture | None:
    """Rows of pixels, pixels of three channels, or three (or one) planes of rows."""
    shape = _shape(value)
    if len(shape) == 3 and shape[0] in (1, 3) and shape[2] > 3:
        planes = [list(_flat(plane)) for plane in value]
        height, width = shape[1], shape[2]
        count = min(len(plane) for plane in planes)
        flat = [planes[channel][at] for at in range(count) for channel in range(shape[0])]
    elif len(shape) == 3 and shape[2] in (1, 3):
        height, width = shape[0], shape[1]
        flat = list(_flat(value))
    elif len(shape) == 2:
        height, width = shape
        flat = list(_flat(value))
    else:
        return None
    if not (_LEAST_SIDE <= height <= MAX_SIDE and _LEAST_SIDE <= width <= MAX_SIDE) or not is_numbers(flat):
        return None
    return from_numbers(flat, width, height, 3 if len(shape) == 3 and 3 in (shape[0], shape[2]) else 1)


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of nested lists of one length each, but for the last one, which may be cut."""
    if not isinstance(value, list) or not value:
        return ()
    inner = _shape(value[0])
    if any(_shape(one) != inner for one in value[1:-1]):
        return (len(value),)
    return (len(value), *inner)


def _flat(value: list[Any]) -> list[Any]:
    found: list[Any] = []
    for one in value:
        if isinstance(one, list):
            found += _flat(one)
        else:
            found.append(one)
    return found


def is_numbers(value: Any) -> bool:
    """A list of numbers that can be drawn."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < 1e300 for one in value
        )
    )


def _of_bytes(content: bytes, note: str) -> Content:
    picture = decode(content)
    if picture is not None:
        return Content("picture", note, picture=picture)
    if content.startswith(_NPY):
        numbers = _read_npy(content)
        if numbers is not None:
            return _of_value(numbers, note=note, name="npy")
    return Content("bytes", note, text=_dump(content))


def _read_npy(content: bytes) -> list[Any] | None:
    """A small array as nested lists, as far as its bytes go."""
    try:
        (size,) = struct.unpack_from("<H" if content[6] == 1 else "<I", content, 8)
        start = (10 if content[6] == 1 else 12) + size
        head = content[10:start].decode("latin-1")
        kind = re.search(r"'descr':\s*'([<>|=]?)(\w\d)'", head)
        shape = re.search(r"'shape':\s*\(([\d, ]*)\)", head)
        if kind is None or shape is None or "'fortran_order': True" in head or kind[2] not in _NPY_TYPES:
            return None
        letter = _NPY_TYPES[kind[2]]
        each = struct.calcsize(letter)
        count = (len(content) - start) // each
        values = struct.unpack_from(
            (kind[1] if kind[1] in "<>" else "<") + f"{count}{letter}", content, start
        )
    except (struct.error, IndexError):
        return None
    sizes = [int(word) for word in shape[1].replace(",", " ").split()]
    numbers = [value if math.isfinite(value) else 0.0 for value in values]
    nested = _tensor({"data": numbers, "shape": sizes})
    return nested if isinstance(nested, list) else None


def _dump(content: bytes, width: int = 8) -> str:
    lines = []
    for at in range(0, min(len(content), 256), width):
        piece = content[at : at + width]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{at:04x}  {piece.hex(' '):<{width * 3}} {letters}")
    return "\n".join(lines)


def _from_base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text[: len(text) // 4 * 4], validate=True)
    except (binascii.Error, ValueError):
        return None


def _is_deep(text: str) -> bool:
    depth = 0
    for letter in text:
        if letter in "[{":
            depth += 1
            if depth > _DEEPEST:
                return True
        elif letter in "]}":
            depth -= 1
    return False


def _close(text: str) -> str:
    """A JSON text whose end is missing, cut behind its last whole value and closed."""
    closers: list[str] = []
    cut, cut_closers = 0, ""
    in_text = escaped = False
    for at, char in enumerate(text):
        if in_text:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_text = False
            continue
        if char == '"':
            in_text = True
        elif char in _OPENING:
            closers.append(_OPENING[char])
            cut, cut_closers = at + 1, "".join(reversed(closers))
        elif char in "]}":
            if not closers or closers.pop() != char:
                raise ValueError("no JSON")
            cut, cut_closers = at + 1, "".join(reversed(closers))
        elif char == ",":
            cut, cut_closers = at, "".join(reversed(closers))
    return text[:cut] + cut_closers
