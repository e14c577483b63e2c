"""What a shadow's answers are beside the primary's: each pair is judged in a thread, and its sums and the
requests on which the two disagree are kept.

Judging must not slow a prediction. The thread gets many pairs at a time, as handing over costs the event loop
more than anything else here, and rests after each, so that the loop need not wait for the interpreter. A pair
that comes while as many wait as may be is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import sleep, time

from mdslite import blame
from mdslite.api.trouble import Trouble
from mdslite.errors import MdsliteError, Unavailable
from mdslite.logrules import Log
from mdslite.predict.answers import encode, gather
from mdslite.predict.call import Call
from mdslite.predict.shadows import ShadowCall
from mdslite.runtimes.protocol import Outputs
from mdslite.serving.agreement import Agree, make_agree
from mdslite.serving.fleet import Served
from mdslite.store.comparisons import BODY_BYTES, ComparisonStore, Disagreement, DropReason, Pair, Sums
from mdslite.store.evidence import Evidence
from mdslite.store.redaction import Redactor
from mdslite.store.requests import RequestLog
from mdslite.store.worker import Worker

logger = logging.getLogger(__name__)

FLUSH_S = 2.0
WAITING_MAX = 1024  # pairs that are not with the thread yet
HAND_OVER_S = 0.05
_REST_S = 50e-6  # about what judging a pair takes
DISAGREEMENTS_MAX = 50  # of each flush and pair
_RULES_MAX = 64


@dataclass(frozen=True, slots=True)
class _Answered:
    """One of a pair, as the thread needs it."""

    call: Call
    status: int
    compute_ms: float

    @property
    def confidence(self) -> float | None:
        return self.call.confidence


_Pair = tuple[_Answered, _Answered, float]  # the primary's, the shadow's, the time


class Comparisons:
    """Made, opened and closed by the appliance. `observe` is for the event loop's thread."""

    def __init__(self, store: ComparisonStore, *, flush_s: float = FLUSH_S) -> None:
        self._store = store
        self._worker = Worker("comparisons")
        self._flush_s = flush_s
        self._rules: dict[tuple[Served, Served], Agree | None] = {}
        self._sums: dict[tuple[Pair, int], Sums] = {}
        self._disagreements: dict[Pair, list[Disagreement]] = {}
        self._pairs: list[_Pair] = []
        self._missed: Counter[tuple[Served, Served, DropReason]] = Counter()  # primary, shadow
        self._judging = False  # the thread has pairs, or is about to get some
        self._flushing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._worker.call(self._store.open)
        self._flushing = asyncio.get_running_loop().create_task(self._flush_often(), name="comparisons")

    def observe(self, copy: ShadowCall) -> None:
        """Take in a pair: the shadow has answered, or failed."""
        if len(self._pairs) >= WAITING_MAX:
            self._leave_out(copy.primary, copy)
            return
        status = 200 if copy.error is None else copy.error.status
        primary = _Answered(copy.primary, copy.primary_status, copy.primary.compute_s * 1e3)
        self._pairs.append((primary, _Answered(copy, status, copy.compute_s * 1e3), time()))
        if not self._judging:
            self._judging = True
            asyncio.get_running_loop().call_later(HAND_OVER_S, self._hand_over)

    def miss(self, primary: Served, shadow: Served, reason: DropReason) -> None:
        """Count a copy that will not become a pair."""
        self._missed[primary, shadow, reason] += 1

    def _leave_out(self, primary: Call, shadow: Call) -> None:
        if primary.served is not None and shadow.served is not None:
            shadow.served.shadows_dropped["unjudged"] += 1
            self.miss(primary.served, shadow.served, "unjudged")

    def _hand_over(self) -> None:
        """Give the thread what has come together; it gets more when it is done with that."""
        given = self._give()
        self._judging = given is not None
        if given is not None:
            loop = asyncio.get_running_loop()
            given.add_done_callback(lambda _: loop.call_later(HAND_OVER_S, self._hand_over))

    def _give(self) -> asyncio.Future[None] | None:
        pairs, self._pairs = self._pairs, []
        if not pairs:
            return None
        try:
            return asyncio.wrap_future(self._worker.submit(self._judge_all, pairs))
        except Unavailable:
            for primary, shadow, _ in pairs:
                self._leave_out(primary.call, shadow.call)
            return None

    def _give_missed(self) -> None:
        missed, self._missed = self._missed, Counter()
        if missed:
            try:
                self._worker.submit(self._count, missed)
            except Unavailable:  # they are told the next time
                self._missed = missed

    async def read(
        self, pair: Pair, *, since: float, until: float, limit: int
    ) -> tuple[Sums, list[tuple[int, Disagreement]]]:
        """A pair's sums, and the newest requests on which it disagreed."""

        self._give()
        self._give_missed()

        def look() -> tuple[Sums, list[tuple[int, Disagreement]]]:
            self._flush()
            sums = self._store.sums(pair, since=since, until=until)
            return sums, self._store.disagreements(pair, limit=limit, since=since) if limit else []

        return await self._worker.call(look)

    async def disagreed(self, after: int | None, *, limit: int) -> list[tuple[int, Disagreement]]:
        """Disagreements of all pairs that came after a number, the oldest first; without one, the newest."""

        self._give()

        def look() -> list[tuple[int, Disagreement]]:
            self._flush()
            return self._store.disagreed(after, limit=limit)

        return await self._worker.call(look)

    async def close(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
            self._give()
            self._give_missed()
            with suppress(MdsliteError):
                await self._worker.call(self._flush)
                await self._worker.call(self._store.close)
        await asyncio.to_thread(self._worker.close)

    # In the worker's thread

    def _judge_all(self, pairs: Sequence[_Pair]) -> None:
        for pair in pairs:
            try:
                self._judge(*pair)
            except Exception:  # one pair must not take the others with it
                logger.exception("a pair of answers could not be judged")
            sleep(_REST_S)

    def _count(self, missed: Counter[tuple[Served, Served, DropReason]]) -> None:
        now = time()
        for (primary, shadow, reason), count in missed.items():
            self._sums_of(_pair(primary, shadow), now).drop(reason, count)

    def _sums_of(self, pair: Pair, now: float) -> Sums:
        return self._sums.setdefault((pair, int(now) // 60 * 60), Sums())

    def _judge(self, primary: _Answered, shadow: _Answered, now: float) -> None:
        first, second = primary.call.served, shadow.call.served
        assert first is not None and second is not None
        pair = _pair(first, second)
        sums = self._sums_of(pair, now)
        sums.pairs += 1
        sums.primary_errors += blame.is_error(primary.status)
        sums.shadow_errors += blame.is_error(shadow.status)
        if not (blame.is_good(primary.status) and blame.is_good(shadow.status)):
            return
        surer = None
        if primary.confidence is not None and shadow.confidence is not None:
            surer = shadow.confidence - primary.confidence
        sums.add(slower_ms=shadow.compute_ms - primary.compute_ms, surer=surer)
        rule = self._rule(first, second)
        verdict = None if rule is None else _agree(rule, gather(primary.call), gather(shadow.call))
        if verdict is None:
            return
        sums.compared += 1
        sums.agreed += verdict
        if not verdict:
            self._keep(pair, primary.call, shadow.call, now)

    def _rule(self, primary: Served, shadow: Served) -> Agree | None:
        key = primary, shadow
        if key not in self._rules:
            if len(self._rules) >= _RULES_MAX:
                self._rules.clear()
            rule = shadow.spec.compare or primary.spec.compare
            try:
                self._rules[key] = make_agree(primary.codec.signature, shadow.codec.signature, rule)
            except MdsliteError as exc:
                logger.warning("%s cannot be compared with %s: %s", shadow.label, primary.label, exc.message)
                self._rules[key] = None
        return self._rules[key]

    def _keep(self, pair: Pair, primary: Call, shadow: Call, now: float) -> None:
        kept = self._disagreements.setdefault(pair, [])
        rules = [one.served.spec.log for one in (primary, shadow) if one.served is not None]
        if len(kept) < DISAGREEMENTS_MAX:
            kept.append(
                Disagreement(
                    pair,
                    now,
                    primary.request_id,
                    _told(bytes(primary.body), rules),
                    _told(encode(primary), rules),
                    _told(encode(shadow), rules),
                )
            )

    def _flush(self) -> None:
        sums = [(pair, minute, found) for (pair, minute), found in self._sums.items()]
        disagreements = [one for kept in self._disagreements.values() for one in kept]
        if not sums and not disagreements:
            return
        self._store.add(sums, disagreements, now=time())
        self._sums.clear()
        self._disagreements.clear()

    async def _flush_often(self) -> None:
        trouble = Trouble("comparisons are not written", "comparisons are written again")
        while True:
            await asyncio.sleep(self._flush_s)
            self._give_missed()
            with trouble.told():  # a full disk: the sums grow no further than their minutes
                await self._worker.call(self._flush)


def _pair(primary: Served, shadow: Served) -> Pair:
    return Pair(primary.project, primary.model, primary.version, shadow.version)


def _told(body: bytes, rules: Sequence[Log]) -> bytes:
    """What may be kept of a body by the rules of the versions that saw it."""
    if any(rule.bodies == "never" for rule in rules):
        return b""
    names = [name for rule in rules for name in rule.redact]
    if names:
        body = Redactor(names).redact(body) or b""
    return body[: min(BODY_BYTES, *(rule.max_bytes for rule in rules))]


def _agree(rule: Agree, primary: Outputs, shadow: Outputs) -> bool | None:
    try:
        return rule(primary, shadow)
    except BaseException as exc:  # a function of the user's
        logger.warning("two answers could not be compared: %r", exc)
        return None


@dataclass(frozen=True, slots=True)
class Witness:
    """What rollouts ask: the request log and the pairs."""

    log: RequestLog
    comparisons: Comparisons

    async def evidence(self, project: str, model: str, *, since: float, until: float) -> list[Evidence]:
        return await asyncio.to_thread(self.log.evidence, project, model, since=since, until=until)

    async def sums(self, pair: Pair, *, since: float, until: float) -> Sums:
        sums, _ = await self.comparisons.read(pair, since=since, until=until, limit=0)
        return sums
