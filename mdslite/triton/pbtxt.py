"""Protocol Buffers' text format, as `config.pbtxt` uses it, read without its schema.

Every field becomes a list of what was written for it, in order: one entry for a plain field, several for a
repeated one, however it was written (`dims: [1, 2]`, or `dims: 1 dims: 2`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

from mdslite.errors import InvalidRequest

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


def parse(text: str, *, file: str) -> Message:
    """Read a message.

    :raises InvalidRequest: with the line of what is wrong
    """
    return _Reader(text, file).message("")


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._tokens = list(self._split())
        self._at = 0
        self._depth = 0

    def message(self, end: str) -> Message:
        """All fields up to the sign that ends them."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._error("nested too deep")
        found: Message = {}
        while not self._is(end):
            kind, name, _ = self._next("a field's name")
            if kind != "word":
                raise self._error(f"expected a field's name, got {name}")
            colon = self._take(":")
            if self._is("{") or self._is("<"):
                found.setdefault(name, []).append(self._inner())
            elif self._take("["):
                found.setdefault(name, []).extend(self._list())
            elif not colon:
                raise self._error(f"expected a colon or a brace after {name}")
            else:
                found.setdefault(name, []).append(self._scalar())
            if not self._take(","):
                self._take(";")
        self._at += 1
        self._depth -= 1
        return found

    def _inner(self) -> Message:
        _, sign, _ = self._next("a brace")
        return self.message(_CLOSES[sign])

    def _list(self) -> list[Any]:
        found: list[Any] = []
        while not self._take("]"):
            found.append(self._inner() if self._is("{") or self._is("<") else self._scalar())
            if not self._take(",") and not self._is("]"):
                raise self._error("expected a comma or the list's end")
        return found

    def _scalar(self) -> Any:
        kind, text, _ = self._next("a value")
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
        raise self._error(f"expected a value, got {text}")

    def _split(self) -> Iterator[tuple[str, str, int]]:
        at = 0
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None:
                line = self._text.count("\n", 0, at) + 1
                raise InvalidRequest(f"{self._file}:{line}: {self._text[at]!r} is not understood here")
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

    def _error(self, what: str) -> InvalidRequest:
        place = self._tokens[min(self._at, len(self._tokens)) - 1][2] if self._tokens else 0
        return InvalidRequest(f"{self._file}:{self._text.count(chr(10), 0, place) + 1}: {what}")


def _unquote(text: str) -> str:
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError) as exc:
        raise InvalidRequest(f"the text {text[:60]} holds an escape that is not understood") from exc
