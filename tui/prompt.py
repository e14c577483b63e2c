"""The line at the bottom where filters, commands and searches are typed, and the list of what may follow
above it. Knows nothing of what is typed: who opens it says how it is completed and what becomes of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Final

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Input

from mdslite.tui.canvas import Canvas
from mdslite.tui.clean import clean
from mdslite.tui.completion import Candidate
from mdslite.tui.lines import Line, cut, fit
from mdslite.tui.snapshot import Snapshot
from mdslite.tui.wrapping import wrap

ROWS: Final = 8  # of candidates that are seen at once

Complete = Callable[[str], Sequence[Candidate]]
Submit = Callable[[str, Candidate | None], None]
Check = Callable[[str], Awaitable[str | None]]


class Candidates(Canvas):
    """What may follow; `at` is the one that Tab has put in or that Enter takes, -1 for none."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Sequence[Candidate] = ()
        self.at = -1
        self.wrong = ""

    def lines(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        if self.wrong:
            return [[(" ✖ ", "bad"), (text, "bold")] for text in wrap(self.wrong, width - 4)][:height]
        first = self._first(height)
        name = max((len(one.text) for one in self.found), default=0)
        name = min(max(16, name), width // 2)
        return [
            [
                (" ▸ " if number == self.at else "   ", "key"),
                (fit(one.text.strip(), name), "bold" if number == self.at else ""),
                ("  " + cut(clean(one.told), max(0, width - name - 5)), "dim"),
            ]
            for number, one in enumerate(self.found[first : first + height], first)
        ]

    def on_click(self, event: events.Click) -> None:
        """Take the one that was clicked."""
        number = self._first(self.size.height) + event.y
        if not self.wrong and number < len(self.found) and isinstance(self.parent, Prompt):
            self.parent.take(number)

    def _first(self, height: int) -> int:
        return max(0, min(self.at - height + 1, len(self.found) - height))


class Sign(Canvas):
    def __init__(self, sign: str) -> None:
        super().__init__()
        self._sign = sign

    def lines(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        return [[(f" {self._sign} ", "key")]]


class Prompt(Vertical):
    """`sign` stands before the line. `picks` says that Enter takes a candidate, the first one by itself.
    `check` says what is wrong with a line; it stays open with that until it is mended."""

    DEFAULT_CSS = """
    Prompt { dock: bottom; height: auto; background: $background; layer: above; }
    Prompt > Candidates { height: 0; }
    Prompt > Horizontal { height: 1; }
    Prompt Sign { width: 3; height: 1; }
    Prompt Input, Prompt Input:focus {
        height: 1; border: none; padding: 0; background: $background; background-tint: transparent 0%;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "next(1)", "complete", priority=True, show=False),
        Binding("shift+tab", "next(-1)", "complete backwards", priority=True, show=False),
        Binding("down", "step(1)", "next one", priority=True, show=False),
        Binding("up", "step(-1)", "the one before", priority=True, show=False),
        Binding("escape", "close", "close", priority=True, show=False),
    ]

    def __init__(
        self,
        sign: str,
        text: str,
        complete: Complete,
        submit: Submit,
        *,
        picks: bool = False,
        check: Check | None = None,
        past: Sequence[str] = (),
        placeholder: str = "",
    ) -> None:
        super().__init__(id="prompt")
        self._sign = sign
        self._text = text
        self._complete = complete
        self._submit = submit
        self._picks = picks
        self._check = check
        self._past = [*past, text] if text not in past else list(past)
        self._remembered = len(self._past) - 1
        self._typed = text
        self._placeholder = placeholder

    @property
    def input(self) -> Input:
        return self.query_one(Input)

    @property
    def candidates(self) -> Candidates:
        return self.query_one(Candidates)

    def compose(self) -> ComposeResult:
        yield Candidates()
        with Horizontal():
            yield Sign(self._sign)
            yield Input(self._text, placeholder=self._placeholder, select_on_focus=False)

    def on_mount(self) -> None:
        self.input.focus()
        self.input.cursor_position = len(self._text)
        self._show(self._text)

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        if event.value != self._expected():
            self._typed = event.value
            self._show(event.value)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        found, at = self.candidates.found, self.candidates.at
        picked = found[at] if 0 <= at < len(found) else None
        line = event.value.strip()
        if self._check is not None:
            self.run_worker(self._submit_checked(self._check, line, picked), exclusive=True)
            return
        self.close()
        self._submit(line, picked)

    async def _submit_checked(self, check: Check, line: str, picked: Candidate | None) -> None:
        wrong = await check(line)
        if self.input.value.strip() != line:
            return  # more was typed meanwhile
        if wrong is None:
            self.close()
            self._submit(line, picked)
            return
        self.candidates.wrong = wrong
        self.candidates.styles.height = len(wrap(wrong, max(20, self.size.width - 4)))
        self.candidates.forget()

    def complete_anew(self) -> None:
        """More may follow than was known, unless something was chosen by now."""
        if self.is_mounted and self.candidates.at < 0 and not self.candidates.wrong:
            self._show(self._typed)

    def take(self, number: int) -> None:
        """Put a candidate in; from a list to pick from, do it."""
        self.candidates.at = number
        if self._picks:
            self.close()
            self._submit(self.input.value.strip(), self.candidates.found[number])
            return
        self._write(self._expected())
        self._typed = self.input.value
        self._show(self._typed)
        self.input.focus()

    def action_next(self, steps: int) -> None:
        """Put in the next candidate."""
        found = self.candidates.found
        if not found:
            return
        at = self.candidates.at
        self.candidates.at = (at + steps) % len(found) if at >= 0 else 0 if steps > 0 else len(found) - 1
        if not self._picks:
            self._write(self._expected())
        if len(found) == 1:
            self._typed = self.input.value
            self._show(self._typed)
        self.candidates.repaint()

    def action_step(self, steps: int) -> None:
        """In a list to pick from, the next one; else what was typed before."""
        if self._picks:
            self.action_next(steps)
        elif self._past:
            self._remembered = max(0, min(len(self._past) - 1, self._remembered + steps))
            self._typed = self._past[self._remembered]
            self._write(self._typed)
            self._show(self._typed)

    def action_close(self) -> None:
        self.close()

    def close(self) -> None:
        self.remove()
        self.app.call_after_refresh(self.app.refocus)  # type: ignore[attr-defined]

    def _write(self, text: str) -> None:
        self.input.value = text
        self.input.cursor_position = len(text)

    def _expected(self) -> str:
        """What the line holds when the candidate that is marked was put in."""
        found, at = self.candidates.found, self.candidates.at
        if self._picks or not 0 <= at < len(found):
            return self._typed
        return self._typed[: found[at].start] + found[at].text

    def _show(self, text: str) -> None:
        found = self._complete(text)
        self.candidates.found, self.candidates.wrong = found, ""
        self.candidates.at = 0 if self._picks and found else -1
        self.candidates.styles.height = min(ROWS, len(found))
        self.candidates.forget()
