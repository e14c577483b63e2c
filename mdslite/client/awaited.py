"""The client for asyncio: `AsyncClient`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

import httpx2

from mdslite import calls, drift_calls, label_calls, log_calls
from mdslite.asks import Ask, Lines, Pieces
from mdslite.client.transfers import Download, make_download, make_request, translated
from mdslite.links import DEFAULT_URL, open_async_link
from mdslite.replies import require
from mdslite.retries import Budget, Course, Retries

P = ParamSpec("P")
T = TypeVar("T")


def _asking_later(describe: Callable[P, Ask[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    @functools.wraps(describe)
    async def method(client: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await client.ask(describe(*args, **kwargs))

    return method


def _reading_later(
    describe: Callable[P, Lines[T]],
) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]:
    @functools.wraps(describe)
    async def method(client: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        async with client.read(describe(*args, **kwargs)) as lines:
            async for line in lines:
                yield line

    return method


def _following_later(
    describe: Callable[P, Lines[T]],
) -> Callable[Concatenate[AsyncClient, P], AbstractAsyncContextManager[AsyncIterator[T]]]:
    @functools.wraps(describe)
    def method(
        client: AsyncClient, /, *args: P.args, **kwargs: P.kwargs
    ) -> AbstractAsyncContextManager[AsyncIterator[T]]:
        return client.read(describe(*args, **kwargs))

    return method


def _downloading_later(
    describe: Callable[P, Pieces],
) -> Callable[Concatenate[AsyncClient, P], AbstractAsyncContextManager[Download[AsyncIterator[bytes]]]]:
    @functools.wraps(describe)
    def method(
        client: AsyncClient, /, *args: P.args, **kwargs: P.kwargs
    ) -> AbstractAsyncContextManager[Download[AsyncIterator[bytes]]]:
        return client.stream(describe(*args, **kwargs))

    return method


class AsyncClient:
    """What `Client` is, for asyncio: the same methods, to be awaited (`apply`, `undo` and `follow_plan` with
    `async for`, `follow_logs` with `async with`)."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        ca_file: str | None = None,
        cert_file: str | None = None,
        timeout_s: float | None = None,
        retries: Retries = Retries(),  # noqa: B008 (frozen)
    ) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._retries = retries
        self._budget = Budget()
        self._open_files = contextlib.ExitStack()
        self._http = open_async_link(
            self.url, token=token, ca_file=ca_file, cert_file=cert_file, open_files=self._open_files
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()
        self._open_files.close()

    status = _asking_later(calls.status)
    models = _asking_later(calls.models)
    model = _asking_later(calls.model)
    version = _asking_later(calls.version)
    put_version = _asking_later(calls.put_version)
    delete_version = _asking_later(calls.delete_version)
    put_weights = _asking_later(calls.put_weights)
    output = _asking_later(calls.output)
    compare = _asking_later(calls.compare)
    rollout = _asking_later(calls.rollout)
    rollouts = _asking_later(calls.rollouts)
    load = _asking_later(calls.load)
    unload = _asking_later(calls.unload)
    devices_history = _asking_later(calls.devices_history)
    begin_rollout = _asking_later(calls.begin_rollout)
    change_rollout = _asking_later(calls.change_rollout)
    plan = _asking_later(calls.plan)
    follow_plan = _reading_later(calls.follow_plan)
    apply = _reading_later(calls.apply)
    undo = _reading_later(calls.undo)
    revisions = _asking_later(calls.revisions)
    revision = _asking_later(calls.revision)
    logs = _asking_later(log_calls.logs)
    histogram = _asking_later(log_calls.histogram)
    percentiles = _asking_later(log_calls.percentiles)
    log_row = _asking_later(log_calls.log_row)
    top = _asking_later(log_calls.top)
    export_logs = _downloading_later(log_calls.export_logs)
    export_labels = _downloading_later(label_calls.export_labels)
    alerts = _asking_later(drift_calls.alerts)
    follow_logs = _following_later(log_calls.follow_logs)
    events = _following_later(calls.events)
    predict = _asking_later(calls.predict)
    submit = _asking_later(calls.submit)
    result = _asking_later(calls.result)
    tokens = _asking_later(calls.tokens)
    create_token = _asking_later(calls.create_token)
    revoke_token = _asking_later(calls.revoke_token)
    limits = _asking_later(calls.limits)
    limit = _asking_later(calls.limit)
    audit = _asking_later(calls.audit)
    doctor = _asking_later(calls.doctor)
    backup = _asking_later(calls.backup)
    label_queue = _asking_later(label_calls.label_queue)
    labels = _asking_later(label_calls.labels)
    label = _asking_later(label_calls.label)
    put_label = _asking_later(label_calls.put_label)
    undo_label = _asking_later(label_calls.undo_label)
    label_accuracy = _asking_later(label_calls.label_accuracy)
    labeling = _asking_later(label_calls.labeling)
    put_labeling = _asking_later(label_calls.put_labeling)
    forget_labels = _asking_later(label_calls.forget_labels)
    replay = _asking_later(label_calls.replay)
    replays = _asking_later(label_calls.replays)
    replay_progress = _asking_later(label_calls.replay_progress)
    cancel_replay = _asking_later(label_calls.cancel_replay)
    drift = _asking_later(drift_calls.drift)
    baseline = _asking_later(drift_calls.baseline)
    put_baseline = _asking_later(drift_calls.put_baseline)
    drop_baseline = _asking_later(drift_calls.drop_baseline)
    alert_webhook = _asking_later(drift_calls.alert_webhook)
    put_alert_webhook = _asking_later(drift_calls.put_alert_webhook)

    async def needs_token(self) -> bool:
        return bool((await self.status()).get("needs_token"))

    async def ask(self, ask: Ask[T]) -> T:
        """Send one request, again if need be, and read its reply.

        :raises MdsliteError: what the reply or the network says
        """
        with translated(self.url):
            return ask.read(await self._send(ask, stream=False))

    @contextlib.asynccontextmanager
    async def read(self, lines: Lines[T]) -> AsyncGenerator[AsyncIterator[T], None]:
        """The lines that answer a request, for as long as the block runs.

        :raises MdsliteError: what the reply or the network says
        """
        with translated(self.url):
            reply = await self._send(lines.ask, stream=True)
            async with contextlib.aclosing(reply):
                if reply.status_code >= 400:
                    await reply.aread()
                require(reply)
                yield (lines.read(line) async for line in reply.aiter_lines() if line.strip())

    @contextlib.asynccontextmanager
    async def stream(self, pieces: Pieces) -> AsyncGenerator[Download[AsyncIterator[bytes]], None]:
        """The file that answers a request, for as long as the block runs.

        :raises MdsliteError: what the reply or the network says
        """
        with translated(self.url):
            reply = await self._send(pieces.ask, stream=True)
            async with contextlib.aclosing(reply):
                if reply.status_code >= 400:
                    await reply.aread()
                require(reply)
                yield make_download(reply.aiter_bytes(), reply)

    async def _send(self, ask: Ask[T], *, stream: bool) -> httpx2.Response:
        course = Course(self._retries, self._budget, repeatable=ask.repeatable)
        while True:
            request = make_request(self._http, ask, self._timeout_s)
            try:
                reply = await self._http.send(request, stream=stream)
            except httpx2.RequestError as exc:
                wait_s = course.after_failure(exc)
                if wait_s is None:
                    raise
            else:
                wait_s = course.after_reply(reply)
                if wait_s is None:
                    return reply
                await reply.aclose()
            await asyncio.sleep(wait_s)
