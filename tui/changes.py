"""The screen of changes: every revision with who, when and why, the diff of the chosen one, and the way back
to it. Owns which one is chosen; older ones come page by page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from textual import events
from textual.binding import Binding, BindingType

from mdslite import calls, errors
from mdslite.planning import head_lines, kept_text, planned_rows, tense_of, told_apart, why_text
from mdslite.tui import figures
from mdslite.tui.canvas import Pane
from mdslite.tui.clean import clean
from mdslite.tui.lines import Line, beside, bottom, cut, fill, fit, sided, spread
from mdslite.tui.messages import whole_pane
from mdslite.tui.moments import unix
from mdslite.tui.snapshot import Json, Snapshot
from mdslite.tui.wheel import Wheeled
from mdslite.tui.wrapping import wrap

_WIDE: Final = 110  # from here on the diff stands beside the list
_PAGE: Final = 50
_STATES: Final = {"applied": ("✓", "good"), "failed": ("✖", "bad"), "applying": ("◌", "warn")}
_SIGNS: Final = {"ADD": ("+", "good"), "UPDATE": ("~", "warn"), "DELETE": ("x", "bad")}


class Changes(Wheeled, Pane):
    title = "Changes"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("u", "undo", "go back"),
        Binding("enter", "source", "the file applied"),
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "move(-10)", "page up", show=False),
        Binding("pagedown,space", "move(10)", "page down", show=False),
        Binding("home,g", "move(-100000)", "the newest", show=False),
        Binding("left", "scroll(-5)", "diff up", show=False),
        Binding("right", "scroll(5)", "diff down", show=False),
    ]
    MOUSE = (("click", "choose one; twice shows its file"), ("wheel", "the list, or the diff"))

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.chosen: int | None = None  # a revision; None for the newest
        self.source: Json | None = None  # the revision whose file is shown instead of its diff
        self._older: list[Json] = []
        self._ended = False
        self._asking = False
        self._scroll = 0
        self._listed = 1  # lines that the list has room for

    def caption(self, snapshot: Snapshot) -> str:
        found = self.revisions(snapshot)
        more = not self._ended and len(found) >= _PAGE
        return f"{self._place(found) + 1}/{len(found)}{'+' if more else ''}" if found else ""

    def revisions(self, snapshot: Snapshot) -> list[Json]:
        """All that are known, newest first; those up to the moment that is shown."""
        newest = snapshot.revisions or []
        known = {one["id"] for one in newest}
        found = [*newest, *(one for one in self._older if one["id"] not in known)]
        moment = snapshot.view.moment
        return found if moment is None else [one for one in found if unix(one["time"]) <= moment]

    def lines(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        said = whole_pane(width - 2, snapshot) if snapshot.revisions is None else None
        if said is not None:
            return [*sided(fill(said, width - 2, height - 1), width), bottom(width)]
        inner, room = width - 2, height - 1
        found = self.revisions(snapshot)
        at = self._place(found)
        if not found:
            text: list[Line] = [
                [],
                [("  nothing has been applied yet: ", "bold"), ("mdslite apply -f FILE", "accent")],
            ]
            return [*sided(fill(text, inner, room), width), bottom(width)]
        if width >= _WIDE:
            list_width = _list_width(width)
            listed = fill(self._list(found, at, list_width, room, snapshot), list_width, room)
            shown = [
                [("│ ", "frame"), *line] for line in self._detail(found[at], inner - list_width - 3, room)
            ]
            shown += [[("│", "frame")]] * (room - len(shown))
            lines = beside(listed, shown, width=list_width)
        else:
            high = max(3, min(len(found) + 1, room // 2))
            lines = fill(self._list(found, at, inner, high, snapshot), inner, high)
            lines += [[("─" * inner, "frame")], *self._detail(found[at], inner - 1, room - high - 1)]
        return [*sided(fill(lines, inner, room), width), bottom(width)]

    def _list(self, found: list[Json], at: int, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        self._listed = rows = max(1, height - 1)
        first = self._first(len(found), at)
        seen = range(first, min(len(found), first + rows))
        time = max((len(_when(found[number], snapshot)) for number in seen), default=8)
        head = f"  {'REV':>4} {'TIME':<{time}} {'CHANGES':<10} {'AUTHOR':<10} REASON"
        lines: list[Line] = [[(head, "head")]]
        return lines + [
            revision_line(found[number], width, snapshot, time=time, chosen=number == at) for number in seen
        ]

    def _detail(self, revision: Json, width: int, height: int) -> list[Line]:
        if self.source is not None and self.source["id"] == revision["id"]:
            text = str(self.source.get("source") or "it was not made from a file")
            lines: list[Line] = [[("the file that was applied", "head")]]
            lines += [
                [(part, "")] for line in text.split("\n") for part in (wrap(clean(line), width) or [""])
            ]
        else:
            lines = diff_lines(revision, width)
        self._scroll = max(0, min(self._scroll, len(lines) - height))
        shown = lines[self._scroll : self._scroll + height]
        if self._scroll + height < len(lines) and shown:
            shown[-1] = [("→ more", "dim")]
        return shown

    def action_move(self, steps: int) -> None:
        found = self.revisions(self.dash.snapshot)
        if not found:
            return
        at = max(0, min(len(found) - 1, self._place(found) + steps))
        self.chosen = found[at]["id"] if at else None
        self._scroll = 0
        self.dash.repaint()
        if at >= len(found) - 5 and not self._ended and not self._asking:
            self._asking = True
            self.run_worker(self._ask_older(found[-1]["id"]), name="older revisions", exit_on_error=False)

    def _first(self, count: int, at: int) -> int:
        """The first revision that is listed, of so many, when that one is chosen."""
        return max(0, min(at - self._listed // 2, count - self._listed))

    def action_scroll(self, lines: int) -> None:
        self._scroll += lines
        self.dash.repaint()

    def action_undo(self) -> None:
        """Plan to go back to the state after the chosen revision; of the newest, to the one before."""
        from mdslite.tui import driving

        found = self.revisions(self.dash.snapshot)
        at = self._place(found)
        driving.undo(self.dash, found[at]["id"] if found and at else None)

    def action_source(self) -> None:
        found = self.revisions(self.dash.snapshot)
        if not found:
            return
        number = found[self._place(found)]["id"]
        if self.source is not None and self.source["id"] == number:
            self.source = None
            self.dash.repaint()
            return
        self.run_worker(self._ask_source(number), name="source", exclusive=True, group="source")

    def dismiss(self) -> bool:
        if self.source is not None:
            self.source = None
            return True
        if self.chosen is not None:
            self.chosen = None
            return True
        return False

    def on_click(self, event: events.Click) -> None:
        """Choose the revision that was clicked; a second time, show its file."""
        found = self.revisions(self.dash.snapshot)
        at = self._place(found)
        clicked = self._first(len(found), at) + event.y - 1
        if 1 <= event.y <= self._listed and clicked < len(found) and not self._over_diff(event):
            self.action_move(clicked - at)
            if event.chain > 1:
                self.action_source()

    def wheel(self, event: events.MouseEvent, steps: int) -> None:
        if self._over_diff(event):
            self.action_scroll(3 * steps)
        else:
            self.action_move(steps)

    def _over_diff(self, event: events.MouseEvent) -> bool:
        if self.size.width >= _WIDE:
            return event.x > _list_width(self.size.width)
        return event.y > self._listed

    def _place(self, found: list[Json]) -> int:
        return next((at for at, one in enumerate(found) if one["id"] == self.chosen), 0)

    async def _ask_older(self, before: int) -> None:
        try:
            page = await self.dash.feed.ask(calls.revisions(limit=_PAGE, before=before))
        except errors.MdsliteError as exc:
            self.dash.say(clean(exc.message), "bad")
        else:
            self._older += page
            self._ended = len(page) < _PAGE
        finally:
            self._asking = False
            self.dash.repaint()

    async def _ask_source(self, number: int) -> None:
        try:
            self.source = await self.dash.feed.ask(calls.revision(number))
        except errors.MdsliteError as exc:
            self.dash.say(clean(exc.message), "bad")
        self._scroll = 0
        self.dash.repaint()


def _list_width(width: int) -> int:
    """Columns of the list, where the diff stands beside it."""
    return (width - 2) * 5 // 12


def _when(revision: Json, snapshot: Snapshot) -> str:
    return figures.day_clock(unix(revision["time"]), snapshot.clock)


def revision_line(revision: Json, width: int, snapshot: Snapshot, *, time: int, chosen: bool) -> Line:
    sign, role = _STATES.get(str(revision.get("state")), ("·", ""))
    counts = revision.get("summary") or {}
    changes = " ".join(
        f"{_SIGNS[name][0]}{counts[name.lower()]}" for name in _SIGNS if counts.get(name.lower())
    )
    line: Line = [
        ("▸" if chosen else " ", "key"),
        (sign, role),
        (f"{revision['id']:>4} ", "bold"),
        (fit(_when(revision, snapshot), time) + " ", ""),
        (fit(changes or "none", 10) + " ", ""),
        (fit(revision.get("author") or "-", 10) + " ", "dim"),
        (
            cut(clean(why_text(revision)), max(0, width - 29 - time)),
            role if revision.get("error") else "dim",
        ),
    ]
    return [(text, f"{how} cursor".strip()) for text, how in line] if chosen else line


def diff_lines(revision: Json, width: int) -> list[Line]:
    """What a revision changed, as its plan said."""
    lines = [
        spread(
            [(f"revision {revision['id']}", "title"), (f"  by {clean(revision.get('author') or '-')}", "")],
            [(clean(revision.get("state")), _STATES.get(str(revision.get("state")), ("", ""))[1])],
            width,
        )
    ]
    for text, role in ((revision.get("reason"), ""), (revision.get("error"), "bad")):
        if text:
            lines += [[(part, role)] for part in wrap(clean(text), width)]
    diff: Json = {"models": (), **(revision.get("diff") or {})}
    told, kept = told_apart(diff)
    for model in told:
        lines += [[], *_model_diff(model, width)]
    if kept:
        text = kept_text(kept, tense_of(str(revision.get("state"))))
        lines += [[], *([(one, "dim")] for one in wrap(clean(text), width))]
    if not diff["models"]:
        lines += [[], [("nothing was changed", "dim")]]
    return lines


def _model_diff(model: Mapping[str, Any], width: int) -> list[Line]:
    """What a plan does to a model, coloured by what that is."""
    name, *counts = head_lines(model, width=width)
    lines: list[Line] = [
        [(cut(clean(name), width), "bold")],
        *([(cut(line, width), "dim")] for line in counts),
    ]
    for row in planned_rows(model):
        sign, role = _SIGNS[row.action]
        lines.append([(f"{sign} ", role), (clean(row.version), "bold")])
        lines += [[("    " + line, role)] for part in row.parts for line in wrap(clean(part), width - 4)]
    return lines
