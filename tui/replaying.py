"""The box that asks a version once more: the chosen request, shown beside the answer of before, or all that a
filter finds, with how far that is and what it came to.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from textual.binding import Binding, BindingType

from mdslite import calls, errors, label_calls, log_calls
from mdslite.errors import InvalidRequest
from mdslite.tui import figures
from mdslite.tui.clean import clean
from mdslite.tui.dialogs import AskDialog, Dialog
from mdslite.tui.lines import Line, cut
from mdslite.tui.panel import Looks, comparison_lines
from mdslite.tui.snapshot import Json

if TYPE_CHECKING:
    from mdslite.tui.app import DashApp

_LOOK_S: Final = 0.5
_LIMIT: Final = 10_000  # requests of one replay
_OVER: Final = ("done", "cancelled", "failed", "interrupted")


@dataclass(frozen=True, slots=True)
class Wish:
    """`many` asks for all that the filter finds, `rate` how fast."""

    version: str
    many: bool = False
    rate: str | None = None


def parse_wish(text: str, known: list[str]) -> Wish:
    """`v2`, `v2 all`, `v2 all 2x`, `v2 all 50/s`.

    :raises InvalidRequest: it is none of these, or names no version of the model
    """
    words = text.split()
    there = ", ".join(known)
    if not words:
        raise InvalidRequest(f"expected a version: {there}")
    if words[0] not in known:
        raise InvalidRequest(f"{words[0]!r} is no version of the model: there are {there}")
    if len(words) == 1:
        return Wish(words[0])
    if words[1] != "all" or len(words) > 3:
        raise InvalidRequest("expected VERSION, or VERSION all, and maybe a rate such as 2x or 50/s")
    return Wish(words[0], True, words[2] if len(words) == 3 else None)


def replay_row(app: DashApp, row: Json) -> None:
    """Ask on which version, and whether only this one request."""
    if not app.may_change():
        return
    project, model = str(row.get("project")), str(row.get("model"))
    known = [
        version["version"]
        for one in app.snapshot.models or ()
        if (one["project"], one["model"]) == (project, model)
        for version in one["versions"]
    ]
    if not known:
        app.say("this request reached no model that is deployed", "warn")
        return

    def explain(typed: str, width: int) -> list[Line]:
        try:
            wish = parse_wish(typed, known)
        except InvalidRequest as exc:
            return [[("· " + cut(clean(exc.message), width - 2), "dim")]]
        if not wish.many:
            return [
                [(f"sends this one request to {wish.version}; its answer is shown beside that of before", "")]
            ]
        what = clean(_filter_of(app, project, model))
        pace = f" at {clean(wish.rate)}" if wish.rate else ", as fast as the version has time for it"
        return [
            [(cut(f"sends what the log kept of {what}", width), "")],
            [(cut(f"to {wish.version}{pace}; live requests go first", width), "")],
        ]

    def submit(typed: str) -> Dialog:
        wish = parse_wish(typed, known)
        if wish.many:
            return ReplayDialog(_filter_of(app, project, model), project, model, wish)
        return AgainDialog(row, wish.version)

    other = next((one for one in reversed(known) if one != row.get("version")), known[0])
    heading = f"Replay on a version of {clean(project)}/{clean(model)}"
    app.push_screen(AskDialog(heading, other, explain, submit, label="VERSION, or VERSION all [2x, 50/s]:"))


@dataclass(frozen=True, slots=True)
class Counts:
    """Logged requests that pass the filter, and those of them with a kept body, be it the reply's; None: not
    known yet."""

    matched: int | None = None
    bodies: int | None = None


def count_filter(filter: str) -> str:
    """What a replay takes of what a filter finds: neither shadows' copies nor what replays sent, unless it
    asks for them."""
    own = {"shadow": "shadow=false", "client": 'client!~"replay:"'}
    terms = [term for name, term in own.items() if not re.search(rf"(?:^|\s){name}(?![\w.])", filter)]
    return " ".join([*terms, filter])


def count_line(counts: Counts, width: int) -> Line:
    """What there is to send, as far as it is known."""
    matched, bodies = counts.matched, counts.bodies
    if matched is None:
        return [("◌ counting", "warn")]
    if not matched:
        return [("no logged request matches: nothing would be sent", "warn")]
    if bodies is None:
        return [(f"{matched:,} logged requests; counting those with a body", "")]
    if not bodies:
        return [(cut(f"{matched:,} logged requests, none with a body: nothing would be sent", width), "warn")]
    most = f"; {_LIMIT:,} are sent at most" if bodies > _LIMIT else ""
    return [(cut(f"{matched:,} logged requests, up to {bodies:,} of them with a body{most}", width), "")]


class AgainDialog(Dialog):
    """Sends one request to a version, and shows both answers."""

    def __init__(self, row: Json, version: str) -> None:
        super().__init__()
        self._row = row
        self._version = version
        self._other: Json | None = None
        self.stage = "doing"

    def on_mount(self) -> None:
        super().on_mount()
        self.run_worker(self._send(), exclusive=True)

    def text(self, width: int) -> list[Line]:
        head: list[Line] = [[(f"Replay on {clean(self._version)}", "title")], []]
        close: list[Line] = [[], [("esc", "key"), (" closes", "dim")]]
        if self._other is not None:
            lines = comparison_lines(self._row, self._other, width, Looks(), heading="before and now")
            return [*head, *lines, *close]
        if self.failure is not None:
            return [*head, *self.said(width), *close]
        return [*head, [("◌ asking", "warn")]]

    async def _send(self) -> None:
        row, body = self._row, self._row.get("request") or {}
        try:
            if body.get("encoding") != "utf-8" or body.get("truncated"):
                raise InvalidRequest(
                    "the log kept no whole JSON body of this request: it cannot be sent again"
                )
            content = str(body["content"]).encode()
            reply = await self.dash.feed.ask(
                calls.predict(str(row["project"]), str(row["model"]), content, version=self._version)
            )
            text = reply.body.decode(errors="replace")
            took = reply.server_timing or ""
            self._other = {
                "version": reply.version or self._version,
                "status": 200,
                "latency_ms": _total_ms(took),
                "confidence": None,
                "reply": {
                    "content": text,
                    "encoding": "utf-8",
                    "size_bytes": len(reply.body),
                    "truncated": False,
                },
            }
            self.stage = "done"
        except errors.MdsliteError as exc:
            self.failure, self.stage = exc, "refused"
        self.redraw()


class ReplayDialog(Dialog):
    """Begins a replay when it is told to, and shows how far it is."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "go", "begin", priority=True),
        Binding("x", "cancel", "cancel the replay", show=False),
    ]

    def __init__(self, filter: str, project: str, model: str, wish: Wish) -> None:
        super().__init__()
        self._filter = filter
        self._model = (project, model)
        self._wish = wish
        self._told: Json = {}
        self._counts = Counts()
        self._uncounted = ""
        self.stage = "ready"

    def on_mount(self) -> None:
        super().on_mount()
        self.run_worker(self._count(), group="count")

    def text(self, width: int) -> list[Line]:
        lines: list[Line] = [
            [(f"Replay on {clean(self._wish.version)}", "title")],
            [],
            [("filter ", "dim"), (cut(clean(self._filter), width - 8), "")],
            [("pace   ", "dim"), (clean(self._wish.rate or "as there is time"), "")],
        ]
        if self.stage == "ready":
            lines += [[("sends  ", "dim"), *self._amount(width - 7)]]
            keys: Line = [("↵", "key"), (" begins   ", "bold"), ("esc", "key"), (" leaves it", "dim")]
            return [*lines, [], keys]
        return [*lines, [], *self._progress(width), *self.said(width), [], self._keys()]

    def _amount(self, width: int) -> Line:
        if self._uncounted:
            known = self._counts.matched
            what = "not counted" if known is None else f"{known:,} logged requests, bodies not counted"
            return [(cut(f"{what}: {self._uncounted}", width), "warn")]
        return count_line(self._counts, width)

    def _keys(self) -> Line:
        close: Line = [("esc", "key"), (" closes", "dim")]
        if self.stage == "doing":
            return [("x", "key"), (" cancels   ", "dim"), *close, ("; it goes on", "dim")]
        return close

    def _progress(self, width: int) -> list[Line]:
        told = self._told
        if not told:
            return []
        if told.get("state") == "done" and not told.get("matched"):
            return [[("no logged request matches: nothing was sent", "warn")]]
        sent, total = told.get("sent") or 0, told.get("total") or 0
        share = sent / total if total else 0.0
        lines: list[Line] = [
            [(f"{told.get('state')}  ", "bold"), (f"{sent:,} of {total:,} sent", "")],
            [(figures.bar(share, max(10, width - 4)), "bar")],
        ]
        for name in ("answered", "failed", "refused", "truncated"):
            if told.get(name):
                lines.append([(f"{name:<10}", "dim"), (f"{told[name]:,}", "bad" if name == "failed" else "")])
        if told.get("message"):
            lines.append([(cut(clean(told["message"]), width), "dim")])
        return lines + compared_lines(told.get("comparison"), width)

    def action_go(self) -> None:
        if self.stage == "ready" and self.dash.may_change():
            self.stage = "doing"
            self.run_worker(self._run(), exclusive=True)
        elif self.stage in ("done", "refused"):
            self.dismiss(None)

    async def action_cancel(self) -> None:
        if self.stage == "doing" and "id" in self._told:
            try:
                await self.dash.feed.ask(label_calls.cancel_replay(self._told["id"]))
            except errors.MdsliteError as exc:
                self.failure = exc
            self.redraw()

    async def _count(self) -> None:
        """Ask how many there are, and then, which takes longer, how many of them have a body."""
        wanted = count_filter(self._filter)
        try:
            found = await self.dash.feed.ask(log_calls.top("shadow", wanted, limit=1))
            self._counts = Counts(found["rows"])
            self.redraw()
            if found["rows"]:
                kept = await self.dash.feed.ask(log_calls.top("shadow", f'{wanted} text~""', limit=1))
                self._counts = Counts(found["rows"], kept["rows"])
        except errors.MdsliteError as exc:
            self._uncounted = clean(exc.message)
        self.redraw()

    async def _run(self) -> None:
        wish, (project, model) = self._wish, self._model
        try:
            self._told = await self.dash.feed.ask(
                label_calls.replay(
                    self._filter,
                    project,
                    model,
                    wish.version,
                    rate=wish.rate,
                    compare=True,
                    limit=_LIMIT,
                    author=self.dash.author,
                )
            )
            while self._told.get("state") not in _OVER:
                self.redraw()
                await asyncio.sleep(_LOOK_S)
                self._told = await self.dash.feed.ask(label_calls.replay_progress(self._told["id"]))
            self.stage = "done"
        except errors.MdsliteError as exc:
            self.failure, self.stage = exc, "refused"
        self.redraw()


def compared_lines(comparison: Json | None, width: int) -> list[Line]:
    """How two versions did, as the appliance compares them."""
    if not comparison:
        return []
    lines: list[Line] = []
    agreement = comparison["agreement"]
    if agreement is not None and agreement["rate"] is not None:
        compared = f" of {agreement['compared']:,}"
        share = f"{100 * agreement['rate']['value']:.1f} %"
        lines.append([("agreement ", "dim"), (share, "bold"), (compared, "dim")])
    for side in (comparison["first"], comparison["second"]):
        p50 = (side["p50_ms"] or {}).get("value")
        text = f"{side['version']}: p50 {figures.milliseconds(p50)} ms"
        lines.append([(cut(clean(text), width), "")])
    return lines


def _filter_of(app: DashApp, project: str, model: str) -> str:
    """What is looked at, of one model."""
    from mdslite.tui.sources import log_filter

    wanted = log_filter(app.view)
    terms = [
        f"{name}={value}"
        for name, value in (("project", project), ("model", model))
        if f"{name}=" not in wanted
    ]
    return " ".join([*terms, wanted]).strip()


def _total_ms(timing: str) -> float | None:
    """The sum of a `server-timing` header, or its total."""
    found: dict[str, float] = {}
    for part in timing.split(","):
        name, _, rest = part.strip().partition(";dur=")
        try:
            found[name] = float(rest)
        except ValueError:
            continue
    return found.get("total", sum(found.values()) if found else None)
