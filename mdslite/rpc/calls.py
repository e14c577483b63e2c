"""Infer requests over gRPC as calls of the predict function: one, or a stream of them. Owns no port."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from mdslite.errors import MdsliteError, Unavailable
from mdslite.http.call import LOGGED_EVENTS_BYTES, Call
from mdslite.http.events import Pieces, make_event
from mdslite.http.guard import make_request_id
from mdslite.http.predict import Predictor
from mdslite.rpc.message import Envelope, RpcForm
from mdslite.rpc.schema import Schema
from mdslite.rpc.statuses import REQUEST_ID, describe, refuse

AHEAD = 16  # requests of one stream that are under way at a time
_VERSION = "mdslite-version"
_NOWHERE = b"/v2/models//infer"  # the target of what does not say which model it is for


class RpcCall(Call):
    """An infer request over gRPC. `answers` is where its answers go, in a stream."""

    envelope: Envelope
    answers: Pieces

    def emitted(self, piece: bytes) -> None:
        if len(self.sent) < LOGGED_EVENTS_BYTES:
            self.sent += make_event(piece)
        self.on_piece(self, piece)


class InferService:
    """Answers infer requests. Used on the event loop's thread only."""

    def __init__(self, predictor: Predictor, schema: Schema) -> None:
        heads: dict[int, Envelope] = {}
        self._predictor = predictor
        self._schema = schema
        self._form = RpcForm(schema, heads, streamed=False)
        self._stream_form = RpcForm(schema, heads, streamed=True)
        self.draining = asyncio.Event()

    async def infer(self, body: bytes, context: Any) -> bytes:
        """Answer one request. A client that leaves, or whose deadline passes, frees what it holds."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def resolve(_: Call, status: int, reply: bytes) -> None:
            if not future.done():  # it may be cancelled, and its task not know yet
                future.set_result(reply)

        caller = Sender.of(context)
        call = self._make(body, caller, self._form, resolve)
        self._start(call)
        try:
            reply = await future
        except asyncio.CancelledError:
            call.cancel()
            raise
        if call.error is not None:
            await refuse(context, call.error, call.request_id)
        assert call.served is not None
        context.set_trailing_metadata(((REQUEST_ID, call.request_id), (_VERSION, call.served.version)))
        return reply

    async def refuse_stranger(self, context: Any) -> None:
        """End a request that shows no good token, of which nothing was read; the log is told of it."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        call = self._make(b"", Sender.of(context), self._form, lambda *_: future.set_result(None))
        call.target = _NOWHERE
        self._predictor.start(call)
        await future
        await refuse(context, call.error or MdsliteError("internal error"), call.request_id)

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Answer each request of a stream, in their order; a model that streams gives an answer a piece. What
        is wrong with one of them is the answer to that one."""
        turns: asyncio.Queue[RpcCall | None] = asyncio.Queue(AHEAD)
        reading = asyncio.create_task(self._read(requests, Sender.of(context), turns))
        ending = asyncio.create_task(self._end(reading, turns))
        try:
            while (call := await turns.get()) is not None:
                async for answer in call.answers:
                    await context.write(answer)
        finally:
            for task in (reading, ending):
                task.cancel()
            await asyncio.gather(reading, ending, return_exceptions=True)
            while not turns.empty():
                if (waiting := turns.get_nowait()) is not None:
                    waiting.cancel()
        if self.draining.is_set():
            await refuse(context, Unavailable("this appliance is stopping"), make_request_id())

    async def _read(
        self, requests: AsyncIterator[bytes], sender: Sender, turns: asyncio.Queue[RpcCall | None]
    ) -> None:
        async for body in requests:
            call = self._begin(body, sender)
            try:
                await turns.put(call)
            except asyncio.CancelledError:
                call.cancel()
                raise

    async def _end(self, reading: asyncio.Task[None], turns: asyncio.Queue[RpcCall | None]) -> None:
        """Let a stream end behind its last request: the client's, or the last one before a stop."""
        stopping = asyncio.ensure_future(self.draining.wait())
        try:
            await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        await turns.put(None)

    def _begin(self, body: bytes, sender: Sender) -> RpcCall:
        form = self._stream_form

        def resolve(call: Any, status: int, reply: bytes) -> None:
            if call.error is not None:
                call.answers.put(self._describe(call))
            elif reply:
                call.answers.put(form.wrap(reply))
            call.answers.end()

        def take(call: Any, piece: bytes) -> None:
            if call.error is None:  # what comes of one is told at its end
                call.answers.put(form.write_piece(call.served, piece, call.plan))

        call = self._make(body, sender, form, resolve)
        call.answers = Pieces(call)
        call.on_piece = take
        self._start(call)
        return call

    def _make(
        self, body: bytes, sender: Sender, form: RpcForm, resolve: Callable[[Call, int, bytes], None]
    ) -> RpcCall:
        fields = sender.fields
        call = RpcCall(b"", body, b"", b"", fields.get(b"x-request-id"), perf_counter(), resolve)
        call.fields = fields
        call.authorization = fields.get(b"authorization", b"")
        call.timeout_s = sender.left_s()
        call.form = form
        return call

    def _start(self, call: RpcCall) -> None:
        error: MdsliteError | None = None
        try:
            call.envelope = self._stream_form.open(call.body)
            call.target = call.envelope.target
        except MdsliteError as exc:
            error = exc
        if error is None:
            self._predictor.start(call)
            return
        call.target = _NOWHERE
        self._predictor.refuse(call, error)

    def _describe(self, call: RpcCall) -> bytes:
        assert call.error is not None
        found = self._schema.StreamResponse(error_message=describe(call.error))
        identity = getattr(call.plan, "id", None)
        if identity is not None:
            found.infer_response.id = identity
        return found.SerializeToString()  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends the requests of an RPC: its metadata as a request's header, and how long it waits."""

    fields: dict[bytes, bytes]
    context: Any

    @classmethod
    def of(cls, context: Any) -> Sender:
        fields = {
            name.encode(): value.encode("latin-1", "replace") if isinstance(value, str) else value
            for name, value in context.invocation_metadata()
        }
        return cls(fields, context)

    def left_s(self) -> float:
        left_s = self.context.time_remaining()
        return math.inf if left_s is None else left_s
