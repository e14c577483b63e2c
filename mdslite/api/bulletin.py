"""What happens in the appliance, as numbered events for whoever listens: the newest of them are kept, so that
a listener who was away for a moment misses none. Owns that ring; each listener has only a place in it, and
one who is too slow is told that there is a gap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, Literal

import msgspec

from mdslite.deploy.events import Event, InstallEvent, StepEvent
from mdslite.errors import Overloaded
from mdslite.http.access import Grant
from mdslite.serving.fleet import Served
from mdslite.store.registry import Revision

KEPT = 2048
LISTENERS_MAX = 64
Kind = Literal["version", "apply", "revision", "alert"]


@dataclass(frozen=True, slots=True)
class Notice:
    """One event. Without a project, it is for those who may know of all of them."""

    number: int
    kind: Kind
    data: bytes
    project: str | None
    model: str | None

    def concerns(self, grant: Grant) -> bool:
        if self.project is None or self.model is None:
            return grant.project is None
        return grant.covers(self.project, self.model)


class Bulletin:
    """Used from the event loop's thread only."""

    def __init__(self) -> None:
        self._boot = f"{int(time() * 1000):x}"  # numbers begin anew with each process
        self._notices: deque[Notice] = deque(maxlen=KEPT)
        self._last = 0
        self._listeners = 0
        self._moved = asyncio.Event()
        self._states: dict[tuple[str, str, str], tuple[str, str | None]] | None = None
        self._revision: int | None = None
        self._looked_at = 0.0

    # Events come in

    def post(self, kind: Kind, value: Any, *, project: str | None = None, model: str | None = None) -> None:
        """Tell everybody; `value` is encoded as JSON."""
        self._last += 1
        self._notices.append(Notice(self._last, kind, msgspec.json.encode(value), project, model))
        self._moved.set()

    def progress(self, event: Event) -> None:
        """Tell how far an apply is. The bytes of a fetch are too many to tell here."""
        if isinstance(event, StepEvent):
            self.post("apply", event, project=event.project, model=event.model)
        elif isinstance(event, InstallEvent):
            self.post("apply", event)

    def compare(self, versions: Iterable[Served], revisions: Iterable[Revision]) -> None:
        """Tell what of the versions' states and the revisions (newest first) is new since the last time."""
        states = {one.key: (one.state, one.reason) for one in versions}
        before, self._states = self._states, {key: (state, reason) for key, (state, reason) in states.items()}
        if before is not None:
            for key, (state, reason) in states.items():
                if before.get(key) != (state, reason):
                    self._post_state(key, state, reason)
            for key in before.keys() - states.keys():
                self._post_state(key, "gone", None)
        known = self._revision
        for one in sorted(revisions, key=lambda one: one.id):
            if known is not None and one.id > known:
                value = {"id": one.id, "state": one.state, "author": one.author, "reason": one.reason}
                self.post("revision", {**value, "error": one.error})
            self._revision = max(one.id, self._revision or 0)
        self._revision = self._revision or 0

    def is_due(self, every_s: float) -> bool:
        """Is it time to compare again? Then whoever asks does."""
        now = monotonic()
        if now - self._looked_at < every_s:
            return False
        self._looked_at = now
        return True

    def _post_state(self, key: tuple[str, str, str], state: str, reason: str | None) -> None:
        project, model, version = key
        value = {"project": project, "model": model, "version": version, "state": state, "reason": reason}
        self.post("version", value, project=project, model=model)

    # Events go out

    def enter(self) -> None:
        """:raises Overloaded: as many listen as may"""
        if self._listeners >= LISTENERS_MAX:
            raise Overloaded(f"{LISTENERS_MAX} listen to events already", retry_after_s=10.0)
        self._listeners += 1

    def leave(self) -> None:
        self._listeners -= 1

    def place(self, last_event_id: str) -> tuple[int, bool]:
        """Where to go on after an event's id, and whether some that came after it are lost. Without an id, go
        on with what comes."""
        if not last_event_id:
            return self._last, False
        boot, _, text = last_event_id.partition("-")
        if boot != self._boot or not (text.isascii() and text.isdigit() and len(text) < 20):
            return self._last, True
        number = int(text)
        return (number, False) if number <= self._last else (self._last, True)

    def after(self, number: int) -> tuple[list[Notice], bool]:
        """What came after an event, and whether some of it is lost."""
        found = [one for one in self._notices if one.number > number]
        first = found[0].number if found else self._last + 1
        return found, first > number + 1

    def id_of(self, number: int) -> str:
        return f"{self._boot}-{number}"

    async def wait(self, seconds: float) -> None:
        """Until there is something new, at most so long."""
        self._moved.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._moved.wait()
