"""What a plan or an apply tells on its way: shown on stderr, and the last of it handed on."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mdslite import errors
from mdslite.cli import output


class Progress:
    """The lines `(1/2) v2 ... DONE`, with the model's name when there are several.

    When live, on a terminal, the first half shows as soon as the step starts; before that, in a line that
    the next one replaces, what is fetched, installed or tried.
    """

    def __init__(self, *, several: bool, live: bool) -> None:
        self._several = several
        self._live = live
        self._open: str | None = None  # a line that waits for its end
        self._passing = False  # the last line is one that the next replaces

    def show(self, event: Mapping[str, Any]) -> None:
        if event.get("event") == "step":
            self._show_step(event)
        elif self._live:
            self._show_passing(event)

    def _show_step(self, event: Mapping[str, Any]) -> None:
        line = f"({event['index']}/{event['count']}) {self._name(event)} ... "
        if event["state"] == "START":
            if self._live:
                self._begin(line)
            return
        if self._open != line:
            self._begin(line)
        output.note(event["state"])
        self._open = None

    def _show_passing(self, event: Mapping[str, Any]) -> None:
        from mdslite.planning import under_way

        text = under_way(event)
        if text is None:
            self.end()
        else:
            output.note_over(text)
            self._passing = True

    def end(self) -> None:
        """Take away a line that nothing has replaced."""
        if self._passing:
            output.note_over("")
            self._passing = False

    def _begin(self, line: str) -> None:
        self.end()
        if self._open is not None:
            output.note("")
        output.note(line, end="")
        self._open = line

    def _name(self, event: Mapping[str, Any]) -> str:
        if not self._several:
            return str(event["version"])
        return f"{event['project']}/{event['model']} {event['version']}"


@contextmanager
def showing(*, several: bool) -> Iterator[Progress]:
    """Progress on stderr, of which no half line stays when the block ends."""
    progress = Progress(several=several, live=sys.stderr.isatty())
    try:
        yield progress
    finally:
        progress.end()


def follow(
    events: Iterator[Mapping[str, Any]],
    progress: Progress,
    *,
    otherwise: str,
    ended: list[Mapping[str, Any]] | None = None,
) -> Mapping[str, Any]:
    """Show what is told, and return the last of it; steps are kept in `ended`, in the order in which they
    did. `otherwise` is the command that tells how things are where there is no last.

    :raises Unavailable: there is none
    """
    for event in events:
        if event.get("event") in ("plan", "result"):
            return event
        if ended is not None and event.get("event") == "step" and event["state"] != "START":
            ended.append({name: value for name, value in event.items() if name != "event"})
        progress.show(event)
    raise errors.Unavailable("the appliance ended its answer before it was complete", hint=otherwise)
