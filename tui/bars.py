"""The line of tabs above a pane, and the line of keys below it."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.binding import Binding

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

    def on_click(self, event: events.Click) -> None:
        """Show the screen whose title, or only number, was clicked."""
        words = _tab_words(self.size.width, self.dash.titles, self.dash.view.pane)
        place = 2  # behind the corner
        for name, word in zip(self.dash.titles, words, strict=True):
            if place <= event.x < place + line_width(word):
                self.run_worker(self.dash.action_show(name))
            place += line_width(word)


class Footer(Canvas):
    def lines(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        text, role, said_at = self.dash.said
        if text and snapshot.clock - said_at < SAID_S:
            return [[(" ", ""), (text, role)]]
        return [[(" ", ""), *(part for _, line in self._keys(width) for part in line)]]

    def on_click(self, event: events.Click) -> None:
        """Do what the key that was clicked does."""
        place = 1
        for binding, line in self._keys(self.size.width):
            if place <= event.x < place + line_width(line):
                self.dash.run_binding(binding)
            place += line_width(line)

    def _keys(self, width: int) -> list[tuple[Binding, Line]]:
        return fitting_keys(width, self.dash.shown_bindings(), ascii=self.dash.ink.ascii)


def tabs_line(width: int, titles: dict[str, str], shown: str, caption: str) -> Line:
    """`╭ 1 Deploy 2 Requests ──── 4/4 ─╮`; without room for the titles, only the one that is shown."""
    words = [part for word in _tab_words(width, titles, shown) for part in word]
    text, role = words[-1]
    words[-1] = (text.rstrip(), role)
    return edge(words, [(caption, "")] if caption else [], width)


def _tab_words(width: int, titles: dict[str, str], shown: str) -> list[Line]:
    """What each screen is called, with the blank behind it."""
    words: list[Line] = [
        [(f"{number} ", "key"), (title, "title" if name == shown else "dim"), (" ", "frame")]
        for number, (name, title) in enumerate(titles.items(), 1)
    ]
    if sum(map(line_width, words)) <= width - 12:
        return words
    return [
        [(f"{number} {title} ", "title")] if name == shown else [(f"{number} ", "key")]
        for number, (name, title) in enumerate(titles.items(), 1)
    ]


def fitting_keys(
    width: int, bindings: Sequence[Binding], *, ascii: bool = False
) -> list[tuple[Binding, Line]]:
    """As many keys as there is room for, each as it is shown; those of the end (help, quit) in any case."""
    parts = [(binding, _key_part(binding, ascii=ascii)) for binding in bindings]
    last = parts[-2:]
    found: list[tuple[Binding, Line]] = []
    room = width - 1 - sum(line_width(line) for _, line in last)
    for binding, line in parts[:-2]:
        if line_width(line) > room:
            break
        found.append((binding, line))
        room -= line_width(line)
    return found + last


def _key_part(binding: Binding, *, ascii: bool) -> Line:
    sign, what = sign_of(binding.key), binding.description
    sign = in_ascii(sign) if ascii else sign
    return [(sign, "key"), (f":{what} " if len(sign) > 1 else f" {what} ", "")]


def in_ascii(sign: str) -> str:
    """Keys whose sign has no likeness among ASCII's, by name: `<` is another key."""
    return sign.replace("↵", "enter").replace("←", "left").replace("→", "right")


def sign_of(key: str) -> str:
    """A key as it stands on a keyboard."""
    first = key.split(",")[0]
    return _SIGNS.get(first, first.replace("ctrl+", "^").replace("shift+", "⇧"))
