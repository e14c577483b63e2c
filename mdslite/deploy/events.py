"""What a plan or an apply tells while it is made, and the feed that carries it to one reader. Owns neither.

A feed never makes them wait: fetch progress is coalesced per artifact, the other events are few (two a step).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Literal

import msgspec


class FetchEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="fetch"):
    """Bytes of an artifact are coming in. `total_bytes` is null while unknown."""

    uri: str
    done_bytes: int
    total_bytes: int | None


class InstallEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="install"):
    """The requirements of a package are being installed; `line` is the last that was said of it."""

    line: str


class TryEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="try"):
    """A model that was never opened before is opened and run once, in a process that nothing else needs.
    `version` is `PROJECT/MODEL VERSION`."""

    version: str


class StepEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="step"):
    """A step of the plan begins, is ready or fails. Routes switch after the last step that loads."""

    index: int
    count: int
    project: str
    model: str
    version: str
    action: Literal["ADD", "UPDATE", "DELETE"]
    state: Literal["START", "DONE", "FAILED"]
    error: str | None = None


Event = FetchEvent | InstallEvent | TryEvent | StepEvent
Progress = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The progress of an apply that nobody watches."""


class Feed:
    """Events from one plan or apply to one reader, both on the event loop."""

    def __init__(self) -> None:
        self.begun = False  # there was an event
        self._pending: list[Event] = []
        self._ended = False
        self._wake = asyncio.Event()

    def post(self, event: Event) -> None:
        """Append an event; a fetch event replaces an unread one of the same artifact."""
        if self._pending and _outdates(event, self._pending[-1]):
            self._pending.pop()
        self._pending.append(event)
        self.begun = True
        self._wake.set()

    def end(self) -> None:
        """Let the reader finish after what is pending."""
        self._ended = True
        self._wake.set()

    async def wait_begun(self) -> bool:
        """Wait for the first event or the end; was there an event?"""
        await self._wake.wait()
        return self.begun

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._pending = self._pending, []
            for event in batch:
                yield event
            if self._ended and not self._pending:
                return


def _outdates(event: Event, last: Event) -> bool:
    if isinstance(event, FetchEvent):
        return isinstance(last, FetchEvent) and last.uri == event.uri
    return isinstance(event, InstallEvent) and isinstance(last, InstallEvent)
