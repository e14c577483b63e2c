"""How a request that waits for a label looks on a terminal: its input as a picture, numbers or text, what
each version answered, and the keys that answer it. Pure functions that make lines."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdslite.cli import output
from mdslite.contents import Content, read_content
from mdslite.pictures import Line, render

Json = Mapping[str, Any]

ROWS_MAX = 16
_KEYS = "1234567890abcdefghijklmnoprstuvwxyz"
_FIELDS_MAX = 24


@dataclass(frozen=True, slots=True)
class Look:
    """What a terminal can show."""

    columns: int = 80
    colour: bool = True
    ascii: bool = False


def assign_keys(classes: Sequence[str]) -> dict[str, str]:
    """A key for each class: its own name where that is one letter, its first letter where that is free, else
    a number. `q` is left alone unless it is somebody's name; classes beyond the keys get none."""
    keys: dict[str, str] = {one: one for one in classes if len(one) == 1 and one.isprintable() and one > " "}
    keys.pop("/", None)
    for one in classes:
        if one in keys.values():
            continue
        first = one[:1].lower()
        wished = first if first.isascii() and first.isalnum() and first != "q" else ""
        free = [key for key in (wished, *_KEYS) if key and key not in keys]
        if free:
            keys[free[0]] = one
    return keys


def item_lines(item: Json, look: Look, *, plain: bool = False) -> list[Line]:
    """The input, `plain` for numbers instead of a picture, and the answers."""
    return [*_input_lines(item, look, plain=plain), [], *answer_lines(item)]


def answer_lines(item: Json) -> list[Line]:
    """What each version answered."""
    answers = item["answers"]
    width = max((len(_name(one)) for one in answers), default=0)
    lines: list[Line] = []
    for one in answers:
        sure = "" if one["confidence"] is None else f"  {one['confidence']:.2f}"
        told = "no answer that is one word" if one["answer"] is None else one["answer"]
        lines.append([(f"  {_name(one):<{width}}  {told}{sure}", "")])
    return lines


def key_text(keys: Mapping[str, str], item: Json) -> str:
    """Which keys do what."""
    own = [key for key, name in keys.items() if key == name]
    digits = "".join(sorted(key for key in own if key.isdigit()))
    parts = [f"{digits[0]}-{digits[-1]}"] if len(digits) > 2 and digits in "0123456789" else list(digits)
    parts += [key for key in own if not key.isdigit()]
    parts += [f"{key} {name}" for key, name in keys.items() if key != name]
    if item["answer"] is not None:
        parts.append(f"enter {item['answer']}")
    return "   ".join([*parts, "/ other", "space skip", "bksp undo", "tab numbers", "q quit"])


def ansi(line: Line, look: Look) -> str:
    """A line as a terminal wants it; whatever stands in it cannot do anything there."""
    made = ""
    for text, role in line:
        shown = output.escape(text)
        if role.startswith("rgb:") and look.colour:
            front, _, back = role.removeprefix("rgb:").partition("/")
            shown = f"\x1b[38;2;{_rgb(front)}m\x1b[48;2;{_rgb(back or front)}m{shown}\x1b[0m"
        made += shown
    return made.rstrip(" ") if not look.colour else made


def input_text(item: Json, limit: int = 60) -> str:
    """An input in one line, for a table."""
    content = read_content(item["request"])
    if content.picture is not None:
        return f"picture {content.picture.width}x{content.picture.height}"
    text = content.text
    if content.numbers:
        text = " ".join(f"{value:g}" for value in content.numbers[:_FIELDS_MAX])
    elif not text:
        text = output.json_text(content.value)
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _input_lines(item: Json, look: Look, *, plain: bool) -> list[Line]:
    content = read_content(item["request"])
    if content.picture is not None and not plain:
        shown = render(
            content.picture,
            min(look.columns - 4, 2 * ROWS_MAX),
            ROWS_MAX,
            colour=look.colour,
            ascii=look.ascii,
        )
        return [[("  ", ""), *line] for line in shown]
    if content.numbers:
        return _number_lines(content, look)
    if isinstance(content.value, Mapping):
        return _field_lines(content.value, look)
    text = content.text or output.json_text(content.value)
    return _wrapped(text, look)


def _number_lines(content: Content, look: Look) -> list[Line]:
    """Numbers in columns; of a picture's, a row of it a line where that fits."""
    texts = [f"{value:.4g}" for value in content.numbers]
    width = max(map(len, texts))
    across = max(1, (look.columns - 2) // (width + 1))
    if content.picture is not None and content.picture.width <= across:
        across = content.picture.width
    lines: list[Line] = []
    for start in range(0, len(texts), across):
        if len(lines) == ROWS_MAX * 2:
            return [*lines, [(f"  … {len(texts) - start} more", "")]]
        row = " ".join(text.rjust(width) for text in texts[start : start + across])
        lines.append([(f"  {row}", "")])
    return lines


def _field_lines(fields: Mapping[str, Any], look: Look) -> list[Line]:
    shown = list(fields.items())[:_FIELDS_MAX]
    width = min(max((len(str(name)) for name, _ in shown), default=0), 24)
    lines: list[Line] = []
    for name, value in shown:
        text = value if isinstance(value, str) else output.json_text(value)
        first, *more = _wrapped(text, look, indent=width + 4) or [[("", "")]]
        lines.append([(f"  {str(name)[:width]:<{width}}  {first[0][0].lstrip()}", "")])
        lines += more
    if len(fields) > len(shown):
        lines.append([(f"  … {len(fields) - len(shown)} more fields", "")])
    return lines


def _wrapped(text: str, look: Look, *, indent: int = 2) -> list[Line]:
    lines: list[Line] = []
    for part in text.splitlines() or [""]:
        for line in textwrap.wrap(part, max(20, look.columns - indent - 1)) or [""]:
            lines.append([(" " * indent + line, "")])
    return lines if len(lines) <= ROWS_MAX else [*lines[:ROWS_MAX], [(" " * indent + "…", "")]]


def _name(one: Json) -> str:
    if one["replay"]:
        return f"{one['version']} (replay)"
    return f"{one['version']} (shadow)" if one["shadow"] else str(one["version"])


def _rgb(text: str) -> str:
    return ";".join(str(int(text[at : at + 2], 16)) for at in (0, 2, 4))
