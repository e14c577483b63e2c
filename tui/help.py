"""The page of keys and commands, made of the bindings that are really there."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from mdslite.tui.bars import in_ascii, sign_of
from mdslite.tui.canvas import Canvas
from mdslite.tui.commands import COMMANDS
from mdslite.tui.completion import FIELDS
from mdslite.tui.lines import Line, beside, bottom, cells, edge, fill, fit, sided
from mdslite.tui.snapshot import Snapshot
from mdslite.tui.wheel import Wheeled

_ELSEWHERE = (
    ("mdslite compare", "a shadow's dropped copies"),
    ("mdslite replay", "what a replay left out"),
    ("mdslite drift", "what fires, and on what"),
)
_COLUMN = 46  # a screen has as many columns of help as this fits into it


class HelpPage(Canvas):
    """The text, from line `first` on."""

    def __init__(self, sections: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> None:
        super().__init__()
        self.sections = sections
        self.first = 0

    def lines(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        text = help_lines(self._spelled(), width - 4)
        room = height - 2
        self.first = max(0, min(self.first, len(text) - room))
        shown = [[(" ", ""), *line] for line in text[self.first : self.first + room]]
        left: Line = [("Help", "title")]
        more = [("↓ more", "dim")] if self.first + room < len(text) else []
        return [
            edge(left, [("esc", "key"), (" closes", "dim")], width),
            *sided(fill(shown, width - 2, room - 1), width),
            *sided([[(" ", ""), *more]], width),
            bottom(width),
        ]

    def _spelled(self) -> Sequence[tuple[str, Sequence[tuple[str, str]]]]:
        if not self.dash.ink.ascii:
            return self.sections
        return [(title, [(in_ascii(key), told) for key, told in entries]) for title, entries in self.sections]


class Help(Wheeled, ModalScreen[None]):
    DEFAULT_CSS = "Help > HelpPage { width: 100%; height: 100%; background: $background; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f1,question_mark", "leave", "close"),
        Binding("down,j", "scroll(1)", "down", show=False),
        Binding("up,k", "scroll(-1)", "up", show=False),
        Binding("pagedown,space", "scroll(15)", "page down", show=False),
        Binding("pageup", "scroll(-15)", "page up", show=False),
        Binding("home,g", "scroll(-10000)", "to the top", show=False),
        Binding("end,G", "scroll(10000)", "to the end", show=False),
    ]

    def __init__(self, sections: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> None:
        super().__init__()
        self._sections = sections

    def compose(self) -> ComposeResult:
        yield HelpPage(self._sections)

    def wheel(self, event: events.MouseEvent, steps: int) -> None:
        self.action_scroll(3 * steps)

    def action_scroll(self, steps: int) -> None:
        page = self.query_one(HelpPage)
        page.first += steps
        page.forget()

    def action_leave(self) -> None:
        self.dismiss(None)


def sections_of(
    everywhere: Iterable[BindingType],
    panes: dict[str, tuple[str, str, str]],
    mouse: Iterable[tuple[str, str]],
) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the page says: the keys of every screen and what the mouse does, the commands, what only the
    command line tells, the words of filters."""
    found = [("Everywhere", [*_keys(everywhere), *mouse])]
    for title, module, kind in panes.values():
        pane = getattr(importlib.import_module(module), kind)
        found.append((title, [*_keys(pane.BINDINGS), *pane.MOUSE]))
    found.append(("Commands", [(f":{one.name} {one.usage}".strip(), one.told) for one in COMMANDS]))
    found.append(("On the command line", list(_ELSEWHERE)))
    found.append(("Filters", [(name + follows.strip(), told) for name, (follows, told) in FIELDS.items()]))
    return found


def help_lines(sections: Sequence[tuple[str, Sequence[tuple[str, str]]]], width: int) -> list[Line]:
    """Sections in as many columns as there is room for, each where it makes the page shortest."""
    count = max(1, min(3, width // _COLUMN))
    room = width // count - 2
    columns: list[list[Line]] = [[] for _ in range(count)]
    for title, entries in sections:
        column = min(columns, key=len)
        if column:
            column.append([])
        column.append([(title, "head")])
        key = min(max((cells(name) for name, _ in entries), default=0), room // 2) + 2
        column += [[(fit(name, key), "key"), (fit(told, room - key), "")] for name, told in entries]
    page = columns[0]
    for at, column in enumerate(columns[1:], 1):
        page = beside(page, column, width=at * (room + 2) - 2, gap=2)
    return page


def _keys(bindings: Iterable[BindingType]) -> list[tuple[str, str]]:
    """Keys that do the same, in one line."""
    found: dict[tuple[str, str], list[str]] = {}
    for binding in Binding.make_bindings(bindings):
        if binding.description:
            found.setdefault((binding.action, binding.description), []).append(sign_of(binding.key))
    return [(" ".join(keys), told) for (_, told), keys in found.items()]
