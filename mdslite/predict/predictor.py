"""The predict call: from a request's bytes to a reply's, the same for every way in. Owns no socket.

    Predictor.start(call) -> route -> decode -> lane ... lane -> Call.resolved() -> encode -> call.reply

A `Call` is the one object that a request costs: it is the lane's job, carries what the reply and the log
need, and its `reply` is called exactly once (never after `cancel`). There is no task and no future per
request; `respond` wraps the callback for callers that await.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from time import perf_counter

from mdslite.data import DataCodec
from mdslite.errors import (
    InvalidJson,
    InvalidRequest,
    MdsliteError,
    NotFound,
    Unauthorized,
    unknown_error,
    without_frames,
)
from mdslite.http.access import ANYBODY, Access, Grant
from mdslite.http.deflate import INLINE_BYTES, LEAST_BYTES, compress
from mdslite.http.guard import error_body
from mdslite.http.paths import is_infer, parse_infer_path, parse_predict_path
from mdslite.npy import MAGIC, NPY
from mdslite.predict.answers import encode, encode_empty, encode_long, encode_short, gather
from mdslite.predict.books import Books
from mdslite.predict.call import EVENT_LINES, JSON_LINES, Call, Headers, Reply, answer_nobody, reply_headers
from mdslite.predict.events import Pieces, make_error_event
from mdslite.predict.infer import InferForm
from mdslite.predict.outbox import Outbox
from mdslite.predict.raw import choose_form
from mdslite.predict.reading import MAX_BODY_BYTES, MAX_JSON_BYTES, Reader
from mdslite.predict.shadows import Shadows
from mdslite.serving.fleet import Served
from mdslite.serving.router import Route, Router
from mdslite.serving.trace import TRACEPARENT, read_trace
from mdslite.tensors import Codec, Columns

logger = logging.getLogger(__name__)

_PART_BYTES = 16 * 1024  # of an answer that takes a while to write: less is no reason to let others in
_TOGETHER = 32  # answers: to put so many takes about half a millisecond
_GZIP = b"\x1f\x8b"


class Predictor:
    """Routes, decodes, submits and answers. Used from the event loop's thread only."""

    def __init__(
        self,
        router: Router[Served],
        *,
        books: Books,
        access: Access | None = None,
        max_json_bytes: int = MAX_JSON_BYTES,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.router = router
        self.reader = Reader(max_json_bytes=max_json_bytes, max_body_bytes=max_body_bytes)
        self.books = books
        self.access = access or Access()
        self.shadows = Shadows(books, self.reader)
        self._infer = InferForm(max_json_bytes)
        self.outbox = Outbox()

    def adopt(self, call: Call) -> None:
        """Say how a call's answer is put, by its target. Whoever makes a call does this before `start`."""
        if call.target.startswith(b"/v2/"):
            call.form = self._infer

    def start(self, call: Call, error: MdsliteError | None = None) -> None:
        """Begin a call, or end it with the `error` that kept its body from being read.

        Every outcome goes to `call.reply`.
        """
        call.predictor = self
        self.books.started += 1
        if TRACEPARENT in call.fields:
            call.trace = read_trace(call.fields)
        if self.books.tracer is not None:
            self.books.tracer.begin(call)
        try:
            if self.access.idle or call.admitted:
                route = call.route = self.router.get(call.target) or self._find(call.target)
            else:
                route = self._admit(call)
            call.url = route.url
            selector = route.selector
            if selector is None:
                served = call.served = route.pick()
            else:
                served = call.served = selector.choose(call.fields, call.body) or route.pick()
            if error is not None:
                raise error
            lane = served.lane
            lane.make_room()
            if call.media_type == b"application/json" and call.form is None and not call.encoding:
                if len(call.body) > self.reader.max_json_bytes:
                    raise self.reader.too_large(call.target, call.fields)
                columns = served.codec.decode(call.body)
            else:
                columns = self.reader.read(call, served)
            if b"accept" in call.fields and call.form is None:
                columns = self._choose_form(call, served, columns)
            call.columns = columns
            if not columns.rows:
                call.finished = True
                self._send(call, 200, encode_empty(call, served), None)
                return
            now = perf_counter()
            allowed_s = lane.knobs.prediction_s
            call.deadline = call.arrived_at + (allowed_s if allowed_s < call.timeout_s else call.timeout_s)
            lane.submit(call, now, room=1)
        except MdsliteError as exc:
            self._send_error(call, exc, of_model=exc is not error)
        except Exception:
            logger.exception("request %s failed", call.request_id)
            self._send_error(call, unknown_error())

    def refuse(self, call: Call, error: MdsliteError) -> None:
        """End a call of which it cannot be told where it wanted to go."""
        call.predictor = self
        self.books.started += 1
        self._send_error(call, error)

    def finish(self, call: Call) -> None:
        """The lane has an answer or an error for a call."""
        if call.sent or (call.error is None and call.lane.codec.streams):
            self._finish_stream(call)
            return
        if call.error is not None:
            self._send_error(call, call.error)
            return
        try:
            if call.form is None:
                parts = encode_long(call)
                if parts is not None:
                    self._write_on(call, parts, [])
                    return
                body = encode(call)
            else:
                body = call.form.write(call, gather(call))
        except Exception as exc:
            self._send_unwritten(call, exc)
        else:
            self._answer(call, body)

    def finish_all(self, calls: Sequence[Call]) -> None:
        """As `finish` of each of these, which one batch has answered. They are put, sent and logged some at a
        time, so that what they have in common is looked at once."""
        for start in range(0, len(calls), _TOGETHER):
            with self.outbox:
                answered = self._finish_some(calls[start : start + _TOGETHER])
            self.books.record_all(answered)
            for call, _ in answered:
                if call.route is not None and call.route.shadows:
                    self.shadows.copy(call, 200)

    def _finish_some(self, calls: Sequence[Call]) -> list[tuple[Call, bytes]]:
        """Those that have the common answer, which is sent but not logged; the others are finished."""
        codec = calls[0].lane.codec
        counted = codec if isinstance(codec, Codec) and codec.counted else None
        answered: list[tuple[Call, bytes]] = []
        for call in calls:
            body = None
            if counted is not None and call.form is None and not call.coding:
                try:
                    body = encode_short(counted, call)
                except Exception as exc:
                    self._send_unwritten(call, exc)
                    continue
            if body is None:
                self.finish(call)
            else:
                call.reply(call, 200, body)
                answered.append((call, body))
        return answered

    def _write_on(self, call: Call, parts: Iterator[bytes], written: list[bytes]) -> None:
        """Write a long answer part by part, and let others have their turn after each."""
        try:
            for part in parts:
                written.append(part)
                if len(part) > _PART_BYTES:
                    asyncio.get_running_loop().call_soon(self._write_on, call, parts, written)
                    return
        except Exception as exc:
            self._send_unwritten(call, exc)
        else:
            self._answer(call, b"".join(written))

    def _send_unwritten(self, call: Call, error: Exception) -> None:
        """Say why there is no answer. In the error's handler."""
        if not isinstance(error, MdsliteError):
            logger.exception("request %s: the answer could not be encoded", call.request_id)
            error = MdsliteError("the model's answer could not be encoded")
        self._send_error(call, error)

    def _answer(self, call: Call, body: bytes) -> None:
        if call.coding and len(body) >= LEAST_BYTES:
            self._compress(call, body)
        else:
            self._send(call, 200, body, None)

    def _compress(self, call: Call, body: bytes) -> None:
        """Send an answer in the coding that its caller wishes for; a long one is compressed in a thread."""
        call.reply_lines += f"content-encoding: {call.coding}\r\n"
        if len(body) <= INLINE_BYTES:
            self._send(call, 200, compress(body, call.coding), None)
            return
        work = asyncio.get_running_loop().run_in_executor(None, compress, body, call.coding)
        work.add_done_callback(lambda done: self._send(call, 200, done.result(), None))

    def _finish_stream(self, call: Call) -> None:
        """The model has ended its stream, or failed after it began: too late for another status."""
        call.reply_lines = EVENT_LINES
        error = call.error
        if error is not None:
            call.on_piece(call, make_error_event(error_body(error, call.request_id)))
        call.reply(call, 200, b"")
        status, code = (200, None) if error is None else (error.status, error.code)
        self.books.record(call, status, code, call.sent)
        if call.route is not None and call.route.shadows:
            self.shadows.copy(call, status)

    def admit(self, target: bytes, authorization: bytes) -> tuple[Route[Served], str | None]:
        """The route of a request that is to be answered later, for one who may ask for it, and what the log
        calls who that is.

        :raises Unauthorized, Forbidden, RateLimited, NotFound: as its answer would say
        """
        call = Call(target, b"", b"", b"", None, perf_counter(), answer_nobody)
        call.authorization = authorization
        return self._admit(call), call.client

    async def respond(
        self,
        *,
        target: bytes,
        headers: Headers,
        body: bytes,
        error: MdsliteError | None = None,
        admitted: bool = False,
        client: str | None = None,
    ) -> Reply:
        """Answer one request: its body is complete, or `error` says why it is not. One that was `admitted`
        before shows no token; `client` is whose it is.

        Cancelling it cancels the call.
        """
        found = dict(headers)
        asker = _Asker()
        call = Call(
            target,
            body,
            found.get(b"content-type", b""),
            found.get(b"content-encoding", b""),
            found.get(b"x-request-id"),
            perf_counter(),
            asker.resolve,
        )
        call.authorization = found.get(b"authorization", b"")
        call.admitted, call.client = admitted, client
        call.fields = found
        call.on_piece = asker.take
        self.adopt(call)
        self.start(call, error)
        try:
            status, reply = await asker.answer
        except asyncio.CancelledError:
            call.cancel()
            raise
        return Reply(status, reply_headers(call, perf_counter()), reply, asker.pieces)

    def _admit(self, call: Call) -> Route[Served]:
        """The route of a call, for one who may take it."""
        access, now = self.access, call.arrived_at
        try:
            grant = access.enter(call.authorization, now)
        except Unauthorized:
            call.body = b""  # nothing that a stranger sends is kept
            raise
        call.client = grant.client
        grant.require("predict")
        route = call.route = self.router.get(call.target) or self._find(call.target, grant)
        call.url = route.url
        access.admit(grant, route.project, route.model, now)
        return route

    def _find(self, target: bytes, grant: Grant = ANYBODY) -> Route[Served]:
        """A target that is not spelt as a route is: percent-encoded, with a query, or unknown."""
        path, _, _ = target.partition(b"?")
        infer = is_infer(target)
        names = parse_infer_path(path) if infer else parse_predict_path(path)
        if names is None:
            expected = "/projects/PROJECT/models/MODEL[/versions/VERSION]:predict"
            if infer:
                expected = "/v2/models/PROJECT.MODEL[/versions/VERSION]/infer"
            raise NotFound(f"no such URL: expected {expected}")
        grant.require_model(*names[:2])
        try:
            return self.router.find(*names, infer=infer)
        except NotFound as exc:
            if grant.project is None:
                raise
            # The other message names what there is, which is not for everybody.
            raise NotFound(f"{names[0]}/{names[1]} is not deployed, or has no such version") from exc

    def _choose_form(self, call: Call, served: Served, columns: Columns) -> Columns:
        """Take the caller's word for how the answer is to be put."""
        call.form = choose_form(served, call.fields)
        if call.form is not None and isinstance(served.codec, DataCodec):
            return served.codec.as_tensors(columns)
        return columns

    def _send(self, call: Call, status: int, body: bytes, code: str | None) -> None:
        call.reply(call, status, body)
        self.books.record(call, status, code, body)
        if call.route is not None and call.route.shadows:
            self.shadows.copy(call, status)

    def _send_error(self, call: Call, error: MdsliteError, *, of_model: bool = True) -> None:
        call.finished = True
        # Else a refusal would leave a circle for the collector.
        call.error = without_frames(error)
        call.reply_lines = JSON_LINES
        route = call.route
        if of_model and error.hint is None and route is not None and isinstance(error, InvalidRequest):
            error.hint = _hint(error, call, route.project, route.model)
        self._send(call, error.status, error_body(error, call.request_id), error.code)
        call.body = b""  # whoever still needs it has taken it


def _hint(error: InvalidRequest, call: Call, project: str, model: str) -> str:
    """Where to look up what a request was to be like. That is no help with JSON which is none."""
    looked_up = f"{call.describe.format(f'{project}.{model}')} says what it takes and gives"
    if not isinstance(error, InvalidJson) or not len(call.body):
        return looked_up
    if call.body[: len(MAGIC)] == MAGIC:
        return f"an array's content-type is {NPY.decode()}"
    if call.body[: len(_GZIP)] == _GZIP:
        return "a compressed body says content-encoding: gzip"
    if is_infer(call.target):
        if 0 not in call.body:  # which the bytes of tensors hardly do without
            return looked_up
        return "where bytes follow the JSON, Inference-Header-Content-Length says where it ends"
    return f"mdslite predict {project}/{model} --curl prints a request that it takes"


class _Asker:
    """Who awaits the answer of a call, be it whole or in `pieces`."""

    __slots__ = ("answer", "pieces")

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.pieces: Pieces | None = None

    def resolve(self, _: Call, status: int, reply: bytes) -> None:
        if self.pieces is not None:
            self.pieces.end()
        elif not self.answer.done():  # it may be cancelled, and its task not know yet
            self.answer.set_result((status, reply))

    def take(self, call: Call, piece: bytes) -> None:
        if self.pieces is None:
            self.pieces = Pieces(call)
            if not self.answer.done():
                self.answer.set_result((200, b""))
        self.pieces.put(piece)
