"""One request's way through a pipeline: which node runs when, on which rows, and what comes out at the end.

A request's rows move in groups, and each group as if it were alone: at a node, those of its rows that led
there run together. A node that several lead to waits for those that can still lead to it, and for no others:
one that is known not to run tells those behind it (what BPEL calls dead-path elimination).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from mdslite.errors import (
    DeadlineExceeded,
    InvalidRequest,
    MdsliteError,
    ModelError,
    UnsupportedMedia,
    unknown_error,
)
from mdslite.runtimes.protocol import Datum
from mdslite.serving.network import Network
from mdslite.serving.nodes import NodeJob, read_answers
from mdslite.serving.queue import Job
from mdslite.serving.refusals import allowed
from mdslite.serving.spans import Span, write_spans

logger = logging.getLogger(__name__)

GROUPS_MAX = 64

Rows = Sequence[int]  # of a group, ascending


class Visit(NodeJob):
    """The rows of one group that run at one node."""

    __slots__ = ("at", "group", "rows")

    def __init__(self, group: Group, at: int, rows: Rows) -> None:
        super().__init__()
        self.group = group
        self.at = at
        self.rows = rows

    def resolved(self) -> None:
        self.group.answered(self)


class Group:
    """Rows `[start, stop)` of a request."""

    def __init__(self, course: Course, data: list[Datum]) -> None:
        self.answers: list[Any] = []  # at the end: one a row
        self.visits: list[Visit] = []  # those that are over
        self._course = course
        self._network = course.network
        self._data = data
        self._all: Rows = range(len(data))
        self._waits = list(self._network.waits)
        self._came: dict[int, list[tuple[int, Rows]]] = {}  # by node: those that led there, with which rows
        self._rows: dict[int, Rows] = {}  # by node that ran: the rows that were there
        self._found: dict[int, list[Any]] = {}  # and its answers, None for the other rows

    def begin(self) -> None:
        self._visit(0, self._all, self._data)

    @property
    def confidence(self) -> float | None:
        """That of the last node which knew one."""
        known = [visit for visit in self.visits if visit.confidence is not None]
        return max(known, key=lambda visit: visit.at).confidence if known else None

    def answered(self, visit: Visit) -> None:
        """A node has resolved its rows, with answers or with an error."""
        course = self._course
        if course.over:
            return
        course.running.discard(visit)
        self.visits.append(visit)
        if visit.error is not None:
            course.fail(visit.at, visit.error, own_limit=visit.deadline < course.job.deadline)
            return
        try:
            answers = read_answers(visit)
            after = self._network.stops[visit.at].only_target
            if after is None:
                self._take(visit, answers)
                ready = [(at, *self._gather(at)) for at in self._lead_on(visit.at)]
            else:
                ready = [(after, visit.rows, answers)]
        except MdsliteError as exc:
            course.fail(visit.at, exc)
            return
        except Exception as exc:
            course.fail(visit.at, _unexpected(course, exc))
            return
        for at, rows, data in ready:
            if course.over:
                return
            if at == self._network.end:
                self.answers = data
                course.arrived()
            else:
                self._visit(at, rows, data)

    def _visit(self, at: int, rows: Rows, data: list[Datum]) -> None:
        course = self._course
        visit = Visit(self, at, rows)
        visit.deadline = course.job.deadline
        visit.within = course.within
        visit.behind = course.job.behind
        visit.trace = course.job.trace
        try:
            self._network.stops[at].work.send(visit, data, perf_counter())
        except MdsliteError as exc:
            course.fail(at, exc)
        except Exception as exc:
            course.fail(at, _unexpected(course, exc))
        else:
            if course.over:  # what a lane finds out while it takes a job may have ended the request
                visit.lane.cancel(visit)
            else:
                course.running.add(visit)

    def _take(self, visit: Visit, answers: list[Any]) -> None:
        if visit.rows is not self._all:
            placed: list[Any] = [None] * len(self._all)
            for row, answer in zip(visit.rows, answers, strict=True):
                placed[row] = answer
            answers = placed
        self._found[visit.at] = answers
        self._rows[visit.at] = visit.rows

    def _lead_on(self, at: int) -> list[int]:
        """The nodes that are to run now that a node has answered, the end among them."""
        ready: list[int] = []
        settled = [at]
        while settled:
            at = settled.pop()
            self._route(at)
            for target in self._network.stops[at].targets:
                self._waits[target] -= 1
                if not self._waits[target]:
                    # What nothing led to will not run, which may be all that others still wait for.
                    (ready if target in self._came else settled).append(target)
        return ready

    def _route(self, at: int) -> None:
        """Lead a node's rows to those that follow it."""
        rows = self._rows.get(at)
        if rows is None:
            return  # it did not run
        stop = self._network.stops[at]
        led: dict[int, list[int]] = {}
        if stop.chooses:
            found = self._found[at]
            for row in rows:
                for target in stop.choose(found[row]):
                    led.setdefault(target, []).append(row)
        for target in led or stop.targets:
            self._came.setdefault(target, []).append((at, led.get(target, rows)))

    def _gather(self, at: int) -> tuple[Rows, list[Any]]:
        """The rows that were led to a node or to the end, with the data that they bring."""
        came = sorted(self._came.pop(at))
        if at in self._network.merges:
            stops = self._network.stops
            parts: dict[int, list[bytes]] = {}
            for source, rows in came:
                key, found = stops[source].key, self._found[source]
                for row in rows:
                    parts.setdefault(row, []).append(key + found[row])
            order = sorted(parts)
            return self._whole(order), [b"{" + b",".join(parts[row]) + b"}" for row in order]
        if len(came) == 1:
            source, rows = came[0]
            found = self._found[source]
            whole = len(rows) == len(self._all)
            return (self._all, found) if whole else (rows, [found[row] for row in rows])
        by_row = {row: self._found[source][row] for source, rows in came for row in rows}
        order = sorted(by_row)
        return self._whole(order), [by_row[row] for row in order]

    def _whole(self, rows: Rows) -> Rows:
        return self._all if len(rows) == len(self._all) else rows


class Course:
    """A request in a pipeline: `ended(course)` is called once it has its answers, or the error in `error`."""

    def __init__(self, job: Job, network: Network, *, name: str, ended: Callable[[Course], None]) -> None:
        self.job = job
        self.network = network
        self.name = name
        self.within = (*job.within, name)
        self.running: set[Visit] = set()
        self.error: MdsliteError | None = None
        self.over = False
        self._ended = ended
        self._begun = False
        self._begun_at = 0.0
        self._failed: tuple[int, float, str] | None = None  # which node ended the request, when, what it said
        data = job.columns.columns[0]
        assert isinstance(data, list)
        size = max(network.stops[0].work.rows_at_once, -(-len(data) // GROUPS_MAX))
        self._groups = [Group(self, data[at : at + size]) for at in range(0, len(data), size)]
        self._left = len(self._groups)

    def begin(self, now: float) -> None:
        """Start every group.

        :raises MdsliteError: the first node cannot take one; then none goes on
        """
        self._begun_at = now
        for group in self._groups:
            group.begin()
            if self.error is not None:
                raise self.error
        self._begun = True

    def stop(self) -> None:
        """Give up: what is queued at the nodes is freed, and `ended` is not called."""
        self.over = True
        running, self.running = self.running, set()
        for visit in running:
            visit.lane.cancel(visit)

    def arrived(self) -> None:
        """A group has its answers."""
        self._left -= 1
        if self._left:
            return
        groups = self._groups
        answers = (
            groups[0].answers if len(groups) == 1 else [one for group in groups for one in group.answers]
        )
        self.job.pieces = [(0, [answers])]
        confidences = [known for group in groups if (known := group.confidence) is not None]
        self.job.confidence = min(confidences, default=None)
        self.over = True
        self._ended(self)

    def fail(self, at: int, error: MdsliteError, *, own_limit: bool = False) -> None:
        """A node could not take or answer its rows: that ends the request. `own_limit`: the node's time for a
        prediction ends before the request's."""
        name = self.network.stops[at].name
        self._failed = at, perf_counter(), error.message
        if isinstance(error, DeadlineExceeded) and not own_limit:
            self.error = DeadlineExceeded(
                f"the prediction was not answered in time: {allowed(self.job.allowed_s)}, "
                f"and it was at node {name}"
            )
        else:
            kind = type(error)
            if at and isinstance(error, InvalidRequest | UnsupportedMedia):
                kind = ModelError  # what the node before it answered is no fault of the caller's
            self.error = kind(
                f"node {name}: {error.message}", hint=error.hint, retry_after_s=error.retry_after_s
            )
        self.stop()
        if self._begun:
            self._ended(self)

    def close(self) -> None:
        """Write down on the request what its nodes took, as far as it came, and let go of them."""
        # A course and its groups know each other: they would wait for the garbage collector.
        groups, self._groups = self._groups, []
        visits = [visit for group in groups for visit in group.visits]
        for group in groups:
            group.visits = []
        self._write_spans(visits)
        job = self.job
        job.compute_s = sum([visit.compute_s for visit in visits])
        if visits:
            job.started_at = min([visit.started_at for visit in visits if visit.started_at], default=0.0)
            job.batch_rows = visits[-1].batch_rows

    def _write_spans(self, visits: list[Visit]) -> None:
        spans: dict[int, Span] = {}
        for visit in visits:
            span = spans.get(visit.at)
            if span is None:
                span = Span(begun_s=visit.queued_at - self._begun_at, version=visit.version)
                spans[visit.at] = span
            span.add(visit)
        if self._failed is not None:
            at, failed_at, message = self._failed
            spans.setdefault(at, Span(begun_s=failed_at - self._begun_at)).error = message
        stops = self.network.stops
        self.job.spans = write_spans([(stops[at].quoted, spans[at]) for at in sorted(spans)])


def _unexpected(course: Course, error: Exception) -> MdsliteError:
    logger.error("%s: unexpected error", course.name, exc_info=error)
    return unknown_error()
