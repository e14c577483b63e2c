"""The filter language over rows in memory, as far as a recording needs it. The appliance has the real one:
this knows fields of a row, `text`, `since` and `until`, and refuses the rest by name.
"""

from __future__ import annotations

import operator
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mdslite.errors import InvalidRequest
from mdslite.tui.commands import read_moment

_TERM: Final = re.compile(r"(\w+)\s*(!=|!~|<=|>=|=|<|>|~)(.*)", re.DOTALL)
_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_TEXTS: Final = frozenset(
    ["project", "model", "version", "endpoint", "client", "code", "url", "request_id", "trace_id"]
)
_NUMBERS: Final = frozenset(
    ["status", "rows", "batch_rows", "latency_ms", "queue_ms", "compute_ms", "upstream_ms", "confidence"]
)

Test = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class Terms:
    """`since` is inclusive and `until` exclusive: unix seconds."""

    tests: tuple[Test, ...] = ()
    since: float | None = None
    until: float | None = None

    def match(self, row: Mapping[str, Any]) -> bool:
        return all(test(row) for test in self.tests)


def parse_terms(text: str, now: float) -> Terms:
    """:raises InvalidRequest: there is no such field here, or no such value"""
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise InvalidRequest("a quote is open in the filter") from exc
    tests: list[Test] = []
    bounds: dict[str, float] = {}
    for word in words:
        found = _TERM.fullmatch(word)
        name, sign, value = found.groups() if found is not None else (word, "=", "true")
        if name in ("since", "until"):
            bounds[name] = _moment(value, now)
        else:
            tests.append(_test(name, sign, value))
    return Terms(tuple(tests), bounds.get("since"), bounds.get("until"))


def _test(name: str, sign: str, value: str) -> Test:
    if name == "shadow":
        wanted = (value in ("true", "yes", "1")) is (sign == "=")
        return lambda row: bool(row.get("shadow")) is wanted
    if name == "text" and sign in ("~", "!~"):
        return lambda row: (_has_body(row) and value in _bodies(row)) is (sign == "~")
    if name in _TEXTS:
        return _text_test(name, sign, value)
    if name in _NUMBERS:
        return _number_test(name, sign, value)
    raise InvalidRequest(f"a recording cannot be searched for {name!r}: an appliance can")


def _text_test(name: str, sign: str, value: str) -> Test:
    if sign in ("=", "!="):
        return lambda row: ((row.get(name) or "") == value) is (sign == "=")
    if sign in ("~", "!~"):
        low = value.lower()
        return lambda row: (low in str(row.get(name) or "").lower()) is (sign == "~")
    raise InvalidRequest(f"{name}{sign}: expected = != ~ or !~")


def _number_test(name: str, sign: str, value: str) -> Test:
    try:
        number = float(value)
    except ValueError as exc:
        raise InvalidRequest(f"{name}: expected a number, got {value!r}") from exc
    if sign in ("=", "!="):
        return lambda row: (row.get(name) == number) is (sign == "=")
    compare = _COMPARE.get(sign)
    if compare is None:
        raise InvalidRequest(f"{name}{sign}: expected = != < <= > or >=")
    return lambda row: row.get(name) is not None and compare(row[name], number)


def _moment(value: str, now: float) -> float:
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return now if value == "now" else read_moment(value, now)
    except ValueError as exc:
        raise InvalidRequest(str(exc)) from exc


def _has_body(row: Mapping[str, Any]) -> bool:
    return bool(row.get("request") or row.get("reply"))


def _bodies(row: Mapping[str, Any]) -> str:
    return "\n".join(str((row.get(side) or {}).get("content", "")) for side in ("request", "reply"))
