"""Boxes over the screen: what they are made of, the one that asks for a line, and the one to be read. Those
that change something stand on these.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input
from textual.widgets.input import Selection

from mdslite import errors
from mdslite.tui.bars import in_ascii
from mdslite.tui.canvas import Canvas
from mdslite.tui.clean import clean
from mdslite.tui.lines import Line
from mdslite.tui.snapshot import Snapshot
from mdslite.tui.wheel import Wheeled
from mdslite.tui.wrapping import wrap

if TYPE_CHECKING:
    from mdslite.tui.app import DashApp

Stage = Literal["asking", "planning", "ready", "doing", "done", "refused"]
WIDTH = 84
CLOSES: Line = [("esc", "key"), (" closes", "dim")]
LEAVES: Line = [("esc", "key"), (" leaves it as it is", "dim")]


class Body(Canvas):
    """The text of a dialog, from its first line that is seen."""

    def lines(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        dialog = cast(Dialog, self.screen)
        found = dialog.text(width - 2)
        dialog.first = max(0, min(dialog.first, len(found) - height))
        if 0 < height < len(found) - dialog.first:
            found[dialog.first + height - 1] = [("↓", "key"), (" more", "dim")]
        if self.dash.ink.ascii:
            found = [
                [(in_ascii(text) if role == "key" else text, role) for text, role in line] for line in found
            ]
        return [[(" ", ""), *line] for line in found[dialog.first :]]


class Dialog(Wheeled, ModalScreen[None]):
    """The box, its title and its keys. Override `text`."""

    DEFAULT_CSS = f"""
    Dialog {{ align: center middle; }}
    Dialog > #box {{
        width: {WIDTH}; max-width: 100%; height: auto; max-height: 100%; padding: 0;
        border: round $primary; background: $background;
    }}
    Dialog Body {{ height: 3; }}
    Dialog Input, Dialog Input:focus {{
        height: 1; border: none; padding: 0 1; background: $boost; margin: 0 1;
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave", priority=True),
        Binding("up", "scroll(-1)", "up", show=False, priority=True),
        Binding("down", "scroll(1)", "down", show=False, priority=True),
        Binding("pageup", "scroll(-10)", "up", show=False, priority=True),
        Binding("pagedown", "scroll(10)", "down", show=False, priority=True),
    ]
    heading = ""

    def __init__(self) -> None:
        super().__init__()
        self.first = 0
        self.stage: Stage = "asking"
        self.failure: errors.MdsliteError | None = None

    @property
    def dash(self) -> DashApp:
        return cast("DashApp", self.app)

    def text(self, width: int) -> list[Line]:
        """What the box says, at its present stage."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:
            box.border_title = None
            yield Body()

    def on_mount(self) -> None:
        box = self.query_one("#box")
        if self.dash.ink.ascii:
            box.styles.border = ("ascii", "white")
        for field in self.query(Input):
            field.focus()  # by itself it is not, while the terminal's window has no focus
        self.redraw()

    def on_resize(self, event: events.Resize) -> None:
        self.redraw()

    def redraw(self) -> None:
        """Draw the text anew, in a box of its height."""
        if not self.is_mounted:
            return
        width = min(WIDTH, self.app.size.width) - 4
        room = self.app.size.height - 2 - sum(field.display for field in self.query(Input))
        body = self.query_one(Body)
        body.styles.height = max(3, min(room, len(self.text(width))))
        body.forget()

    def head(self, width: int) -> list[Line]:
        """What the box is about."""
        return [*([(text, "title")] for text in wrap(clean(self.heading), width)), []]

    def said(self, width: int) -> list[Line]:
        """What went wrong, and the way out."""
        failure = self.failure
        if failure is None:
            return []
        place = f"line {failure.place.line}: " if failure.place is not None else ""
        wrong = wrap(place + clean(failure.message), width - 2)
        lines: list[Line] = [[("  " if at else "✖ ", "bad"), (text, "bold")] for at, text in enumerate(wrong)]
        if failure.hint:
            lines += [[("  " + text, "accent")] for text in wrap(clean(failure.hint), width - 2)]
        return lines

    def action_leave(self) -> None:
        self.dismiss(None)

    def wheel(self, event: events.MouseEvent, steps: int) -> None:
        self.action_scroll(steps)

    def action_scroll(self, steps: int) -> None:
        self.first += steps
        self.query_one(Body).repaint()


class AskDialog(Dialog):
    """Asks for a line. `explain` says what it would mean, as it is typed; `submit` is given it, and says what
    is wrong with it by an InvalidRequest. The end of the line that is `replaced` is marked: what is typed
    takes its place."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "submit", "go on", priority=True)]

    def __init__(
        self,
        heading: str,
        value: str,
        explain: Callable[[str, int], list[Line]],
        submit: Callable[[str], Dialog | Awaitable[Dialog]],
        *,
        label: str = "",
        replaced: str = "",
    ) -> None:
        super().__init__()
        self.heading = heading
        self._value = value
        self._replaced = replaced
        self._explain = explain
        self._submit = submit
        self._label = label

    def text(self, width: int) -> list[Line]:
        value = self.query_one(Input).value if self.query(Input) else self._value
        keys: Line = [
            ("↵", "key"),
            (" shows what it would do   ", "dim"),
            ("esc", "key"),
            (" leaves it", "dim"),
        ]
        label: list[Line] = [[], [(self._label, "bold")]] if self._label else []
        return [
            *self.head(width),
            *self._explain(value, width),
            *self.said(width),
            [],
            keys,
            *label,
        ]

    def compose(self) -> ComposeResult:
        with Vertical(id="box"):
            yield Body()
            yield Input(self._value, select_on_focus=False)

    def on_mount(self) -> None:
        if self._replaced and self._value.endswith(self._replaced):
            end = len(self._value)
            self.query_one(Input).selection = Selection(end - len(self._replaced), end)

    @on(Input.Changed)
    def _changed(self) -> None:
        self.failure = None
        self.redraw()

    async def action_submit(self) -> None:
        try:
            made = self._submit(self.query_one(Input).value.strip())
            dialog = made if isinstance(made, Dialog) else await made
        except errors.MdsliteError as exc:
            self.failure = exc
            self.redraw()
            return
        self.app.switch_screen(dialog)


class NoteDialog(Dialog):
    """Something to read."""

    def __init__(self, heading: str, lines: Callable[[int], list[Line]]) -> None:
        super().__init__()
        self.heading = heading
        self._lines = lines

    def text(self, width: int) -> list[Line]:
        return [*self.head(width), *self._lines(width), [], CLOSES]
