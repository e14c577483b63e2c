"""The dialog of what has no plan: it says what it will do, does it when
that is said, and tells what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from textual import events

from mdslite import asks, errors
from mdslite.tui.clean import clean
from mdslite.tui.dialogs import CLOSES, LEAVES, Dialog
from mdslite.tui.lines import Line
from mdslite.tui.wrapping import wrap


class DeedDialog(Dialog):
    """Does something that has no plan: says what it will do, does it when it is told to, tells what came of
    it. `choices` are keys with what each does."""

    def __init__(self, heading: str, effect: Sequence[Line], choices: Mapping[str, Deed]) -> None:
        super().__init__()
        self.heading = heading
        self.stage = "ready"
        self._effect = list(effect)
        self._choices = dict(choices)
        self._outcome = ""
        self._chosen: Deed | None = None

    def text(self, width: int) -> list[Line]:
        head = self.head(width)
        if self.stage == "done":  # what was so before is so no more
            return [*head, [("✓ " + self._outcome, "good")], [], CLOSES]
        lines = [*head, *self._effect]
        if self.stage == "ready":
            for key, deed in self._choices.items():
                sign = "↵" if key == "enter" else key
                told = wrap(deed.effect, width - 14)
                lines += [[], [(f"{sign:>2} ", "key"), (f"{deed.name:<10} ", "bold"), (told[0], "")]]
                lines += [[(" " * 14 + text, "")] for text in told[1:]]
            return [*lines, [], LEAVES]
        if self.stage == "doing":
            return [*lines, [], [(f"◌ {self._chosen.name if self._chosen else ''} ...", "warn")]]
        return [*lines, [], *self.said(width), [], CLOSES]

    def on_key(self, event: events.Key) -> None:
        if self.stage in ("done", "refused") and event.key == "enter":
            self.dismiss(None)
        deed = self._choices.get(event.key)
        if self.stage == "ready" and deed is not None and self.dash.may_change():
            event.stop()
            self.stage, self._chosen = "doing", deed
            self.redraw()
            self.run_worker(self._carry_out(deed), exclusive=True)

    async def _carry_out(self, deed: Deed) -> None:
        try:
            found = await self.dash.feed.ask(deed.ask)
            self._outcome, self.stage = clean(deed.tell(found)), "done"
        except errors.MdsliteError as exc:
            self.failure, self.stage = exc, "refused"
        self.dash.feed.hurry()
        self.redraw()


class Deed:
    """One thing that a `DeedDialog` may do: its name, what it will do in words, the request, and what its
    reply means."""

    def __init__(self, name: str, effect: str, ask: asks.Ask[Any], tell: Callable[[Any], str]) -> None:
        self.name = name
        self.effect = effect
        self.ask = ask
        self.tell = tell
