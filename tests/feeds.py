"""What a dashboard is fed with where there is no appliance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from mdslite import errors
from mdslite.asks import Ask, Lines, Pieces
from mdslite.client import Download
from mdslite.tui.snapshot import Snapshot, View

T = TypeVar("T")


@dataclass(slots=True)
class StillFeed:
    """One snapshot for ever."""

    snapshot: Snapshot
    asked: list[Ask[Any]] = field(default_factory=list)

    async def run(self) -> None:
        await asyncio.Event().wait()

    def look(self, view: View) -> None:
        self.snapshot = msgspec.structs.replace(self.snapshot, view=view)

    def hurry(self, *names: str) -> None:
        """There is nothing newer."""

    async def ask(self, ask: Ask[T]) -> T:
        self.asked.append(ask)
        raise errors.Unavailable("this is a recording: nothing can be asked of it")

    def read(self, lines: Lines[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]:
        raise errors.Unavailable("this is a recording: nothing can be asked of it")

    def stream(self, pieces: Pieces) -> AbstractAsyncContextManager[Download[AsyncIterator[bytes]]]:
        raise errors.Unavailable("this is a recording: nothing can be asked of it")
