"""The request log's writer as long as there is nothing to write: a process that waits for the first question,
or for the appliance's end, and has imported next to nothing. It is there from the start, so that a row is
safe as soon as it is in the ring, and costs the start nearly nothing.

    python -P -m mdslite.store.standby RING_FD SOCKET_FD ORDER
"""

from __future__ import annotations

import select
import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    # They are meant for the appliance; the writer ends when it has written all.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    select.select([int(arguments[1])], [], [])
    from mdslite.store.writer import main as write

    write(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
