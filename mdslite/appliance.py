"""The composition root: opens every part of the appliance, and ends them in order. `assembly` builds them.

    serve(settings) -> Appliance.start -> ... a signal ... -> Appliance.stop

Owns the process: its event loop, its signals and its store lock. Decides nothing about requests.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import shlex
import signal
from contextlib import suppress
from pathlib import Path

from mdslite.assembly import Announce, Assembly, Settings
from mdslite.deploy.orders import Order, read_source
from mdslite.deploy.restarts import Restart
from mdslite.door.front import shown_host
from mdslite.errors import InvalidRequest, MdsliteError, StorageFull
from mdslite.hosts import author
from mdslite.serving.fleet import Served
from mdslite.store.backup import autosave
from mdslite.store.disk import FULL_HINT

logger = logging.getLogger(__name__)


class Appliance(Assembly):
    """Serves: `start` begins and `stop` ends it. Made on a running loop."""

    async def start(self) -> None:
        """Lock the store, listen, load what is deployed, apply the settings' file, say where it serves.

        :raises MdsliteError: the store, the address or the file cannot be used
        """
        self.lock.acquire()
        await self.worker.call(self.registry.open)
        await self.issuer.open()
        self.front.check_exposure()
        self.prober.start()
        with suppress(StorageFull):
            await asyncio.to_thread(autosave, self.settings.store)
        if self.settings.log:
            self.journal.start()
        await self._open_traces()
        self.history.start()
        self.url = await self.front.open()
        grpc_port = await self._open_rpc()
        for line in self.front.notes:
            self.announce(line)
        for line in self.devices.describe():
            self.announce(f"✓ {line}")
        await self.deployer.resume()
        if self.settings.file is not None:
            await self._apply_file(self.settings.file)
        await self._start_judges()
        for served in self.fleet.all():
            self.announce(_state_line(served))
        self.fleet.router.starting = False
        if self.url.startswith("https:"):
            await self.bridge.warm()  # with TLS, the first client is likely to choose HTTP/2
        if self.rpc is not None:
            await self.rpc.serve()
        _settle_memory()
        beside = "" if grpc_port is None else f"   gRPC {shown_host(self.settings.host)}:{grpc_port}"
        self.announce(f"serving on {self.url}   docs /docs   metrics /metrics{beside}")
        if self.restart is not None:
            self.noting = asyncio.create_task(self._note_differences(self.restart))

    async def _note_differences(self, restart: Restart) -> None:
        """Say how what is served differs from the file; models may take a while to be read."""
        with suppress(MdsliteError):
            if (line := await restart.note()) is not None:
                self.announce(line)

    async def _start_judges(self) -> None:
        await self.comparisons.open()
        await self.labeling.start()
        await self.replays.start()
        await self.rollouts.start()
        await self.deferrals.start()
        if self.settings.log:
            await self.alarms.start()
        else:
            await self.alarms.recover()

    async def _open_traces(self) -> None:
        """Start to export traces where they are asked for.

        :raises InvalidRequest: OpenTelemetry is not installed
        """
        if self.settings.traces is None:
            return
        from mdslite.tracing import Tracer, check_installed

        check_installed()
        self.tracer = Tracer(self.settings.traces, share=self.settings.trace_share)
        await self.tracer.start()
        self.metrics.add_source(self.tracer.gauges)
        self.predictor.books.tracer = self.tracer

    async def _open_rpc(self) -> int | None:
        """Open the gRPC port where there is to be one.

        :raises InvalidRequest: gRPC is not installed, or the port cannot be had
        """
        settings = self.settings
        if settings.grpc_port is None:
            return None
        try:
            from mdslite.rpc.server import RpcServer  # protobuf, that only who asks for gRPC pays
        except ImportError as exc:
            raise InvalidRequest(
                f"--grpc-port needs gRPC, which is not installed: {exc}", hint="pip install 'mdslite[grpc]'"
            ) from exc
        self.rpc = RpcServer(self, count=self._count_policed)
        return await self.rpc.open(settings.host, settings.grpc_port, self.front.files)

    async def _apply_file(self, file: Path) -> None:
        """Apply what `up` was given, unless it is what was applied last: see `deploy.restarts`.

        :raises MdsliteError: it cannot be; nothing has changed
        """
        source = await asyncio.to_thread(read_source, file)
        restart = Restart(self.intake, source)
        if not await restart.needs_apply():
            self.restart = restart
            return
        try:
            await self.deployer.apply(Order(source, author=author(), reason=f"mdslite up {file.name}"))
        except MdsliteError as exc:
            if self.fleet.all():
                store = shlex.quote(str(self.settings.store))
                before = f"mdslite up --store {store} serves what was deployed before"
                exc.hint = f"{exc.hint}; or: {before}" if exc.hint else before
            raise

    async def stop(self) -> None:
        """Drain and close: no request that was accepted is lost within the settings' times."""
        settings = self.settings
        self.draining = True
        self.deployer.end_drafts()
        if self.restart is not None:
            self.restart.stop()
        if self.noting is not None:
            self.noting.cancel()
        await self.alarms.close()
        if self.rpc is not None:
            await self.rpc.announce_stop()
        if self.url and not self.fleet.router.starting:  # before that, nobody was told to come
            await asyncio.sleep(settings.drain_grace_s)
        await self.front.close()
        await asyncio.gather(
            self.door.drain(grace_s=settings.drain_s),
            self.bridge.close(grace_s=settings.drain_s),
            *([] if self.rpc is None else [self.rpc.drain(grace_s=settings.drain_s)]),
        )
        await self.rollouts.close()
        await self.replays.close()
        # An apply at the start is nobody's: the next start makes it.
        await self.deployer.close(grace_s=0.0 if self.fleet.router.starting else settings.drain_s)
        await self.deferrals.close()
        await self.fleet.close(grace_s=settings.drain_s)
        await self.front.finish()
        await self.door.close()
        await self.abandon()

    async def abandon(self) -> None:
        """Close what is open, started or not, without waiting for anybody's requests."""
        await self.alarms.close()
        await self.rollouts.close()
        await self.replays.close()
        await self.deferrals.close()
        await self.labeling.close()
        await self.comparisons.close()
        await self.history.close()
        await self.searches.close()
        if self.tracer is not None:
            await self.tracer.close()
        await asyncio.to_thread(self.journal.close)
        await asyncio.to_thread(self.prober.close)
        self.issuer.close()
        with suppress(MdsliteError):
            await self.worker.call(self.registry.close)
        await asyncio.to_thread(self.worker.close)
        self.devices.close()
        self.lock.release()


def serve(settings: Settings, announce: Announce) -> int:
    """Run the appliance until SIGTERM, SIGINT or SIGHUP, and return the exit code.

    :raises MdsliteError: it could not start
    """
    import uvloop

    return uvloop.run(_serve(settings, announce))


async def _serve(settings: Settings, announce: Announce) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    _await_signals(loop, stopping)
    appliance = Appliance(settings, announce)
    starting = asyncio.create_task(appliance.start())
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        announce("stopping: what is being loaded is given up; a second Ctrl-C or SIGTERM stops at once")
        starting.cancel()
    try:
        await starting
    except asyncio.CancelledError:
        await appliance.stop()
        return 0
    except StorageFull as exc:
        await appliance.stop()
        where = shlex.quote(str(settings.store))
        way = f"free some space on the disk of {where}, or move it to a larger one; then start again"
        exc.hint = way if exc.hint is None else exc.hint.replace(FULL_HINT, way)
        raise
    except BaseException:
        await appliance.stop()
        raise
    await waiting
    announce(_stop_line(appliance.predictor.books.open, settings.drain_grace_s))
    await appliance.stop()
    return 0


def _await_signals(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    """Have the first signal set `stopping`, and a second one end the process the hard way. When a terminal is
    closed, several may come."""
    hard = (signal.SIGTERM, signal.SIGINT)

    def stop() -> None:
        stopping.set()
        for number in hard:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # what Python does at a Ctrl-C waits for all threads

    for number in hard:
        loop.add_signal_handler(number, stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        loop.add_signal_handler(signal.SIGHUP, stop)


def _settle_memory() -> None:
    """What lives now lives long: keep the collector from walking through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _stop_line(open_calls: int, grace_s: float) -> str:
    """What goes on though a signal has come."""
    count = {0: "no request is", 1: "1 request is"}.get(open_calls, f"{open_calls:,} requests are")
    taken = f"requests are taken for {grace_s:g} s more, " if grace_s else ""
    return f"stopping: {taken}{count} under way; a second Ctrl-C or SIGTERM stops at once"


def _state_line(served: Served) -> str:
    label = f"{served.project}/{served.model} {served.version}"
    if served.state == "ready":
        return f"✓ {label} ready {served.load_s:.1f}s"
    return f"✖ {label} {served.state}: {served.reason}"
