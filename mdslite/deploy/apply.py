"""Carrying out a change of what is deployed: one at a time, wholly or not at all.

    source -> artifacts and probes -> plan -> load and warm what is new -> commit -> switch -> the old drains

Everything up to the commit can fail and leaves the routes, and what is registered, as they were; what was
loaded is then closed, and a failed revision says why. The commit is one transaction and the switch one
synchronous call, so that no request meets half of an apply. Owns the running applies; the fleet owns what
serves.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from mdslite.deploy.drafting import DraftEnded, Drafter
from mdslite.deploy.edition import complete
from mdslite.deploy.events import Progress, ignore
from mdslite.deploy.intake import Intake, blaming
from mdslite.deploy.orders import (
    Draft,
    Order,
    Outcome,
    RevisionSource,
    Source,
    WeightsSource,
    needs_models,
    parse,
    revision_number,
    reweigh,
    rows_of,
    source_text,
    state_of,
    wanted_of,
)
from mdslite.deploy.places import placing
from mdslite.deploy.plan import Action, Plan, State, Step, Wanted, target_state, to_plain
from mdslite.deploy.premises import digests_of, require_digests, require_revision
from mdslite.deploy.reporting import key_of, label_of, reporting
from mdslite.deploy.turns import Turns
from mdslite.deployments import Deployments
from mdslite.errors import Conflict, LoadFailed, MdsliteError, NotFound
from mdslite.serving.fleet import Fleet, Key, Served
from mdslite.serving.loader import LoadRequest

logger = logging.getLogger(__name__)

TURN_WAIT_S = 5.0  # how long an apply waits for the one before it
LOAD_TIMEOUT_S = 600.0
LOADS_AT_START = 4
REST_S = 60.0  # after so long without a plan or an apply, the process that tries models is ended

T = TypeVar("T")


class Deployer:
    """Plans and applies. Used from the event loop; close it before the parts that it was given.

    `save` is called in a thread after each change of what is registered, to keep a copy of it.
    """

    def __init__(
        self,
        intake: Intake,
        fleet: Fleet,
        *,
        turn_wait_s: float = TURN_WAIT_S,
        load_timeout_s: float = LOAD_TIMEOUT_S,
        rest_s: float = REST_S,
        save: Callable[[], object] | None = None,
    ) -> None:
        self._intake = intake
        self._registry = intake.registry
        self._worker = intake.worker
        self._fleet = fleet
        self._load_timeout_s = load_timeout_s
        self._save = save
        self._turns = Turns(
            wait_s=turn_wait_s, rest_s=rest_s, rested=lambda: self.own(self._end_prober(), name="rest")
        )
        self._drafter = Drafter(intake, fleet, self._turns)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def plan(
        self,
        source: Source,
        *,
        progress: Progress = ignore,
        sketched: Callable[[Plan], None] = lambda _: None,
    ) -> Draft:
        """Say what applying `source` would change. Artifacts are fetched and probed, nothing is loaded.
        `sketched` gets the plan as far as it is known, also where that is all that there will be.

        :raises SpecError: the file is wrong
        :raises NotFound: there is no such revision
        :raises ArtifactError, LoadFailed: a version could not be served
        :raises Conflict: another plan or apply has been getting models for too long
        """
        with placing(source):
            parsed = await asyncio.to_thread(parse, source)
            with self._turns.prepared():
                latest = await self._latest()
                current = state_of(await self._worker.call(self._registry.current))
                parsed = await complete(parsed, current, source)
                return await self._drafter.draft(
                    source, latest, current, parsed, progress=progress, sketched=sketched
                )

    async def apply(self, order: Order, *, progress: Progress = ignore) -> Outcome:
        """Apply an order, and go on with it when the caller is cancelled.

        :raises MdsliteError: it was refused before it began, or it failed; then nothing has changed
        """
        outcome = await asyncio.shield(self.begin(order, progress=progress))
        if outcome.error is not None:
            raise outcome.error
        return outcome

    def begin(self, order: Order, *, progress: Progress = ignore) -> asyncio.Task[Outcome]:
        """Start an apply in a task of the deployer's own, which nobody else should cancel.

        The task raises what refuses an order before it begins: a wrong file, an unknown revision, another
        apply. A failure after that is an outcome with an error, recorded as a failed revision.
        """
        return self.own(self._apply(order, progress), name="apply")

    async def resume(self) -> None:
        """Load what the registry says is deployed. A version that cannot be loaded is listed as failed with
        its reason, and the others serve. Applies wait until all are done.

        What a crash left half made in the artifact store is removed, and what no revision refers to.
        """
        async with self.turn():
            async with self._turns.adding(), self._turns.fetching():
                await asyncio.to_thread(self._intake.artifacts.sweep)
            rows = await self._worker.call(self._registry.current)
            wanted = [(row.key, wanted_of(row)) for row in rows]
            for key, version in wanted:
                self._fleet.mark(key, version.spec, version.digest, state="loading", reason=None)
            slots = asyncio.Semaphore(min(LOADS_AT_START, os.cpu_count() or 1))
            async with asyncio.TaskGroup() as group:
                for key, version in wanted:
                    group.create_task(self._resume_version(key, version, slots))
            await self._collect()

    @property
    def busy(self) -> bool:
        """Is an apply, a plan or the loading at start under way?"""
        return self._turns.busy

    def end_drafts(self) -> None:
        """Have nobody wait for models any more that are fetched or tried: the appliance is being stopped."""
        self._drafter.end()

    async def close(self, *, grace_s: float) -> None:
        """Let a running apply end within `grace_s`, then cancel it: nothing of it is switched."""
        self.end_drafts()
        self._turns.stay_awake()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._turns.stay_awake()

    # One apply

    async def _apply(self, order: Order, progress: Progress) -> Outcome:
        started = monotonic()
        with placing(order.source):
            parsed = await asyncio.to_thread(parse, order.source)
        fetches = needs_models(order.source)
        async with AsyncExitStack() as turns:
            if fetches:
                turns.enter_context(self._turns.prepared())
            else:
                await turns.enter_async_context(self.turn())
            known = await self._look(order, parsed)
            sketches: list[Plan] = []
            draft_now = partial(self._drafter.draft, progress=progress, sketched=sketches.append)
            try:
                with placing(order.source):
                    draft = await draft_now(order.source, *known, planned=order.expect_digests)
                    if fetches:
                        await turns.enter_async_context(self.turn())
                        if await self._latest() != draft.base_revision:  # others applied what needs no models
                            known = await self._look(order, parsed)
                            planned = {**digests_of(draft.plan), **order.expect_digests}
                            draft = await draft_now(order.source, *known, planned=planned)
                    plan = draft.plan
                    require_digests(order, plan)
                    if not plan.changed:
                        return Outcome("unchanged", draft.base_revision, plan, monotonic() - started)
                    revision = await self._carry_out(order, draft, progress)
            except (NotFound, Conflict, DraftEnded):
                raise
            except MdsliteError as exc:
                sketch = sketches[-1] if sketches else Plan(())
                failed = await self._record_failure(order, sketch, exc)
                return Outcome("failed", failed, sketch, monotonic() - started, exc)
            await self._collect(own=int(fetches))
            await self._keep_copy()
            return Outcome("applied", revision, plan, monotonic() - started)

    async def _look(self, order: Order, parsed: Deployments | None) -> tuple[int, State, Deployments | None]:
        """The latest revision, what is deployed, and what the order says, once its turn has come.

        :raises MdsliteError: it is refused before it begins
        """
        latest = await self._latest()
        require_revision(order, latest)
        rows = await self._worker.call(self._registry.current)
        if order.check is not None:
            order.check(rows, latest)
        current = state_of(rows)
        if isinstance(order.source, WeightsSource):
            reweigh(current, order.source)  # what cannot be is refused, and no revision
        return latest, current, await complete(parsed, current, order.source)

    async def _carry_out(self, order: Order, draft: Draft, progress: Progress) -> int:
        """Load, commit, switch; return the revision's number.

        Steps are told in the plan's order. Those after the last one that loads take effect with the switch,
        and are told after it.
        """
        steps = draft.plan.steps
        first_count = max((at for at, step in enumerate(steps, 1) if step.reload), default=0)
        added: list[Served] = []
        try:
            for at in range(first_count):
                with reporting(progress, steps, at):
                    if steps[at].reload:
                        added.append(await self._load_step(steps[at]))
            revision = await self._commit(order, draft)
        except BaseException:
            for served in added:
                self._fleet.discard(served)
            raise
        respecced = [
            (key_of(step), step.after.spec)
            for step in steps
            if step.action is Action.UPDATE and not step.reload and step.after is not None
        ]
        removed = [key_of(step) for step in steps if step.action is Action.DELETE]
        self._fleet.switch(added=added, respecced=respecced, removed=removed)
        for at in range(first_count, len(steps)):
            with reporting(progress, steps, at):
                pass
        return revision

    async def _commit(self, order: Order, draft: Draft) -> int:
        reason = order.reason
        if not reason and isinstance(order.source, RevisionSource):
            asked = revision_number(order.source, draft.base_revision)
            reason = f"back to revision {await self._worker.call(self._registry.in_force, asked)}"
        # No deadline: whether it was committed has to be known before anything is switched or discarded.
        return await asyncio.wrap_future(
            self._worker.submit(
                self._registry.commit,
                author=order.author,
                reason=reason,
                source=source_text(order.source),
                diff=to_plain(draft.plan),
                versions=rows_of(target_state(draft.current, draft.plan)),
            )
        )

    async def _record_failure(self, order: Order, plan: Plan, error: MdsliteError) -> int | None:
        """The failed revision's number, or None when it cannot be recorded either."""
        try:
            return await self._worker.call(
                self._registry.record_failure,
                author=order.author,
                reason=order.reason,
                source=source_text(order.source),
                diff=to_plain(plan),
                error=error.message,
            )
        except MdsliteError as exc:
            logger.warning("a failed apply (%s) could not be recorded: %s", error.message, exc.message)
            return None

    # Loading

    async def _load_step(self, step: Step) -> Served:
        assert step.after is not None
        with blaming(label_of(step)):
            return await self.load(key_of(step), step.after)

    async def load(self, key: Key, wanted: Wanted) -> Served:
        """Load a version; no route leads to it yet.

        :raises LoadFailed, OutOfMemory, ArtifactError: it cannot be loaded
        """
        examined = await self._intake.examine(wanted.digest, wanted.spec)
        path = await self._intake.open(wanted.digest)
        project, model, version = key
        request = LoadRequest(
            project=project,
            model=model,
            version=version,
            spec=wanted.spec,
            digest=wanted.digest,
            path=path,
            report=examined.report,
            runtime=examined.kind.runtime,
            package_type=examined.kind.package_type,
        )
        try:
            async with asyncio.timeout(self._load_timeout_s) as timer:
                return await self._fleet.load(request)
        except TimeoutError as exc:
            if not timer.expired():
                raise
            raise LoadFailed(
                f"loading it took longer than {self._load_timeout_s:g} s",
                hint="mdslite doctor says what is wrong with the machine; then apply it again",
            ) from exc

    async def _resume_version(self, key: Key, wanted: Wanted, slots: asyncio.Semaphore) -> None:
        async with slots:
            try:
                served = await self.load(key, wanted)
            except MdsliteError as exc:
                # The state says so wherever states are told, at the start too: no line of the log repeats it.
                reason = exc.message if exc.hint is None else f"{exc.message}; {exc.hint}"
                self._fleet.mark(key, wanted.spec, wanted.digest, state="failed", reason=reason)
            else:
                self._fleet.switch(added=[served])

    async def _collect(self, *, own: int = 0) -> None:
        """Remove the artifacts that no revision refers to, such as those of plans that were never applied.
        Left to the next one while somebody prepares something, `own` of which ask for it themselves."""
        if self._turns.preparing > own:
            return
        try:
            keep = await self._worker.call(self._registry.referenced)
            gone = await asyncio.to_thread(self._intake.artifacts.remove_unreferenced, keep)
            if gone:
                await self._worker.call(self._registry.forget_artifacts, gone)
        except MdsliteError as exc:
            logger.warning("unused artifacts could not be removed: %s", exc.message)

    async def _keep_copy(self) -> None:
        if self._save is not None:
            try:
                await asyncio.to_thread(self._save)
            except MdsliteError as exc:
                logger.warning("the registry could not be copied: %s", exc.message)

    # The turn

    async def _latest(self) -> int:
        latest = await self._worker.call(self._registry.latest)
        return latest.id if latest is not None else 0

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Have nobody else change what is deployed or loaded.

        :raises Conflict: somebody has been at it for too long
        """
        return self._turns.changing()

    async def _end_prober(self) -> None:
        """Free the memory of the process that tries models; the next probe starts another."""
        async with self._turns.alone():
            await asyncio.to_thread(self._intake.prober.close)

    def own(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run something in a task that `close` waits for."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever began it may have left; asyncio need not complain
