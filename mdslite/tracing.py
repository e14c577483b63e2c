"""Requests as spans for OpenTelemetry: which ones, and the way to the process that exports them. Owns that
process and the socket to it.

The event loop packs a few numbers of a sampled request and hands them to the kernel, without ever waiting:
what the socket has no room for is dropped and counted. Spans are made and sent in a process of their own
(`spans.py`), as a thread that encodes them would take the interpreter from the loop: 30 µs a span.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from random import getrandbits, random
from time import perf_counter, time
from typing import TYPE_CHECKING, Protocol

import msgspec

from mdslite.errors import InvalidRequest, MdsliteError
from mdslite.exposition import Gauge
from mdslite.process import Child
from mdslite.serving.trace import SAMPLED_FLAG, Trace
from mdslite.spans import Told

if TYPE_CHECKING:
    from mdslite.predict.call import Call

PER_SECOND = 200  # requests
RESTART_S = 5.0
LAST_WORDS_S = 5.0  # for what it still has to send when the appliance ends
BUFFER_BYTES = 1 << 20  # on the way to it

_EXTRA = "opentelemetry.exporter.otlp.proto.http"
_encode = msgspec.msgpack.Encoder().encode

logger = logging.getLogger(__name__)


class Exporter(Protocol):
    """What is needed of the process."""

    def wait(self, timeout_s: float | None = None) -> bool: ...
    def kill(self, reason: str | None = None) -> None: ...


Launch = Callable[[socket.socket, str, Callable[[str], None]], Exporter]


def check_installed() -> None:
    """
    :raises InvalidRequest: OpenTelemetry is not installed
    """
    try:
        found = find_spec(_EXTRA)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise InvalidRequest(
            "--traces needs OpenTelemetry, which is not installed", hint="pip install 'mdslite[otel]'"
        )


def launch_exporter(end: socket.socket, url: str, on_exit: Callable[[str], None]) -> Child:
    """Start a process that exports what comes from this end of a socket.

    :raises MdsliteError: this machine could not start it
    """
    child = Child(
        (sys.executable, "-P", "-m", "mdslite.spans", str(end.fileno()), url),
        name="the exporter of traces",
        fds=(end.fileno(),),
        on_exit=on_exit,
    )
    child.start()
    return child


class Tracer:
    """`share` of the requests that come without a trace begin one; of the others, their callers decide. No
    more than `per_second` are told. `begin` and `finish` are for the event loop's thread."""

    def __init__(
        self, url: str, *, share: float, per_second: int = PER_SECOND, launch: Launch = launch_exporter
    ) -> None:
        self.sent = 0
        self.dropped = 0
        self._url = url
        self._share = share
        self._per_second = per_second
        self._launch = launch
        self._left = per_second
        self._until = 0.0
        self._socket: socket.socket | None = None
        self._exporter: Exporter | None = None
        self._reviving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """
        :raises MdsliteError: the process could not be started
        """
        await asyncio.to_thread(self._open)

    async def close(self) -> None:
        """Have what was told exported, while that does not take long."""
        if self._reviving is not None:
            self._reviving.cancel()
            await asyncio.gather(self._reviving, return_exceptions=True)
        end, self._socket = self._socket, None
        if end is not None:
            end.close()
        if self._exporter is not None and not await asyncio.to_thread(self._exporter.wait, LAST_WORDS_S):
            self._exporter.kill("did not end in time")

    def begin(self, call: Call) -> None:
        """Decide whether a request that has just come is told, and give it its place in the trace."""
        trace = call.trace
        if trace is None:
            if random() >= self._share:
                return
        elif not trace.sampled:
            return
        if call.arrived_at >= self._until:
            self._until, self._left = call.arrived_at + 1.0, self._per_second
        self._left -= 1
        if self._left < 0:
            self.dropped += 1
            return
        if trace is None:
            trace = call.trace = Trace((getrandbits(128) or 1).to_bytes(16), None, SAMPLED_FLAG)
        trace.begin_span()

    def finish(self, call: Call, status: int, code: str | None) -> None:
        """Tell of a request that has been answered, if it is one that is told."""
        trace = call.trace
        if trace is None or trace.span_id is None:
            return
        end = self._socket
        try:
            if end is None:
                raise BlockingIOError
            end.send(_encode(_tell(call, trace, status, code)))
        except BlockingIOError:
            self.dropped += 1
        except OSError:
            self.dropped += 1
            self._part()
        else:
            self.sent += 1

    def gauges(self) -> Iterator[Gauge]:
        about = "Requests told to the exporter of traces."
        yield Gauge("mdslite_traces_total", about, self.sent, kind="counter")
        about = "Sampled requests that were not told: too many, or the exporter fell behind."
        yield Gauge("mdslite_traces_dropped_total", about, self.dropped, kind="counter")

    def _open(self) -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        loop_socket: socket.socket | None = near
        try:
            near.setblocking(False)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            self._exporter = self._launch(far, self._url, self._ended)
            self._socket, loop_socket = near, None
        finally:
            far.close()
            if loop_socket is not None:
                loop_socket.close()

    def _ended(self, reason: str) -> None:
        """In the thread that watches the process."""
        if self._socket is not None:
            logger.warning("the exporter of traces %s", reason)

    def _part(self) -> None:
        end, self._socket = self._socket, None
        if end is None:
            return
        end.close()
        if self._reviving is None or self._reviving.done():
            self._reviving = asyncio.get_running_loop().create_task(self._revive(), name="revive traces")

    async def _revive(self) -> None:
        while self._socket is None:
            await asyncio.sleep(RESTART_S)
            with contextlib.suppress(MdsliteError, OSError):
                await asyncio.to_thread(self._open)


def _tell(call: Call, trace: Trace, status: int, code: str | None) -> Told:
    assert trace.span_id is not None
    now = perf_counter()
    where = call.served or call.route
    begun = call.started_at
    return Told(
        trace_id=trace.trace_id,
        span_id=trace.span_id,
        parent_id=trace.parent_id,
        flags=trace.flags,
        state=trace.state,
        began=time() - (now - call.arrived_at),
        took_s=now - call.arrived_at,
        queued_s=call.queued_at - call.arrived_at if begun else 0.0,
        queue_s=begun - call.queued_at if begun else 0.0,
        compute_s=call.compute_s,
        upstream_ms=call.upstream_ms,
        project=where.project if where else None,
        model=where.model if where else None,
        version=where.version if where else None,
        shadow=call.shadow,
        url=call.url,
        status=status,
        code=code,
        request_id=call.request_id,
        endpoint=call.replica,
        rows=call.columns.rows,
        batch_rows=call.batch_rows,
        confidence=call.confidence,
        nodes=call.spans,
    )
