"""Labels: which requests are put before people, and what these say. Looks through what was logged, every few
seconds and in a thread, for requests that a model's rules choose, and copies them into the queue.

A request of several rows, or whose body was not kept whole, is never put before anybody. One that the random
share holds counts as random whatever else could have chosen it: so that share tells of all traffic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, time

from mdslite.api.comparing import Comparisons
from mdslite.api.inputs import content_of
from mdslite.api.logged_items import LoggedItems, is_whole
from mdslite.api.trouble import Trouble
from mdslite.errors import MdsliteError
from mdslite.serving.classes import count_classes
from mdslite.serving.fleet import Fleet
from mdslite.serving.lots import is_drawn
from mdslite.store.candidates import CandidateStore
from mdslite.store.comparisons import BODY_BYTES
from mdslite.store.filters import parse
from mdslite.store.labels import CLASSES_MAX, Count, Item, Label, LabelStore, Reason, Rules, VersionAnswer
from mdslite.store.registry import Registry
from mdslite.store.requests import Entry, RequestLog
from mdslite.store.worker import Worker

LOOK_S = 5.0
SETTLE_S = 1.0  # after an answer, until its shadows have answered too and all is written
_BACK_S = 3600.0  # as far back a new look goes
_PAGE = 500
_PAGES_MAX = 8  # of one look
_FULL_S = 60.0  # a full queue takes one in so long
_DISAGREED_MAX = 100

Model = tuple[str, str]
Counted = tuple[str, str, str]  # project, model, rule


@dataclass(frozen=True, slots=True)
class Waiting:
    """One page of the queue."""

    items: list[Item]
    waiting: int
    classes: list[str]


class Labeling:
    """Made, started and closed by the appliance; used from the event loop's thread only."""

    def __init__(
        self,
        registry: Registry,
        worker: Worker,
        candidates: CandidateStore,
        *,
        log: RequestLog,
        comparisons: Comparisons,
        fleet: Fleet,
        look_s: float = LOOK_S,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._store = LabelStore(registry)
        self._registry_worker = worker
        self._candidates = candidates
        self._worker = Worker("queue of labels", depth=64)
        self._log = log
        self._items = LoggedItems(log, fleet)
        self._comparisons = comparisons
        self._fleet = fleet
        self._look_s = look_s
        self._settle_s = settle_s
        self._rules: dict[Model, Rules] = {}
        self._cursors: dict[str, int] = {}
        self._picked: list[tuple[Entry, Reason]] = []  # whose shadows may not have answered yet
        self._full_at: dict[Counted, float] = {}
        self._born_id = int(time() * 1e6)  # what was logged before drew its lots by another key
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._worker.call(self._candidates.open)
        self._cursors = await self._worker.call(self._candidates.cursors)
        self._rules = await self._registry_worker.call(self._store.rules)
        self._task = asyncio.get_running_loop().create_task(self._look_often(), name="queue of labels")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            with suppress(MdsliteError):
                await self._worker.call(self._candidates.close)
        await asyncio.to_thread(self._worker.close)

    # Rules

    def rules(self, project: str, model: str) -> Rules:
        return self._rules.get((project, model), Rules())

    def has_rules(self, project: str, model: str) -> bool:
        """Does a model have rules of its own?"""
        return (project, model) in self._rules

    async def set_rules(self, project: str, model: str, rules: Rules) -> None:
        await self._registry_worker.call(self._store.set_rules, project, model, rules)
        self._rules[project, model] = rules

    # The queue

    async def queue(
        self,
        *,
        project: str | None,
        model: str | None,
        reason: Reason | None,
        limit: int,
        before: int | None = None,
    ) -> Waiting:
        """Who waits for a label, the newest first, those of the last moments too."""
        await self.look()
        find, count = self._candidates.page, self._candidates.count
        items = await self._worker.call(
            find, project=project, model=model, reason=reason, limit=limit, before=before
        )
        waiting = await self._worker.call(count, project=project, model=model, reason=reason)
        classes: list[str] = []
        if project is not None and model is not None:
            classes = await self._classes(project, model, items)
        return Waiting(items, waiting, classes)

    async def _classes(self, project: str, model: str, items: Sequence[Item]) -> list[str]:
        chosen = self.rules(project, model).classes
        if chosen:
            return list(chosen)
        known = await self._registry_worker.call(self._store.classes, project, model)
        answers = [one for item in items for one in item.answers]
        counts = {count_classes(content_of(one.reply)) for one in answers if one.reply is not None}
        known += [str(number) for number in range(max((one or 0 for one in counts), default=0))]
        known += [one.answer for one in answers if one.answer is not None]
        found = list(dict.fromkeys(known))[:CLASSES_MAX]
        numbers = all(one.lstrip("-").isascii() and one.lstrip("-").isdigit() for one in found)
        return sorted(found, key=int) if numbers else found

    async def look(self) -> None:
        """Take in what was logged since the last look."""
        async with self._looking:
            now = time()
            counts = await self._worker.call(self._candidates.counts)
            self._picked += [one for one in await self._pick(now) if self._has_room(one, counts)]
            ready = [one for one in self._picked if one[0].id <= (now - self._settle_s) * 1e6]
            self._picked = [one for one in self._picked if one not in ready]
            items = await asyncio.to_thread(self._items.make_all, ready)
            items += await self._disagreed(now, counts)
            labelled = await self._registry_worker.call(self._store.labelled, [one.id for one in items])
            taken = [one for one in items if one.id not in labelled]
            await self._worker.call(self._candidates.add, taken, cursors=dict(self._cursors))

    async def _look_often(self) -> None:
        trouble = Trouble("requests to label are not looked for", "requests to label are looked for again")
        while True:
            await asyncio.sleep(self._look_s)
            with trouble.told():  # a full disk, a slow query: the next look goes on from here
                await self.look()

    async def _pick(self, now: float) -> list[tuple[Entry, Reason]]:
        """Answers of the log that rules choose by themselves."""
        wanted = parse('shadow=false status=200 rows=1 text~""', now=now)
        after = max(self._cursors.get("log", 0), int((now - _BACK_S) * 1e6))
        picked: list[tuple[Entry, Reason]] = []
        for _ in range(_PAGES_MAX):
            page = await asyncio.to_thread(self._log.tail, wanted, after=after, limit=_PAGE)
            after = page.next or after
            picked += [(row, why) for row in page.rows if (why := self._why(row)) is not None]
            if len(page.rows) < _PAGE:
                break
        self._cursors["log"] = after
        return picked

    def _why(self, row: Entry) -> Reason | None:
        if row.project is None or row.model is None or row.version is None or not is_whole(row.request):
            return None
        rules = self.rules(row.project, row.model)
        if row.id > self._born_id and is_drawn(row.request_id, min(rules.share, self._even_share(row))):
            return "random"
        below = rules.below_confidence
        unsure = below is not None and row.confidence is not None and row.confidence < below
        return "confidence" if unsure else None

    def _is_drawn(self, row: Entry) -> bool:
        return self._why(row) == "random"

    def _even_share(self, row: Entry) -> float:
        """Of which share of a version's requests the log keeps the bodies whatever came of them."""
        served = self._fleet.find(row.project or "", row.model or "", row.version or "")
        return 1.0 if served is None else served.samples.even_share

    async def _disagreed(self, now: float, counts: dict[Counted, int]) -> list[Item]:
        """Requests that a shadow answered otherwise; those of the last moment are not in the log yet."""
        found = await self._comparisons.disagreed(self._cursors.get("disagreements"), limit=_DISAGREED_MAX)
        items: list[Item] = []
        for number, one in found:
            if one.time > now - self._settle_s:
                break
            self._cursors["disagreements"] = number
            key = one.pair.project, one.pair.model
            asked = self.rules(*key).disagreements and 0 < len(one.request) < BODY_BYTES
            if asked and self._admit((*key, "disagreement"), counts):
                item = await asyncio.to_thread(self._items.make_disagreed, one, drawn=self._is_drawn)
                items += [item] if item is not None else []
        return items

    def _has_room(self, one: tuple[Entry, Reason], counts: dict[Counted, int]) -> bool:
        entry, reason = one
        return self._admit((entry.project or "", entry.model or "", reason), counts)

    def _admit(self, key: Counted, counts: dict[Counted, int]) -> bool:
        """Is there room for one more of a rule? A full queue takes one a minute, and its oldest goes."""
        if counts.get(key, 0) < self._candidates.waiting_max:
            counts[key] = counts.get(key, 0) + 1
            return True
        now = monotonic()
        if now - self._full_at.get(key, -_FULL_S) < _FULL_S:
            return False
        self._full_at[key] = now
        return True

    # Labels

    async def put(self, row_id: int, label: str, *, note: str, author: str) -> Label:
        """Label a logged request; one of a shadow's counts as its primary's.

        :raises NotFound: it is neither in the log nor in the queue
        :raises Unprocessable: its body was not kept whole, or has several rows
        """
        item = await self.find_item(row_id)
        made = await self._registry_worker.call(self._store.put, item, label, note=note, author=author)
        await self._worker.call(self._candidates.remove, item.id)
        return made

    async def find_item(self, row_id: int) -> Item:
        """The request behind a row's id, from where it was copied to or from the log. Raises as `put`."""
        known = await self._registry_worker.call(self._store.find, row_id)
        if known is not None:
            return known.item
        waiting = await self._worker.call(self._candidates.get, row_id)
        return waiting if waiting is not None else await asyncio.to_thread(self._items.find, row_id)

    async def undo(self, row_id: int, *, author: str) -> Label:
        """:raises NotFound: it has no label"""
        item = (await self.get(row_id)).item
        label = await self._registry_worker.call(self._store.undo, item.id, author=author)
        if label.current is None and label.item.reason != "chosen":
            await self._worker.call(self._candidates.add, [label.item])
        return label

    async def find(self, row_id: int) -> Label | None:
        """The label of a request, None where it has none."""
        found = await self._registry_worker.call(self._store.find, row_id)
        return found if found is not None and found.current is not None else None

    async def get(self, row_id: int) -> Label:
        """The label of a request, by its id or by one of a shadow's.

        :raises NotFound: it was never labelled
        """
        found = await self._registry_worker.call(self._store.find, row_id)
        if found is not None:
            return found
        primary_id = await asyncio.to_thread(self._items.find_primary, row_id)
        return await self._registry_worker.call(self._store.get, primary_id)

    async def page(
        self, *, project: str | None, model: str | None, label: str | None, limit: int, before: int | None
    ) -> list[Label]:
        page = self._store.page
        return await self._registry_worker.call(
            page, project=project, model=model, label=label, limit=limit, before=before
        )

    async def counts(self, project: str, model: str) -> list[Count]:
        return await self._registry_worker.call(self._store.counts, project, model)

    async def size(self, project: str, model: str) -> int:
        """How many of a model's requests have a label."""
        return await self._registry_worker.call(self._store.size, project, model)

    async def forget(self, project: str, model: str) -> int:
        return await self._registry_worker.call(self._store.forget, project, model)

    async def labelled(self, ids: Sequence[int]) -> set[int]:
        """Which of these requests have a label."""
        return await self._registry_worker.call(self._store.labelled, ids)

    async def add_answer(self, row_id: int, answer: VersionAnswer) -> None:
        """What a replay had a version answer to a request, should that be labelled."""
        await self._registry_worker.call(self._store.add_answer, row_id, answer)
