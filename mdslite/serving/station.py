"""A lane together with the way to open its sessions, and what its replicas printed, the lost ones too.

Opens nothing by itself: the loader makes it, upkeep builds lost replicas again with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from mdslite.runtimes.protocol import Device
from mdslite.serving.gate import Gate
from mdslite.serving.lane import Lane
from mdslite.serving.replica import Replica

OpenSession: TypeAlias = Callable[[Device], Any]


@dataclass(frozen=True, slots=True)
class Printed:
    """The end of what a replica's session printed; `ended` says how it ended, None while it serves."""

    replica: str
    text: str
    ended: str | None


class Station:
    """A lane and the way to open its sessions: what it takes to build a lost replica again."""

    lane: Lane

    def __init__(self, open_session: OpenSession) -> None:
        self.open_session = open_session  # blocks; raises LoadFailed or OutOfMemory
        self.on_lost: Callable[[Station, Replica, str], None] | None = None
        self.ended: dict[str, Printed] = {}  # the last of each name that was lost
        self.rebuild_at = 0.0  # when a lost replica is opened again, in the time of `monotonic`

    def lost(self, replica: Replica, reason: str) -> None:
        found = _read_printed(replica, reason)
        if found is not None:
            self.ended[replica.name] = found
        if self.on_lost is not None:
            self.on_lost(self, replica, reason)

    def printed(self) -> list[Printed]:
        """What packages have printed: for each replica what its last process left behind, and its present
        one. Nothing for models that print nothing."""
        here = [*self.lane.replicas, *self.lane.resting]
        found = [*self.ended.values(), *(_read_printed(one, None) for one in here)]
        return sorted((one for one in found if one is not None), key=lambda one: one.replica)

    def make_replica(
        self,
        session: Any,
        *,
        name: str,
        gate: Gate,
        loop: asyncio.AbstractEventLoop,
        beside: Any = None,
    ) -> Replica:
        """A replica around a session; one that can end by itself while idle is watched."""
        replica = Replica(session, name=name, gate=gate, loop=loop, beside=beside)
        watch = getattr(session, "watch", None)
        if watch is not None:
            watch(partial(_tell, loop, self, replica))
        return replica


def _read_printed(replica: Replica, ended: str | None) -> Printed | None:
    output = getattr(replica.session, "output", None)
    return None if output is None else Printed(replica.name, output(), ended)


def _tell(loop: asyncio.AbstractEventLoop, station: Station, replica: Replica, reason: str) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: station.lane.lose(replica, reason))
