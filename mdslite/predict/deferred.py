"""Predictions that are answered later: accepted with `Prefer: respond-async`, computed when there is room,
and asked for at the URL that the acceptance names, or told to a webhook.

Owns the tasks that compute and the waits of who asks; what is kept is `store.deferred`'s.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from time import time
from typing import TYPE_CHECKING, Any

from mdslite.errors import MdsliteError, NotFound
from mdslite.predict.call import Headers, Reply
from mdslite.store.deferred import KEEP_S, Deferred, DeferredStore, Entry, Result
from mdslite.store.webhooks import Webhooks
from mdslite.store.worker import Worker

if TYPE_CHECKING:
    from mdslite.predict.predictor import Predictor

logger = logging.getLogger(__name__)

URL = "/api/v1/predictions"
WEBHOOK = b"mdslite-webhook"
AT_ONCE = 64  # computed at a time: enough to fill batches
WAIT_MAX_S = 60.0
TRY_FOR_S = 3600.0  # while the model is overloaded or away
_RETRIED = frozenset({429, 503})
_RETRY_MAX_S = 10.0
_SWEEP_S = 60.0
_TELL_DELAYS_S = (1.0, 5.0, 30.0, 120.0, 600.0)
_STREAM_BYTES = 16 * 1024 * 1024  # of a streamed answer, as much is kept
_NOT_KEPT = frozenset({b"authorization", b"cookie", b"prefer", b"host", b"content-length", b"connection"})


def wants_later(fields: Mapping[bytes, bytes]) -> bool:
    """Does a request prefer to be answered later (RFC 7240)?"""
    prefer = fields.get(b"prefer")
    return prefer is not None and "respond-async" in _preferences(prefer)


def wait_s(fields: Mapping[bytes, bytes]) -> float:
    """How long who asks for an answer wants to wait for it, in seconds; 0 where it does not say."""
    found = _preferences(fields.get(b"prefer", b"")).get("wait", "")
    return min(float(found), WAIT_MAX_S) if found.isascii() and found.isdigit() else 0.0


class Deferrals:
    """Everything that was accepted and is still to be done or asked for. Made, started and closed by the
    appliance; used from the event loop's thread only."""

    def __init__(
        self,
        store: DeferredStore,
        predictor: Predictor,
        webhooks: Webhooks,
        *,
        keep_s: float = KEEP_S,
        at_once: int = AT_ONCE,
    ) -> None:
        self._store = store
        self._worker = Worker("deferred predictions", depth=1024)
        self._predictor = predictor
        self._webhooks = webhooks
        self._keep_s = keep_s
        self._at_once = at_once
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._ended: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Go on with what an earlier process has accepted."""
        for prediction_id in await self._worker.call(self._store.open):
            self._queue.put_nowait(prediction_id)
        for number in range(self._at_once):
            self._own(self._work(), name=f"deferred {number}")
        self._own(self._sweep(), name="deferred sweep")

    @property
    def waiting(self) -> int:
        """Accepted and not begun."""
        return self._queue.qsize()

    async def accept(
        self,
        *,
        project: str,
        model: str,
        target: bytes,
        fields: Mapping[bytes, bytes],
        body: bytes,
        client: str | None = None,
    ) -> Reply:
        """Take a request on; once this returns, it will be answered.

        :raises Overloaded: as many are kept as may be
        :raises InvalidRequest: the webhook is no address that may be called
        """
        webhook = fields.get(WEBHOOK)
        if webhook is not None:
            await asyncio.to_thread(self._webhooks.check, webhook.decode("latin-1"))
        request = Deferred(
            id=secrets.token_urlsafe(18),
            project=project,
            model=model,
            target=target,
            fields={name: value for name, value in fields.items() if name not in _NOT_KEPT},
            body=body,
            submitted_at=time(),
            webhook=None if webhook is None else webhook.decode("latin-1"),
            client=client,
        )
        await self._worker.call(self._store.add, request)
        self._queue.put_nowait(request.id)
        headers = [
            (b"content-type", b"application/json"),
            (b"location", f"{URL}/{request.id}".encode()),
            (b"preference-applied", b"respond-async"),
        ]
        return Reply(202, headers, _state_body(request.id, "waiting"))

    async def find(self, prediction_id: str, *, wait_s: float = 0.0) -> Entry:
        """What became of a request, waiting up to `wait_s` for its answer.

        :raises NotFound: there is none, or its answer is not kept any more
        """
        entry = await self._get(prediction_id)
        if entry.state == "waiting" and wait_s > 0:
            event = self._ended.setdefault(prediction_id, asyncio.Event())
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await event.wait()
            entry = await self._get(prediction_id)
        return entry

    async def cancel(self, prediction_id: str) -> None:
        """Forget a request or its answer.

        :raises NotFound: there is none
        """
        await self._get(prediction_id)
        await self._worker.call(self._store.cancel, prediction_id, time())
        self._wake(prediction_id)

    async def close(self) -> None:
        """Stop; what is not answered yet is begun anew by the next process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(MdsliteError):
            await self._worker.call(self._store.close)
        await asyncio.to_thread(self._worker.close)

    async def _get(self, prediction_id: str) -> Entry:
        entry = await self._worker.call(self._store.get, prediction_id)
        if entry is None or entry.state == "cancelled":
            raise NotFound("there is no such deferred prediction: its answer is kept for a limited time")
        return entry

    async def _work(self) -> None:
        while True:
            prediction_id = await self._queue.get()
            try:
                entry = await self._worker.call(self._store.get, prediction_id)
                if entry is not None and entry.state == "waiting":
                    await self._answer(entry.request)
                    entry = await self._worker.call(self._store.get, prediction_id)
                self._wake(prediction_id)
                if entry is not None and entry.state == "done" and entry.request.webhook and not entry.told:
                    self._own(self._tell(entry), name="webhook")
            except MdsliteError as exc:
                # The disk may be full: the request is kept, and tried again after a while.
                logger.error("deferred prediction %s: %s", prediction_id, exc.message)
                await asyncio.sleep(_RETRY_MAX_S)
                self._queue.put_nowait(prediction_id)

    async def _answer(self, request: Deferred) -> None:
        """Compute, patiently while the model is overloaded or away, and keep the answer."""
        delay_s = 0.1
        while True:
            reply = await self._predictor.respond(
                target=request.target,
                headers=list(request.fields.items()),
                body=request.body,
                admitted=True,
                client=request.client,
            )
            late = time() > request.submitted_at + TRY_FOR_S
            if reply.status not in _RETRIED or late:
                break
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, _RETRY_MAX_S)
        body = reply.body
        if reply.pieces is not None:
            pieces = b""
            async for piece in reply.pieces:
                pieces += piece if len(pieces) < _STREAM_BYTES else b""
            body = pieces
        result = Result(reply.status, reply.headers, body, time())
        await self._worker.call(self._store.finish, request.id, result)

    async def _tell(self, entry: Entry) -> None:
        """Call the webhook, some times more if it does not answer well."""
        assert entry.request.webhook is not None and entry.result is not None
        told = {"id": entry.request.id, "status": entry.result.status, "url": f"{URL}/{entry.request.id}"}
        with suppress(ValueError):
            told["reply"] = json.loads(entry.result.body)
        body = json.dumps(told).encode()
        for delay_s in (*_TELL_DELAYS_S, None):
            try:
                await asyncio.to_thread(self._webhooks.post, entry.request.webhook, body)
                break
            except MdsliteError as exc:
                logger.warning("deferred prediction %s: its webhook: %s", entry.request.id, exc.message)
                if delay_s is not None:
                    await asyncio.sleep(delay_s)
        await self._worker.call(self._store.note_told, entry.request.id)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            with suppress(MdsliteError):
                await self._worker.call(self._store.sweep, time() - self._keep_s)

    def _wake(self, prediction_id: str) -> None:
        event = self._ended.pop(prediction_id, None)
        if event is not None:
            event.set()

    def _own(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def answer_of(entry: Entry) -> Reply:
    """What who asks is told: the answer as the request itself would have got it, or that it is not ready."""
    result = entry.result
    if result is None:
        headers: Headers = [(b"content-type", b"application/json"), (b"retry-after", b"1")]
        return Reply(202, list(headers), _state_body(entry.request.id, entry.state))
    kept = [(name, value) for name, value in result.headers if name != b"mdslite-request-id"]
    return Reply(result.status, kept, result.body)


def _state_body(prediction_id: str, state: str) -> bytes:
    return json.dumps({"id": prediction_id, "state": state, "url": f"{URL}/{prediction_id}"}).encode()


def _preferences(value: bytes) -> dict[str, str]:
    """The preferences in a Prefer field, by lower-case name."""
    found: dict[str, str] = {}
    for part in value.decode("latin-1").split(","):
        name, _, given = part.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), given.strip().strip('"'))
    return found
