"""The appliance's stream of events as it is heard by a dashboard: opened while the appliance answers, opened
again where it broke off, and read as server-sent events are.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress

from mdslite import calls, errors
from mdslite.tui.origin import Origin
from mdslite.tui.snapshot import Json

AGAIN_S = 1.0  # a stream that ended is opened again after so long

Heard = Callable[[str, Json], None]


class Ears:
    """`heard` is told each event's kind and data."""

    def __init__(self, client: Origin, heard: Heard) -> None:
        self._client = client
        self._heard = heard
        self._open = asyncio.Event()
        self._last = ""

    def open(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open.clear()

    def forget(self) -> None:
        """The events that come are another process's, and numbered anew."""
        self._last = ""

    async def run(self) -> None:
        """Listen until cancelled. Without events all is asked for now and then anyway, so a stream that
        cannot be had is no failure."""
        while True:
            await self._open.wait()
            with suppress(errors.MdsliteError):
                await self._listen()
            await asyncio.sleep(AGAIN_S)

    async def _listen(self) -> None:
        kind = ""
        async with self._client.read(calls.events(self._last or None)) as lines:
            async for line in lines:
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if name == "event":
                    kind = value
                elif name == "id":
                    self._last = value
                elif name == "data":
                    self._tell(kind, value)

    def _tell(self, kind: str, text: str) -> None:
        try:
            data = json.loads(text)
        except ValueError:
            return
        if isinstance(data, dict):
            self._heard(kind, data)
