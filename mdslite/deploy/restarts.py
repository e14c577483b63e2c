"""What a start with a file does when that very file was applied before: nothing, so that an undo, or what a
rollout made of the weights, outlives it; but what is served may differ from the file, and whoever starts it
should know. Fetches, stores and applies nothing.
"""

from __future__ import annotations

import asyncio
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path

from mdslite.deploy.intake import REMOTE, Intake
from mdslite.deploy.orders import FileSource, parse, state_of
from mdslite.deploy.plan import Action, Plan, State, Step, Wanted, make_plan
from mdslite.errors import ArtifactError, MdsliteError
from mdslite.fields import UNKNOWN_DIGEST
from mdslite.spec import Spec
from mdslite.store.sources import is_url

_NAMED_MOST = 3


class Restart:
    """One start with a file. `stop` ends the reading of models."""

    def __init__(self, intake: Intake, source: FileSource) -> None:
        self._artifacts = intake.artifacts
        self._registry = intake.registry
        self._worker = intake.worker
        self._source = source
        self._stopped = threading.Event()

    async def needs_apply(self) -> bool:
        """Whether the file is another one than was applied last, or is a model whose bytes are others."""
        last = await self._worker.call(self._registry.last_of_file)
        if last is None or last.source != self._source.text:
            return True
        return self._source.is_model and (await self._differences(last.id)).changed

    async def note(self) -> str | None:
        """One line about how what is served differs from the file, None when it does not.

        :raises MdsliteError: that could not be found out
        """
        last = await self._worker.call(self._registry.last_of_file)
        found = "; ".join(_told(await self._differences(None)))
        if last is None or not found:
            return None
        name = self._source.file
        if self._source.is_model:
            return (
                f"! what is served is not {name} since an undo ({found}); back to it: mdslite undo {last.id}"
            )
        apply = f"mdslite apply -f {shlex.quote(name)}"
        return f"! what is served differs from {name} ({found}); to apply it: {apply}"

    def stop(self) -> None:
        self._stopped.set()

    async def _differences(self, revision: int | None) -> Plan:
        """From the state after a revision (None: from what is deployed) to what the file says."""
        if revision is None:
            rows = await self._worker.call(self._registry.current)
        else:
            rows = await self._worker.call(self._registry.at_revision, revision)
        return await asyncio.to_thread(self._compare, state_of(rows))

    def _compare(self, state: State) -> Plan:
        parsed = parse(self._source)
        assert parsed is not None  # only what is no file is None
        wanted = {
            (one.project, one.model): {
                version.version: Wanted(version.spec, self._digest(version.spec, before), size_bytes=0)
                for version in one.versions
                for before in (state.get((one.project, one.model), {}).get(version.version),)
            }
            for one in parsed.deployments
        }
        return make_plan(state, wanted, prune=False)

    def _digest(self, spec: Spec, before: Wanted | None) -> str:
        """Of the bytes that an apply would find; of those deployed where only fetching them would tell."""
        known = UNKNOWN_DIGEST if before is None else before.digest
        if spec.service_info.endpoints_infos:
            return REMOTE
        if is_url(spec.uri):
            return known
        try:
            return self._artifacts.digest(Path(spec.uri), check=self._check)
        except MdsliteError:
            # Of a file gone, what the store has is enough; a model that cannot be had, its apply will tell.
            return UNKNOWN_DIGEST if self._source.is_model else known

    def _check(self) -> None:
        if self._stopped.is_set():
            raise ArtifactError("the appliance stops", hint="start it again")


def _told(plan: Plan) -> Iterator[str]:
    steps = plan.steps
    for step in steps[:_NAMED_MOST]:
        yield f"{step.project}/{step.model} {step.version} {_difference(step)}"
    if len(steps) > _NAMED_MOST:
        yield f"and {len(steps) - _NAMED_MOST} more versions"


def _difference(step: Step) -> str:
    if step.action is Action.ADD:
        return "is not deployed"
    if step.action is Action.DELETE:
        return "is deployed and not in it"
    fields = [change.field for change in step.changes]
    if "digest" in fields:
        return "has other bytes"
    return f"has another {fields[0].rpartition('.')[2]}"
