"""Infer requests over gRPC as calls of the predict function: one, or a stream of them. Owns no port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import perf_counter
from typing import Any

from mdslite.errors import MdsliteError, Unavailable
from mdslite.predict.call import LOGGED_EVENTS_BYTES, Call
from mdslite.predict.events import Pieces, make_event
from mdslite.predict.predictor import Predictor
from mdslite.rpc import frames
from mdslite.rpc.exchange import Exchange, Message
from mdslite.rpc.message import VIEWED_BYTES, Envelope, RpcForm
from mdslite.rpc.schema import Schema
from mdslite.rpc.statuses import REQUEST_ID, describe

AHEAD = 16  # requests of one stream that are under way at a time
_VERSIONS_MAX = 256  # whose answers' ends are remembered
_NOWHERE = b"/v2/models//infer"  # the target of what does not say which model it is for


class RpcCall(Call):
    """An infer request over gRPC. `answers` is where its answers go, in a stream."""

    __slots__ = ("answers", "envelope", "exchange")

    describe = "ModelMetadata of {}"
    exchange: Exchange
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
        self._ends: dict[str, bytes] = {}
        self.draining = asyncio.Event()

    def infer(self, exchange: Exchange, body: Message) -> None:
        """Answer one request. A client that leaves, or whose deadline passes, frees what it holds."""
        call = self._make(body, exchange, self._form, self._reply)
        exchange.call = call
        self._start(call)

    def turn_away(self, exchange: Exchange) -> None:
        """End a request that shows no good token, of which nothing was read; the log is told of it."""
        call = self._make(b"", exchange, self._form, self._reply)
        call.target = _NOWHERE
        self._predictor.start(call)

    async def stream(self, exchange: Exchange) -> None:
        """Answer each request of a stream, in their order; a model that streams gives an answer a piece. What
        is wrong with one of them is the answer to that one."""
        turns: asyncio.Queue[Pieces | None] = asyncio.Queue(AHEAD)
        reading = asyncio.create_task(self._read(exchange, turns))
        ending = asyncio.create_task(self._end(reading, turns))
        try:
            while (answers := await turns.get()) is not None:
                async for answer in answers:
                    await exchange.write(answer)
            if reading.done():
                reading.result()  # what was wrong with what came
        finally:
            for task in (reading, ending):
                task.cancel()
            await asyncio.gather(reading, ending, return_exceptions=True)
            while not turns.empty():
                if (waiting := turns.get_nowait()) is not None:
                    waiting.cancel()
        if self.draining.is_set():
            raise Unavailable("this appliance is stopping")

    async def _read(self, exchange: Exchange, turns: asyncio.Queue[Pieces | None]) -> None:
        requests: AsyncIterator[Message] = exchange.messages()
        async for body in requests:
            answers = self._begin(body, exchange)
            del body  # the next one may be long in coming
            try:
                await turns.put(answers)
            except asyncio.CancelledError:
                answers.cancel()
                raise

    async def _end(self, reading: asyncio.Task[None], turns: asyncio.Queue[Pieces | None]) -> None:
        """Let a stream end behind its last request: the client's, or the last one before a stop."""
        stopping = asyncio.ensure_future(self.draining.wait())
        try:
            await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        await turns.put(None)

    def _begin(self, body: Message, exchange: Exchange) -> Pieces:
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

        call = self._make(body, exchange, form, resolve)
        answers = call.answers = Pieces(call)
        call.on_piece = take
        self._start(call)
        return answers

    def _make(
        self, body: Message, exchange: Exchange, form: RpcForm, resolve: Callable[[Any, int, bytes], None]
    ) -> RpcCall:
        fields = exchange.head.fields
        if len(body) >= VIEWED_BYTES:
            body = memoryview(body)  # of which a tensor is a part that costs no copy
        call = RpcCall(b"", body, b"", b"", fields.get(b"x-request-id"), perf_counter(), resolve)
        call.exchange = exchange
        call.fields = fields
        call.authorization = fields.get(b"authorization", b"")
        call.timeout_s = exchange.left_s()
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

    def _reply(self, call: Any, status: int, reply: bytes) -> None:
        exchange: Exchange = call.exchange
        exchange.call = None
        if call.error is not None:
            exchange.fail(call.error, call.request_id)
            return
        version = call.served.version
        end = self._ends.get(version)
        if end is None:
            if len(self._ends) >= _VERSIONS_MAX:
                self._ends.clear()
            end = self._ends[version] = frames.status(0) + frames.fields([("mdslite-version", version)])
        end += frames.literal(REQUEST_ID.encode(), call.request_id.encode())
        exchange.link.reply(exchange, reply, end)

    def _describe(self, call: RpcCall) -> bytes:
        assert call.error is not None
        found = self._schema.StreamResponse(error_message=describe(call.error))
        identity = getattr(call.plan, "id", None)
        if identity is not None:
            found.infer_response.id = identity
        return found.SerializeToString()  # type: ignore[no-any-return]
