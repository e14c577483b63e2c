"""One HTTP/2 connection that the bridge has taken over: its socket, what its client is still allowed, and the
steps of its end. What the frames mean is the affair of `h2_streams`.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from mdslite.door.asgi import address
from mdslite.http.policing import (
    INTERNAL_ERROR,
    LAST_STREAM_ID,
    Meter,
    Reason,
    Violation,
    goaway,
    ping,
)
from mdslite.http.tls import tls_extension

if TYPE_CHECKING:
    from mdslite.door.h2 import Http2Bridge
    from mdslite.door.h2_streams import Streams

logger = logging.getLogger(__name__)

_READ_BYTES = 16 * 1024  # what the engine parses before others get their turn
_CORK_BYTES = 64 * 1024
_LINGER_BYTES = 1024 * 1024
_DROPS_BYTES = 4 * 1024
_QUIET_S = 0.5  # after which a connection is not just between two requests
_NOTICE_S = 1.0  # how long the answer to the ping of a goodbye may take
_FAREWELL = b"goodbye!"
_EMPTY_SETTINGS = b"\0\0\0\4\0\0\0\0\0"


class Stage(enum.Enum):
    """How far a connection is on its way out."""

    OPEN = enum.auto()
    WAITING = enum.auto()  # for a moment without open requests
    ANNOUNCED = enum.auto()  # the client was told to send no more, and may not have heard
    REFUSING = enum.auto()  # streams above `final_stream_id` are refused
    HUNG_UP = enum.auto()  # what still comes is dropped


class Connection(asyncio.StreamReaderProtocol):
    """One adopted connection."""

    def __init__(self, bridge: Http2Bridge, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        self._reader = asyncio.StreamReader(limit=_READ_BYTES * 4, loop=loop)
        super().__init__(self._reader, loop=loop)
        self.limits = bridge.limits
        self.meter = Meter(bridge.limits, now=loop.time())
        self.is_tls = transport.get_extra_info("ssl_object") is not None
        self.client = address(transport.get_extra_info("peername"))
        self.server = address(transport.get_extra_info("sockname"))
        self.extensions = tls_extension(transport.get_extra_info("peercert"))
        self.final_stream_id = LAST_STREAM_ID
        self._bridge = bridge
        self._clock = loop
        self._link = transport
        self._writer = asyncio.StreamWriter(transport, self, self._reader, loop)
        self._streams: Streams | None = None
        self._greeted = False
        self._corked: list[bytes] = []
        self._corked_bytes = 0
        self._paused_at: float | None = None
        self._stage = Stage.OPEN
        self._stage_ends = 0.0
        self._ignored_bytes = 0
        self._drops = bytearray()  # received, and not for the engine yet
        self._timer: asyncio.TimerHandle | None = None  # of the next stage

    async def serve(self) -> None:
        """Read until either side leaves."""
        streams = None
        try:
            engine = await self._bridge.warm()
            if self._is_over:
                return
            streams = engine.open(self)
            await streams.open()
            self._streams = streams
            while not self._is_over and not self._reader.at_eof():
                data = await self._reader.read(_READ_BYTES)
                await streams.receive(data)
                if len(data) == _READ_BYTES:
                    await asyncio.sleep(0)  # a client with much to say still takes turns
        except OSError:
            pass
        except Exception:
            logger.exception("an HTTP/2 connection failed")
            self._say_goodbye(INTERNAL_ERROR)
        finally:
            if streams is not None:
                await streams.leave()
            self.hang_up()
            with suppress(OSError):
                await self._writer.wait_closed()
            self._streams = streams = None  # which know this object, as the writer does
            del self._writer

    def drain(self, *, patience_s: float) -> None:
        """End the connection when its last answer is out; what the client sent so far is still served.

        A goodbye that goes out with the last answer is understood by every client. Some, such as those made
        with h2 for Python, drop their open requests at any other: only a connection that is still busy after
        `patience_s`, or has long been quiet, gets it by itself, and then with a ping, whose answer tells that
        all that the client sent without knowing is here.
        """
        if self._stage is Stage.OPEN:
            self.meter.charges_resets = False
            self._stage = Stage.WAITING
            self._stage_ends = self._clock.time() + patience_s
            self._step()

    def hang_up(self) -> None:
        """Stop reading, flush what is written, and end the socket within the linger time."""
        if self._is_over:
            return
        self._stage = Stage.HUNG_UP
        self._reader.feed_eof()
        self._uncork()
        # Closing a socket with unread bytes in it would reset it and lose the last words.
        if self._link.can_write_eof():
            with suppress(OSError, RuntimeError):
                self._link.write_eof()
                self._link.resume_reading()
        else:
            self._link.close()
        self._stop_timer()
        self._timer = self._clock.call_later(self.limits.linger_s, self.abort)

    def abort(self) -> None:
        """End the socket at once."""
        self._stage = Stage.HUNG_UP
        self._link.abort()

    def cut(self, violation: Violation) -> None:
        """Count a violation, tell the client, and hang up."""
        if self._is_over:
            return
        self.count(violation.reason)
        self._say_goodbye(violation.error_code)
        self.hang_up()

    def check(self, now: float) -> None:
        """Act on what is overdue."""
        if self._is_over:
            return
        if self._paused_at is not None and now - self._paused_at > self.limits.write_timeout_s:
            self.count(Reason.SLOW_READER)
            self.abort()
        elif violation := self.meter.overdue(now=now):
            self.cut(violation)
        elif self._stage is Stage.OPEN and self.meter.is_idle(now=now):
            self._refuse_more()
        if self._streams is not None and not self._is_over:
            self._streams.check(now)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._bridge.spawn(work)

    def count(self, reason: Reason) -> None:
        self._bridge.count(reason)

    def cancels(self, scope: Scope) -> bool:
        return self._bridge.cancels(scope)

    async def write(self, data: bytes) -> None:
        """Send whole frames; returns when the client keeps up. Bytes for one who has left are dropped."""
        if self._is_over:
            return
        was_answering = self.meter.answering
        violation = self.meter.sent(data, now=self._clock.time())
        self._emit(data)
        if violation is not None:
            self.cut(violation)
            return
        if self._stage is Stage.WAITING and was_answering and not self.meter.answering:
            self._refuse_more()
        self._progress()
        with suppress(OSError):
            await self._writer.drain()

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > _LINGER_BYTES:
                self.abort()
            return
        violation = self.meter.receive(data, now=self._clock.time())
        if violation is not None:
            self.cut(violation)
            return
        # A drop of a body costs the engine as much as a whole request, and nobody can use it yet.
        if self.meter.urgent or len(self._drops) + len(data) >= _DROPS_BYTES:
            self._let_in(data)
        else:
            self._drops += data
        self._progress()

    def _let_in(self, data: bytes) -> None:
        """Hand what came in to the engine, after the drops before it."""
        if self._drops:
            data = bytes(self._drops) + data
            self._drops.clear()
        super().data_received(data)

    def eof_received(self) -> bool:
        if not self._is_over:  # else the engine has been told
            self._let_in(b"")
            super().eof_received()
        return False  # nobody half-closes HTTP/2: the transport closes

    def pause_writing(self) -> None:
        self._paused_at = self._clock.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._paused_at = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stage = Stage.HUNG_UP
        self._stop_timer()
        self._bridge.forget(self)
        super().connection_lost(exc)

    @property
    def _is_over(self) -> bool:
        return self._stage is Stage.HUNG_UP

    def _step(self) -> None:
        """Take the next step of a drain if it is due by the clock, else come back when it may be."""
        now = self._clock.time()
        is_quiet = not self.meter.answering and now - self.meter.idle_since >= _QUIET_S
        if self._stage is Stage.WAITING and (is_quiet or now >= self._stage_ends):
            self._stage = Stage.ANNOUNCED
            self._stage_ends = now + _NOTICE_S
            self.meter.pongs = 0
            self._announce(goaway(LAST_STREAM_ID) + ping(_FAREWELL))
        elif self._stage is Stage.ANNOUNCED and now >= self._stage_ends:
            self._refuse_more()
        if self._stage in (Stage.WAITING, Stage.ANNOUNCED):
            self._timer = self._clock.call_later(_QUIET_S / 5, self._step)

    def _progress(self) -> None:
        """Take the next step of a drain if what has come or gone makes it due."""
        if self._stage is Stage.ANNOUNCED and self.meter.pongs:
            self._refuse_more()
        elif self._stage is Stage.REFUSING and not self.meter.answering:
            self.hang_up()

    def _refuse_more(self) -> None:
        self._stage = Stage.REFUSING
        self.final_stream_id = self.meter.last_stream_id
        self._announce(goaway(self.final_stream_id))
        if not self.meter.answering:
            self.hang_up()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _say_goodbye(self, error_code: int) -> None:
        self._announce(goaway(self.meter.last_stream_id, error_code=error_code))

    def _announce(self, frames: bytes) -> None:
        """Emit frames that are not the engine's; the first of a connection must be settings."""
        self._emit(frames if self._greeted else _EMPTY_SETTINGS + frames)

    def _emit(self, data: bytes) -> None:
        """Write with what else this turn of the loop brings: one answer alone is three frames."""
        self._greeted = True
        if not self._corked:
            self._clock.call_soon(self._uncork)
        self._corked.append(data)
        self._corked_bytes += len(data)
        if self._corked_bytes > _CORK_BYTES:
            self._uncork()

    def _uncork(self) -> None:
        if self._corked and not self._link.is_closing():
            self._link.write(b"".join(self._corked))
        self._corked.clear()
        self._corked_bytes = 0
