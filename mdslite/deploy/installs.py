"""What the installation of a package's requirements says, on its way from the thread that waits for it to the
log and to whoever watches the apply that needs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mdslite.deploy.events import InstallEvent, Progress

logger = logging.getLogger(__name__)


class Installs:
    """`announce` is called from any thread, all else on the event loop. One apply listens at a time."""

    def __init__(self) -> None:
        self._listener: tuple[asyncio.AbstractEventLoop, Progress] | None = None

    def announce(self, label: str, line: str) -> None:
        """Hear one line about the version `label`, which may be without a name yet."""
        logger.info("%s", f"{label}: {line}" if label else line)
        listener = self._listener
        if listener is not None:
            loop, progress = listener
            loop.call_soon_threadsafe(progress, InstallEvent(line=line))

    @contextmanager
    def told_to(self, progress: Progress) -> Iterator[None]:
        """Have lines told to `progress` for as long as the block runs."""
        before, self._listener = self._listener, (asyncio.get_running_loop(), progress)
        try:
            yield
        finally:
            self._listener = before
