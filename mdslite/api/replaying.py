"""Replays: logged requests sent to a version once more, in nobody's way.

A replayed request waits until its lane has nothing else to compute, and goes before none but the shadows at
the device; it is sent only while the event loop has time (`allowance`), and few are under way at once. The
log has it as a shadow's, with the client `replay:NUMBER` and the id of the request of before. It counts as
nobody's traffic, takes none of the room for bodies, and is answered to nobody. A replay lives in memory: a
restart ends it, and what came of it until then is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from time import time

import msgspec
from msgspec.structs import replace

from mdslite.api import replay_source
from mdslite.api.labeling import Labeling
from mdslite.api.replay_run import Pace, Run
from mdslite.api.replay_schema import ReplayBody, ReplayInfo
from mdslite.errors import MdsliteError, NotFound, Overloaded, Unavailable, unknown_error
from mdslite.http.access import Grant
from mdslite.predict.allowance import Allowance
from mdslite.predict.predictor import Predictor
from mdslite.serving.fleet import Fleet
from mdslite.store.moments import time_text
from mdslite.store.registry import Registry
from mdslite.store.replays import ReplayStore
from mdslite.store.requests import RequestLog
from mdslite.store.worker import Worker

logger = logging.getLogger(__name__)

AT_ONCE = 4  # replays


class Replays:
    """Made, started and closed by the appliance; used from the event loop's thread only."""

    def __init__(
        self,
        registry: Registry,
        worker: Worker,
        *,
        log: RequestLog,
        predictor: Predictor,
        fleet: Fleet,
        labeling: Labeling,
        allowance: Callable[[], Allowance] = Allowance,
    ) -> None:
        self._store = ReplayStore(registry)
        self._worker = worker
        self._log = log
        self._predictor = predictor
        self._fleet = fleet
        self._labeling = labeling
        self._allowance = allowance
        self._running: dict[int, Run] = {}

    async def start(self) -> None:
        """Write down which replays an earlier process has not ended."""
        for number, data in await self._worker.call(self._store.live):
            info = msgspec.json.decode(data, type=ReplayInfo)
            ended = replace(
                info, state="interrupted", message="the appliance stopped", ended_at=time_text(time())
            )
            await self._worker.call(self._store.save, number, msgspec.json.encode(ended), live=False)

    async def begin(self, body: ReplayBody, *, grant: Grant) -> ReplayInfo:
        """Begin to send what a filter finds.

        :raises InvalidRequest: the filter or the rate makes no sense
        :raises NotFound: there is no such version
        :raises Unavailable: it is not loaded
        :raises Overloaded: as many replays run as may
        """
        now = time()
        whole = replay_source.read_filter(
            body.filter, project=body.project, model=body.model, grant=grant, now=now
        )
        Pace.parse(body.rate)
        self._check_version(body)
        if len(self._running) >= AT_ONCE:
            raise Overloaded(f"{AT_ONCE} replays run already, as many as may", retry_after_s=10.0)
        number = await self._worker.call(self._store.add, body.project, body.model)
        run = self._running[number] = Run(
            number,
            body,
            filter=whole,
            author=grant.author(body.author),
            log=self._log,
            predictor=self._predictor,
            fleet=self._fleet,
            labeling=self._labeling,
            allowance=self._allowance(),
            now=now,
        )
        run.task = asyncio.get_running_loop().create_task(self._carry_out(run), name=f"replay {number}")
        return run.info()

    async def find(self, number: int) -> ReplayInfo:
        """:raises NotFound: there was none, or it is forgotten"""
        run = self._running.get(number)
        if run is not None:
            return run.info()
        data = await self._worker.call(self._store.find, number)
        if data is None:
            raise NotFound(f"there is no replay {number}", hint="mdslite replay --list")
        return msgspec.json.decode(data, type=ReplayInfo)

    async def all(self, limit: int) -> list[ReplayInfo]:
        """The newest first."""
        kept = await self._worker.call(self._store.newest, limit)
        found = [msgspec.json.decode(data, type=ReplayInfo) for data in kept]
        return [self._running[one.id].info() if one.id in self._running else one for one in found]

    async def cancel(self, number: int) -> ReplayInfo:
        """End a replay; one that has ended stays as it is.

        :raises NotFound: there was none
        """
        run = self._running.get(number)
        if run is not None and run.task is not None:
            if not run.ended:
                run.task.cancel()
            await asyncio.wait([run.task])
        return await self.find(number)

    async def close(self) -> None:
        for run in list(self._running.values()):
            run.stopping = True
            if run.task is not None:
                run.task.cancel()
        tasks = [run.task for run in self._running.values() if run.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_out(self, run: Run) -> None:
        try:
            await self._save(run)
            await run.carry_out()
            run.end("done")
        except asyncio.CancelledError:
            if run.stopping:
                run.end("interrupted", "the appliance stopped")
            else:
                run.end("cancelled")
        except MdsliteError as exc:
            run.end("failed", exc.message)
        except Exception:
            logger.exception("replay %s failed", run.number)
            run.end("failed", unknown_error().message)
        finally:
            try:
                with suppress(MdsliteError):
                    await asyncio.shield(self._save(run))
            finally:
                del self._running[run.number]

    async def _save(self, run: Run) -> None:
        info = run.info()
        data = msgspec.json.encode(info)
        await self._worker.call(self._store.save, info.id, data, live=info.ended_at is None)

    def _check_version(self, body: ReplayBody) -> None:
        served = self._fleet.find(body.project, body.model, body.version)
        if served is None:
            known = [one.version for one in self._fleet.all() if one.key[:2] == (body.project, body.model)]
            raise NotFound.version(body.project, body.model, body.version, known)
        if not served.loaded:
            name = f"{body.project}/{body.model}"
            hint = f"mdslite load {name}" if served.state == "unloaded" else f"mdslite show {name}"
            raise Unavailable(f"{served.label} is {served.state}, so nothing can be sent to it", hint=hint)
