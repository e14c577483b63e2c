"""A plan as people read it: by model, with counts and a table of what an apply will do; and what is under way
while it is made.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, get_args

from mdslite.fields import (
    DEFAULT_REPLICAS,
    DEFAULT_SHADOW_PERCENT,
    DEFAULT_WEIGHT,
    UNKNOWN_DIGEST,
    version_name,
)

_ACTIONS = ("ADD", "UPDATE", "DELETE")  # the order of execution
_DIFF_WIDTH = 21
_LONGEST = 120
_NOT_READ = (
    "not read"  # for the digest and the size of a model that could not be had, or whose turn did not come
)
_NAMED = 3  # models that stay as they are: so many are counted
_SAID = 100  # characters of what an installation says
_LABELS = {
    "digest": "Artifact",
    "uri": "URI",
    "resource.cpu": "CPU",
    "resource.gpu": "GPU",
    "resource.gpu_names": "GPU names",
    "service_info.endpoints_infos": "Endpoints",
    "confidence.output": "Confidence output",
    "confidence.field": "Confidence field",
    "compare.output": "Compared output",
    "compare.field": "Compared field",
    "compare.tolerance": "Compared within",
    "compare.function": "Compared by",
}
# Below these the names are the user's own.
_FREE = ("container_parameter.", "operator_configs.")


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A line of the table: what is done to a version, and how it will differ."""

    action: str
    version: str
    parts: list[str]


# What is still to come, what has been done, and what was to be done and failed.
Tense = Literal["will", "did", "would"]
_HEADS: Mapping[Tense, PlannedRow] = {
    tense: PlannedRow(f"APPLY {tense.upper()}", "VERSION", ["DIFF"]) for tense in get_args(Tense)
}
_NAMES_LEAST = len("VERSION")


def as_planned(body: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """The body of an apply that does what a plan shows, or is refused."""
    digests = {
        version_name(model["project"], model["model"], step["version"]): step["after"]["digest"]
        for model in plan["models"]
        for step in model["steps"]
        if step["after"] is not None
    }
    return {**body, "expect_revision": plan["base_revision"], "expect_digests": digests}


def render_plan(plain: Mapping[str, Any], *, width: int | None = None, tense: Tense = "will") -> str:
    """The text of a plan as the admin API gives it. What is retained is counted, not listed."""
    told, kept = told_apart(plain)
    blocks = ["\n".join(model_lines(model, width=width, tense=tense)) for model in told]
    if kept:
        blocks.append(
            "\n".join(textwrap.wrap(kept_text(kept, tense), width or 10**6, break_on_hyphens=False))
        )
    return "\n\n".join(blocks)


def told_apart(plain: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The models of a plan that are told one by one, and those of which it is enough that they stay as they
    are: where there is one model only, it is told whatever becomes of it."""
    models = list(plain["models"])
    if len(models) < 2:
        return models, []
    told = [model for model in models if any(step["action"] != "RETAIN" for step in model["steps"])]
    return told, [model for model in models if model not in told]


def kept_text(models: Sequence[Mapping[str, Any]], tense: Tense) -> str:
    """That models stay as they are, by their names where they are few."""
    names = [f"{model['project']}/{model['model']}" for model in models]
    who = " and ".join(names) if len(names) < _NAMED else f"{len(names)} models"
    if tense != "will":
        return f"{who} stayed as {'it was' if len(names) == 1 else 'they were'}"
    return f"{who} {'stays as it is' if len(names) == 1 else 'stay as they are'}"


def tense_of(state: str) -> Tense:
    """How to speak of a revision's plan, or of an apply's that is over."""
    return "would" if state == "failed" else "did"


def under_way(event: Mapping[str, Any]) -> str | None:
    """What is being fetched, installed or tried, by what a plan or an apply has just told; None when nothing
    is."""
    if event.get("event") == "try":
        return f"trying {event['version']}: opening it and running it once, apart from all else"
    if event.get("event") == "install":
        return f"installing: {event['line'][:_SAID]}"
    if event.get("event") != "fetch":
        return None
    done, total = event["done_bytes"], event["total_bytes"]
    if total is not None and done >= total:
        return None
    so_far = "so far" if total is None else f"of {_size(total, fine=True)}"
    return f"fetching {_size(done, fine=True)} {so_far}: {event['uri']}"


def model_lines(
    model: Mapping[str, Any], *, width: int | None = None, tense: Tense = "will"
) -> Iterator[str]:
    """What `render_plan` says of one model; in a table of that width, what is too long goes on below."""
    yield from head_lines(model, width=width)
    rows = planned_rows(model)
    if rows:
        yield from _table(rows, width, _HEADS[tense])


def head_lines(model: Mapping[str, Any], *, width: int | None = None) -> Iterator[str]:
    """Which model it is, and how many of its versions have what done to them: a line, or two half as wide."""
    counts = Counter(step["action"] for step in model["steps"])
    yield f"PROJECT: {model['project']} MODEL: {model['model']}"
    kept = f"= RETAIN ({counts['RETAIN']})  + ADD ({counts['ADD']})"
    changed = f"~ UPDATE ({counts['UPDATE']})  x DELETE ({counts['DELETE']})"
    whole = f"{kept}  {changed}"
    yield from [whole] if width is None or len(whole) <= width else [kept, changed]


def why_text(revision: Mapping[str, Any]) -> str:
    """Why somebody wanted a revision, and why it came to nothing."""
    reason, error = revision.get("reason") or "", revision.get("error") or ""
    return f"{reason}; failed: {error}" if reason and error else reason or error


def planned_rows(model: Mapping[str, Any]) -> list[PlannedRow]:
    """What is changed of a model, in the order of its execution."""
    return [
        PlannedRow(action, step["version"], _diff(step))
        for action in _ACTIONS
        for step in model["steps"]
        if step["action"] == action
    ]


def _table(rows: Sequence[PlannedRow], width: int | None, head: PlannedRow) -> Iterator[str]:
    names = max(_NAMES_LEAST, *(len(row.version) for row in rows))
    frame = len("|  |  |  |") + len(head.action)  # columns beside versions and diffs
    if width is not None:
        names = min(names, max(_NAMES_LEAST, (width - frame) // 2))
    room = None if width is None else max(8, width - frame - names)
    broken = [
        ([row.action], textwrap.wrap(row.version, names), _break(row.parts, room)) for row in (head, *rows)
    ]
    longest = max(
        min(_DIFF_WIDTH, room or _DIFF_WIDTH), *(len(line) for _, _, diff in broken for line in diff)
    )
    for columns in broken:
        for action, version, diff in zip_longest(*columns, fillvalue=""):
            yield f"| {action:<{len(head.action)}} | {version:<{names}} | {diff:<{longest}} |"


def _break(parts: Sequence[str], width: int | None) -> list[str]:
    """The parts in lines, several in one where they fit."""
    if width is None:
        return [", ".join(parts)]
    lines = [""]
    for at, part in enumerate(parts, 1):
        text = part + ("," if at < len(parts) else "")
        if lines[-1] and len(lines[-1]) + 1 + len(text) <= width:
            lines[-1] += f" {text}"
        else:
            lines += textwrap.wrap(text, width, break_on_hyphens=False)
    return lines[1:]


def _diff(step: Mapping[str, Any]) -> list[str]:
    if step["action"] == "UPDATE":
        parts = [_change(change) for change in step["changes"]]
        return parts + (_memory(step["after"]) if step["reload"] else [])
    wanted = step["after"] if step["action"] == "ADD" else step["before"]
    parts = [_share(wanted["spec"].get("service_info", {}))]
    if wanted["digest"] == UNKNOWN_DIGEST:
        parts.append(_NOT_READ)
    elif wanted["size_bytes"]:  # a version that is served elsewhere has none
        parts.append(_size(wanted["size_bytes"]))
    return parts + _memory(wanted)


def _share(service_info: Mapping[str, Any]) -> str:
    if not service_info.get("shadow", False):
        return f"Weight: {_value(service_info.get('weight', DEFAULT_WEIGHT))}"
    percent = service_info.get("shadow_percent", DEFAULT_SHADOW_PERCENT)
    return "Shadow" if percent == DEFAULT_SHADOW_PERCENT else f"Shadow: {_value(percent)} %"


def _memory(wanted: Mapping[str, Any]) -> list[str]:
    """The memory that all replicas are predicted to take, as a part of a line where it is known."""
    size_bytes = wanted.get("memory_bytes")
    if size_bytes is None:
        return []
    replicas = wanted["spec"].get("service_info", {}).get("replicas", DEFAULT_REPLICAS)
    return [f"memory ~{_size(size_bytes * replicas)}"]


def _change(change: Mapping[str, Any]) -> str:
    field, before, after = change["field"], change["before"], change["after"]
    if field == "digest":
        before, after = _short_digest(before), _short_digest(after)
    elif field == "uri":
        before, after = _tails(before, after)
    unit = " ms" if field.endswith("_ms") and not field.startswith(_FREE) else ""
    return f"{_label(field)}: {_value(before, unit)} -> {_value(after, unit)}"


def _label(field: str) -> str:
    if field.startswith(_FREE):
        return _printable(field)
    name = field.rpartition(".")[2].removesuffix("_ms").replace("_", " ")
    return _LABELS.get(field) or name.capitalize()


def _value(value: Any, unit: str = "") -> str:
    if value is None or (isinstance(value, str) and value.startswith("UNSET_")):
        return "default"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.10g}{unit}"
    text = _printable(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _printable(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


def _short_digest(digest: str) -> str:
    return _NOT_READ if digest == UNKNOWN_DIGEST else digest.removeprefix("sha256:")[:8]


def _tails(before: str, after: str) -> tuple[str, str]:
    """Two addresses without the folder that they share."""
    folder, slash, name = before.rpartition("/")
    other_folder, _, other_name = after.rpartition("/")
    if slash and folder == other_folder and name and other_name:
        return name, other_name
    return before, after


def _size(size_bytes: int, *, fine: bool = False) -> str:
    """Decimal units, two digits where they say something: 918 B, 1.2 MB, 35 MB (35.1 MB where it is to be
    seen to grow)."""
    amount, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if round(amount) < 1000:
            break
        amount, unit = amount / 1000, larger
    digits = 1 if unit != "B" and (fine or round(amount, 1) < 10) else 0
    return f"{amount:.{digits}f} {unit}"
