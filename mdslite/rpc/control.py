"""What a client of the gRPC port says of the connection and of calls as a whole: settings, windows, pings,
resets. Owns how many of those, and of frames that carry next to nothing, a client may send.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from mdslite.http.policing import Bucket, Reason
from mdslite.rpc import frames
from mdslite.rpc.exchange import Exchange

if TYPE_CHECKING:
    from mdslite.rpc.door import RpcDoor

FIRST_WINDOW = 65_535
PEER_FRAME_BYTES = SETTINGS_BYTES = 16_384
FAREWELL = b"goodbye!"  # what a ping carries whose answer ends a connection


class Cut(Exception):
    """The client does what it may not."""

    def __init__(self, reason: Reason, error_code: int = frames.PROTOCOL_ERROR) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.error_code = error_code


class Control(asyncio.Protocol):
    """The part of a connection that heeds control frames, and charges for them."""

    def __init__(self, door: RpcDoor, now: float) -> None:
        limits = self.limits = door.limits
        self.streams: dict[int, Exchange] = {}
        self._heard_at = now
        self._last_id = 0
        self._peer_window = FIRST_WINDOW  # of each new stream
        self._peer_frame_bytes = PEER_FRAME_BYTES
        self._resets = Bucket(limits.resets, now)
        self._pings = Bucket(limits.pings, now)
        self._updates = Bucket(limits.window_updates, now)
        self._tiny = Bucket(limits.tiny_data, now)
        self._settings = Bucket(limits.settings, now)
        self._others = Bucket(limits.others, now)
        self._kinds: dict[int, Callable[[int, int, bytes], None]] = {
            frames.PRIORITY: self._on_priority,
            frames.RST_STREAM: self._on_reset,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
        }

    # What the other parts do

    def _emit(self, data: bytes) -> None:
        raise NotImplementedError

    def _reset(self, exchange: Exchange) -> None:
        """The client wants an answer no more."""
        raise NotImplementedError

    def _widened(self, amount: int, exchange: Exchange | None = None) -> None:
        """The client takes so much more, all in all or of one answer."""
        raise NotImplementedError

    def _confirmed(self) -> None:
        """The client has heard the goodbye."""
        raise NotImplementedError

    # Frames

    def _on_priority(self, stream_id: int, flags: int, payload: bytes) -> None:
        if not stream_id:
            raise Cut(Reason.PROTOCOL_ERROR)
        if len(payload) != 5:
            raise Cut(Reason.PROTOCOL_ERROR, frames.FRAME_SIZE_ERROR)
        self._on_other(stream_id, flags, payload)

    def _on_push(self, stream_id: int, flags: int, payload: bytes) -> None:
        raise Cut(Reason.PROTOCOL_ERROR)  # only a server may

    def _on_goaway(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise Cut(Reason.PROTOCOL_ERROR)
        if len(payload) < 8:
            raise Cut(Reason.PROTOCOL_ERROR, frames.FRAME_SIZE_ERROR)
        self._on_other(stream_id, flags, payload)

    def _on_reset(self, stream_id: int, flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Cut(Reason.PROTOCOL_ERROR, frames.FRAME_SIZE_ERROR)
        if stream_id > self._last_id or not stream_id:
            raise Cut(Reason.PROTOCOL_ERROR)
        exchange = self.streams.get(stream_id)
        if exchange is not None:
            self._reset(exchange)
        if not self._resets.take(self._heard_at):
            raise Cut(Reason.RAPID_RESET, frames.ENHANCE_YOUR_CALM)

    def _on_settings(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise Cut(Reason.PROTOCOL_ERROR)
        # Nobody has so many settings, though longer frames are taken where they carry messages.
        if len(payload) % 6 or len(payload) > SETTINGS_BYTES or (flags & frames.ACK and payload):
            raise Cut(Reason.PROTOCOL_ERROR, frames.FRAME_SIZE_ERROR)
        if not self._settings.take(self._heard_at):
            raise Cut(Reason.SETTINGS_FLOOD, frames.ENHANCE_YOUR_CALM)
        if flags & frames.ACK:
            return
        for name, value in struct.iter_unpack(">HI", payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                if value > frames.WINDOW_MAX:
                    raise Cut(Reason.PROTOCOL_ERROR, frames.FLOW_CONTROL_ERROR)
                for exchange in self.streams.values():
                    exchange.window += value - self._peer_window
                    if exchange.window > frames.WINDOW_MAX:
                        raise Cut(Reason.PROTOCOL_ERROR, frames.FLOW_CONTROL_ERROR)
                self._peer_window = value
            elif name == frames.ENABLE_PUSH and value > 1:
                raise Cut(Reason.PROTOCOL_ERROR)
            elif name == frames.MAX_FRAME_SIZE:
                if not PEER_FRAME_BYTES <= value < 2**24:
                    raise Cut(Reason.PROTOCOL_ERROR)
                self._peer_frame_bytes = min(value, self.limits.frame_bytes)
        self._emit(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._widened(0)

    def _on_ping(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise Cut(Reason.PROTOCOL_ERROR)
        if len(payload) != 8:
            raise Cut(Reason.PROTOCOL_ERROR, frames.FRAME_SIZE_ERROR)
        if not self._pings.take(self._heard_at):
            raise Cut(Reason.PING_FLOOD, frames.ENHANCE_YOUR_CALM)
        if not flags & frames.ACK:
            self._emit(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == FAREWELL:
            self._confirmed()

    def _on_window_update(self, stream_id: int, flags: int, payload: bytes) -> None:
        amount = int.from_bytes(payload) & frames.WINDOW_MAX
        if len(payload) != 4:
            raise Cut(Reason.PROTOCOL_ERROR, frames.FRAME_SIZE_ERROR)
        if stream_id > self._last_id or not (amount or stream_id):
            raise Cut(Reason.PROTOCOL_ERROR)
        if not self._updates.take(self._heard_at):
            raise Cut(Reason.WINDOW_UPDATE_FLOOD, frames.ENHANCE_YOUR_CALM)
        if not stream_id:
            self._widened(amount)
        elif (exchange := self.streams.get(stream_id)) is not None:
            if not amount:
                self._break(stream_id, frames.PROTOCOL_ERROR)
            elif exchange.window + amount > frames.WINDOW_MAX:
                self._break(stream_id, frames.FLOW_CONTROL_ERROR)
            else:
                self._widened(amount, exchange)

    def _on_other(self, stream_id: int, flags: int, payload: bytes) -> None:
        if not self._others.take(self._heard_at):
            raise Cut(Reason.FRAME_FLOOD, frames.ENHANCE_YOUR_CALM)

    def _earn(self, answers: int) -> None:
        """Clients accompany what they read by frames of their own. What was refused earns no reset: a header
        costs its client next to nothing."""
        self._resets.give(answers)
        self._pings.give(2)
        self._updates.give(3)
        self._tiny.give(4)
        self._others.give(1)

    def _turn_down(self, stream_id: int, error_code: int, reason: Reason) -> None:
        """End a stream by an error of its own; who makes too many of them is cut off."""
        self._emit(frames.reset(stream_id, error_code))
        if not self._resets.take(self._heard_at):
            raise Cut(reason, frames.ENHANCE_YOUR_CALM)

    def _break(self, stream_id: int, error_code: int) -> None:
        """The same for one that may have been open."""
        self._turn_down(stream_id, error_code, Reason.PROTOCOL_ERROR)
        exchange = self.streams.get(stream_id)
        if exchange is not None:
            self._reset(exchange)
