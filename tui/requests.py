"""The screen of requests: the log as a table that stays where it is while rows arrive, and the chosen one in
full beside it. Owns what is chosen; the rows come from the feed, those of the past page by page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Final

from textual import events
from textual.binding import Binding, BindingType
from textual.worker import WorkType

from mdslite import errors, log_calls
from mdslite.tui.canvas import Pane
from mdslite.tui.clean import clean
from mdslite.tui.curl import curl_line
from mdslite.tui.lines import Line, beside, bottom, cut, fill, sided
from mdslite.tui.logbook import Logbook
from mdslite.tui.lookup import Lookup
from mdslite.tui.messages import whole_pane
from mdslite.tui.panel import Found, Looks, panel_lines
from mdslite.tui.snapshot import Json, Snapshot
from mdslite.tui.sources import log_filter
from mdslite.tui.summary import summary_lines
from mdslite.tui.table import HEAD_ROWS, table_lines, version_roles
from mdslite.tui.wheel import Wheeled

_WIDE: Final = 104  # from here on the panel has room beside the table
_PANEL: Final = 60  # at most
_PAGE: Final = 200  # rows of the past that are asked for at once
_TAKEN_S: Final = 2.0  # how long a key may wait for the row that it is about
_NONE_CHOSEN: Final = "no row is chosen: ↓ chooses one"
_CALM_S: Final = 0.1  # how long a row is chosen before what belongs to it is asked for


class Requests(Wheeled, Pane):
    title = "Requests"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open"),
        Binding("f,home,g", "follow", "follow"),
        Binding("y", "copy_curl", "copy curl"),
        Binding("Y", "copy_row", "copy as JSON", show=False),
        Binding("l", "label", "label"),
        Binding("L", "queue", "label what waits", show=False),
        Binding("r", "replay", "replay"),
        Binding("x", "export", "export", show=False),
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup,ctrl+b", "page(-1)", "page up", show=False),
        Binding("pagedown,ctrl+f,space", "page(1)", "page down, into the past", show=False),
        Binding("end,G", "last", "the oldest row that is held", show=False),
        Binding("n", "instance(1)", "next instance of the request", show=False),
        Binding("N", "instance(-1)", "the one before", show=False),
        Binding("i", "numbers", "picture or numbers", show=False),
        Binding("left", "scroll(-5)", "panel up", show=False),
        Binding("right", "scroll(5)", "panel down", show=False),
        Binding("m", "narrow('model')", "only this model", show=False),
        Binding("v", "narrow('version')", "only this version", show=False),
        Binding("s", "narrow('status')", "only this status", show=False),
        Binding("c", "narrow('client')", "only this client", show=False),
    ]
    MOUSE = (
        ("click", "choose a row; twice opens it"),
        ("wheel", "the log, or the request"),
    )

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.book = Logbook()
        self.lookup = Lookup()
        self.found: Found | None = None
        self.opened = False  # the panel in the table's place, where both have no room
        self.looks = Looks()
        self._scroll = 0
        self._trail: list[tuple[str, Logbook]] = []  # filters before each narrowing to the row, and the rows
        self._turned: str | None = None  # the filter that the rows of `book` are of already
        self._absorbed: list[Json] | None = None
        self._missed = 0
        self._key: tuple[Any, ...] = ()
        self._stale: list[Json] | None = None  # rows of the filter before
        self._asking = False
        self._rows_high = 10

    # What is seen

    def caption(self, snapshot: Snapshot) -> str:
        above = self.book.above()
        more = f"{above:,} newer ↑ " if above and not self.book.follows else ""
        return more + ("following" if self.book.follows else f"{len(self.book):,} rows held")

    def lines(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        said = whole_pane(width - 2, snapshot) if snapshot.rows is None else None
        if said is not None:
            return [*sided(fill(said, width - 2, height - 1), width), bottom(width)]
        self._absorb(snapshot)
        inner = width - 2
        panel = _panel_width(width)
        if self.opened and not panel:
            alone = self._panel(inner - 2, height - 1, snapshot)
            return self._boxed([[(" ", ""), *line] for line in alone], width, height)
        table = self._table(inner - (panel + 3 if panel else 0), height - 1, snapshot)
        if panel:
            side = [[("│ ", "frame"), *line] for line in self._panel(panel, height - 1, snapshot)]
            side += [[("│", "frame")]] * (height - 1 - len(side))
            table = beside(fill(table, inner - panel - 3, height - 1), side, width=inner - panel - 3, gap=1)
        return self._boxed(table, width, height)

    def _boxed(self, lines: list[Line], width: int, height: int) -> list[Line]:
        return [*sided(fill(lines, width - 2, height - 1), width), bottom(width)]

    def _table(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        self._rows_high = max(1, height - HEAD_ROWS)
        rows = self.book.seen(self._rows_high)
        return table_lines(rows, snapshot, width, chosen=self.book.chosen, follows=self.book.follows)

    def _panel(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        row = self.book.row()
        if row is None or (self.book.follows and not self.opened):
            return summary_lines(snapshot, self.book.seen(1000), width, height)
        found = self.found if self.found is not None and self.found.row["id"] == row["id"] else Found(row)
        looks = replace(
            self.looks,
            colour=self.dash.ink.colours,
            ascii=self.dash.ink.ascii,
            roles=version_roles(snapshot.models),
        )
        lines = panel_lines(found, width, looks)
        self._scroll = max(0, min(self._scroll, len(lines) - height))
        shown = lines[self._scroll : self._scroll + height]
        if self._scroll + height < len(lines) and shown:
            shown[-1] = [("→ more", "dim")]
        return shown

    def _absorb(self, snapshot: Snapshot) -> None:
        """Take in what the feed has read since the last time."""
        view = snapshot.view
        key = (view.filter, view.moment, view.brush, snapshot.restarts)
        if key != self._key:
            if self._key:
                self._stale = snapshot.rows
            before, self._key = self._key, key
            self._absorbed = None
            if view.filter != self._turned or key[1:] != before[1:]:
                self.found = None
                self._trail.clear()
                self.book.clear()
            self._turned = None
        rows = snapshot.rows
        if rows is None or rows is self._absorbed or rows is self._stale:
            return
        if snapshot.rows_filter not in (None, log_filter(view)):  # of what was looked at before
            return
        self._stale = None
        self.book.absorb(rows, hole=snapshot.missed > self._missed)
        self._absorbed, self._missed = rows, snapshot.missed

    # What the keys do

    def shown(self) -> None:
        self._look_up()

    def dismiss(self) -> bool:
        if self.opened:
            self.opened = False
            return True
        if self._trail:
            before, book = self._trail.pop()
            self._turn(before, book)
            return True
        if not self.book.follows:
            self.action_follow()
            return True
        return False

    def action_move(self, steps: int) -> None:
        if self.opened and not self._has_panel():
            self.action_scroll(steps)
            return
        self.book.choose(steps, self._rows_high)
        self._chosen()

    def action_page(self, pages: int) -> None:
        self.action_move(pages * max(1, self._rows_high - 1))

    def action_last(self) -> None:
        self.book.to_end(self._rows_high)
        self._chosen()

    def action_follow(self) -> None:
        self.opened = False
        if self.book.follow():
            self._absorbed = None
        self.found = None
        self.dash.repaint()

    def action_open(self) -> None:
        if self.book.follows:
            self.book.choose(1, self._rows_high)
        self.opened = not self.opened or self._has_panel()
        self._chosen()

    def action_scroll(self, lines: int) -> None:
        self._scroll += lines
        self.dash.repaint()

    def action_instance(self, steps: int) -> None:
        self.looks = replace(self.looks, place=self.looks.place + steps)
        self.dash.repaint()

    def action_numbers(self) -> None:
        self.looks = replace(self.looks, numbers=not self.looks.numbers)
        self.dash.repaint()

    def action_narrow(self, field: str) -> None:
        """Add what the chosen row has in a field to the filter."""
        row = self.book.row()
        if row is None:
            self.dash.say(_NONE_CHOSEN, "warn")
            return
        value = row.get(field)
        if value is None:
            self.dash.say(f"this row has no {field}", "warn")
            return
        text = str(value)
        quoted = text if text.replace("-", "").replace("_", "").isalnum() else f'"{text}"'
        before, term = self.dash.view.filter, f"{field}={quoted}"
        if term in before.split():
            self.dash.say(f"these are all of {term}", "warn")
            return
        self._trail.append((before, self.book))
        self._turn(f"{before} {term}".strip(), self.book.narrowed(lambda one: one.get(field) == value))

    def _turn(self, filter: str, book: Logbook) -> None:
        """Look through another filter, at rows of it that are there."""
        self.book, self._turned = book, filter
        self.dash.look(filter=filter)
        self._absorb(self.dash.snapshot)
        self._chosen()

    async def action_copy_curl(self) -> None:
        def copy(row: Json) -> None:
            status = self.dash.snapshot.status or {}
            line = curl_line(row, self.dash.snapshot.connection.url, token=bool(status.get("needs_token")))
            self.dash.copy_to_clipboard(line)
            self.dash.say(f"copied: {cut(clean(line), 200)}", "good")

        await self._take(copy)

    async def action_copy_row(self) -> None:
        import json

        def copy(row: Json) -> None:
            self.dash.copy_to_clipboard(json.dumps(row))
            self.dash.say("copied the row as JSON", "good")

        await self._take(copy)

    async def action_label(self) -> None:
        from mdslite.tui.labeling import label_row

        def label(row: Json) -> None:
            label_row(self.dash, row, partial(self._anew, row))

        await self._take(label)

    def action_queue(self) -> None:
        from mdslite.tui.labeling import label_queue

        label_queue(self.dash)

    async def action_replay(self) -> None:
        from mdslite.tui.replaying import replay_row

        await self._take(partial(replay_row, self.dash))

    def action_export(self) -> None:
        from mdslite.tui.exporting import export_rows

        export_rows(self.dash)

    def on_click(self, event: events.Click) -> None:
        """Choose the row that was clicked; a second time, open it."""
        line = event.y - HEAD_ROWS
        if self._over_panel(event.x) or not 0 <= line < self._rows_high:
            return
        self.book.point(line)
        self._chosen()
        if event.chain > 1:
            self.action_open()

    def wheel(self, event: events.MouseEvent, steps: int) -> None:
        if self._over_panel(event.x):
            self.action_scroll(3 * steps)
        else:
            self.action_move(3 * steps)

    def _over_panel(self, x: int) -> bool:
        return self.opened if not self._has_panel() else x >= self.size.width - _panel_width(self.size.width)

    async def _take(self, use: Callable[[Json], None]) -> None:
        """Hand the chosen row over, with its bodies. Keys wait meanwhile, as what is typed
        for a dialog must not go elsewhere because that is not there yet."""
        row = self.book.row()
        if row is None:
            self.dash.say(_NONE_CHOSEN, "warn")
            return
        try:
            async with asyncio.timeout(_TAKEN_S):
                found = await self.lookup.find(self.dash.feed, row)
        except TimeoutError:
            url = self.dash.snapshot.connection.url
            found = Found(row, note=f"{url} gave no answer within {_TAKEN_S:g} s")
        if found.note:
            self.dash.say(clean(found.note), "bad")
        else:
            use(dict(found.row))

    def _anew(self, row: Json) -> None:
        """What belongs to a row may have changed: ask for it again."""
        self.lookup.forget(row["id"])
        if self.found is not None and self.found.row["id"] == row["id"]:
            self.found = replace(self.found, related=None)
            self._look_up()

    def _begin(self, name: str, work: WorkType[None]) -> None:
        """Do it instead of what was begun under the same name."""
        self.run_worker(work, name=name, group=name, exclusive=True)

    def _has_panel(self) -> bool:
        return self.size.width >= _WIDE

    def _chosen(self) -> None:
        """Another row may have been chosen: show it, and ask for what belongs to it and what comes next."""
        row = self.book.row()
        if row is not None and (self.found is None or self.found.row["id"] != row["id"]):
            self._scroll = 0
            self.looks = replace(self.looks, place=0)
            self.found = self.lookup.known(row)
        self.dash.repaint()
        self._look_up()
        if not self.book.follows and not self._asking and self.book.wants_older(self._rows_high):
            self._asking = True
            self.run_worker(self._ask_older(), name="older", exit_on_error=False)

    def _look_up(self) -> None:
        if self.found is not None and self.found.related is None and not self.book.follows:
            self._begin("lookup", self._find)

    async def _find(self) -> None:
        await asyncio.sleep(_CALM_S)
        row = self.book.row()
        if row is None:
            return
        found = await self.lookup.find(self.dash.feed, row)
        now = self.book.row()
        if now is not None and now["id"] == row["id"]:
            self.found = found
            self.dash.repaint()

    async def _ask_older(self) -> None:
        key, before = self._key, self.book.oldest
        try:
            page = await self.dash.feed.ask(
                log_calls.logs(log_filter(self.dash.view), limit=_PAGE, before=before, bodies=False)
            )
        except errors.MdsliteError as exc:
            self.dash.say(clean(exc.message), "bad")
        else:
            if key == self._key and before == self.book.oldest:
                self.book.extend(page["rows"], ended=page.get("next") is None)
        finally:
            self._asking = False
            self.dash.repaint()
            if key != self._key:  # that page was of another filter
                self._chosen()


def _panel_width(width: int) -> int:
    """Columns of the panel beside the table, 0 where there is no room for it."""
    return min(_PANEL, (width - 2) * 3 // 8) if width >= _WIDE else 0
