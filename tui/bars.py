"""The line of tabs above a pane, and the line of keys below it."""

from __future__ import annotations

from mdslite.tui.canvas import Canvas
from mdslite.tui.lines import Line, edge, line_width
from mdslite.tui.snapshot import Snapshot

SAID_S = 6.0  # how long a message stays
_SIGNS = {
    "left_square_bracket": "[", "right_square_bracket": "]", "full_stop": ".", "slash": "/", "colon": ":",
    "question_mark": "?", "exclamation_mark": "!", "plus": "+", "minus": "-", "enter": "↵", "escape": "esc",
    "up": "↑", "down": "↓", "left": "←", "right": "→", "left_curly_bracket": "{", "right_curly_bracket": "}",
    "less_than_sign": "<", "greater_than_sign": ">", "equals_sign": "=", "comma": ",", "pageup": "PgUp",
    "pagedown": "PgDn", "tilde": "~",
}  # fmt: skip


class Tabs(Canvas):
    def lines(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        pane = self.dash.pane
        caption = pane.caption(snapshot) if pane is not None else ""
        return [tabs_line(width, self.dash.titles, snapshot.view.pane, caption)]


class Footer(Canvas):
    def lines(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        text, role, said_at = self.dash.said
        if text and snapshot.clock - said_at < SAID_S:
            return [[(" ", ""), (text, role)]]
        shown = [(binding.key, binding.description) for binding in self.dash.shown_bindings()]
        return [keys_line(width, shown)]


def tabs_line(width: int, titles: dict[str, str], shown: str, caption: str) -> Line:
    """`╭ 1 Deploy 2 Requests ──── 4/4 ─╮`; without room for the titles, only the one that is shown."""
    words: Line = []
    for number, (name, title) in enumerate(titles.items(), 1):
        words += [(f"{number} ", "key"), (title, "title" if name == shown else "dim"), (" ", "frame")]
    if line_width(words) > width - 12:
        words = [
            part
            for number, (name, title) in enumerate(titles.items(), 1)
            for part in ([(f"{number} {title} ", "title")] if name == shown else [(f"{number} ", "key")])
        ]
    return edge(
        words[:-1] if words and words[-1][0] == " " else words, [(caption, "")] if caption else [], width
    )


def keys_line(width: int, keys: list[tuple[str, str]]) -> Line:
    """As many keys as there is room for, those of the end (help, quit) in any case."""
    parts: list[Line] = [
        [(sign_of(key), "key"), (f":{what} " if len(sign_of(key)) > 1 else f" {what} ", "")]
        for key, what in keys
    ]
    line: Line = [(" ", "")]
    last = parts[-2:]
    room = width - 1 - sum(line_width(one) for one in last)
    for one in parts[:-2]:
        if line_width(one) > room:
            break
        line += one
        room -= line_width(one)
    return [*line, *(part for one in last for part in one)]


def sign_of(key: str) -> str:
    """A key as it stands on a keyboard."""
    first = key.split(",")[0]
    return _SIGNS.get(first, first.replace("ctrl+", "^").replace("shift+", "⇧"))
