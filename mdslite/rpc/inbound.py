"""What a client of the gRPC port sends: frames, read where they lie, and put into its exchanges. Owns what
has come of them and how much more may come. Frames that are no part of a call are control.py's; the half that
answers is connection.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mdslite.errors import MdsliteError
from mdslite.http.policing import LAST_STREAM_ID, PREFACE, Reason
from mdslite.http.request import UNPACKED_BYTES
from mdslite.rpc import frames
from mdslite.rpc.control import Control, Cut
from mdslite.rpc.exchange import Exchange
from mdslite.rpc.heads import Heads

if TYPE_CHECKING:
    from mdslite.rpc.door import RpcDoor

_TINY_BYTES = 128  # DATA frames below this carry less than they cost


class Inbound(Control):
    """The half of a connection that reads."""

    def __init__(self, door: RpcDoor, now: float) -> None:
        super().__init__(door, now)
        self._door = door
        self._heads = Heads()
        self._greeted = False  # the preface is here
        self._settled = False  # and the settings that have to follow it
        self._final_id = LAST_STREAM_ID  # those above come too late
        # What has come of a frame that is not whole; of a DATA frame, how much is to come, and whose it is.
        self._rest: list[bytes] = []
        self._rest_bytes, self._rest_needs = 0, 0
        self._rest_at = math.inf
        self._aside = False  # it may well be whole
        self._turn_left = self.limits.turn_frames
        self._data_left, self._data_id, self._data_flags = 0, 0, 0
        self._block = b""  # of a header that goes on in another frame
        self._block_id, self._block_flags, self._block_frames = 0, 0, 0
        self._block_at = math.inf
        self._credit = self.limits.connection_window_bytes
        self._owed = 0

    # What the other half does

    def _welcome(self) -> None:
        """Say how much may be sent."""
        raise NotImplementedError

    def _rest_a_turn(self) -> None:
        """Read nothing more before others have had their turn."""
        raise NotImplementedError

    def _make(self, stream_id: int) -> Exchange:
        raise NotImplementedError

    # Frames

    def read(self, data: bytes) -> None:
        """Take the next bytes.

        :raises Cut, BadBlock: nothing after them is to be read
        """
        if self._rest:
            self._rest.append(data)
            self._rest_bytes += len(data)
            if self._rest_bytes < self._rest_needs:
                return
            data = b"".join(self._rest)
            self._rest, self._rest_bytes, self._rest_at, self._aside = [], 0, math.inf, False
        at = 0
        if not self._settled:
            at = self._begin(data)
            if at < 0:
                return
        if self._data_left:
            at = self._go_on_with_data(data, at)
        self._read_frames(data, at)

    def _begin(self, data: bytes) -> int:
        """Take the preface and see that settings follow; returns where these begin, or -1 where too little is
        here to tell."""
        at = 0
        if not self._greeted:
            if len(data) < len(PREFACE):
                self._keep(data, len(PREFACE))
                return -1
            self._greeted = True
            self._welcome()
            at = len(PREFACE)
        if len(data) - at >= frames.HEAD_BYTES:
            _, kind, flags, _ = frames.read_head(data, at)
            if kind != frames.SETTINGS or flags & frames.ACK:
                raise Cut(Reason.PROTOCOL_ERROR)
            self._settled = True
        return at

    def _read_frames(self, data: bytes, at: int) -> None:
        """Take the frames that begin there, and keep what is left."""
        end, now, turn_left = len(data), self._heard_at, self._turn_left
        needs = frames.HEAD_BYTES
        while end - at >= needs:
            if not turn_left:
                self._turn_left = self.limits.turn_frames
                self._put_aside(data[at:])
                return
            turn_left -= 1
            length, kind, flags, stream_id = frames.read_head(data, at)
            begin = at + frames.HEAD_BYTES
            stop = begin + length
            if stop > end:
                self._check_frame(length, kind, stream_id)
                if kind != frames.DATA or flags & frames.PADDED:
                    needs = frames.HEAD_BYTES + length
                    break
                self._charge(self.streams.get(stream_id), length, flags)
                self._data_left, self._data_id, self._data_flags = length, stream_id, flags
                at = self._go_on_with_data(data, begin)
                continue
            if kind == frames.DATA:
                self._on_data(stream_id, flags, data, begin, stop)
            elif kind == frames.HEADERS:
                self._on_headers(stream_id, flags, data[begin:stop], now)
            else:
                self._check_frame(length, kind, stream_id)
                if kind == frames.CONTINUATION:
                    self._on_continuation(stream_id, flags, data[begin:stop], now)
                else:
                    self._kinds.get(kind, self._on_other)(stream_id, flags, data[begin:stop])
            at = stop
        self._turn_left = turn_left
        if at < end:
            self._keep(data[at:], needs)

    def _check_frame(self, length: int, kind: int, stream_id: int) -> None:
        if length > self.limits.frame_bytes:
            raise Cut(Reason.FRAME_TOO_LARGE, frames.FRAME_SIZE_ERROR)
        if self._block_id and (kind != frames.CONTINUATION or stream_id != self._block_id):
            raise Cut(Reason.PROTOCOL_ERROR)

    def _keep(self, rest: bytes, needs: int) -> None:
        """Come back to this when it is whole."""
        self._rest, self._rest_bytes, self._rest_needs = [rest], len(rest), needs
        self._rest_at = self._heard_at

    def _put_aside(self, rest: bytes) -> None:
        """Come back to this when others have had their turn: it was the client's to send, and is ours now."""
        self._keep(rest, frames.HEAD_BYTES)
        self._rest_at = math.inf
        self._aside = True
        self._rest_a_turn()

    # Messages

    def _on_data(self, stream_id: int, flags: int, data: bytes, begin: int, stop: int) -> None:
        length = stop - begin
        if length > self.limits.frame_bytes or self._block_id:
            self._check_frame(length, frames.DATA, stream_id)
        exchange = self.streams.get(stream_id)
        self._charge(exchange, length, flags)
        if (
            flags == frames.END_STREAM
            and exchange is not None
            and exchange.is_fresh
            and exchange.awaited == math.inf
            and length >= frames.PREFIX_BYTES
            and not data[begin]
            and int.from_bytes(data[begin + 1 : begin + 5]) == length - frames.PREFIX_BYTES
        ):
            # One message in one frame, all that there is: how nearly every call looks.
            exchange.closed = True
            self._door.give(exchange, data[begin + frames.PREFIX_BYTES : stop])
            return
        if flags & frames.PADDED:
            if not length:
                raise Cut(Reason.PROTOCOL_ERROR, frames.FRAME_SIZE_ERROR)
            if data[begin] >= length:
                raise Cut(Reason.PROTOCOL_ERROR)
            stop -= data[begin]
            begin += 1
        self._take(stream_id, flags, data, begin, stop)

    def _go_on_with_data(self, data: bytes, at: int) -> int:
        """Take what there is of a DATA frame that did not come in one piece; returns where it ends."""
        step = min(self._data_left, len(data) - at)
        self._data_left -= step
        if step:
            self._take(self._data_id, 0 if self._data_left else self._data_flags, data, at, at + step)
        return at + step

    def _take(self, stream_id: int, flags: int, data: bytes, begin: int, stop: int) -> None:
        exchange = self.streams.get(stream_id)
        if exchange is None:
            if stream_id > self._last_id or not stream_id & 1:
                raise Cut(Reason.PROTOCOL_ERROR)
            return  # it has had its answer
        if exchange.closed:
            raise Cut(Reason.PROTOCOL_ERROR, frames.STREAM_CLOSED)
        if exchange.ended:
            return
        exchange.awaited -= stop - begin
        if exchange.awaited < 0:
            self._break(stream_id, frames.PROTOCOL_ERROR)
            return
        try:
            if stop > begin:
                piece = memoryview(data)[begin:stop]
                exchange.take(piece, pinned_bytes=len(data), now=self._heard_at)
        except MdsliteError as exc:
            exchange.break_off(exc)
            return
        if flags & frames.END_STREAM:
            self._close(exchange)
        else:
            self.grant(exchange)

    def _close(self, exchange: Exchange) -> None:
        """The client has sent all of a call."""
        if 0 < exchange.awaited < math.inf:
            self._break(exchange.id, frames.PROTOCOL_ERROR)
            return
        try:
            exchange.close()
        except MdsliteError as exc:
            exchange.break_off(exc)
        else:
            self._door.whole(exchange)

    def _charge(self, exchange: Exchange | None, size_bytes: int, flags: int) -> None:
        """Take a frame from the windows; they widen as it is read."""
        if not flags & frames.END_STREAM:
            least_bytes = _TINY_BYTES + frames.PADDING_MAX if flags & frames.PADDED else _TINY_BYTES
            if size_bytes < least_bytes and not self._tiny.take(self._heard_at):
                raise Cut(Reason.TINY_DATA_FLOOD, frames.ENHANCE_YOUR_CALM)
        self._credit -= size_bytes
        self._owed += size_bytes
        if self._credit < 0:
            raise Cut(Reason.PROTOCOL_ERROR, frames.FLOW_CONTROL_ERROR)
        if self._owed * 4 > self.limits.connection_window_bytes:
            self._emit(frames.window_update(0, self._owed))
            self._credit += self._owed
            self._owed = 0
        if exchange is not None:
            exchange.credit -= size_bytes
            exchange.owed += size_bytes
            if exchange.credit < 0:
                raise Cut(Reason.PROTOCOL_ERROR, frames.FLOW_CONTROL_ERROR)

    def grant(self, exchange: Exchange) -> None:
        """Let the client send as much again, unless messages wait to be read."""
        if exchange.owed * 4 > self.limits.stream_window_bytes and not exchange.ready and not exchange.closed:
            self._emit(frames.window_update(exchange.id, exchange.owed))
            exchange.credit += exchange.owed
            exchange.owed = 0

    # Headers

    def _on_headers(self, stream_id: int, flags: int, block: bytes, now: float) -> None:
        if len(block) > UNPACKED_BYTES or self._block_id:
            self._check_frame(len(block), frames.HEADERS, stream_id)
            raise Cut(Reason.HEADERS_TOO_LARGE, frames.ENHANCE_YOUR_CALM)
        if flags & (frames.PADDED | frames.PRIORITIZED):
            block = _strip(block, flags)
        if flags & frames.END_HEADERS:
            self._open(stream_id, flags, block, now)
            return
        self._block_id, self._block_flags, self._block, self._block_frames = stream_id, flags, block, 0
        self._block_at = now

    def _on_continuation(self, stream_id: int, flags: int, block: bytes, now: float) -> None:
        if not self._block_id:
            raise Cut(Reason.PROTOCOL_ERROR)
        self._block += block
        self._block_frames += 1
        if self._block_frames > self.limits.continuations:
            raise Cut(Reason.CONTINUATION_FLOOD, frames.ENHANCE_YOUR_CALM)
        if len(self._block) > UNPACKED_BYTES:
            raise Cut(Reason.HEADERS_TOO_LARGE, frames.ENHANCE_YOUR_CALM)
        if flags & frames.END_HEADERS:
            self._block_id, self._block_at = 0, math.inf
            self._open(stream_id, self._block_flags, self._block, now)

    def _open(self, stream_id: int, flags: int, block: bytes, now: float) -> None:
        head = self._heads.get(block) or self._heads.read(block)
        ends = bool(flags & frames.END_STREAM)
        if stream_id <= self._last_id or not stream_id & 1:
            exchange = self.streams.get(stream_id)
            if exchange is not None and exchange.closed:
                raise Cut(Reason.PROTOCOL_ERROR, frames.STREAM_CLOSED)
            if not stream_id & 1 or (exchange is not None and not ends):
                raise Cut(Reason.PROTOCOL_ERROR)
            if exchange is not None and not exchange.ended:
                self._close(exchange)  # a client may end what it sends with fields, too
            return
        self._last_id = stream_id
        if stream_id > self._final_id or len(self.streams) >= self.limits.streams:
            self._turn_down(stream_id, frames.REFUSED_STREAM, Reason.TOO_MANY_STREAMS)
            return
        if head.malformed:
            self._turn_down(stream_id, frames.PROTOCOL_ERROR, Reason.PROTOCOL_ERROR)
            return
        exchange = self.streams[stream_id] = self._make(stream_id)
        exchange.head = head
        exchange.opened_at = exchange.begun_at = now
        exchange.closed = ends
        exchange.awaited = head.length
        self._door.begin(exchange)
        if ends and not exchange.ended:
            self._close(exchange)


def _strip(block: bytes, flags: int) -> bytes:
    """A header's block without padding and priority."""
    begin, end = 0, len(block)
    if flags & frames.PADDED:
        begin, end = 1, end - (block[0] if block else 0)
    if flags & frames.PRIORITIZED:
        begin += 5
    if begin > end:
        raise Cut(Reason.PROTOCOL_ERROR)
    return block[begin:end]
