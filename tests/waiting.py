"""Waiting in tests: for as long as it takes, and in nobody's way.

A loop that only spins takes the interpreter's lock back before the thread that it waits for has got it: where
threads are slow to wake, each turn of that thread then costs a whole switch interval.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

LIMIT_S = 30.0
_TURNS = 100  # of the event loop: what needs nothing else is there by then
_PAUSE_S = 0.002


async def until(condition: Callable[[], T | None], *, limit_s: float = LIMIT_S) -> T:
    """What `condition` finds, once it holds.

    :raises TimeoutError: it did not in time
    """
    turns = 0
    async with asyncio.timeout(limit_s):
        while not (found := condition()):
            turns += 1
            await asyncio.sleep(0 if turns < _TURNS else _PAUSE_S)
    return found


async def answered(ask: Callable[[], Awaitable[T | None]], *, limit_s: float = LIMIT_S) -> T:
    """What asking finds, as soon as it is something.

    :raises TimeoutError: it was nothing for so long
    """
    async with asyncio.timeout(limit_s):
        while not (found := await ask()):  # noqa: ASYNC110 - an answer sends no event
            await asyncio.sleep(_PAUSE_S)
    return found


async def drained(writer: asyncio.StreamWriter, *, limit_s: float = LIMIT_S) -> None:
    """Wait until what was written has left this process, or the connection has ended.

    :raises TimeoutError: neither in time
    """
    try:
        async with asyncio.timeout(limit_s):
            await writer.drain()
    except TimeoutError:  # an OSError too, and no end of a connection
        raise
    except OSError:
        pass


def hold_on(condition: Callable[[], T | None], *, limit_s: float = LIMIT_S) -> T:
    """The same without a loop."""
    ends_at = time.monotonic() + limit_s
    while not (found := condition()):
        if time.monotonic() > ends_at:
            raise TimeoutError(f"{condition} did not hold within {limit_s:g} s")
        time.sleep(_PAUSE_S)
    return found
