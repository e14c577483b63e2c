"""What `mdslite dash` does to its process."""

from __future__ import annotations

import asyncio
import gc

from mdslite.cli import dash


def test_the_collector_passes_over_what_was_there_from_the_start() -> None:
    async def run() -> None:
        with dash._seldom_collecting(asyncio.get_running_loop(), settled_s=0.0):
            assert not gc.isenabled()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert gc.isenabled() and gc.get_freeze_count() > 0
        assert gc.isenabled() and gc.get_freeze_count() == 0

    asyncio.run(run())
