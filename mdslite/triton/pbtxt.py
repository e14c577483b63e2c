"""Protocol Buffers' text format, as `config.pbtxt` uses it, read with no more of its schema than which fields
are enums.

Every field becomes a list of what was written for it, in order: one entry for a plain field, several for a
repeated one, however it was written (`dims: [1, 2]`, or `dims: 1 dims: 2`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias

from mdslite.errors import InvalidRequest, clip, quoted

Message: TypeAlias = dict[str, list[Any]]

DEPTH_MAX = 64
_TOKEN = re.compile(
    r"""(?P<space>[\s]+|\#[^\n]*)
      | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)f?\b)
      | (?P<word>[A-Za-z_][A-Za-z0-9_.]*)
      | (?P<sign>[{}\[\]<>:,;])""",
    re.VERBOSE,
)
_CLOSES = {"{": "}", "<": ">"}


def parse(text: str, *, file: str, enums: Mapping[str, Sequence[str]] | None = None) -> Message:
    """Read a message. `enums` are the names by number of what fields may hold, such as `a.b` in `a { b: X }`;
    such a field becomes the name, also where it was written as a number.

    :raises InvalidRequest: with the line and the column of what is wrong
    """
    return _Reader(text, file, enums or {}).message("", "")


class _Reader:
    def __init__(self, text: str, file: str, enums: Mapping[str, Sequence[str]]) -> None:
        self._text = text
        self._file = file
        self._enums = enums
        self._tokens = list(self._split())
        self._at = 0
        self._depth = 0

    def message(self, end: str, within: str) -> Message:
        """All fields up to the sign that ends them; `within` is the field that holds them."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._error("nested too deep")
        found: Message = {}
        while not self._is(end):
            kind, name, _ = self._next("a field's name")
            if kind != "word":
                raise self._error(f"expected a field's name, got {clip(name)}")
            place = f"{within}.{name}" if within else name
            colon = self._take(":")
            if self._is("{") or self._is("<"):
                found.setdefault(name, []).append(self._inner(place))
            elif self._take("["):
                found.setdefault(name, []).extend(self._list(place))
            elif not colon:
                raise self._error(f"expected a colon or a brace after {name}")
            else:
                found.setdefault(name, []).append(self._scalar(place))
            if not self._take(","):
                self._take(";")
        self._at += 1
        self._depth -= 1
        return found

    def _inner(self, place: str) -> Message:
        _, sign, _ = self._next("a brace")
        return self.message(_CLOSES[sign], place)

    def _list(self, place: str) -> list[Any]:
        found: list[Any] = []
        while not self._take("]"):
            found.append(self._inner(place) if self._is("{") or self._is("<") else self._scalar(place))
            if not self._take(",") and not self._is("]"):
                raise self._error("expected a comma or the list's end")
        return found

    def _scalar(self, place: str) -> Any:
        kind, text, _ = self._next("a value")
        if place in self._enums and kind != "sign":
            return self._enum(place, kind, text)
        match kind:
            case "text":
                parts = [_unquote(text)]
                while self._kind() == "text":
                    parts.append(_unquote(self._next("a text")[1]))
                return "".join(parts)
            case "number":
                plain = text.rstrip("f")
                return float(plain) if any(letter in plain for letter in ".eE") else int(plain)
            case "word":
                return {"true": True, "false": False}.get(text, text)
        raise self._error(f"expected a value, got {clip(text)}")

    def _enum(self, place: str, kind: str, text: str) -> str:
        names = self._enums[place]
        if kind == "word" and text in names:
            return text
        if kind == "number" and text.isdecimal() and int(text) < len(names):
            return names[int(text)]
        near = get_close_matches(text.strip("\"'"), names, 1)
        known = f"{', '.join(names[:-1])} or {names[-1]}" if names[1:] else names[0]
        raise self._error(
            f"{place.rpartition('.')[2]}: expected {known}, got {clip(text)}",
            hint=f"did you mean {near[0]}?" if near else None,
        )

    def _split(self) -> Iterator[tuple[str, str, int]]:
        at = 0
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None:
                raise InvalidRequest(
                    f"{self._place(at)}: {quoted(self._text[at])} is not understood here",
                    hint="expected protobuf's text format, which is no JSON",
                )
            if found.lastgroup != "space":
                yield str(found.lastgroup), found[0], at
            at = found.end()

    def _kind(self) -> str | None:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def _is(self, sign: str) -> bool:
        if self._at >= len(self._tokens):
            return not sign
        return bool(sign) and self._tokens[self._at][:2] == ("sign", sign)

    def _take(self, sign: str) -> bool:
        found = self._at < len(self._tokens) and self._is(sign)
        self._at += found
        return found

    def _next(self, wanted: str) -> tuple[str, str, int]:
        if self._at >= len(self._tokens):
            raise self._error(f"it ends where {wanted} is expected")
        self._at += 1
        return self._tokens[self._at - 1]

    def _error(self, what: str, *, hint: str | None = None) -> InvalidRequest:
        at = self._tokens[min(self._at, len(self._tokens)) - 1][2] if self._tokens else 0
        return InvalidRequest(f"{self._place(at)}: {what}", hint=hint)

    def _place(self, at: int) -> str:
        """The file, line and column of a place in the text."""
        line, column = self._text.count("\n", 0, at) + 1, at - self._text.rfind("\n", 0, at)
        return f"{self._file}:{line}:{column}"


def _unquote(text: str) -> str:
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError) as exc:
        raise InvalidRequest(
            f"the text {clip(text)} holds an escape that is not understood", hint="write the character itself"
        ) from exc
