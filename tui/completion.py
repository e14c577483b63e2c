"""What may follow what somebody is typing: fields and values of a filter. Knows the words of the
filter language's words but not its meaning, which is the appliance's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mdslite.contents import parse_json
from mdslite.tui.snapshot import Json, Snapshot

LIMIT: Final = 50

# Each field with what most often follows it, and what it is.
FIELDS: Final = {
    "model": ("=", "the model's name"),
    "version": ("=", "the version that answered"),
    "status": (">=", "HTTP status: 4xx was refused, 5xx is an error"),
    "confidence": ("<", "how sure the answer was, 0 to 1"),
    "latency_ms": (">", "from arrival to answer"),
    "shadow": (" ", "answers that nobody got"),
    "text": ("~", "text in either body"),
    "since": ("=", "from then on: 15m, 2h, 10:00"),
    "until": ("=", "before then"),
    "project": ("=", "the project's name"),
    "code": ("=", "an error's stable code"),
    "client": ("=", "the name of the caller's token"),
    "endpoint": ("=", "the replica or address that computed it"),
    "request_id": ("=", "one request and its shadows"),
    "trace_id": ("=", "the requests of a trace"),
    "url": ("~", "the path that was asked"),
    "queue_ms": (">", "time in the queue"),
    "compute_ms": (">", "time computing"),
    "upstream_ms": (">", "time at a remote endpoint"),
    "rows": (">", "rows of the request"),
    "batch_rows": (">", "rows of the batch that it ran in"),
    "request.": ("", "a field of the request's body"),
    "reply.": ("", "a field of the reply's body"),
}
_SPANS: Final = ("5m", "15m", "1h", "6h", "1d", "7d")
_TERM: Final = re.compile(
    r"""(?P<name>[\w.]*)(?P<operator>!=|!~|<=|>=|=|<|>|~)?(?P<value>("[^"]*"?|'[^']*'?|[^\s"'])*)$"""
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """`text` takes the place of the letters [start, the end) of what is typed."""

    text: str
    start: int
    told: str = ""


def complete_filter(text: str, vocabulary: Mapping[str, Sequence[str]]) -> list[Candidate]:
    """What the term at the end of a filter may become; `vocabulary` holds known values by field."""
    found = _TERM.search(text)
    if found is None:
        return []
    start = found.start()
    name = found["name"]
    if not found["operator"]:
        dotted = [one for one in vocabulary if "." in one]
        fields = {**FIELDS, **dict.fromkeys(dotted, ("=", "a field of a body"))}
        return [
            Candidate(field + follows, start, told)
            for field, (follows, told) in fields.items()
            if _fits(field, name) and field + follows.strip() != name
        ][:LIMIT]
    written = found["value"].strip("\"'")
    at = start + len(name) + len(found["operator"])
    values = _SPANS if name in ("since", "until") else vocabulary.get(name, ())
    return [
        Candidate(_quoted(value) + " ", at) for value in values if _fits(value, written) and value != written
    ][:LIMIT]


def vocabulary_of(snapshot: Snapshot, rows: Iterable[Json]) -> dict[str, list[str]]:
    """Values that a filter may want: what is deployed, and what was logged of late."""
    found: dict[str, dict[str, None]] = {"shadow": dict.fromkeys(("true", "false"))}

    def add(field: str, value: object) -> None:
        if value not in (None, ""):
            found.setdefault(field, {}).setdefault(str(value))

    for model in snapshot.models or ():
        add("project", model["project"])
        add("model", model["model"])
        for version in model["versions"]:
            add("version", version["version"])
    for at, row in enumerate(rows):
        for field in ("project", "model", "version", "status", "code", "client", "endpoint"):
            add(field, row.get(field))
        if at < 20:
            for side in ("request", "reply"):
                for name, value in _fields(row.get(side)):
                    add(f"{side}.{name}", value)
    return {field: list(values) for field, values in found.items()}


def matches(text: str, wanted: str) -> int | None:
    """How well a text fits letters that were typed, None when it lacks one of them in order."""
    low, at, score = text.lower(), -1, 0
    for letter in wanted.lower():
        if letter == " ":
            continue
        place = low.find(letter, at + 1)
        if place < 0:
            return None
        starts_word = place == 0 or not low[place - 1].isalnum()
        score += 4 if place == at + 1 else 3 if starts_word else 0
        at = place
    return score - len(text) // 8


def _fits(text: str, wanted: str) -> bool:
    return wanted.lower() in text.lower() if len(wanted) > 2 else text.lower().startswith(wanted.lower())


def _quoted(value: str) -> str:
    if re.fullmatch(r"[^\s\"']+", value):
        return value
    return f"'{value}'" if '"' in value else f'"{value}"'


def _fields(body: Mapping[str, Any] | None) -> Sequence[tuple[str, object]]:
    """Fields of the first instance or prediction of a body, and of the body itself, that hold one value."""
    if not body or body.get("encoding") != "utf-8":
        return []
    value = parse_json(str(body.get("content")))
    if not isinstance(value, Mapping):
        return []
    found = dict(value)
    for key in ("instances", "predictions"):
        inner = value.get(key)
        if isinstance(inner, list) and inner and isinstance(inner[0], Mapping):
            found.update(inner[0])
    return [(str(name), one) for name, one in found.items() if isinstance(one, str | int | float | bool)][:20]
