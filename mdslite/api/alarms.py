"""What the watch for drift finds is passed on from here: to the log, to whoever listens for events, to a
webhook, to the metrics; and the watch is told from here what is deployed and which baselines were chosen.

The watch is the request log's writer, another process: it writes alerts into `drift.db`, where they are read,
and reads `wishes.json`, which is written here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any

import msgspec

from mdslite.api.bulletin import Bulletin
from mdslite.errors import MdsliteError
from mdslite.exposition import Gauge
from mdslite.serving.fleet import Served
from mdslite.store.drift import (
    SET_AGAIN,
    Alert,
    Chosen,
    Deployed,
    DriftReader,
    Watched,
    Wishes,
    recover_wishes,
    write_wishes,
)
from mdslite.store.moments import time_text
from mdslite.store.recovery import DRIFT_DATABASE
from mdslite.store.webhooks import Webhooks

logger = logging.getLogger(__name__)

LOOK_S = 2.0
TELL_DELAYS_S = (1.0, 5.0, 30.0, 120.0, 600.0)
UNTOLD_MAX = 256
_AT_ONCE = 200


class Alarms:
    """Made, started and closed by the appliance; used from the event loop's thread, `gauges` from any."""

    def __init__(
        self,
        folder: Path,
        versions: Callable[[], Sequence[Served]],
        bulletin: Bulletin,
        webhooks: Webhooks,
        *,
        look_s: float = LOOK_S,
        tell_delays_s: Sequence[float] = TELL_DELAYS_S,
        clock: Callable[[], float] = time,
    ) -> None:
        self.reader = DriftReader(folder)
        self.dropped = 0  # alerts that the webhook did not get
        self._folder = folder
        self._versions = versions
        self._bulletin = bulletin
        self._webhooks = webhooks
        self._look_s = look_s
        self._tell_delays_s = tuple(tell_delays_s)
        self._clock = clock
        self._wishes = Wishes()
        self._recovered = False
        self._writing = asyncio.Lock()
        self._last = 0  # the alert that was passed on last
        self._stamp: tuple[int, ...] = ()
        self._watched: list[Watched] = []
        self._counts: Counter[tuple[str, str, str, str]] = Counter()
        self._untold: asyncio.Queue[Alert] = asyncio.Queue(UNTOLD_MAX)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Once all that is deployed is known. Without a log nothing is watched: then `recover` alone."""
        await self.recover()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._look_often(), name="alarms"),
            loop.create_task(self._tell_all(), name="alarms' webhook"),
        ]

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What people wish

    @property
    def webhook(self) -> str | None:
        return self._wishes.webhook

    def chosen(self, project: str, model: str) -> Chosen | None:
        return self._wishes.chosen.get(f"{project}/{model}")

    async def choose(self, project: str, model: str, chosen: Chosen | None) -> None:
        """Compare a model's versions with this from now on; None: with what they learn by themselves.

        :raises StoreError: it cannot be written
        """
        await self.recover()
        others = {name: one for name, one in self._wishes.chosen.items() if name != f"{project}/{model}"}
        if chosen is not None:
            others[f"{project}/{model}"] = chosen
        await self._wish(chosen=others)

    async def set_webhook(self, url: str | None) -> None:
        """Have alerts posted there.

        :raises InvalidRequest: it may not be called
        :raises StoreError: it cannot be written
        """
        if url is not None:
            await asyncio.to_thread(self._webhooks.check, url)
        await self._wish(webhook=url)

    async def recover(self) -> None:
        """Go on with what was wished before this process began; said once where that is lost.

        :raises StoreError: it can neither be read nor set aside
        """
        async with self._writing:
            if self._recovered:
                return
            self._wishes, aside = await asyncio.to_thread(recover_wishes, self._folder)
            self._recovered = True
        self._last = self._wishes.told
        if aside is None:
            return
        logger.error(
            "the alerts' webhook and the baselines that were chosen cannot be read; the damaged file is kept "
            "as %s; %s",
            aside,
            SET_AGAIN,
        )
        with suppress(
            MdsliteError
        ):  # what was passed on already is not known either: do not tell it all anew
            for newest in await asyncio.to_thread(self.reader.alerts, limit=1):
                self._last = newest.id

    async def _wish(self, **changes: Any) -> None:
        await self.recover()
        async with self._writing:
            wishes = msgspec.structs.replace(self._wishes, **changes)
            if wishes != self._wishes:
                await asyncio.to_thread(write_wishes, self._folder, wishes)
                self._wishes = wishes

    # What the watch finds

    async def _look_often(self) -> None:
        while True:
            try:
                await self.look()
            except MdsliteError as exc:  # a full disk, a damaged file: said once a minute by whoever asks
                logger.debug("alerts could not be read: %s", exc.message)
            await asyncio.sleep(self._look_s)

    async def look(self) -> None:
        """Tell the watch what is deployed, and pass on what it has found.

        :raises MdsliteError: a file cannot be read or written
        """
        await self._wish(deployed=self._deployed())
        stamp = await asyncio.to_thread(self._read_stamp)
        if stamp == self._stamp:
            return
        alerts = await asyncio.to_thread(self.reader.alerts, after=self._last, limit=_AT_ONCE)
        self._watched = await asyncio.to_thread(self.reader.watched)
        if len(alerts) < _AT_ONCE:
            self._stamp = stamp
        for alert in alerts:
            self._last = alert.id
            self._pass_on(alert)
        if alerts and self._wishes.webhook is None:
            await self._wish(told=self._last)

    def _deployed(self) -> list[Deployed]:
        known = {(one.project, one.model, one.version, one.digest): one for one in self._wishes.deployed}
        now = self._clock()
        found = {
            one.key: known.get((*one.key, one.digest))
            or Deployed(
                project=one.project, model=one.model, version=one.version, digest=one.digest, since=now
            )
            for one in self._versions()
            if one.state != "draining"
        }
        return [found[key] for key in sorted(found)]

    def _read_stamp(self) -> tuple[int, ...]:
        stamps = []
        for name in (DRIFT_DATABASE, f"{DRIFT_DATABASE}-wal"):
            with suppress(OSError):
                found = (self._folder / name).stat()
                stamps += [found.st_mtime_ns, found.st_size]
        return tuple(stamps)

    def _pass_on(self, alert: Alert) -> None:
        label = f"{alert.project}/{alert.model} {alert.version}{' (shadow)' if alert.shadow else ''}"
        logger.warning("drift of %s in %s %s: %s", alert.signal, label, alert.state, alert.text)
        self._bulletin.post("alert", plain(alert), project=alert.project, model=alert.model)
        self._counts[alert.project, alert.model, alert.version, alert.state] += 1
        if self._wishes.webhook is None:
            return
        try:
            self._untold.put_nowait(alert)
        except asyncio.QueueFull:
            self.dropped += 1

    async def _tell_all(self) -> None:
        """Post alerts one after the other, a few times each."""
        while True:
            alert = await self._untold.get()
            if not await self._tell(alert):
                self.dropped += 1
            with suppress(MdsliteError):
                await self._wish(told=max(alert.id, self._wishes.told))

    async def _tell(self, alert: Alert) -> bool:
        body = msgspec.json.encode(plain(alert))
        for delay_s in (*self._tell_delays_s, None):
            url = self._wishes.webhook
            if url is None:
                return False
            try:
                await asyncio.to_thread(self._webhooks.post, url, body)
                return True
            except MdsliteError as exc:
                logger.warning("alert %d was not told: %s", alert.id, exc.message)
            if delay_s is not None:
                await asyncio.sleep(delay_s)
        return False

    def gauges(self) -> Iterator[Gauge]:
        """What fires now, and how often something did."""
        for one in self._watched:
            key = one.key
            labels = {
                "project": key.project,
                "model": key.model,
                "version": key.version,
                "shadow": "true" if key.shadow else "false",
            }
            firing = [signal for signal in one.record.signals if signal.state == "firing"]
            yield Gauge(
                "mdslite_drift_firing", "Signals that have drifted and still do.", len(firing), labels
            )
            for signal in firing:
                about = "1 while a signal has drifted."
                yield Gauge("mdslite_drift_signal_firing", about, 1, labels | {"signal": signal.signal})
        for (project, model, version, state), count in sorted(self._counts.items()):
            labels = {"project": project, "model": model, "version": version, "state": state}
            yield Gauge(
                "mdslite_drift_alerts_total", "Alerts since the start.", count, labels, kind="counter"
            )
        about = "Alerts that the webhook did not take."
        yield Gauge("mdslite_drift_webhook_dropped_total", about, self.dropped, kind="counter")


def plain(alert: Alert) -> dict[str, Any]:
    """An alert as the API tells it."""
    found: dict[str, Any] = msgspec.to_builtins(alert)
    return {**found, "time": time_text(alert.time)}
