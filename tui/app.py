"""The dashboard's application: its panes, the keys that work in all of them, and the tick that has what is
seen drawn anew. Knows of each pane only where it is; each is imported when it is first shown.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import msgspec
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.theme import Theme

from mdslite.hosts import author
from mdslite.tui import figures
from mdslite.tui.bars import Footer, Tabs
from mdslite.tui.canvas import Canvas, Pane
from mdslite.tui.feed import Feed
from mdslite.tui.header import HEIGHT, Header
from mdslite.tui.ink import Ink
from mdslite.tui.snapshot import SPANS_S, Snapshot, View

REPAINT_S = 0.25

# name -> (title, module, class)
PANES = {
    "deploy": ("Deploy", "mdslite.tui.deploy", "Deploy"),
    "requests": ("Requests", "mdslite.tui.requests", "Requests"),
    "gpu": ("GPU", "mdslite.tui.gpu", "Gpu"),
    "changes": ("Changes", "mdslite.tui.changes", "Changes"),
    "sync": ("Sync", "mdslite.tui.sync", "Sync"),
}


MOUSE = (
    ("click", "shows a title's screen, presses a key"),
    ("shift", "and the mouse: select text"),
)


class DashApp(App[None]):
    """A dashboard on a feed. `read_only` refuses whatever would change the appliance; `beside` says that it
    was started with the appliance, whose end is asked about when it is left."""

    CSS = f"""
    Screen {{ layers: base above; background: $background; }}
    Header {{ height: {HEIGHT}; }}
    Tabs {{ height: 1; }}
    Footer {{ height: 1; }}
    #body {{ height: 1fr; }}
    Dialog {{ background: transparent; }}
    Input:ansi > .input--cursor {{ background: ansi_default; color: ansi_default; text-style: reverse; }}
    Input:ansi > .input--selection {{ background: ansi_default; color: ansi_default; text-style: reverse; }}
    """
    ENABLE_COMMAND_PALETTE = False
    TITLE = "mdslite"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(number), f"show('{name}')", title, show=False)
            for number, (name, (title, _, _)) in enumerate(PANES.items(), 1)
        ),
        Binding("[", "rewind(-1)", "back in time"),
        Binding("]", "rewind(1)", "forward", show=False),
        Binding("{", "rewind(-10)", "far back in time", show=False),
        Binding("}", "rewind(10)", "far forward", show=False),
        Binding(".", "live", "live", show=False),
        Binding("+,=", "zoom(-1)", "zoom in", show=False),
        Binding("-", "zoom(1)", "zoom out", show=False),
        Binding("<,comma", "pan(-1)", "pan the histogram back", show=False),
        Binding(">", "pan(1)", "pan it forward", show=False),
        Binding("p", "pause", "pause", show=False),
        Binding("!", "guard", "read-only", show=False),
        Binding("R", "retry", "ask anew", show=False),
        Binding("escape", "dismiss", "back", show=False),
        Binding("slash", "prompt('/')", "filter"),
        Binding("colon", "prompt(':')", "command"),
        Binding("ctrl+p", "prompt('>')", "palette"),
        Binding("question_mark,f1", "help", "help"),
        Binding("q,ctrl+c", "quit", "quit", priority=False),
    ]

    def __init__(
        self,
        feed: Feed,
        *,
        ink: Ink | None = None,
        read_only: bool = False,
        beside: bool = False,
        tick: bool = True,
    ) -> None:
        self.ink = ink or Ink()
        # Without a ground of its own, a theme leaves colours to the terminal.
        super().__init__(ansi_color=True if self.ink.looks.ground is None else None)
        self.feed = feed
        self.beside = beside
        self.read_only = read_only
        self.locked = read_only  # asked for on the command line: `!` does not end it
        self.said: tuple[str, str, float] = ("", "", 0.0)
        self.typed: dict[str, list[str]] = {}  # into the line at the bottom, by its sign
        self.words: dict[str, list[str]] = {}  # values that a filter may want, by field
        self._ticks = tick
        self._seen: Snapshot | None = None

    # What is shown

    @property
    def snapshot(self) -> Snapshot:
        return self.feed.snapshot

    @property
    def view(self) -> View:
        return self.feed.snapshot.view

    @property
    def pane(self) -> Pane | None:
        below = self.screen_stack[0]  # dialogs may stand above it
        return next(iter(below.query(f"#body > #{self.view.pane}").results(Pane)), None)

    @property
    def author(self) -> str:
        """Who asks, for the record of a revision."""
        return author()

    @property
    def titles(self) -> dict[str, str]:
        return {name: title for name, (title, _, _) in PANES.items()}

    def shown_bindings(self) -> list[Binding]:
        """The keys that the footer lists: the pane's own, then those that work everywhere."""
        found: list[Binding] = []
        for owner in (self.pane, self):
            for binding in Binding.make_bindings(owner.BINDINGS if owner is not None else []):
                if binding.show and all(one.action != binding.action for one in found):
                    found.append(binding)
        return found

    def compose(self) -> ComposeResult:
        yield Header()
        yield Tabs()
        yield Container(id="body")
        yield Footer()

    async def on_mount(self) -> None:
        self._wear()
        await self.action_show(self.view.pane)
        self.run_worker(self.feed.run(), name="feed", exit_on_error=True)
        if self._ticks:
            self.set_interval(REPAINT_S, self.tick)

    def tick(self) -> None:
        """Draw what has changed since the last time."""
        snapshot = self.feed.snapshot
        if snapshot is not self._seen:
            self._seen = snapshot
            self.repaint()

    def repaint(self) -> None:
        for screen in self.screen_stack[:1]:  # none any more while it ends, when the timer may still tick
            for canvas in screen.query(Canvas):
                if canvas.display:
                    canvas.repaint()

    def look(self, **changes: Any) -> None:
        """Change what is looked at, and show that at once."""
        self.feed.look(msgspec.structs.replace(self.view, **changes))
        self.repaint()

    def say(self, text: str, role: str = "") -> None:
        """A line at the bottom for a while: what became of something."""
        self.said = (text, role, self.snapshot.clock)
        self.repaint()

    def may_change(self) -> bool:
        """False, and said, where nothing may be changed."""
        if self.read_only:
            self.say(
                "read-only: nothing was changed (! lets you)" if not self.locked else "read-only", "warn"
            )
        elif self.view.moment is not None:
            self.say("this is the past: . goes back to now", "warn")
        return not self.read_only and self.view.moment is None

    def refocus(self) -> None:
        """Give the keys back to the pane."""
        if self.pane is not None:
            self.pane.focus()

    def use_theme(self, name: str) -> None:
        """Draw everything in other colours.

        :raises ValueError: there is no such theme
        """
        if name == "none" or self.ink.theme == "none":
            raise ValueError(
                "NO_COLOR stands from the start to the end" if name != "none" else "set NO_COLOR=1"
            )
        self.ink.use(name)
        self._wear()
        for canvas in self.query(Canvas):
            canvas.forget()

    def _wear(self) -> None:
        """Have Textual draw the ground as the theme says."""
        looks = self.ink.looks
        self.ansi_color = True if looks.ground is None else None
        if looks.ground is None:
            self.theme = "ansi-dark"
            return
        made = Theme(
            name=f"mdslite-{self.ink.theme}",
            primary=looks.letters or "",
            background=looks.ground,
            surface=looks.ground,
            panel=looks.ground,
            foreground=looks.letters,
            dark=looks.dark,
        )
        self.register_theme(made)
        self.theme = made.name

    def run_binding(self, binding: Binding) -> None:
        """Do what a key does, that of the pane or one that works everywhere."""
        name = binding.action.partition("(")[0]
        owner = self.pane if self.pane is not None and hasattr(self.pane, f"action_{name}") else self
        self.run_worker(self.run_action(binding.action, owner), name="key", exit_on_error=True)

    def run_choice(self, run: Callable[[], Any]) -> None:
        """Do what was picked in the palette."""
        done = run()
        if inspect.isawaitable(done):
            self.run_worker(_finish(done), name="choice", exit_on_error=True)

    # Keys

    async def action_show(self, name: str) -> None:
        """Show a pane."""
        body = self.query_one("#body")
        if not self.query(f"#body > #{name}"):
            _, module, kind = PANES[name]
            pane = getattr(importlib.import_module(module), kind)(id=name)
            await body.mount(pane)
        for pane in body.query(Pane):
            pane.display = pane.id == name
        self.look(pane=name)
        if (shown := self.pane) is not None:
            shown.focus()
            shown.shown()

    async def action_quit(self) -> None:
        if not self.beside:
            self.exit()
            return
        from mdslite.tui.leaving import LeaveDialog

        self.push_screen(LeaveDialog())

    def action_rewind(self, steps: int) -> None:
        now, step_s = self.snapshot.clock, max(1.0, self.view.span_s / 60)
        if steps > 0 and self.view.moment is None:
            self.say("this is now: [ goes back in time", "warn")
            return
        moment = (self.view.moment or now) + steps * step_s
        self.look(moment=None if moment >= now else moment, until=None)

    def action_live(self) -> None:
        self.look(moment=None, until=None, brush=None, paused=False)

    def action_zoom(self, steps: int) -> None:
        """In to the brush, where there is one; else to the next round span."""
        view = self.view
        if steps < 0 and view.brush is not None:
            start, stop = view.brush
            fitting = next((one for one in SPANS_S if one >= stop - start), SPANS_S[-1])
            until = min(self.snapshot.now, (start + stop + fitting) / 2)
            if fitting < view.span_s:
                self.look(span_s=float(fitting), until=until)
                return
        further = [one for one in SPANS_S if (one < view.span_s if steps < 0 else one > view.span_s)]
        if not further:
            end = "closest: :span 10s shows less" if steps < 0 else "longest that there is"
            self.say(f"the histogram shows {figures.exact_span(view.span_s)}, the {end}", "warn")
            return
        self.look(span_s=float(further[-1] if steps < 0 else further[0]))
        if view.pane not in ("deploy", "gpu"):
            self.say(f"the histogram of the first screen shows {figures.exact_span(self.view.span_s)}")

    def action_pan(self, steps: int) -> None:
        view, now = self.view, self.snapshot.now
        if steps > 0 and view.until is None:
            self.say("the histogram ends with what is newest: < goes back", "warn")
            return
        until = (view.until or now) + steps * view.span_s / 4
        self.look(until=None if until >= now else until)

    def action_pause(self) -> None:
        self.look(paused=not self.view.paused)

    def action_guard(self) -> None:
        if self.locked:
            self.say("started with --read-only: start it again without", "warn")
            return
        self.read_only = not self.read_only
        self.say(
            "read-only: keys that change something do nothing" if self.read_only else "changes are possible"
        )

    def action_prompt(self, sign: str, text: str = "") -> None:
        """Open the line at the bottom."""
        from mdslite.tui.prompting import open_prompt

        open_prompt(self, sign, text)

    def action_help(self) -> None:
        from mdslite.tui.help import Help, sections_of

        self.push_screen(Help(sections_of(self.BINDINGS, PANES, MOUSE)))

    def action_retry(self) -> None:
        self.feed.hurry()

    def action_dismiss(self) -> None:
        """Back by one: what the pane has open, the brush, the model that is picked out, the filter."""
        view = self.view
        if self.pane is not None and self.pane.dismiss():
            self.repaint()
        elif view.brush is not None:
            self.look(brush=None)
        elif view.model is not None:
            self.look(model=None)
        elif view.filter:
            self.look(filter="")


async def _finish(done: Awaitable[Any]) -> None:
    await done
