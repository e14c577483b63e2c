"""The dialog of a change that can be planned: the plan is shown, applied when that is said, and what became
of it stays to be read. Knows requests and replies, and no model.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input

from mdslite import calls, errors
from mdslite.asks import Lines
from mdslite.planning import as_planned, kept_text, model_lines, told_apart, under_way
from mdslite.replies import error_from
from mdslite.tui import figures
from mdslite.tui.clean import clean
from mdslite.tui.dialogs import CLOSES, Body, Dialog
from mdslite.tui.lines import Line, cut
from mdslite.tui.snapshot import Json
from mdslite.tui.wrapping import wrap

_ROLES = {"ADD": "good", "UPDATE": "warn", "DELETE": "bad"}


class PlanDialog(Dialog):
    """Plans a change, shows the plan, applies it when it is told to, and tells how that went. Where something
    is deleted, a word has to be typed first. `again` makes the body anew when the one before was refused."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "go", "apply", priority=True),
        Binding("u", "undo", "undo", priority=True, show=False),
    ]

    def __init__(
        self,
        heading: str,
        body: Mapping[str, Any],
        *,
        reason: str = "",
        again: Callable[[], Awaitable[Mapping[str, Any]]] | None = None,
    ) -> None:
        super().__init__()
        self._again = again
        self.heading = heading
        self.stage = "planning"
        self._body = dict(body)
        self._reason = reason
        self._typed: str | None = None
        self._refused_word: str | None = None
        self._plan: Json | None = None
        self._progress: list[str] = []
        self._passing: str | None = None  # what is fetched or installed
        self._result: Json | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="box"):
            yield Body()
            yield Input()

    def on_mount(self) -> None:
        super().on_mount()
        self._hide_field()
        self.run_worker(self._make_plan(), exclusive=True)

    @on(Input.Changed)
    def _changed(self) -> None:
        self._refused_word = None
        self.redraw()

    def text(self, width: int) -> list[Line]:
        return self.head(width) + {
            "planning": self._planning,
            "ready": self._ready,
            "doing": self._doing,
            "done": self._done,
            "refused": self._refused,
            "asking": self._planning,
        }[self.stage](width)

    def _planning(self, width: int) -> list[Line]:
        return [[("◌ planning: nothing is changed yet", "warn")], *self._told(width)]

    def _ready(self, width: int) -> list[Line]:
        lines = plan_lines(self._plan, width)
        if self._plan is not None and not self._plan["changed"]:
            return [
                *lines,
                [],
                [("= nothing would change", "good")],
                [],
                CLOSES,
            ]
        if not self._confirmed():
            lines += [[], *_marked("!", f"this deletes: type {clean(self._typed)}, then Enter", width)]
            if self._refused_word is not None:
                lines += _marked("✖", _mismatch(self._refused_word, str(self._typed)), width)
            return [
                *lines,
                [("esc", "key"), (" leaves it as it is", "dim")],
            ]
        keys: Line = [("↵", "key"), (" applies   ", "bold"), ("esc", "key"), (" leaves it as it is", "dim")]
        return [*lines, [], keys]

    def _doing(self, width: int) -> list[Line]:
        done: list[Line] = [[(clean(one), "")] for one in self._progress]
        return [*done, [("◌ applying; it goes on when this is closed", "warn")], *self._told(width)]

    def _told(self, width: int) -> list[Line]:
        """What is under way, where that takes long."""
        return [[(line, "dim")] for line in wrap(clean(self._passing), width)] if self._passing else []

    def _done(self, width: int) -> list[Line]:
        result = self._result or {}
        lines: list[Line] = [[(clean(one), "")] for one in self._progress]
        if result.get("state") == "unchanged":
            return [*lines, [("= nothing had to change", "good")], [], CLOSES]
        text = f"✓ revision {result.get('revision')} in {figures.span_of(result.get('seconds'))}"
        return [
            *lines,
            [(text, "good")],
            [],
            [("u", "key"), (" undoes it   ", "dim"), ("esc", "key"), (" closes", "dim")],
        ]

    def _refused(self, width: int) -> list[Line]:
        lines: list[Line] = [[(clean(one), "")] for one in self._progress]
        kept: Line = [("what served before still serves", "dim")]
        again: Line = [("↵", "key"), (" plans it again, as it is by then   ", "bold")]
        return [*lines, *self.said(width), [], kept, [*(again if self._again is not None else []), *CLOSES]]

    def _confirmed(self) -> bool:
        return self._typed is None or self.query_one(Input).value.strip() == self._typed

    async def _plan_again(self, make: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        self.failure, self.stage, self._progress = None, "planning", []
        self.redraw()
        try:
            self._body = dict(await make())
        except errors.MdsliteError as exc:
            self.failure, self.stage = exc, "refused"
            self.redraw()
            return
        await self._make_plan()

    async def _make_plan(self) -> None:
        try:
            made = await self._follow(calls.follow_plan(self._body))
            if made["event"] == "result":
                raise error_from(made)
            self._plan = made
            self._typed, self.stage = word_for(self._plan), "ready"
            self._ask_for_the_word()
        except errors.MdsliteError as exc:
            self.failure, self.stage = exc, "refused"
        self.redraw()

    def _hide_field(self) -> None:
        self.query_one(Input).display = False
        self.set_focus(None)  # or it would go on taking the keys

    def _ask_for_the_word(self) -> None:
        if self._typed is not None:
            field = self.query_one(Input)
            field.placeholder = f"type {self._typed} to confirm"
            field.display = True
            field.focus()

    def action_go(self) -> None:
        if self.stage == "refused" and self._again is not None:
            self.run_worker(self._plan_again(self._again), exclusive=True)
        elif self.stage in ("done", "refused"):
            self.dismiss(None)
        elif self.stage == "ready" and self._plan is not None:
            if not self._plan["changed"]:
                self.dismiss(None)
            elif not self._confirmed():
                self._refused_word = self.query_one(Input).value.strip()
                self.redraw()
            elif self.dash.may_change():
                self.stage = "doing"
                self._hide_field()
                self.redraw()
                self.run_worker(self._apply(self._plan), exclusive=True)

    async def _apply(self, plan: Json) -> None:
        body = {**as_planned(self._body, plan), "author": self.dash.author}
        if self._reason:
            body["reason"] = self._reason
        try:
            self._result = await self._follow(calls.apply(body))
            if self._result["state"] == "failed":
                raise error_from(self._result)
            self.stage = "done"
        except errors.MdsliteError as exc:
            self.failure, self.stage = exc, "refused"
        self.dash.feed.hurry()
        self.redraw()

    async def _follow(self, lines: Lines[Json]) -> Json:
        """Show what is told, and return the last of it.

        :raises Unavailable: there is none
        """
        try:
            async with self.dash.feed.read(lines) as told:
                async for event in told:
                    if event.get("event") in ("plan", "result"):
                        return event
                    self._hear(event)
        finally:
            self._passing = None
        raise errors.Unavailable(
            "the appliance ended its answer before it was complete", hint="4 lists what was applied"
        )

    def _hear(self, event: Mapping[str, Any]) -> None:
        self._passing = under_way(event)
        if event.get("event") == "step":
            name = f"{event['project']}/{event['model']} {event['version']}"
            line = f"({event['index']}/{event['count']}) {name} ... "
            if self._progress and self._progress[-1] == line:
                self._progress.pop()
            self._progress.append(line if event["state"] == "START" else line + str(event["state"]))
        self.redraw()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "undo":
            return self.stage == "done" and (self._result or {}).get("state") == "applied"
        return super().check_action(action, parameters)

    def action_undo(self) -> None:
        back = PlanDialog("Undo it", {"revision": "previous"}, reason="undone in the dashboard")
        self.app.switch_screen(back)


def _marked(sign: str, text: str, width: int) -> list[Line]:
    """A text behind its sign, in as many lines as it takes."""
    found = wrap(text, width - 2)
    return [[(f"{' ' if at else sign} ", "bad"), (line, "bold")] for at, line in enumerate(found)]


def _mismatch(typed: str, wanted: str) -> str:
    if not typed:
        return "nothing was typed: nothing is deleted"
    return f"“{clean(typed)}” is not {clean(wanted)}: nothing is deleted"


def word_for(plan: Json) -> str | None:
    """What has to be typed before a plan that deletes: the name of what is deleted, or how many they are."""
    names = [
        f"{model['model']}@{step['version']}"
        for model in plan["models"]
        for step in model["steps"]
        if step["action"] == "DELETE"
    ]
    return None if not names else names[0] if len(names) == 1 else f"delete {len(names)}"


def plan_lines(plan: Json | None, width: int) -> list[Line]:
    """A plan as `mdslite apply` prints it, each action in its own colour and with its own sign."""
    lines: list[Line] = []
    told, kept = told_apart(plan) if plan is not None else ([], [])
    for model in told:
        name, counts, *table = model_lines(model, width=width)
        lines += [[]] if lines else []
        lines += [*([(one, "bold")] for one in wrap(clean(name), width)), [(cut(counts, width), "")]]
        role = ""
        for text in table:
            role = _ROLES.get(text[2:].partition(" ")[0], role)  # which a line that goes on has as well
            lines.append([(clean(text), role)])
    if kept:
        lines += [[]] if lines else []
        lines += [[(one, "dim")] for one in wrap(clean(kept_text(kept, "will")), width)]
    return lines
