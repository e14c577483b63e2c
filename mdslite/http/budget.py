"""How much memory bodies may take, all that are under way over HTTP and gRPC together; and the memory for the
large ones, which goes back to the system when the last who reads it lets go.

A body counts as it arrives, not as it was announced: who announces much and sends little keeps nobody out. A
large one, of `LEAST_BYTES` or more, counts until it is needed no more; a smaller one until it is whole, for a
thousand that never are take as much. What is smaller than `COUNTED_BYTES` pays for none of this.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import weakref
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mdslite.errors import MdsliteError, TooLarge, Unavailable

COUNTED_BYTES = 64 * 1024
LEAST_BYTES = 1024 * 1024
MOST_BYTES = 4 * 1024 * 1024 * 1024
_SHARE = 4  # of the memory, one in so many
_SMALL_SHARE = 4  # a part of the budget as large comes on top for small ones: they find room beside the large
_UNTIDY_BYTES = 16 * 1024 * 1024
_UNTIDY_SHARE = 16
_FLOOR_BYTES = 256 * 1024 * 1024  # one body as large as any may be
_HEAP_BYTES = 4 * 1024 * 1024
_RETRY_S = 1.0
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class Budget:
    """Used on the event loop's thread, but for the end of claims, which may come on any."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._taken_bytes = 0
        self._returned: deque[int] = deque()  # its `append` needs no lock
        self._peak_bytes = 0

    @property
    def used_bytes(self) -> int:
        self._settle()
        return self._taken_bytes

    def open(self, size_bytes: int, *, kind: type[MdsliteError] = Unavailable) -> Claim:
        """A claim of a body that may become so long; nothing is counted yet. `kind` is what refuses.

        :raises MdsliteError: there is no room for it
        """
        claim = Claim(self, kind)
        if self.used_bytes + size_bytes > self._bound(size_bytes):
            raise claim.refusal(size_bytes)
        return claim

    def take(self, size_bytes: int, *, whole_bytes: int) -> bool:
        """So much more of a body that has `whole_bytes` with it."""
        if self.used_bytes + size_bytes > self._bound(whole_bytes):
            return False
        self._taken_bytes += size_bytes
        self._peak_bytes = max(self._peak_bytes, self._taken_bytes)
        return True

    def give_back(self, size_bytes: int) -> None:
        self._returned.append(size_bytes)

    def is_untidy(self) -> bool:
        """Has much gone since this was last asked, that did not come back?"""
        gone_bytes = self._peak_bytes - self.used_bytes
        self._peak_bytes = self._taken_bytes
        return gone_bytes > min(_UNTIDY_BYTES, self.most_bytes // _UNTIDY_SHARE)

    def _bound(self, whole_bytes: int) -> int:
        most_bytes = self.most_bytes
        return most_bytes if whole_bytes >= LEAST_BYTES else most_bytes + most_bytes // _SMALL_SHARE

    def _settle(self) -> None:
        while self._returned:
            self._taken_bytes -= self._returned.popleft()


class Claim:
    """What one body takes of a budget, until `close` or until nobody holds the claim."""

    __slots__ = ("_budget", "_kind", "size_bytes")

    def __init__(self, budget: Budget, kind: type[MdsliteError]) -> None:
        self._budget = budget
        self._kind = kind
        self.size_bytes = 0

    def grow(self, size_bytes: int) -> None:
        """:raises MdsliteError: the budget is spent"""
        whole_bytes = self.size_bytes + size_bytes
        if not self._budget.take(size_bytes, whole_bytes=whole_bytes):
            raise self.refusal(whole_bytes)
        self.size_bytes = whole_bytes

    def settle(self, size_bytes: int) -> None:
        """The body is whole.

        :raises MdsliteError: the budget is spent
        """
        if size_bytes < LEAST_BYTES:
            self.close()
        else:
            self.grow(size_bytes - self.size_bytes)

    def close(self) -> None:
        size_bytes, self.size_bytes = self.size_bytes, 0
        if size_bytes:
            self._budget.give_back(size_bytes)

    def refusal(self, size_bytes: int) -> MdsliteError:
        """Why a body of so many bytes finds no room."""
        most_bytes = self._budget.most_bytes
        if size_bytes > most_bytes:
            return TooLarge(
                f"a body of {size_bytes} bytes or more; all large bodies together may take {most_bytes}",
                hint="mdslite up --body-budget SIZE",
            )
        return self._kind(
            f"bodies under way take all of the {most_bytes} bytes that there are for them",
            retry_after_s=_RETRY_S,
        )

    def __del__(self) -> None:
        self.close()


def claim_body(size_bytes: int, *, kind: type[MdsliteError] = Unavailable) -> Claim | None:
    """A claim on the budget of this process, None for what is not counted.

    :raises MdsliteError: there is no room for it
    """
    return BODIES.open(size_bytes, kind=kind) if size_bytes >= COUNTED_BYTES else None


def bind(claim: Claim | None, space: np.ndarray[Any, Any]) -> None:
    """Let the claim of a large body last as long as the memory that it is for."""
    if claim is not None and space.nbytes >= LEAST_BYTES:
        weakref.finalize(space, claim.close).atexit = False


def make_space(size_bytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Memory that is not touched yet. The heap's is quicker to have; but NumPy wants much in huge pages,
    and the first byte in one costs two megabytes."""
    if size_bytes < _HEAP_BYTES:
        return np.empty(size_bytes, np.uint8)
    pages = mmap.mmap(-1, size_bytes)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def tidy(loop: asyncio.AbstractEventLoop) -> None:
    """Let the memory of many bodies go that have. Asked for now and then."""
    if BODIES.is_untidy():
        loop.run_in_executor(None, trim)


def trim() -> None:
    """Give the system back what the C library keeps of freed memory, where it has a call for that."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _default_bytes() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        memory = min(memory, int(_CGROUP_LIMIT.read_text()))
    return max(_FLOOR_BYTES, min(MOST_BYTES, memory // _SHARE))


BODIES = Budget(_default_bytes())
