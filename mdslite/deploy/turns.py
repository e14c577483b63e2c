"""Whose turn it is to change what is deployed, and whose to get and try models before that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

from mdslite.errors import Conflict

_HINT = "try again when it has ended; what needs no new model, such as weights and undo, does not wait for it"


class Turns:
    """Three turns, each for one at a time. To get models and try them may take minutes, and whoever needs no
    new one must not have to wait for that: so each is taken only for as long as it is needed.

    Used from the event loop. `rested` is called once nobody took one, or prepared anything, for `rest_s`.
    """

    def __init__(self, *, wait_s: float, rest_s: float, rested: Callable[[], object]) -> None:
        self._wait_s = wait_s
        self._rest_s = rest_s
        self._rested = rested
        self._adding = asyncio.Lock()
        self._fetching = asyncio.Lock()
        self._changing = asyncio.Lock()
        self._rest: asyncio.TimerHandle | None = None
        self.preparing = 0  # plans and applies that rely on models which no revision knows yet

    @property
    def busy(self) -> bool:
        """Is a plan or an apply under way, or anything else that takes a turn?"""
        return bool(self.preparing) or any(
            one.locked() for one in (self._adding, self._fetching, self._changing)
        )

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Have no models removed that no revision knows."""
        self.preparing += 1
        try:
            yield
        finally:
            self.preparing -= 1

    def adding(self) -> AbstractAsyncContextManager[None]:
        """Have nobody else read models from this machine's disks.

        :raises Conflict: somebody has been at it for too long
        """
        return self._taken(self._adding, "another plan or apply has been reading models", hint=_HINT)

    def fetching(self) -> AbstractAsyncContextManager[None]:
        """Have nobody else fetch or try models.

        :raises Conflict: somebody has been at it for too long
        """
        what = "another plan or apply has been fetching or trying models"
        return self._taken(self._fetching, what, hint=_HINT)

    def changing(self) -> AbstractAsyncContextManager[None]:
        """Have nobody else change what is deployed or loaded.

        :raises Conflict: somebody has been at it for too long
        """
        hint = "mdslite history shows when it has ended; then try again"
        return self._taken(self._changing, "another apply has been running", hint=hint)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Have nobody take any, however long it takes to get them all; it is no sign of life."""
        async with self._adding, self._fetching, self._changing:
            yield

    @asynccontextmanager
    async def _taken(self, lock: asyncio.Lock, what: str, *, hint: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._wait_s):
                await lock.acquire()
        except TimeoutError as exc:
            raise Conflict(f"{what} for more than {self._wait_s:g} s", hint=hint) from exc
        self.stay_awake()
        try:
            yield
        finally:
            lock.release()
            self.stay_awake()
            self._rest = asyncio.get_running_loop().call_later(self._rest_s, self._rested)

    def stay_awake(self) -> None:
        """Do not call `rested` unless somebody takes a turn again."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
