"""A model's own process: `python -m mdslite.runtimes.model_worker DESCRIPTOR PARENT`.

Opens one model with its runtime's adapter, as the appliance itself would, and runs batches until the
appliance closes the socket. What ends it (a division that the processor cannot do) ends nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mdslite.errors import MdsliteError
from mdslite.runtimes.channel import Channel, Entered, OpenModel, Run, Serves
from mdslite.runtimes.crossing import pack_outputs, unpack_feeds
from mdslite.runtimes.probe import RUNTIMES
from mdslite.runtimes.protocol import Answers, Datum, Session
from mdslite.runtimes.worker import Worker, joined, refuse


def main() -> None:
    """Be a model's process."""
    with joined(sys.argv) as channel:
        session = _open(channel)
        if session is not None:
            Worker(channel).serve(partial(_compute, session), lambda: None)


def _open(channel: Channel) -> Session | None:
    order = channel.receive()
    if not isinstance(order, OpenModel):
        return None
    try:
        channel.send(Entered("opened"))
        session = RUNTIMES[order.runtime]().open(Path(order.path), order.options)
    except BaseException as exc:
        refuse(channel, exc)
        return None
    channel.send(Serves(session.signature, session.provider, session.threads))
    return session


def _compute(session: Session, _: Run, data: list[Datum], emit: Callable[[bytes], None]) -> Answers:
    try:
        return pack_outputs(session.run(unpack_feeds(data)))
    except MdsliteError as exc:
        return Answers([exc])


if __name__ == "__main__":
    main()
