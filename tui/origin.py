"""Where answers come from: an appliance's client, or what stands in its place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from mdslite.asks import Ask, Lines, Pieces
from mdslite.client import Download

T = TypeVar("T")


class Origin(Protocol):
    """What a feed needs of `mdslite.client.AsyncClient`."""

    @property
    def url(self) -> str: ...

    async def ask(self, ask: Ask[T]) -> T:
        """:raises MdsliteError: what the reply or the network says"""
        ...

    def read(self, lines: Lines[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]: ...

    def stream(self, pieces: Pieces) -> AbstractAsyncContextManager[Download[AsyncIterator[bytes]]]: ...
