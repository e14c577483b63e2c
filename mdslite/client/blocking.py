"""The client for threads: `Client`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from time import sleep
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

import httpx2

from mdslite import calls, drift_calls, label_calls, log_calls
from mdslite.asks import Ask, Lines, Pieces
from mdslite.client.transfers import Download, make_download, make_request, translated
from mdslite.links import DEFAULT_URL, open_link
from mdslite.replies import require
from mdslite.retries import Budget, Course, Retries

P = ParamSpec("P")
T = TypeVar("T")


def _asking(describe: Callable[P, Ask[T]]) -> Callable[Concatenate[Client, P], T]:
    """The method that asks what `describe` describes."""

    @functools.wraps(describe)
    def method(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client.ask(describe(*args, **kwargs))

    return method


def _reading(describe: Callable[P, Lines[T]]) -> Callable[Concatenate[Client, P], Iterator[T]]:
    """The method that asks when its first line is wanted, and yields line by line."""

    @functools.wraps(describe)
    def method(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        with client.read(describe(*args, **kwargs)) as lines:
            yield from lines

    return method


def _following(
    describe: Callable[P, Lines[T]],
) -> Callable[Concatenate[Client, P], AbstractContextManager[Iterator[T]]]:
    """The method that asks when its block is entered."""

    @functools.wraps(describe)
    def method(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[Iterator[T]]:
        return client.read(describe(*args, **kwargs))

    return method


def _downloading(
    describe: Callable[P, Pieces],
) -> Callable[Concatenate[Client, P], AbstractContextManager[Download[Iterator[bytes]]]]:
    """The method that asks when its block is entered."""

    @functools.wraps(describe)
    def method(
        client: Client, /, *args: P.args, **kwargs: P.kwargs
    ) -> AbstractContextManager[Download[Iterator[bytes]]]:
        return client.stream(describe(*args, **kwargs))

    return method


class Client:
    """A connection to one appliance, for any number of threads. Close it, or use it in a `with` block.

    `url` may be `unix:` and a store's folder: its owner needs no token there. `ca_file` holds the
    certificates to trust, by default those of the system or of SSL_CERT_FILE; `cert_file` a certificate and
    its key to show. `timeout_s` is how long any answer may keep silent, where its own bound is longer.

    :raises InvalidRequest: when `url` is no http or https URL, or a file is none
    """

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
        self._http = open_link(
            self.url, token=token, ca_file=ca_file, cert_file=cert_file, open_files=self._open_files
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()
        self._open_files.close()

    status = _asking(calls.status)
    models = _asking(calls.models)
    model = _asking(calls.model)
    version = _asking(calls.version)
    put_version = _asking(calls.put_version)
    delete_version = _asking(calls.delete_version)
    put_weights = _asking(calls.put_weights)
    output = _asking(calls.output)
    compare = _asking(calls.compare)
    rollout = _asking(calls.rollout)
    rollouts = _asking(calls.rollouts)
    load = _asking(calls.load)
    unload = _asking(calls.unload)
    devices_history = _asking(calls.devices_history)
    begin_rollout = _asking(calls.begin_rollout)
    change_rollout = _asking(calls.change_rollout)
    plan = _asking(calls.plan)
    follow_plan = _reading(calls.follow_plan)
    apply = _reading(calls.apply)
    undo = _reading(calls.undo)
    revisions = _asking(calls.revisions)
    revision = _asking(calls.revision)
    logs = _asking(log_calls.logs)
    histogram = _asking(log_calls.histogram)
    percentiles = _asking(log_calls.percentiles)
    log_row = _asking(log_calls.log_row)
    top = _asking(log_calls.top)
    export_logs = _downloading(log_calls.export_logs)
    export_labels = _downloading(label_calls.export_labels)
    alerts = _asking(drift_calls.alerts)
    follow_logs = _following(log_calls.follow_logs)
    events = _following(calls.events)
    predict = _asking(calls.predict)
    submit = _asking(calls.submit)
    result = _asking(calls.result)
    tokens = _asking(calls.tokens)
    create_token = _asking(calls.create_token)
    revoke_token = _asking(calls.revoke_token)
    limits = _asking(calls.limits)
    limit = _asking(calls.limit)
    audit = _asking(calls.audit)
    doctor = _asking(calls.doctor)
    backup = _asking(calls.backup)
    label_queue = _asking(label_calls.label_queue)
    labels = _asking(label_calls.labels)
    label = _asking(label_calls.label)
    put_label = _asking(label_calls.put_label)
    undo_label = _asking(label_calls.undo_label)
    label_accuracy = _asking(label_calls.label_accuracy)
    labeling = _asking(label_calls.labeling)
    put_labeling = _asking(label_calls.put_labeling)
    forget_labels = _asking(label_calls.forget_labels)
    replay = _asking(label_calls.replay)
    replays = _asking(label_calls.replays)
    replay_progress = _asking(label_calls.replay_progress)
    cancel_replay = _asking(label_calls.cancel_replay)
    drift = _asking(drift_calls.drift)
    baseline = _asking(drift_calls.baseline)
    put_baseline = _asking(drift_calls.put_baseline)
    drop_baseline = _asking(drift_calls.drop_baseline)
    alert_webhook = _asking(drift_calls.alert_webhook)
    put_alert_webhook = _asking(drift_calls.put_alert_webhook)

    def needs_token(self) -> bool:
        return bool(self.status().get("needs_token"))

    def ask(self, ask: Ask[T]) -> T:
        """Send one request, again if need be, and read its reply.

        :raises MdsliteError: what the reply or the network says
        """
        with translated(self.url):
            return ask.read(self._send(ask, stream=False))

    @contextlib.contextmanager
    def read(self, lines: Lines[T]) -> Generator[Iterator[T], None, None]:
        """The lines that answer a request, for as long as the block runs.

        :raises MdsliteError: what the reply or the network says
        """
        with translated(self.url), contextlib.closing(self._send(lines.ask, stream=True)) as reply:
            if reply.status_code >= 400:
                reply.read()
            require(reply)
            yield (lines.read(line) for line in reply.iter_lines() if line.strip())

    @contextlib.contextmanager
    def stream(self, pieces: Pieces) -> Generator[Download[Iterator[bytes]], None, None]:
        """The file that answers a request, for as long as the block runs.

        :raises MdsliteError: what the reply or the network says
        """
        with translated(self.url), contextlib.closing(self._send(pieces.ask, stream=True)) as reply:
            if reply.status_code >= 400:
                reply.read()
            require(reply)
            yield make_download(reply.iter_bytes(), reply)

    def _send(self, ask: Ask[T], *, stream: bool) -> httpx2.Response:
        course = Course(self._retries, self._budget, repeatable=ask.repeatable)
        while True:
            request = make_request(self._http, ask, self._timeout_s)
            try:
                reply = self._http.send(request, stream=stream)
            except httpx2.RequestError as exc:
                wait_s = course.after_failure(exc)
                if wait_s is None:
                    raise
            else:
                wait_s = course.after_reply(reply)
                if wait_s is None:
                    return reply
                reply.close()
            sleep(wait_s)
