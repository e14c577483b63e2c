"""Where a dashboard gets what it shows: one task asks an appliance for each thing as often as that is worth
it, hears its events, and keeps the newest answers as one `Snapshot`. Draws nothing; nothing waits for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from time import monotonic, time
from typing import Protocol, TypeVar

from mdslite import errors
from mdslite.asks import Ask, Lines, Pieces
from mdslite.client import Download
from mdslite.hosts import start_hint
from mdslite.tui.ears import Ears
from mdslite.tui.origin import Origin
from mdslite.tui.snapshot import Connection, Json, Reach, Snapshot, View
from mdslite.tui.sources import SOURCES, Kept, Source

FIRST_WAIT_S = 0.25  # before an appliance that does not answer is tried again; then twice as long each time
LONGEST_WAIT_S = 5.0
TICK_S = 0.1  # the shortest time between two rounds

T = TypeVar("T")


class Feed(Protocol):
    """What a dashboard needs of whoever feeds it: an appliance, a recording, or one snapshot for ever."""

    @property
    def snapshot(self) -> Snapshot: ...

    async def run(self) -> None:
        """Keep the snapshot fresh until cancelled."""

    def look(self, view: View) -> None:
        """Show another view from now on."""

    def hurry(self, *names: str) -> None:
        """Ask for these things (all, without a name) as soon as may be."""

    async def ask(self, ask: Ask[T]) -> T:
        """:raises MdsliteError: what the reply or the network says"""
        ...

    def read(self, lines: Lines[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]: ...

    def stream(self, pieces: Pieces) -> AbstractAsyncContextManager[Download[AsyncIterator[bytes]]]: ...


class LiveFeed:
    """Feeds from an appliance. `clock` tells the time that is shown."""

    def __init__(
        self, client: Origin, *, clock: Callable[[], float] = time, view: View | None = None
    ) -> None:
        self._client = client
        self._clock = clock
        self._view = view = view or View()
        self._kept = Kept()
        self._due: dict[str, float] = {}
        self._moved = asyncio.Event()
        self._failures = 0
        self._ears = Ears(client, self._heard)
        self._connection = Connection(state="connecting", url=client.url, since=clock())
        self.snapshot = Snapshot(clock=clock(), connection=self._connection, view=view)

    def look(self, view: View) -> None:
        before, self._view = self._view, view
        for source in SOURCES:
            if source.depends(before) != source.depends(view) or (
                source.wanted(view) and not source.wanted(before)
            ):
                self._due[source.name] = 0.0
        self._publish()
        self._moved.set()

    def hurry(self, *names: str) -> None:
        for source in SOURCES:
            if not names or source.name in names:
                self._due[source.name] = 0.0
        self._moved.set()

    async def ask(self, ask: Ask[T]) -> T:
        return await self._client.ask(ask)

    def read(self, lines: Lines[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]:
        return self._client.read(lines)

    def stream(self, pieces: Pieces) -> AbstractAsyncContextManager[Download[AsyncIterator[bytes]]]:
        return self._client.stream(pieces)

    async def run(self) -> None:
        listening = asyncio.create_task(self._ears.run())
        try:
            while True:
                wait_s = await self._round()
                self._moved.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._moved.wait()
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening

    async def once(self) -> Snapshot:
        """One look at everything.

        :raises MdsliteError: the appliance does not answer, or not to us
        """
        await asyncio.gather(*(self._fetch(source) for source in SOURCES if source.wanted(self._view)))
        self._connect()
        return self.snapshot

    async def _round(self) -> float:
        """Ask for what is due; how long there is nothing to do then."""
        now = monotonic()
        view = self._view
        due = [one for one in SOURCES if one.wanted(view) and self._due.get(one.name, 0.0) <= now]
        first = self._connection.state != "live"
        try:
            if first:  # one question shows whether the others make sense
                await self._fetch(SOURCES[0])
                due = [one for one in due if one is not SOURCES[0]]
            await asyncio.gather(*(self._fetch(one) for one in due))
        except (errors.Unauthorized, errors.Forbidden) as exc:
            return self._lose("unauthorised", exc)
        except errors.MdsliteError as exc:
            return self._lose("unreachable", exc)
        self._connect()
        nexts = [self._due[one.name] for one in SOURCES if one.wanted(self._view) and one.name in self._due]
        return max(TICK_S, min(nexts, default=1.0) - monotonic())

    async def _fetch(self, source: Source) -> None:
        """Ask for one thing and keep the answer, unless something else is looked at by then.

        :raises MdsliteError: nothing more can be asked for now
        """
        view = self._view
        self._due[source.name] = monotonic() + source.every_s(view)
        try:
            found = await source.fetch(self._client.ask, view, self._kept, self._clock())
        except (errors.Unauthorized, errors.Unavailable, errors.DeadlineExceeded):
            raise
        except errors.MdsliteError as exc:
            if source is SOURCES[0]:
                raise
            self._kept.troubles[source.name] = exc.message
            return
        if source.depends(view) != source.depends(self._view):
            self._due[source.name] = 0.0
            return
        self._kept.troubles.pop(source.name, None)
        if source.keep(self._kept, view, found):
            self._restarted()

    def _restarted(self) -> None:
        """Another process answers than before: what was known of the old one is no longer so."""
        self._ears.forget()
        self.hurry()

    def _connect(self) -> None:
        self._failures = 0
        if self._connection.state != "live":
            self._connection = Connection(state="live", url=self._client.url, since=self._clock())
            self._ears.open()
        self._publish()

    def _lose(self, state: Reach, exc: errors.MdsliteError) -> float:
        self._ears.close()
        self._failures += 1
        longest_s: float = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(10, self._failures - 1))
        wait_s = longest_s * random.uniform(0.8, 1.2)
        since = self._connection.since if self._connection.state == state else self._clock()
        self._connection = Connection(
            state=state,
            url=self._client.url,
            message=exc.message,
            hint=self._way_back(exc.hint),
            since=since,
            retry_at=self._clock() + wait_s,
        )
        self._due.clear()
        self._publish()
        return wait_s

    def _way_back(self, hint: str | None) -> str | None:
        """To the appliance that was here before, on its own store."""
        store = (self._kept.status or {}).get("store")
        url = self._client.url
        return start_hint(url, store) if store is not None and hint == start_hint(url) else hint

    def _heard(self, kind: str, data: Json) -> None:
        """An event of the appliance: what it is about is asked for anew."""
        if kind == "reset":
            self.hurry()
        elif kind == "apply":
            self._kept.progress = data
            self.hurry("models")
        elif kind == "revision":
            self._kept.progress = None
            self.hurry("models", "revisions", "rollouts", "status")
        elif kind == "alert":
            self.hurry("alerts")
        elif kind == "version":
            self.hurry("models")

    def _publish(self) -> None:
        self.snapshot = self._kept.snapshot(self._clock(), self._connection, self._view)
