"""The filter language of the request log: from a line of text to terms, and from terms to SQL. Owns no file.

A filter is terms side by side, all of which must hold: `model=spam version!=v2 status>=400 confidence<0.6
latency_ms>20 shadow text~"refund" request.amount>100 reply.label=spam since=15m`. Names go before the
operator, values after it, quoted when they hold spaces. Values only ever reach SQL as parameters.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeAlias

from mdslite.errors import InvalidRequest, quoted
from mdslite.store.moments import parse_moment

Operator: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">=", "~", "!~"]
Sql: TypeAlias = tuple[str, list[Any]]

MAX_CHARS = 2000
MAX_TERMS = 32
MAX_PATH = 32  # names of a body's field


@dataclass(frozen=True, slots=True)
class FilterField:
    """A name that a filter may use: what its values are, and the table and column where they stand."""

    kind: Literal["text", "flag", "integer", "number", "body", "path", "moment", "trace"]
    table: Literal["series", "urls", "entries", "bodies", ""]
    column: str
    scale: float = 1.0  # from the filter's unit to the column's


FIELDS = {
    "project": FilterField("text", "series", "project"),
    "model": FilterField("text", "series", "model"),
    "version": FilterField("text", "series", "version"),
    "shadow": FilterField("flag", "series", "shadow"),
    "endpoint": FilterField("text", "series", "endpoint"),
    "client": FilterField("text", "series", "client"),
    "status": FilterField("integer", "series", "status"),
    "code": FilterField("text", "series", "code"),
    "url": FilterField("text", "urls", "url"),
    "request_id": FilterField("text", "entries", "request_id"),
    "trace_id": FilterField("trace", "entries", "trace_id"),
    "latency_ms": FilterField("number", "entries", "latency_us", 1e3),
    "queue_ms": FilterField("number", "entries", "queue_us", 1e3),
    "compute_ms": FilterField("number", "entries", "compute_us", 1e3),
    "upstream_ms": FilterField("number", "entries", "upstream_us", 1e3),
    "rows": FilterField("integer", "entries", "rows"),
    "batch_rows": FilterField("integer", "entries", "batch_rows"),
    "confidence": FilterField("number", "entries", "confidence"),
    "text": FilterField("body", "bodies", ""),
    "since": FilterField("moment", "", ""),
    "until": FilterField("moment", "", ""),
}
_OPERATORS: dict[str, tuple[str, ...]] = {
    "text": ("=", "!=", "~", "!~"),
    "flag": ("=", "!="),
    "integer": ("=", "!=", "<", "<=", ">", ">="),
    "number": ("=", "!=", "<", "<=", ">", ">="),
    "body": ("~", "!~"),
    "path": ("=", "!=", "~", "!~", "<", "<=", ">", ">="),
    "moment": ("=",),
    "trace": ("=", "!="),
}
BODIES = ("request", "reply")
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
# What people write who know other languages, and what it is called here.
_OTHER_NAMES = {
    "time": "since", "from": "since", "after": "since", "to": "until", "before": "until", "body": "text",
    "request": "text", "reply": "text", "id": "request_id", "latency": "latency_ms", "ms": "latency_ms",
    "queue": "queue_ms", "compute": "compute_ms", "upstream": "upstream_ms", "batch": "batch_rows",
    "trace": "trace_id", "traceparent": "trace_id", "conf": "confidence", "path": "url", "error": "code",
}  # fmt: skip
_EXAMPLES = {"status": ">=400", "confidence": "<0.6", "latency_ms": ">20"}
_NAME = re.compile(r"(?:request|reply)\.[^\s=!<>~\"']+|[A-Za-z_][A-Za-z0-9_.]*")
_OPERATOR = re.compile(r"\s*(!=|!~|<=|>=|=|<|>|~)\s*")
_TRACE_ID = re.compile(r"(?:[0-9a-f]{32})?")
_BARE = re.compile(r"[^\s\"']+")


def find_field(name: str) -> FilterField | None:
    """What a name stands for; `request.amount` and `reply.label` are fields within a body."""
    body, dot, path = name.partition(".")
    if dot and body in BODIES and path and ".." not in f".{path}." and path.count(".") < MAX_PATH:
        return FilterField("path", "bodies", body)
    return FIELDS.get(name)


@dataclass(frozen=True, slots=True)
class Term:
    field: str
    operator: Operator
    value: str | float | bool
    position: int  # of its name in the filter, from 1


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed filter. `since` is inclusive and `until` exclusive: unix seconds."""

    text: str = ""
    terms: tuple[Term, ...] = ()
    since: float | None = None
    until: float | None = None

    def on(self, table: str) -> Sql | None:
        """The condition on one table, with its parameters in order; None when there is none."""
        conditions, values = [], []
        for term in self.terms:
            if field_of(term).table == table:
                sql, parameters = _condition(term)
                conditions.append(sql)
                values += parameters
        return (" AND ".join(conditions), values) if conditions else None


def field_of(term: Term) -> FilterField:
    found = find_field(term.field)
    assert found is not None  # the reader lets no other in
    return found


def parse(text: str, *, now: float) -> Filter:
    """Read a filter; `now` (unix seconds) is what relative times count from.

    :raises InvalidRequest: names the position, what is wrong there, and what is allowed
    """
    if len(text) > MAX_CHARS:
        raise InvalidRequest(
            f"{len(text)} characters, expected at most {MAX_CHARS}",
            field="filter",
            hint="ask in several parts",
        )
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidRequest("no Unicode text", field="filter", hint="write it in UTF-8")
    reader = _Reader(text, now)
    while reader.more():
        reader.read_term()
    if reader.since is not None and reader.until is not None and reader.since >= reader.until:
        raise InvalidRequest(
            "its since is not before its until, so nothing can match",
            field="filter",
            hint="such as since=1h until=15m",
        )
    return Filter(text.strip(), tuple(reader.terms), reader.since, reader.until)


@dataclass(slots=True)
class _Reader:
    text: str
    now: float
    at: int = 0
    terms: list[Term] = field(default_factory=list)
    since: float | None = None
    until: float | None = None

    def more(self) -> bool:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.at < len(self.text)

    def read_term(self) -> None:
        start = self.at
        match = _NAME.match(self.text, start)
        if match is None:
            _refuse(start, f"expected a field name, got {_excerpt(self.text, start)}", _FIELDS_HINT)
        name = match[0]
        self.at = match.end()
        operator = _OPERATOR.match(self.text, self.at)
        of = find_field(name)
        if operator is None:
            if of is None or of.kind != "flag":
                _refuse(start, *_bare_word(name))
            self._add(Term(name, "=", True, start + 1))
            return
        if of is None:
            _refuse(start, f"there is no field {quoted(name)}", _closest(name))
        self.at = operator.end()
        if operator[1] not in (allowed := _OPERATORS[of.kind]):
            place = operator.start(1)
            _refuse(place, f"{name} does not take {quoted(operator[1])}", f"{name} takes {' '.join(allowed)}")
        value_at = self.at
        value = self._read_value(name)
        if name in ("since", "until"):
            self._set_moment(name, value, start, value_at)
        else:
            self._add(Term(name, operator[1], _typed(name, value, value_at), start + 1))  # type: ignore[arg-type]

    def _read_value(self, name: str) -> str:
        start = self.at
        quote = self.text[start : start + 1]
        if quote in ('"', "'") and quote:
            return self._read_quoted(quote)
        match = _BARE.match(self.text, start)
        if match is None:
            _refuse(start, f"{name} has no value", f'write {name}="" for what has none')
        self.at = match.end()
        return match[0]

    def _read_quoted(self, quote: str) -> str:
        start = self.at
        read: list[str] = []
        self.at += 1
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == quote:
                self.at += 1
                return "".join(read)
            if char == "\\" and self.text[self.at + 1 : self.at + 2] in (quote, "\\"):
                self.at += 1
                char = self.text[self.at]
            read.append(char)
            self.at += 1
        return _refuse(
            start, f"the quote {quote} is never closed", f"close it, or write \\{quote} for one in the text"
        )

    def _set_moment(self, name: str, value: str, start: int, value_at: int) -> None:
        if getattr(self, name) is not None:
            _refuse(start, f"{name} is given twice", "keep one of them")
        try:
            setattr(self, name, parse_moment(value, now=self.now))
        except InvalidRequest as exc:
            _refuse(value_at, f"{name}: {exc.message}", exc.hint)

    def _add(self, term: Term) -> None:
        if len(self.terms) >= MAX_TERMS:
            _refuse(term.position - 1, f"there are more than {MAX_TERMS} terms", "ask in several parts")
        self.terms.append(term)


def _typed(name: str, value: str, at: int) -> str | float | bool:
    of = find_field(name)
    kind = of.kind if of is not None else "text"
    if kind == "flag":
        if value.lower() not in _FLAGS:
            _refuse(at, f"{name} is true or false, got {quoted(value)}", f"write {name} or {name}=false")
        return _FLAGS[value.lower()]
    if kind in ("integer", "number"):
        convert: Callable[[str], float] = int if kind == "integer" else float
        try:
            if not value.isascii() or "_" in value:  # what Python takes for a number, too
                raise ValueError
            number = convert(value)
        except ValueError:
            what = f"{name} is {'a whole' if kind == 'integer' else 'a'} number, got {quoted(value)}"
            _refuse(at, what, f"such as {name}{_EXAMPLES.get(name, '>=1')}")
        if not abs(number) < 2**53:  # NaN too
            what = f"{name}: {quoted(value)} is no number that it can have"
            _refuse(at, what, f"such as {name}{_EXAMPLES.get(name, '>=1')}")
        return number
    if kind == "trace":
        if not _TRACE_ID.fullmatch(value.lower()):
            _refuse(at, f"{name} is 32 hex digits, got {quoted(value)}", 'as the log shows it; "" for none')
        return value.lower()
    return value


def _condition(term: Term) -> Sql:
    of = field_of(term)
    if of.kind == "path":
        # A function of ours, which readers give to SQLite; the NULL check saves its call.
        path = term.field.partition(".")[2]
        return (
            f"{of.column} IS NOT NULL AND body_holds({of.column}, ?, ?, ?)",
            [path, term.operator, str(term.value)],
        )
    if of.kind == "body":
        inner = "(ifnull(request LIKE ? ESCAPE '\\', 0) OR ifnull(reply LIKE ? ESCAPE '\\', 0))"
        pattern = _like(str(term.value))
        return ("NOT " if term.operator == "!~" else "") + inner, [pattern, pattern]
    if of.kind == "trace":
        # Requests of no trace have no row there, so an empty value stands for all that have none.
        found = "SELECT id FROM traces" + (" WHERE trace_id = ?" if term.value else "")
        values = [bytes.fromhex(str(term.value))] if term.value else []
        inside = (term.operator == "=") == bool(term.value)
        return f"e.id {'IN' if inside else 'NOT IN'} ({found})", values
    if of.kind == "text":
        if term.operator in ("~", "!~"):
            sql = f"ifnull({of.column} LIKE ? ESCAPE '\\', 0)"
            return ("NOT " if term.operator == "!~" else "") + sql, [_like(str(term.value))]
        # What has no project, code and so on is found by an empty value.
        return f"{of.column} IS {'NOT ' if term.operator == '!=' else ''}?", [term.value or None]
    value = float(term.value) * of.scale if of.kind == "number" else int(term.value)
    return f"{of.column} {term.operator} ?", [value]


def _like(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def _bare_word(word: str) -> tuple[str, str]:
    if word.lower() in ("and", "or", "not"):
        return (
            f"{quoted(word)} is not part of the language",
            "terms side by side must all hold; use != or !~ for not",
        )
    if (of := find_field(word)) is not None:
        allowed = " ".join(_OPERATORS[of.kind])
        return (
            f"{word} needs an operator and a value",
            f"{word} takes {allowed}; in a shell quote the whole filter, which keeps < and > for it",
        )
    if near := _near(word):
        return f"{quoted(word)} is neither a term nor a flag", f"did you mean {near}?"
    return f"{quoted(word)} is neither a term nor a flag", f'to look for it in the bodies write text~"{word}"'


def _closest(name: str) -> str:
    near = _near(name)
    return f"did you mean {near}?" if near else _FIELDS_HINT


def _near(name: str) -> str | None:
    lowered = name.lower()
    if lowered in FIELDS:
        return lowered
    if lowered in _OTHER_NAMES:
        return _OTHER_NAMES[lowered]
    found = difflib.get_close_matches(lowered, FIELDS, n=1, cutoff=0.7)
    return found[0] if found else None


def _excerpt(text: str, at: int) -> str:
    return repr(text[at : at + 20])


def _refuse(at: int, message: str, hint: str | None) -> NoReturn:
    error = InvalidRequest(f"filter, position {at + 1}: {message}", hint=hint)
    error.field = "filter"
    raise error


_FIELDS_HINT = f"fields: {' '.join(FIELDS)} request.NAME reply.NAME"
