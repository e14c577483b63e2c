"""How processes beside the event loop take the time that predictions leave."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# What they do comes in bursts. So they still get a quarter of a busy processor: no row is to be lost and no
# answer to fail for want of time.
NICE = 5


def give_way() -> None:
    """Lower this process's priority, for good."""
    with contextlib.suppress(OSError):
        os.nice(NICE)
    # Where the kernel shares its time among sessions first, a session's own niceness counts: this one's, as
    # the process is alone in it.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICE))
