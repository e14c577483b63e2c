"""Keeps loaded versions in service: polls health checks, takes failing replicas out and brings them back, and
builds lost ones again. Owns the tasks that do so; routes are changed by who is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Protocol

from mdslite.errors import MdsliteError
from mdslite.serving.replica import Replica
from mdslite.serving.station import Station

logger = logging.getLogger(__name__)

REBUILD_DELAYS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# A replica that lives as long is taken for sound: its next loss starts at the first delay again.
SOUND_AFTER_S = 60.0
CHECK_EVERY_S = 2.0


class Kept(Protocol):
    """A loaded version, as upkeep sees it."""

    @property
    def label(self) -> str: ...

    @property
    def stations(self) -> Sequence[Station]: ...


class Upkeep:
    """`changed(version, reason)` is called whenever a version's replicas come or go: `reason` says why one of
    its lanes has none in rotation, and is None while all have."""

    def __init__(
        self,
        versions: Callable[[], Iterable[Kept]],
        changed: Callable[[Kept, str | None], None],
        *,
        delays_s: Sequence[float] = REBUILD_DELAYS_S,
        check_every_s: float = CHECK_EVERY_S,
    ) -> None:
        self._versions = versions  # those that are in service
        self._changed = changed
        self._delays_s = delays_s
        self._check_every_s = check_every_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._polling: asyncio.Task[None] | None = None
        self._losses: dict[tuple[Station, str], list[float]] = {}
        self._checking: set[Replica] = set()

    def adopt(self, version: Kept) -> None:
        """Look after a version from now on."""
        for station in version.stations:
            station.on_lost = partial(self._lost, version)
        replicas = [replica for station in version.stations for replica in station.lane.replicas]
        if self._polling is None and any(map(_has_check, replicas)):
            self._polling = asyncio.get_running_loop().create_task(self._poll(), name="health checks")

    # Lost replicas

    def _lost(self, version: Kept, station: Station, replica: Replica, reason: str) -> None:
        logger.error("%s: replica %s is lost: %s", version.label, replica.name, reason)
        replica.close()
        if not station.lane.replicas:
            self._changed(version, f"{reason}; it is being rebuilt")
        task = asyncio.get_running_loop().create_task(
            self._rebuild(version, station, replica), name=f"rebuild {replica.name}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _rebuild(self, version: Kept, station: Station, replica: Replica) -> None:
        """Open another session in the lost one's place, later each time, as long as the version serves."""
        losses = self._losses.setdefault((station, replica.name), [])
        now = monotonic()
        losses[:] = [*(at for at in losses if now - at < SOUND_AFTER_S), now][-len(self._delays_s) :]
        attempt = len(losses) - 1
        while True:
            delay_s = self._delays_s[min(attempt, len(self._delays_s) - 1)]
            station.rebuild_at = monotonic() + delay_s
            await asyncio.sleep(delay_s)
            attempt += 1
            if not self._serves(version):
                return
            try:
                session = await asyncio.to_thread(station.open_session, replica.session.device)
            except MdsliteError as exc:
                logger.error("%s: replica %s was not rebuilt: %s", version.label, replica.name, exc.message)
                if not station.lane.replicas:
                    self._changed(version, f"could not be rebuilt: {exc.message}")
                continue
            if not self._serves(version):
                session.close()
                return
            loop = asyncio.get_running_loop()
            fresh = station.make_replica(session, name=replica.name, gate=replica.gate, loop=loop)
            station.lane.add_replica(fresh)
            self._changed(version, None)
            return

    def _serves(self, version: Kept) -> bool:
        return any(one is version for one in self._versions())

    # Health checks

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._check_every_s)
            for version, station, replica in list(self._checked(self._versions())):
                if replica not in self._checking:
                    self._checking.add(replica)
                    station.lane.check(replica, partial(self._seen, version, station, replica))

    def _checked(self, versions: Iterable[Kept]) -> Iterable[tuple[Kept, Station, Replica]]:
        for version in versions:
            for station in version.stations:
                for replica in (*station.lane.replicas, *station.lane.resting):
                    if _has_check(replica):
                        yield version, station, replica

    def _seen(self, version: Kept, station: Station, replica: Replica, error: MdsliteError | None) -> None:
        self._checking.discard(replica)
        lane = station.lane
        if error is None:
            if replica in lane.resting:
                logger.info("%s: replica %s is healthy again", version.label, replica.name)
                lane.add_replica(replica)
                self._changed(version, None)
        elif replica in lane.replicas:
            logger.warning("%s: replica %s is unhealthy: %s", version.label, replica.name, error.message)
            lane.rest(replica, error.message)
            if not lane.replicas:
                self._changed(version, f"its health check fails: {error.message}")

    async def close(self) -> None:
        tasks = [*self._tasks, *([self._polling] if self._polling is not None else [])]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def _has_check(replica: Replica) -> bool:
    return getattr(replica.session, "has_check", False)
