"""The first screen: what is deployed and how its traffic goes, the histogram of requests, the log's end."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from textual import events
from textual.binding import Binding, BindingType

from mdslite.tui import messages
from mdslite.tui.canvas import Pane
from mdslite.tui.deployments import Entry, entries_of, seen_entries, table_lines
from mdslite.tui.details import detail_lines
from mdslite.tui.histogram import bar_at, bars_by, bars_that_fit, histogram_lines, read_stack
from mdslite.tui.lines import Line, beside, bottom, fill, sided
from mdslite.tui.snapshot import Snapshot
from mdslite.tui.tail import tail_lines
from mdslite.tui.wheel import Wheeled

_PANEL = 46  # columns of the panel beside the table
_WIDE = 126  # from here on there is one
WRONG = ("failed", "unhealthy")


def driving() -> Any:
    """What changes something, imported when it is first asked for: the first picture need not wait for it."""
    from mdslite.tui import driving

    return driving


class Deploy(Wheeled, Pane):
    title = "Deploy"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open"),
        Binding("w", "weights", "weight"),
        Binding("a", "apply", "apply a file"),
        Binding("u", "undo", "undo"),
        Binding("o", "rollout", "rollout"),
        Binding("m", "memory", "load or unload", show=False),
        Binding("D,delete", "delete", "delete", show=False),
        Binding("e", "explain", "what is wrong", show=False),
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "move(-10)", "page up", show=False),
        Binding("pagedown,space", "move(10)", "page down", show=False),
        Binding("home,g", "move(-100000)", "first", show=False),
        Binding("end,G", "move(100000)", "last", show=False),
        Binding("left", "brush(-1)", "brush back", show=False),
        Binding("right", "brush(1)", "brush forward", show=False),
        Binding("shift+left,H", "widen(-1)", "widen the brush back", show=False),
        Binding("shift+right,L", "widen(1)", "widen it forward", show=False),
    ]
    MOUSE = (
        ("click", "choose a version; twice opens it"),
        ("drag", "over the histogram: brush"),
        ("wheel", "up and down; on the histogram: zoom"),
    )

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.cursor = 0
        self._dragged: tuple[int, int] | None = None  # the bars from which and to which the mouse has moved

    def caption(self, snapshot: Snapshot) -> str:
        count = len(entries_of(snapshot))
        return f"{min(self.cursor + 1, count)}/{count}" if count else ""

    def lines(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        if self._dragged is not None:
            view = msgspec.structs.replace(snapshot.view, brush=self._span(snapshot, *self._dragged))
            snapshot = msgspec.structs.replace(snapshot, view=view)
        return pane_lines(width, height, snapshot, cursor=self._clamp(snapshot))

    @property
    def entry(self) -> Entry | None:
        """What the cursor stands on."""
        entries = entries_of(self.dash.snapshot)
        return entries[min(self.cursor, len(entries) - 1)] if entries else None

    def shown(self) -> None:
        self.dash.look(bars=bars_that_fit(self.size.width or self.dash.size.width))

    def action_move(self, steps: int) -> None:
        self.cursor = self._clamp(self.dash.snapshot, steps)
        self.repaint()

    async def action_open(self) -> None:
        """A model alone; then, of a version, its requests."""
        entry = self.entry
        if entry is None:
            return
        if self.dash.view.model != entry.model_key:
            self.dash.look(model=entry.model_key)
            return
        terms = f"project={entry.project} model={entry.model} version={entry.version['version']}"
        self.dash.look(filter=terms)
        await self.dash.action_show("requests")

    def action_weights(self) -> None:
        if (entry := self.entry) is not None:
            driving().change_weights(self.dash, entry)

    def action_apply(self) -> None:
        driving().apply_file(self.dash)

    def action_undo(self) -> None:
        driving().undo(self.dash)

    def action_rollout(self) -> None:
        if (entry := self.entry) is not None:
            driving().roll_out(self.dash, entry)

    def action_memory(self) -> None:
        if (entry := self.entry) is not None:
            driving().load_or_unload(self.dash, entry)

    def action_delete(self) -> None:
        if (entry := self.entry) is not None:
            driving().delete(self.dash, entry)

    def action_explain(self) -> None:
        """Of the version under the cursor, or, when that is well, of the first that is not."""
        entries = entries_of(self.dash.snapshot)
        if self.entry is None:
            return
        if self.entry.version["state"] not in WRONG:
            self.cursor = next(
                (at for at, one in enumerate(entries) if one.version["state"] in WRONG), self.cursor
            )
            self.repaint()
        driving().explain_failure(self.dash, self.entry)

    def action_brush(self, steps: int) -> None:
        stack = read_stack(self.dash.snapshot.histogram, shadows=True)
        if stack is None:
            return
        brush = self.dash.view.brush
        begun, over = bars_by(stack, self.dash.snapshot.now)
        if brush is None:
            start = stack.since + (over if steps < 0 else begun) * stack.interval_s - stack.interval_s
            brush = (start, start + stack.interval_s)
        else:
            step_s = steps * stack.interval_s
            brush = (brush[0] + step_s, brush[1] + step_s)
        if brush[0] < stack.since - 1e-3:
            self.dash.say("the histogram begins here: < goes further back", "warn")
        elif brush[1] > stack.since + begun * stack.interval_s + 1e-3:
            self.dash.say("there is nothing newer to brush", "warn")
        else:
            self.dash.look(brush=brush)

    def action_widen(self, steps: int) -> None:
        stack = read_stack(self.dash.snapshot.histogram, shadows=True)
        if stack is None:
            return
        newest = stack.since + bars_by(stack, self.dash.snapshot.now)[0] * stack.interval_s
        brush = self.dash.view.brush or (newest - stack.interval_s, newest)
        if steps < 0:
            brush = (max(stack.since, brush[0] - stack.interval_s), brush[1])
        else:
            brush = (brush[0], max(brush[1], min(newest, brush[1] + stack.interval_s)))
        self.dash.look(brush=brush)

    # What the mouse does

    def on_click(self, event: events.Click) -> None:
        """Choose the version that was clicked; a second time, open it."""
        snapshot = self.dash.snapshot
        table, _, tail = self._parts
        if tail and event.y >= self.size.height - tail:
            self.run_worker(self.dash.action_show("requests"))
        count = len(entries_of(snapshot))
        seen = seen_entries(table - 1, count, self._clamp(snapshot))
        if 1 <= event.y <= len(seen) and 0 < event.x <= _table_width(self.size.width):
            chosen = seen[event.y - 1]
            opens, self.cursor = chosen == self.cursor and event.chain > 1, chosen
            self.repaint()
            if opens:
                self.run_worker(self.action_open())

    def on_mouse_down(self, event: events.MouseDown) -> None:
        table, histogram, _ = self._parts
        if event.button == 1 and table < event.y < table + histogram - 1:
            at = self._bar(event)
            if at is not None:
                self._dragged = (at, at)
                self.capture_mouse()
                self.repaint()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self._dragged is not None and (at := self._bar(event)) is not None:
            self._dragged = (self._dragged[0], at)
            self.repaint()

    def on_mouse_up(self, event: events.MouseUp) -> None:
        if self._dragged is not None:
            self.release_mouse()
            brush = self._span(self.dash.snapshot, *self._dragged)
            self._dragged = None
            self.dash.look(brush=brush)

    def wheel(self, event: events.MouseEvent, steps: int) -> None:
        if event.y < self._parts[0]:
            self.action_move(steps)
        elif event.y < self._parts[0] + self._parts[1]:
            self.dash.action_zoom(steps)

    @property
    def _parts(self) -> tuple[int, int, int]:
        return divide(self.size.height, len(entries_of(self.dash.snapshot)))

    def _bar(self, event: events.MouseEvent) -> int | None:
        width, height = self.size.width, self._parts[1]
        return bar_at(width, height, self.dash.snapshot, event.x)

    def _span(self, snapshot: Snapshot, begin: int, end: int) -> tuple[float, float] | None:
        """The time of some bars, as far as it has come."""
        stack = read_stack(snapshot.histogram, shadows=True)
        if stack is None:
            return None
        newest = bars_by(stack, snapshot.now)[0] - 1
        first, last = min(begin, end, newest), min(max(begin, end), newest)
        return stack.since + first * stack.interval_s, stack.since + (last + 1) * stack.interval_s

    def on_resize(self, event: object) -> None:
        super().on_resize(event)  # type: ignore[arg-type]
        self.dash.look(bars=bars_that_fit(self.size.width))

    def _clamp(self, snapshot: Snapshot, steps: int = 0) -> int:
        return max(0, min(len(entries_of(snapshot)) - 1, self.cursor + steps))


def pane_lines(width: int, height: int, snapshot: Snapshot, *, cursor: int = 0) -> list[Line]:
    """The pane, or what takes its place."""
    said = messages.whole_pane(width - 2, snapshot)
    if said is not None:
        return [*sided(fill(said, width - 2, height - 1), width), bottom(width)]
    stale = messages.banner(snapshot)
    if stale is not None:
        return [*deploy_lines(width, height - 1, snapshot, cursor=cursor), stale]
    return deploy_lines(width, height, snapshot, cursor=cursor)


def divide(height: int, count: int) -> tuple[int, int, int]:
    """Lines for a table of `count` versions, for the histogram and for the log."""
    histogram = 0 if height < 12 else max(7, min(16, height // 3))
    tail = 0 if height < 18 else max(4, height - histogram - max(count + 2, 6))
    return height - histogram - tail, histogram, tail


def _table_width(width: int) -> int:
    return width - 2 - (_PANEL if width >= _WIDE else 0)


def deploy_lines(width: int, height: int, snapshot: Snapshot, *, cursor: int = 0) -> list[Line]:
    """The whole pane, divided among table, histogram and log by what there is room for."""
    table, histogram, tail = divide(height, len(entries_of(snapshot)))
    wide = width >= _WIDE
    inner = _table_width(width)
    lines = table_lines(inner, table - 1, snapshot, cursor=cursor)
    if wide:
        panel = detail_lines(_PANEL - 2, table - 1, snapshot, cursor=cursor)
        lines = beside(
            fill(lines, inner, table - 1), [[("│ ", "frame"), *line] for line in panel], width=inner
        )
    found = [*sided(fill(lines, width - 2, table - 1), width), bottom(width)]
    if histogram:
        found += histogram_lines(width, histogram, snapshot)
    if tail:
        found += tail_lines(width, tail, snapshot)
    return found
