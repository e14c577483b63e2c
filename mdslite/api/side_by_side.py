"""What a version answered to logged requests beside what was answered then: the same figures as of a shadow
and its primary, row by row."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from mdslite import blame
from mdslite.api.comparison import Comparison, disagreement_info, make_agreement, report
from mdslite.api.inputs import content_of
from mdslite.api.schema import ModelPath
from mdslite.errors import MdsliteError
from mdslite.predict.answers import encode, gather
from mdslite.predict.call import Call
from mdslite.serving.agreement import Agree, make_agree
from mdslite.serving.fleet import Fleet, Served
from mdslite.serving.replies import read_outputs
from mdslite.store.comparisons import BODY_BYTES, Disagreement, Pair, Sums
from mdslite.store.entries import Entry
from mdslite.store.evidence import Evidence

logger = logging.getLogger(__name__)

DISAGREEMENTS_MAX = 50


@dataclass(frozen=True, slots=True)
class Answered:
    """A logged request, and the call that was answered now."""

    row: Entry
    call: Call
    latency_ms: float


@dataclass(slots=True)
class _Side:
    requests: int = 0
    errors: int = 0
    latency_ms: list[float] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)

    def add(self, status: int, latency_ms: float, confidence: float | None) -> None:
        if blame.is_error(status):
            self.requests += 1
            self.errors += 1
        elif blame.is_good(status):
            self.requests += 1
            self.latency_ms.append(latency_ms)
            if confidence is not None:
                self.confidence.append(confidence)

    def evidence(self, version: str, *, shadow: bool) -> Evidence:
        latency, confidence = np.array(self.latency_ms), np.array(self.confidence)
        return Evidence(version, shadow, self.requests, self.errors, latency, confidence)


class SideBySide:
    """Filled by `judge`, from one thread at a time; `report` says what came of it."""

    def __init__(self, fleet: Fleet, project: str, model: str) -> None:
        self._fleet = fleet
        self._path = ModelPath(project=project, model=model)
        self._first, self._second = _Side(), _Side()
        self._versions: set[str] = set()
        self._sums = Sums()
        self._disagreements: list[Disagreement] = []
        self._rules: dict[tuple[str | None, Served], Agree | None] = {}
        self._since = self._until = 0.0

    def judge(self, answered: list[Answered]) -> None:
        for one in answered:
            try:
                self._judge(one)
            except Exception:  # one pair must not take the others with it
                logger.exception("the answers to request %s could not be compared", one.row.request_id)

    def report(self, version: str) -> Comparison | None:
        """What the pairs say; None where there are none."""
        if not self._sums.pairs:
            return None
        before = ", ".join(sorted(self._versions))
        evidence = (
            self._first.evidence(before, shadow=False),
            self._second.evidence(version, shadow=True),
        )
        pair = Pair(self._path.project, self._path.model, before, version)
        return report(
            self._path,
            evidence,
            make_agreement(pair, self._sums),
            [disagreement_info(number, one) for number, one in enumerate(self._disagreements, 1)],
            since=self._since,
            until=self._until + 0.001,
        )

    def _judge(self, one: Answered) -> None:
        row, call = one.row, one.call
        status = 200 if call.error is None else call.error.status
        self._since = min(self._since or row.time, row.time)
        self._until = max(self._until, row.time)
        self._versions.add(row.version or "")
        self._first.add(row.status, row.latency_ms, row.confidence)
        self._second.add(status, one.latency_ms, call.confidence)
        self._sums.pairs += 1
        self._sums.primary_errors += blame.is_error(row.status)
        self._sums.shadow_errors += blame.is_error(status)
        if not (blame.is_good(row.status) and blame.is_good(status)):
            return
        surer = None
        if row.confidence is not None and call.confidence is not None:
            surer = call.confidence - row.confidence
        self._sums.add(slower_ms=call.compute_s * 1e3 - (row.compute_ms or 0.0), surer=surer)
        verdict = self._compare(row, call)
        if verdict is not None:
            self._sums.compared += 1
            self._sums.agreed += verdict

    def _compare(self, row: Entry, call: Call) -> bool | None:
        """Do the two answers agree? None where that cannot be said."""
        served = call.served
        assert served is not None
        if row.reply is None or row.reply.truncated:
            return None
        before = self._fleet.find(row.project or "", row.model or "", row.version or "")
        signature = before.signature if before is not None else None
        reply = content_of(row.reply)
        outputs = read_outputs(reply, signature or served.codec.signature)
        rule = self._rule(row, before, served)
        if outputs is None or rule is None:
            return None
        try:
            verdict = rule(outputs, gather(call))
        except BaseException as exc:  # a function of the user's, or answers of other shapes
            logger.warning("two answers could not be compared: %r", exc)
            return None
        if verdict is False and len(self._disagreements) < DISAGREEMENTS_MAX:
            self._keep(row, call, reply)
        return verdict

    def _rule(self, row: Entry, before: Served | None, served: Served) -> Agree | None:
        key = row.version, served
        if key not in self._rules:
            rule = served.spec.compare or (before.spec.compare if before is not None else None)
            signature = served.codec.signature
            try:
                self._rules[key] = make_agree(
                    (before.signature if before is not None else None) or signature, signature, rule
                )
            except MdsliteError as exc:
                logger.warning("%s cannot be compared: %s", served.label, exc.message)
                self._rules[key] = None
        return self._rules[key]

    def _keep(self, row: Entry, call: Call, reply: bytes) -> None:
        served = call.served
        assert served is not None
        pair = Pair(served.project, served.model, row.version or "", served.version)
        made = encode(call)[:BODY_BYTES]
        body = bytes(call.body[:BODY_BYTES])
        self._disagreements.append(
            Disagreement(pair, row.time, row.request_id, body, reply[:BODY_BYTES], made)
        )
