"""The box that asks what the answer to a request should have been: for a row of the log, or for one after
another of those that wait. Keeps what was said by the appliance's API, and can take the last one back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input

from mdslite import errors, label_calls
from mdslite.contents import Content, read_content
from mdslite.tui import figures
from mdslite.tui.clean import clean
from mdslite.tui.dialogs import Body, Dialog
from mdslite.tui.lines import Line, cut
from mdslite.tui.panel import Looks, content_lines
from mdslite.tui.snapshot import Json

if TYPE_CHECKING:
    from mdslite.tui.app import DashApp

_PAGE: Final = 50
_INPUT_ROWS: Final = 10
_REASONS: Final = {
    "confidence": "the model was not sure",
    "disagreement": "a shadow answered otherwise",
    "random": "chosen at random",
    "chosen": "chosen by you",
}


def label_row(app: DashApp, row: Json, done: Callable[[], None]) -> None:
    """Ask for the label of one row of the log; `done` is called when that is over."""
    if not app.may_change():
        return
    if row.get("model") is None:
        app.say("this request reached no model: there is nothing to label", "warn")
        return
    item = {
        "id": row["id"],
        "model": f"{row.get('project')}/{row['model']}",
        "version": row.get("version"),
        "confidence": row.get("confidence"),
        "reason": "chosen",
        "content": read_content(row.get("request")),
        "answer": _answer_of(row),
        "other": None,
    }
    app.push_screen(LabelDialog([item], _labels_of(row)), lambda _: done())


def label_queue(app: DashApp, model: str = "") -> None:
    """Go through what waits for a label, of one `PROJECT/MODEL` or of all."""
    if app.may_change():
        project, _, name = model.partition("/")
        app.push_screen(LabelDialog([], (), queue=(project or None, name or None)))


class LabelDialog(Dialog):
    """`queue` (PROJECT, MODEL) says where more items come from."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "say", "keep", priority=True),
        Binding("tab", "complete", "complete", priority=True),
        Binding("ctrl+n", "skip", "skip", priority=True),
        Binding("ctrl+z", "undo", "take the last one back", priority=True),
    ]

    def __init__(
        self,
        items: Sequence[Json],
        classes: Sequence[str],
        *,
        queue: tuple[str | None, str | None] | None = None,
    ) -> None:
        super().__init__()
        self._items = list(items)
        self._known = list(classes)
        self._queue = queue
        self._at = 0
        self._waiting = len(items)
        self._said: list[tuple[int, str]] = []
        self._next: int | None = None
        self._told = ""
        self.stage = "planning" if queue is not None else "ready"

    def compose(self) -> ComposeResult:
        with Vertical(id="box"):
            yield Body()
            yield Input(placeholder="label", select_on_focus=False)

    def on_mount(self) -> None:
        super().on_mount()
        if self._queue is not None:
            self.run_worker(self._ask_queue(), name="label queue", exclusive=True)

    @property
    def item(self) -> Json | None:
        return self._items[self._at] if self._at < len(self._items) else None

    def text(self, width: int) -> list[Line]:
        head: list[Line] = [[("What should the answer have been?", "title"), (f"  {self._told}", "good")], []]
        if self.stage == "planning":
            return [*head, [("◌ asking what waits for a label", "warn")]]
        item = self.item
        if item is None:
            return [*head, *self.said(width), *self._end()]
        sure = (
            f", {figures.confidence(item['confidence'])} sure" if item.get("confidence") is not None else ""
        )
        lines: list[Line] = [
            *head,
            [
                (clean(f"{item['model']} {item['version']}"), "bold"),
                (f"  {_REASONS.get(str(item['reason']), '')}", "dim"),
                (f"  {self._waiting:,} wait" if self._queue is not None else "", "dim"),
            ],
        ]
        looks = Looks(colour=self.dash.ink.colours, ascii=self.dash.ink.ascii)
        lines += content_lines(item["content"], width, looks, rows=_INPUT_ROWS)[: _INPUT_ROWS + 4]
        answer = item.get("answer")
        lines += [
            [],
            [("it said ", "dim"), (cut(clean(answer or figures.NONE), width - 20), "bold"), (sure, "dim")],
        ]
        if item.get("other"):
            lines.append([("another said ", "dim"), (cut(clean(item["other"]), width - 20), "shadow")])
        if self._known:
            lines.append([("labels: " + cut(clean("  ".join(self._known)), width - 10), "dim")])
        return [*lines, *self.said(width), *self._keys(answer)]

    def redraw(self) -> None:
        for field in self.query(Input):
            field.display = self.stage == "planning" or self.item is not None
        super().redraw()

    def _keys(self, answer: str | None) -> list[Line]:
        typed = self.query_one(Input).value.strip() if self.query(Input) else ""
        label = typed or answer
        what = f" keeps “{cut(clean(label), 24)}”" if label else " keeps what is typed"
        keys: Line = [("↵", "key"), (what, "bold")]
        if self._queue is not None:
            keys += [("   ^n", "key"), (" skips", "dim")]
        if self._said:
            keys += [("   ^z", "key"), (" takes the last one back", "dim")]
        return [[], [*keys, ("   esc", "key"), (" closes", "dim")]]

    def _end(self) -> list[Line]:
        done = f"{len(self._said)} labelled" if self._said else "nothing waits for a label"
        keys: Line = [("esc", "key"), (" closes", "dim")]
        if self._said:
            keys += [("   ^z", "key"), (" takes the last one back", "dim")]
        return [[("✓ " if self._said else "○ ", "good"), (done, "bold")], [], keys]

    @on(Input.Changed)
    def _changed(self) -> None:
        self.failure = None
        self.redraw()

    def action_complete(self) -> None:
        """The next of the known labels that begin like what was typed."""
        line = self.query_one(Input)
        if line.value in self._known:
            at = self._known.index(line.value)
            line.value = self._known[(at + 1) % len(self._known)]
        else:
            line.value = next((one for one in self._known if one.startswith(line.value)), line.value)
        line.cursor_position = len(line.value)

    def action_say(self) -> None:
        item = self.item
        if item is None:
            self.dismiss(None)
            return
        label = self.query_one(Input).value.strip() or str(item.get("answer") or "")
        if label and self.stage == "ready":
            self.stage = "doing"
            self.run_worker(self._put(item["id"], label), name="label", exclusive=True)

    def action_skip(self) -> None:
        self._go_on("")

    def action_undo(self) -> None:
        if self._said and self.stage != "doing":
            self.stage = "doing"
            self.run_worker(self._take_back(), name="label", exclusive=True)

    async def _put(self, number: int, label: str) -> None:
        try:
            await self.dash.feed.ask(label_calls.put_label(number, label, author=self.dash.author))
        except errors.MdsliteError as exc:
            self.failure, self.stage = exc, "ready"
            self.redraw()
            return
        self._said.append((number, label))
        self._waiting = max(0, self._waiting - 1)
        if label not in self._known:
            self._known.append(label)
        self._go_on(f"✓ {cut(clean(label), 30)}")

    async def _take_back(self) -> None:
        number, label = self._said[-1]
        try:
            await self.dash.feed.ask(label_calls.undo_label(number, author=self.dash.author))
        except errors.MdsliteError as exc:
            self.failure = exc
        else:
            self._said.pop()
            self._waiting += 1
            self._at = next((at for at, one in enumerate(self._items) if one["id"] == number), self._at)
            self._told = f"{cut(clean(label), 30)} taken back"
        self.stage = "ready"
        self.redraw()

    def _go_on(self, told: str) -> None:
        self._told = told
        self._at += 1
        self.stage = "ready"
        self.query_one(Input).value = ""
        self.redraw()
        if self.item is None and self._queue is not None and self._next is not None:
            self.stage = "planning"
            self.run_worker(self._ask_queue(), name="label queue", exclusive=True)

    async def _ask_queue(self) -> None:
        project, model = self._queue or (None, None)
        try:
            page = await self.dash.feed.ask(
                label_calls.label_queue(project, model, limit=_PAGE, before=self._next)
            )
        except errors.MdsliteError as exc:
            self.failure = exc
        else:
            self._items += [_item(one) for one in page["items"]]
            self._waiting, self._next = page["waiting"], page.get("next")
            self._known += [one for one in page.get("classes") or () if one not in self._known]
        self.stage = "ready"
        self.redraw()


def _item(told: Json) -> Json:
    """An item of the queue, as the box shows it."""
    other = told.get("other") or {}
    return {
        "id": told["id"],
        "model": f"{told['project']}/{told['model']}",
        "version": told["version"],
        "confidence": told.get("confidence"),
        "reason": told.get("reason"),
        "content": _content(told),
        "answer": told.get("answer"),
        "other": f"{other.get('version')}: {other.get('answer')}"
        if other.get("answer") is not None
        else None,
    }


def _content(told: Json) -> Content:
    """The instance that was asked about, or, where there is none, the whole body."""
    if told.get("input") is None:
        return read_content(told.get("request"))
    text = json.dumps({"instances": [told["input"]]})
    return read_content({"content": text, "encoding": "utf-8"})


def _answer_of(row: Json) -> str | None:
    value: Any = read_content(row.get("reply")).value
    if isinstance(value, dict):
        value = next(
            (value[name] for name in ("label", "class", "prediction", "answer") if name in value), None
        )
    return str(value) if isinstance(value, str | int | float) else None


def _labels_of(row: Json) -> Sequence[str]:
    label = (row.get("label") or {}).get("label") if isinstance(row.get("label"), dict) else None
    return [label] if label else []
