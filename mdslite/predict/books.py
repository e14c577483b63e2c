"""What the request log is told of each predict call: a row, or a place in its batch's run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter, time
from typing import Protocol

from mdslite.errors import Overloaded, Unauthorized
from mdslite.http.access import Bucket
from mdslite.predict.call import Call
from mdslite.serving.fleet import Served
from mdslite.serving.samples import Samples
from mdslite.store.rows import SAMPLED, Labels, Row, Run
from mdslite.store.tokens import Rate

_LOGGED_TARGET_BYTES = 1024
_REFUSALS_MAX = 512  # of one run
_STRANGERS = Rate(600, "m")  # requests without a good token that are logged


class Tracing(Protocol):
    """Who is told of the requests that are traced."""

    def begin(self, call: Call) -> None: ...
    def finish(self, call: Call, status: int, code: str | None) -> None: ...


class Books:
    """Closes each call's account. With nothing to append to, it only counts the calls that are open.

    Used from the event loop's thread only.
    """

    def __init__(
        self,
        append: Callable[..., None] | None,
        append_run: Callable[[Run], None] | None = None,
        *,
        strays: Samples | None = None,
        tracer: Tracing | None = None,
    ) -> None:
        self.tracer = tracer
        self._append = append
        self._append_run = append_run
        self._runs: dict[str | None, Run] = {}  # of the batch that is being answered, by client
        self._refusals: Run | None = None  # of this turn of the loop, by one version
        self._refused_by: Served | None = None
        self._strays = strays or Samples()  # of requests that named no version
        self._strangers = Bucket(_STRANGERS)
        self.started = 0  # calls; a copy for a shadow is none
        self._ended = 0

    @property
    def open(self) -> int:
        """Calls started and not finished."""
        return self.started - self._ended

    def record(self, call: Call, status: int, code: str | None, reply: bytes | None) -> None:
        """Close a call's books: the request log gets its row."""
        if not call.shadow:
            self._ended += 1
        if self.tracer is not None:
            self.tracer.finish(call, status, code)
        if self._append is None:
            return
        now = perf_counter()
        served = call.served
        of_a_batch = (
            status == 200
            and call.started_at
            and call.spans is None
            and call.upstream_ms is None
            and self._append_run is not None
        )
        # The common case first.
        if of_a_batch and served is not None and not call.shadow and served.samples.passes(now):
            self._record_in_run(call, now)
            return
        if status == Unauthorized.status and self._strangers.take(now):
            return  # anybody can send more of these than the log should hold
        samples = served.samples if served is not None else self._strays
        if call.is_due(samples, now, failed=status != 200):
            # What reached no version has no rule that says what of it may be kept.
            request: bytes | None = call.body if served is not None else None
            reply = call.logged_reply(reply)
        elif code == Overloaded.code and served is not None and self._append_run is not None:
            self._record_refusal(call, now)
            return
        elif of_a_batch:
            self._record_in_run(call, now)
            return
        else:
            request = reply = None
        row = self._make_row(call, now, status, code, request, reply)
        if samples.keeping is SAMPLED:
            self._append(row)
        else:
            self._append(row, samples.keeping)

    def record_all(self, answered: Sequence[tuple[Call, bytes]]) -> None:
        """As `record` of calls with their answers, which came of one batch."""
        now = perf_counter()
        run: Run | None = None
        for call, body in answered:
            if (
                run is not None
                and run.started is call.started_at
                and run.url is call.url
                and run.labels.client is call.client
                and call.spans is None
                and call.served is not None
                and call.served.samples.passes(now)
            ):
                self._ended += 1
                run.calls.append(_entry(call, now))
            else:
                self.record(call, 200, None, body)
                run = self._runs.get(call.client) if self.tracer is None else None

    @staticmethod
    def _make_row(
        call: Call, now: float, status: int, code: str | None, request: bytes | None, reply: bytes | None
    ) -> Row:
        where, begun = call.served or call.route, call.started_at
        return (
            time() - (now - call.arrived_at),
            call.request_id,
            where.project if where else None,
            where.model if where else None,
            where.version if where else None,
            call.shadow,
            call.url or call.target[:_LOGGED_TARGET_BYTES].decode("latin-1"),
            status,
            code,
            (now - call.arrived_at) * 1e3,
            (begun - call.queued_at) * 1e3 if begun else 0.0,
            call.compute_s * 1e3,
            call.upstream_ms,
            call.columns.rows,
            call.batch_rows,
            call.confidence,
            call.replica,
            request,
            reply,
            call.spans,
            call.client,
            None if call.trace is None else call.trace.trace_id,
        )

    def _record_in_run(self, call: Call, now: float) -> None:
        """Log a good answer together with its batch's others: a third of what a row of its own costs."""
        run = self._runs.get(call.client)
        # The batch's start is one object that all its calls share.
        if run is None or run.started is not call.started_at or run.url is not call.url:
            if not self._runs:
                asyncio.get_running_loop().call_soon(self._close_runs)
            elif run is not None and self._append_run is not None:
                self._append_run(run)
            served = call.served
            assert served is not None
            run = self._runs[call.client] = Run(
                Labels(*served.key, call.shadow, call.replica, 200, None, call.client),
                call.url,
                started=call.started_at,
                compute_ms=call.compute_s * 1e3,
                batch_rows=call.batch_rows,
                clock_to_unix=time() - now,
            )
        run.calls.append(_entry(call, now))

    def _record_refusal(self, call: Call, now: float) -> None:
        """Log a request that found no room together with the others of this turn of the loop."""
        run, served = self._refusals, call.served
        if (
            run is None
            or served is not self._refused_by
            or run.url is not call.url
            or run.labels.client is not call.client
            or len(run.calls) >= _REFUSALS_MAX
        ):
            self._close_refusals()
            assert served is not None
            self._refused_by = served
            run = self._refusals = Run(
                Labels(*served.key, call.shadow, "", Overloaded.status, Overloaded.code, call.client),
                call.url,
                started=now,
                compute_ms=0.0,
                batch_rows=0,
                clock_to_unix=time() - now,
            )
            asyncio.get_running_loop().call_soon(self._close_refusals)
        trace_id = None if call.trace is None else call.trace.trace_id
        run.calls.append(
            (call.request_id, call.arrived_at, run.started, now, None, call.columns.rows, trace_id)
        )

    def _close_runs(self) -> None:
        runs, self._runs = self._runs, {}
        for run in runs.values():
            if self._append_run is not None:
                self._append_run(run)

    def _close_refusals(self) -> None:
        run, self._refusals = self._refusals, None
        if run is not None and self._append_run is not None:
            self._append_run(run)


def _entry(call: Call, now: float) -> tuple[str, float, float, float, float | None, int, bytes | None]:
    """A good answer in its batch's run."""
    trace = call.trace
    return (
        call.request_id,
        call.arrived_at,
        call.queued_at,
        now,
        call.confidence,
        call.columns.rows,
        None if trace is None else trace.trace_id,
    )
