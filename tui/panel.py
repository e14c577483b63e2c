"""One request in full, beside the table: when, who, how long each part took, what went in and what came
out, and what the shadows answered. Draws from values alone; `lookup` asks for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mdslite.contents import Content, answers_agree, is_numbers, read_content
from mdslite.pictures import render
from mdslite.tui import figures
from mdslite.tui.clean import clean
from mdslite.tui.lines import Line, cut, fit, line_width, spread
from mdslite.tui.table import Roles, code_part
from mdslite.tui.wrapping import wrap

Row = Mapping[str, Any]

_LABEL: Final = 9  # columns of the names at the left
_PICTURE_ROWS: Final = 12
_NUMBER_ROWS: Final = 3
_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
_PARTS: Final = (
    ("queue", "█", "warn"),
    ("compute", "▓", "accent"),
    ("upstream", "▒", "shadow"),
    ("other", "░", "dim"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """A row with what belongs to it. `related` are a primary's shadows, or the primary of a shadow; None
    while they are not known yet, and the bodies neither. `note` says why they could not be looked up."""

    row: Row
    related: Sequence[Row] | None = None
    label: Mapping[str, Any] | None = None
    note: str = ""

    @property
    def known(self) -> bool:
        return self.related is not None


@dataclass(frozen=True, slots=True)
class Looks:
    """How the panel is drawn: which of several instances, whether numbers are wanted instead of a picture."""

    place: int = 0
    numbers: bool = False
    colour: bool = True
    ascii: bool = False
    roles: Roles = field(default_factory=dict)


def panel_lines(found: Found, width: int, looks: Looks) -> list[Line]:
    """All of it, as long as it gets."""
    row = found.row
    lines = [*_identity(row, width, looks), [], *time_lines(row, width)]
    lines += _spans(row.get("spans") or (), row, width)
    if found.known or row.get("request") or row.get("reply"):
        lines += [[], *_body("request", row.get("request"), width, looks)]
        lines += [[], *_body("reply", row.get("reply"), width, looks)]
    elif not found.note:
        lines += [[], [("request", "head")], [("◌ asking the log", "dim")]]
    if found.label is not None:
        lines += [[], *_label(found.label, width)]
    if found.note:
        lines += [[], [(cut(clean(found.note), width), "warn")]]
    for other in found.related or ():
        lines += [[], *comparison_lines(row, other, width, looks)]
    return lines


def time_lines(row: Row, width: int) -> list[Line]:
    """Where the time went: a bar, and its parts in milliseconds."""
    parts = split_time(row)
    total = row.get("latency_ms") or 0.0
    heading: Line = [("time", "head")]
    lines = [spread(heading, [(f"{figures.milliseconds(total)} ms", "bold")], width)]
    if total <= 0:
        return lines
    bar: Line = []
    left, drawn = width, 0.0
    for name, letter, role in _PARTS:
        drawn += parts.get(name, 0.0)
        until = round(width * min(1.0, drawn / total))
        length = until - (width - left)
        if length > 0:
            bar.append((letter * length, role))
            left -= length
    lines.append(bar)
    legend: Line = []
    for name, letter, role in _PARTS:
        if name in parts:
            legend += [(f"{letter} ", role), (f"{name} {figures.milliseconds(parts[name])}  ", "")]
    return [*lines, *_folded(legend, width)]


def split_time(row: Row) -> dict[str, float]:
    """Milliseconds in the queue, computing, at a remote endpoint, and the rest: reading, sending, waiting for
    the event loop."""
    total = row.get("latency_ms") or 0.0
    parts = {"queue": row.get("queue_ms") or 0.0, "compute": row.get("compute_ms") or 0.0}
    if row.get("upstream_ms") is not None:
        parts["upstream"] = row["upstream_ms"]
    parts["other"] = max(0.0, total - sum(parts.values()))
    return parts


def comparison_lines(
    row: Row, other: Row, width: int, looks: Looks, *, heading: str = "primary and shadow"
) -> list[Line]:
    """A primary and a shadow beside each other, whichever of them was chosen."""
    both = primary, shadow = (other, row) if row.get("shadow") else (row, other)
    agree = answers_agree(primary.get("reply"), shadow.get("reply"))
    verdict = {True: ("= same answer", "good"), False: ("≠ other answer", "bad"), None: ("", "")}[agree]
    half = max(6, (width - _LABEL) // 2)
    lines: list[Line] = [spread([(heading, "head")], [verdict], width)]

    names = [_version(one) + (" S" if one.get("shadow") else "") for one in both]
    facts: list[tuple[str, list[str], list[str]]] = [
        ("version", names, [_role(one, looks) for one in both]),
        ("code", [str(one.get("status")) for one in both], ["", ""]),
        ("ms", [figures.milliseconds(one.get("latency_ms")) for one in both], ["", ""]),
        ("conf", [figures.confidence(one.get("confidence")) for one in both], ["", ""]),
        ("answer", [_answer(one, looks) for one in both], ["", verdict[1]]),
    ]
    for name, texts, roles in facts:
        cells = [(fit(text, half), role) for text, role in zip(texts, roles, strict=True)]
        lines.append([(fit(name, _LABEL), "dim"), *cells])
    return lines


def content_lines(content: Content, width: int, looks: Looks, *, rows: int = _PICTURE_ROWS) -> list[Line]:
    """What a body holds, drawn by its kind."""
    if content.kind == "none":
        return [[("the log kept no body of this one", "dim")]]
    if content.picture is not None and not (looks.numbers and content.numbers):
        return render(content.picture, width, rows, colour=looks.colour, ascii=looks.ascii)
    if content.numbers:
        return [*_chart(content.numbers, width), *_listing(content.numbers, width)]
    if isinstance(content.value, Mapping) and content.value:
        return _fields(content.value, width)
    return [[(line, "")] for text in content.text.split("\n")[:200] for line in wrap(clean(text), width)]


def _fields(value: Mapping[str, Any], width: int) -> list[Line]:
    """An object's fields, a line each; numbers in a row as columns."""
    name_width = min(width // 2, 2 + max(len(clean(name)) for name in value))
    room = width - name_width
    lines: list[Line] = []
    for name, held in list(value.items())[:40]:
        title = (fit(name, name_width), "dim")
        if is_numbers(held):
            most = max(held)
            columns = figures.sparkline(held[: room - 20], min(len(held), room - 20), top=most)
            told = f"  most {most:.3g} at {held.index(most)}"
            lines.append([title, (columns, "accent"), (cut(told, 20), "dim")])
            continue
        text = held if isinstance(held, str) else json.dumps(held, ensure_ascii=False)
        for at, part in enumerate(wrap(clean(text), room)[:12]):
            lines.append([title if not at else (" " * name_width, ""), (part, "bold" if not at else "")])
    return lines


def _identity(row: Row, width: int, looks: Looks) -> list[Line]:
    _, role = code_part(row, 0)
    told = f"✖{row.get('status')}" if (row.get("status") or 0) >= 400 else str(row.get("status"))
    first: Line = [(f"{_name(row)} ", "bold"), (_version(row), _role(row, looks))]
    if row.get("shadow"):
        first.append((" shadow", "shadow"))
    lines: list[Line] = [spread(first, [(told, role)], width)]
    moment = row.get("time") or 0.0
    when = f"{figures.clock(moment)}.{int(moment % 1 * 1000):03d}"
    facts = [("at", when), ("request", row.get("request_id")), ("code", row.get("code"))]
    facts += [("client", row.get("client")), ("endpoint", row.get("endpoint"))]
    if row.get("model") is None:
        facts.append(("url", row.get("url")))
    if row.get("rows"):
        facts.append(("rows", f"{row['rows']} in a batch of {row.get('batch_rows')}"))
    if row.get("confidence") is not None:
        facts.append(("conf", f"{row['confidence']:.3f}"))
    for name, value in facts:
        if value not in (None, ""):
            lines.append([(fit(name, _LABEL), "dim"), (cut(clean(value), width - _LABEL), "")])
    return lines


def _body(name: str, body: Mapping[str, Any] | None, width: int, looks: Looks) -> list[Line]:
    content = read_content(body, looks.place)
    told = {"picture": "picture", "numbers": "numbers", "text": "text", "bytes": "bytes"}.get(
        content.kind, ""
    )
    if content.picture is not None:
        told = f"picture {content.picture.width} by {content.picture.height}"
    elif content.numbers:
        told = f"{len(content.numbers)} numbers"
    which = f"{content.place + 1} of {content.count}" if content.count > 1 else ""
    right = "  ".join(clean(one) for one in (content.name, told, which, content.note) if one)
    return [spread([(name, "head")], [(right, "dim")], width), *content_lines(content, width, looks)]


def _chart(numbers: Sequence[float], width: int) -> list[Line]:
    """A column for each number, or for the greatest of several neighbours."""
    step = -(-len(numbers) // max(1, width))
    shown = [max(numbers[at : at + step], key=abs) for at in range(0, len(numbers), step)]
    low, high = min(0.0, *shown), max(0.0, *shown)
    if high <= low:
        return [[("▁" * len(shown), "bar")]]
    if low < 0:  # from the least upwards, as a terminal has no blocks that hang
        scale = (high - low) or 1.0
        heights = [(value - low) / scale for value in shown]
    else:
        heights = [value / high for value in shown]
    eighths = [max(1, round(height * _NUMBER_ROWS * 8)) for height in heights]
    return [
        [("".join(_EIGHTHS[max(0, min(8, one - 8 * row))] for one in eighths), "bar")]
        for row in reversed(range(_NUMBER_ROWS))
    ]


def _listing(numbers: Sequence[float], width: int) -> list[Line]:
    text = " ".join(f"{value:.4g}" for value in numbers[:128]) + (" …" if len(numbers) > 128 else "")
    return [[(line, "dim")] for line in wrap(text, width)[:6]]


def _spans(spans: Sequence[Mapping[str, Any]], row: Row, width: int, depth: int = 0) -> list[Line]:
    """What each node of a pipeline did, as bars on one axis of time."""
    total = row.get("latency_ms") or 0.0
    if not spans or total <= 0:
        return []
    name_width = min(16, max(len(clean(one.get("node"))) for one in spans) + 1 + depth)
    room = max(4, width - name_width - 8)
    lines: list[Line] = [[], [("nodes", "head")]] if not depth else []
    for one in spans:
        took = (one.get("queue_ms") or 0.0) + (one.get("compute_ms") or one.get("upstream_ms") or 0.0)
        start = min(room - 1, round(room * (one.get("started_ms") or 0.0) / total))
        length = max(1, min(room - start, round(room * took / total)))
        role = "bad" if one.get("error") else "accent"
        lines.append(
            [
                (fit("  " * depth + clean(one.get("node")), name_width), role if role == "bad" else ""),
                (" " * start + "▓" * length + " " * (room - start - length), role),
                (fit(figures.milliseconds(took), 8, "right"), ""),
            ]
        )
        if one.get("error"):
            lines.append([(" " * name_width + cut(clean(one["error"]), width - name_width), "bad")])
        if depth < 3:
            lines += _spans(one.get("spans") or (), row, width, depth + 1)
    return lines


def _label(label: Mapping[str, Any], width: int) -> list[Line]:
    note = f"  {clean(label['note'])}" if label.get("note") else ""
    by = f"  by {clean(label['author'])}" if label.get("author") else ""
    return [[("label", "head")], [(cut(clean(label.get("label")) + by + note, width), "good")]]


def _answer(row: Row, looks: Looks) -> str:
    """A reply in a few words: its label where there is one."""
    content = read_content(row.get("reply"), looks.place)
    value = content.value
    if isinstance(value, Mapping):
        for name in ("label", "class", "prediction", "answer", "category", "error"):
            if name in value:
                return clean(value[name])
    return clean(content.text or " ".join(f"{one:.3g}" for one in content.numbers) or figures.NONE)


def _name(row: Row) -> str:
    if row.get("model") is None:
        return "no model"
    return clean(f"{row.get('project')}/{row['model']}")


def _version(row: Row) -> str:
    return clean(row.get("version") or figures.NONE)


def _role(row: Row, looks: Looks) -> str:
    return looks.roles.get((str(row.get("project")), str(row.get("model")), str(row.get("version"))), "")


def _folded(line: Line, width: int) -> list[Line]:
    """Pairs of parts on as many lines as they need."""
    lines: list[Line] = [[]]
    for at in range(0, len(line), 2):
        pair = line[at : at + 2]
        if lines[-1] and line_width(lines[-1]) + line_width(pair) - 2 > width:
            lines.append([])
        lines[-1] += pair
    return lines
