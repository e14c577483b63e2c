"""The widget that everything is drawn with: lines of parts in, strips out, and only those rows are sent to
the terminal that changed. It draws when it is told to: four times a second, and when a key was pressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from rich.segment import Segment
from textual import events
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from mdslite.tui.clean import clean
from mdslite.tui.lines import Line, fill
from mdslite.tui.snapshot import Snapshot

if TYPE_CHECKING:
    from mdslite.tui.app import DashApp


class Canvas(Widget):
    """Override `lines`."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._drawn: list[Line] = []
        self._strips: list[Strip] = []

    @property
    def dash(self) -> DashApp:
        return cast("DashApp", self.app)

    def lines(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        """What is to be seen, from `snapshot` and the widget's own state alone. Too few lines are filled up
        with blank ones, and what is too long or too many is cut."""
        raise NotImplementedError

    def repaint(self) -> None:
        """Draw anew what changed."""
        changed = self._draw()
        if changed:
            self.refresh(*(Region(0, row, self.size.width, 1) for row in changed))

    def render_line(self, y: int) -> Strip:
        if len(self._strips) != self.size.height or not self._strips:
            self._draw()
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width)

    def on_resize(self, event: events.Resize) -> None:
        self._drawn, self._strips = [], []

    def forget(self) -> None:
        """Draw all of it next time: what roles look like has changed."""
        self._drawn, self._strips = [], []
        self.refresh()

    def _draw(self) -> list[int]:
        """Bring the strips up to date; the rows that changed."""
        width, height = self.size
        if not width or not height:
            return []
        drawn = fill(self.lines(width, height, self.dash.snapshot), width, height)
        if len(self._strips) != height:
            self._drawn = []
            self._strips = [Strip.blank(width)] * height
        before = self._drawn or [[] for _ in range(height)]
        changed = [row for row in range(height) if drawn[row] != before[row]]
        for row in changed:
            self._strips[row] = self._strip(drawn[row], width)
        self._drawn = drawn
        return changed

    def _strip(self, line: Line, width: int) -> Strip:
        ink = self.dash.ink
        return Strip([Segment(ink.spell(clean(text)), ink.style(role)) for text, role in line], width)


class Pane(Canvas, can_focus=True):
    """One of the screens. Its `BINDINGS` are what the footer and the help are made of; `MOUSE` tells in the
    help what the mouse does on it."""

    title = ""
    MOUSE: ClassVar[Sequence[tuple[str, str]]] = ()

    def caption(self, snapshot: Snapshot) -> str:
        """A word at the right end of the border above, such as `3/14`."""
        return ""

    def shown(self) -> None:
        """It has just become the one that is seen."""

    def dismiss(self) -> bool:
        """Escape was pressed: give up what is narrowed or open here. False when there was nothing."""
        return False
