"""What an apply would change, and whether it could be carried out here. Fetches and probes; loads nothing."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from mdslite.deploy.edition import alone, guess, merge
from mdslite.deploy.events import Progress
from mdslite.deploy.intake import NONE_PLANNED, Intake, blaming
from mdslite.deploy.orders import (
    Draft,
    FileSource,
    RevisionSource,
    Source,
    WeightsSource,
    revision_number,
    reweigh,
    state_of,
)
from mdslite.deploy.pipelines import check_calls
from mdslite.deploy.plan import Action, Change, Plan, State, Step, Wanted, make_plan, target_state
from mdslite.deploy.reporting import key_of, label_of
from mdslite.deploy.turns import Turns
from mdslite.deployments import Deployments
from mdslite.errors import MdsliteError, Unavailable
from mdslite.serving.fleet import Fleet

_ENDED = "the appliance was stopped before the models were fetched and tried: nothing has changed"


class DraftEnded(Unavailable):
    """The appliance is being stopped. Nothing is wrong with what was to be planned."""


class Drafter:
    """Makes the plans, until it is told to make no more."""

    def __init__(self, intake: Intake, fleet: Fleet, turns: Turns) -> None:
        self._intake = intake
        self._turns = turns
        self._registry = intake.registry
        self._worker = intake.worker
        self._fleet = fleet
        self._limits: set[asyncio.Timeout] = set()  # of the drafts under way
        self._ended = False

    def end(self) -> None:
        """Give up the drafts under way, and make no more."""
        self._ended = True
        now = asyncio.get_running_loop().time()
        while self._limits:
            self._limits.pop().reschedule(now)

    async def draft(
        self,
        source: Source,
        latest: int,
        current: State,
        parsed: Deployments | None,
        *,
        progress: Progress,
        planned: Mapping[str, str] = NONE_PLANNED,
        sketched: Callable[[Plan], None] = lambda _: None,
    ) -> Draft:
        """What applying a source would make of `current`, the state after the revision `latest`. `planned`
        are the digests by version that an earlier draft found: what was downloaded for it serves again.
        `sketched` gets the plan as far as it is known, also where that is all that there will be.

        :raises NotFound: there is no such revision
        :raises ArtifactError, LoadFailed: a version could not be served
        :raises DraftEnded: `end` was called
        """
        async with self._until_ended():
            if isinstance(source, RevisionSource):
                wanted = state_of(
                    await self._worker.call(self._registry.at_revision, revision_number(source, latest))
                )
                plan = _revived(make_plan(current, wanted, prune=True), self._fleet)
                sketched(plan)
                await self._check_stored(plan)
            elif isinstance(source, WeightsSource):
                plan = make_plan(current, reweigh(current, source), prune=False)
            else:
                assert parsed is not None
                asked = alone(parsed, source)
                admitted: dict[tuple[str, str], dict[str, Wanted]] = {}
                try:
                    await self._intake.admit(
                        asked, progress, turns=self._turns, found=admitted, planned=planned
                    )
                except MdsliteError:
                    sketched(self._compare(current, parsed, guess(current, asked, admitted), source))
                    raise
                plan = self._compare(current, parsed, admitted, source)
            sketched(plan)
            await self._check_fit(plan, current)
            return Draft(latest, current, plan)

    @asynccontextmanager
    async def _until_ended(self) -> AsyncIterator[None]:
        if self._ended:
            raise DraftEnded(_ENDED)
        try:
            async with asyncio.timeout(None) as limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise DraftEnded(_ENDED) from exc

    def _compare(self, current: State, parsed: Deployments, admitted: State, source: Source) -> Plan:
        prune = isinstance(source, FileSource) and source.prune
        wanted = merge(current, parsed, admitted, source)
        return _revived(make_plan(current, wanted, prune=prune), self._fleet)

    async def _check_fit(self, plan: Plan, current: State) -> None:
        """A plan that could not be carried out here is refused as the apply of it would be."""
        target = target_state(current, plan)
        calls = {
            (*key, version): self._fleet.calls((*key, version)) for key in target for version in target[key]
        }
        for step in plan.steps:
            if step.after is None:
                continue
            with blaming(label_of(step)):
                if not step.reload:
                    served = self._fleet.find(*key_of(step))
                    if served is not None and served.loaded:
                        served.check(step.after.spec)
                    continue
                examined = await self._intake.examine(step.after.digest, step.after.spec)
                self._fleet.check(step.after.spec, examined.report)
                pipeline = examined.report.pipeline
                calls[key_of(step)] = pipeline.models if pipeline is not None else ()
        check_calls(calls, current=current, target=target)

    async def _check_stored(self, plan: Plan) -> None:
        """An undo loads what the store has kept: find out before it begins."""
        for step in plan.steps:
            if step.reload and step.after is not None:
                with blaming(label_of(step)):
                    await self._intake.open(step.after.digest)


def _revived(plan: Plan, fleet: Fleet) -> Plan:
    """The plan with another try for the versions that are deployed but could not be loaded."""

    def revive(step: Step) -> Step:
        served = fleet.find(*key_of(step))
        if step.after is None or step.before is None or served is None or served.state != "failed":
            return step
        changes = (*step.changes, Change("state", "failed", "ready"))
        return dataclasses.replace(step, action=Action.UPDATE, changes=changes, reload=True)

    return Plan(
        tuple(
            dataclasses.replace(model, steps=tuple(revive(step) for step in model.steps))
            for model in plan.models
        )
    )
