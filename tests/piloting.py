"""A dashboard that is driven without a terminal, as fast as it follows.

Textual's pilot takes a program for idle once it has computed next to nothing for 20 ms, twice for each key.
Here it is idle when its loop has nothing left to do, which is both sooner and surer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from unittest.mock import patch

from textual.pilot import Pilot

from mdslite.tui.app import DashApp

WAIT_S = 20.0
_TURNS = 3  # of the loop, in a row, with nothing to do
_ROUNDS = 2  # of what timers of Textual's do within a few milliseconds: fit it to its size, draw what changed


@asynccontextmanager
async def piloted(app: DashApp, size: tuple[int, int]) -> AsyncIterator[Pilot[None]]:
    async def settle(min_sleep: float = 0, max_sleep: float = 1) -> None:
        """In place of Textual's function, with its parameters."""
        await _settle()
        for _ in range(_ROUNDS):
            app._check_resize()
            app.screen._on_timer_update()
            await _settle()

    with patch("textual.app.wait_for_idle", settle), patch("textual.pilot.wait_for_idle", settle):
        async with app.run_test(size=size) as pilot:
            yield pilot


def text_of(app: DashApp) -> str:
    """What the terminal shows, without its colours and the blanks at the ends of lines."""
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips)


async def until(pilot: Pilot[None], holds: Callable[[], object]) -> None:
    """Wait for what a feed or an appliance brings."""
    assert isinstance(pilot.app, DashApp)
    try:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                await pilot.pause(0.01)
    except TimeoutError:
        raise AssertionError(text_of(pilot.app)) from None


async def until_said(pilot: Pilot[None], text: str) -> None:
    app = pilot.app
    assert isinstance(app, DashApp)
    await until(pilot, lambda: text in text_of(app))


async def _settle() -> None:
    """Wait until only time, the network or a thread brings something new."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, asyncio.BaseEventLoop)
    empty = 0
    while empty < _TURNS:
        await asyncio.sleep(0)
        empty = 0 if loop._ready else empty + 1  # type: ignore[attr-defined]
