"""Changes who is let in, and keeps the books of it: tokens, limits and the audit log. Stands between the
event loop and the registry's thread; what it changes there is in force before its caller hears of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from time import perf_counter
from typing import ParamSpec, TypeVar

from mdslite.errors import MdsliteError, StorageFull
from mdslite.http.access import Access, Bucket
from mdslite.store.audit import Act, Audit, Entry
from mdslite.store.registry import Registry
from mdslite.store.tokens import Rate, Token, Tokens, Wish
from mdslite.store.worker import Worker

logger = logging.getLogger(__name__)

SAVE_USES_S = 60.0  # how often it is kept which tokens are in use
_REFUSALS = Rate(60, "m")  # refused calls that are written down; anybody can make them
_ACTS_MAX = 4096  # that wait to be written down

P = ParamSpec("P")
T = TypeVar("T")


class Issuer:
    """Used from the event loop; the registry is open while it is."""

    def __init__(self, registry: Registry, worker: Worker, access: Access) -> None:
        self.access = access
        self._tokens = Tokens(registry)
        self._audit = Audit(registry)
        self._worker = worker
        self._refusals = Bucket(_REFUSALS)
        self._unrecorded = 0  # refused calls since the last that was written down
        self._acts: deque[Act] = deque(maxlen=_ACTS_MAX)  # to be written down, all of them at once
        self._writing = False  # the worker is asked to
        self._saved: dict[str, float] = {}
        self._saver: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Decide by what the registry holds from now on."""
        await self._change(lambda: None)
        self._saver = asyncio.get_running_loop().call_later(SAVE_USES_S, self._save_again)

    def close(self) -> None:
        """Keep which tokens were used; it is kept when the worker is closed."""
        if self._saver is not None:
            self._saver.cancel()
            self._saver = None
            self.save_uses()
            self._write_late()

    async def create(self, wish: Wish, *, by: str) -> tuple[Token, str]:
        """Make a token: what is kept of it, and its text.

        :raises Conflict: a live token has this name, or there are too many
        :raises InvalidRequest: a model without its project
        """
        return await self._change(lambda: self._tokens.create(wish, by=by))

    async def revoke(self, which: str) -> Token:
        """End a token, by its id or name. A request that comes after this is refused.

        :raises NotFound: there is no such live token
        """
        return await self._change(lambda: self._tokens.revoke(which))

    async def limit(self, project: str, model: str, rate: Rate | None) -> None:
        """Limit how often a model may be asked, or stop doing so."""
        await self._change(lambda: self._tokens.limit(project, model, rate))

    async def tokens(self) -> list[Token]:
        self.save_uses()
        return await self._worker.call(self._tokens.all)

    async def limits(self) -> dict[tuple[str, str], Rate]:
        return await self._worker.call(self._tokens.limits)

    async def acts(self, limit: int, before: int | None) -> list[Entry]:
        self._write_late()
        return await self._worker.call(self._audit.page, limit, before)

    def record(self, act: Act) -> None:
        """Write an act down, without waiting for it. Of many refused ones only some are."""
        if act.refused and self._refusals.take(perf_counter()):
            self._unrecorded += 1
            return
        if act.refused and self._unrecorded:
            act = replace(act, remark=f"{act.remark} ({self._unrecorded} like it before are not listed)")
            self._unrecorded = 0
        self._acts.append(act)
        self._ask_to_write(f"the entry of mdslite audit for a call of {act.who} ({act.what})")

    def save_uses(self) -> None:
        """Keep when tokens were last used, without waiting for it."""
        uses = self.access.uses()
        fresh = {token_id: at for token_id, at in uses.items() if self._saved.get(token_id) != at}
        if fresh:
            self._saved.update(fresh)
            self._submit("when tokens were last used", self._tokens.note_uses, fresh)

    async def _change(self, change: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()

        def run() -> T:
            changed = change()
            # From here, so that a caller who is cancelled meanwhile does not leave a revoked token in force.
            loop.call_soon_threadsafe(self.access.replace, self._tokens.all(), self._tokens.limits())
            return changed

        return await self._worker.call(run)

    def _save_again(self) -> None:
        self._saver = asyncio.get_running_loop().call_later(SAVE_USES_S, self._save_again)
        self.save_uses()
        self._write_late()

    def _write_late(self) -> None:
        """Try again to write down the acts for which there was no room."""
        if self._acts:
            self._ask_to_write("entries of mdslite audit for which the disk had no room")

    def _ask_to_write(self, what: str) -> None:
        if not self._writing:
            self._writing = True  # before it is asked: it may have done so when `_submit` returns
            if not self._submit(what, self._write_down):
                self._writing = False

    def _write_down(self) -> None:
        """In the worker's thread: write down all acts that there are by now. However many come, they take one
        of its places. On a full disk they wait for one of the next times, the newest of them."""
        self._writing = False  # those that come from here on ask again
        acts: list[Act] = []
        while self._acts:
            acts.append(self._acts.popleft())
        try:
            self._audit.add(*acts)
        except StorageFull:
            room = _ACTS_MAX - len(self._acts)
            self._acts.extendleft(reversed(acts[max(0, len(acts) - room) :]))
            raise

    def _submit(self, what: str, keep: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Let the registry keep something that nothing depends on; say so when it could not. Returns whether
        it was asked to."""

        def check(future: Future[None]) -> None:
            if (error := future.exception()) is not None:
                logger.warning("%s could not be kept: %s", what, error)

        try:
            self._worker.submit(keep, *args, **kwargs).add_done_callback(check)
        except MdsliteError as exc:
            logger.warning("%s could not be kept: %s", what, exc)
            return False
        return True
