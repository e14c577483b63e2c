"""Steps a version up while its gates hold, and back where one fails.

    start -> 5 % -> 25 % -> 50 % -> 100 % -> promoted
             a gate fails at any time  -> the weights of before (a shadow: a shadow again), rolled_back
             a gate stays open too long, or somebody else changes the weights -> paused
             somebody replaces the version's model -> 5 %, with nothing proved

Every step is a revision. A step is written down before it is carried out and again after it, so that a
process which ends between the two goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import suppress
from typing import Protocol

import msgspec

from mdslite.deploy.apply import Deployer
from mdslite.deploy.gates import Finding, Gate, judge, together
from mdslite.deploy.orders import Order, WeightsSource
from mdslite.deploy.rollout import ENDED, Rollout, State, Wish, span_text, told_steps
from mdslite.errors import Conflict, MdsliteError, NotFound
from mdslite.serving.fleet import Deployed
from mdslite.store.comparisons import Pair, Sums
from mdslite.store.evidence import Evidence
from mdslite.store.rollouts import RolloutStore

logger = logging.getLogger(__name__)

LOOK_S = 10.0
PATIENCE = 10  # times a step's length that a gate may stay open
MIRROR_PERCENT = 10.0  # of the others' requests are copied to a candidate whose agreement is a gate


class Witness(Protocol):
    """What is known of versions since a time (Unix seconds)."""

    async def evidence(self, project: str, model: str, *, since: float, until: float) -> list[Evidence]: ...

    async def sums(self, pair: Pair, *, since: float, until: float) -> Sums: ...


class Rollouts:
    """All rollouts, of which the appliance takes care. `mirror(key, percent)` has a version get copies of the
    requests that others of its model answer, None ends that."""

    def __init__(
        self,
        store: RolloutStore,
        call: Callable[..., Awaitable[object]],
        deployer: Deployer,
        deployed: Callable[[str, str], Mapping[str, Deployed]],
        witness: Witness,
        *,
        mirror: Callable[[tuple[str, str, str], float | None], None],
        clock: Callable[[], float],
        look_s: float = LOOK_S,
    ) -> None:
        self._store = store
        self._call = call  # in the registry's thread
        self._deployer = deployer
        self._deployed = deployed
        self._witness = witness
        self._mirror = mirror
        self._clock = clock
        self._look_s = look_s
        self._live: dict[int, Rollout] = {}
        self._turn = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Go on with what an earlier process has begun."""
        for rollout in await self._load(self._store.live):
            self._live[rollout.id] = rollout
            rollout.models = rollout.models or self._models(rollout.project, rollout.model)
            self._reflect(rollout)
        self._looking = asyncio.get_running_loop().create_task(self._look_often(), name="rollouts")

    async def close(self) -> None:
        """Stop looking; the next process goes on."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    # What people ask for

    async def begin(self, wish: Wish) -> Rollout:
        """Start a rollout with its first step.

        :raises NotFound: the model or the version is not deployed
        :raises Conflict: the model has a rollout already, or nothing that it could go back to
        """
        wish.check()
        async with self._turn:
            versions = self._deployed(wish.project, wish.model)
            name = f"{wish.project}/{wish.model}"
            if wish.version not in versions:
                raise NotFound.version(wish.project, wish.model, wish.version, versions)
            running = self._find(wish.project, wish.model)
            if running is not None:
                raise Conflict(
                    f"{name} has a rollout already: {running.version} is {running.state}",
                    hint=f"end it first: mdslite rollout {name} abort",
                )
            before = {
                version: float(one.info.weight) for version, one in versions.items() if not one.info.shadow
            }
            if not sum(weight for version, weight in before.items() if version != wish.version):
                raise Conflict(
                    f"{name} has no other version with a weight to step up from",
                    hint=f"mdslite show {name} says what there is; to give {wish.version} all, apply a file",
                )
            before.setdefault(wish.version, 0.0)
            shadow = versions[wish.version].info.shadow
            wish.refuse_step_down(before)
            now = self._clock()
            fields = {
                field: getattr(wish, field) for field in wish.__dataclass_fields__ if field != "ungated"
            }
            models = {version: one.identity for version, one in versions.items()}
            rollout = Rollout(
                id=0, **fields, since=now, started_at=now, before=before, shadow=shadow, models=models
            )
            every = span_text(wish.every_s)
            told = f"started by {wish.author}: {told_steps(wish.steps)}, a step every {every}"
            if shadow:
                told += f"; {wish.version} is no shadow meanwhile"
            rollout.note(now, told)
            rollout.id = await self._add(rollout)
            self._live[rollout.id] = rollout
            self._reflect(rollout)
            await self._carry_out(rollout)
            return rollout

    async def pause(self, project: str, model: str, *, author: str) -> Rollout:
        """:raises NotFound: the model has no rollout"""
        async with self._turn:
            rollout = self._require(project, model)
            rollout.state = "paused"
            return await self._settle(rollout, f"paused by {author} at {rollout.share}")

    async def resume(self, project: str, model: str, *, author: str) -> Rollout:
        """Go on at the step it is at, whose time begins anew.

        :raises NotFound: the model has no rollout
        """
        async with self._turn:
            rollout = self._require(project, model)
            anew = await self._begin_anew(rollout)
            rollout.state, rollout.since, rollout.applied = "running", self._clock(), False
            why = f", as {anew}" if anew else ""
            await self._settle(rollout, f"resumed by {author} at {rollout.share}{why}")
            await self._carry_out(rollout)
            return rollout

    async def promote(self, project: str, model: str, *, author: str) -> Rollout:
        """Give the version its last step's share at once.

        :raises NotFound: the model has no rollout
        """
        async with self._turn:
            rollout = self._require(project, model)
            await self._begin_anew(rollout)
            rollout.state, rollout.at, rollout.applied = "running", len(rollout.steps) - 1, False
            await self._settle(rollout, f"promoted by {author}")
            await self._carry_out(rollout)
            if rollout.applied:
                await self._end(rollout, "promoted", f"promoted by {author}")
            return rollout

    async def abort(self, project: str, model: str, *, author: str) -> Rollout:
        """Go back to the weights of before; a shadow that nobody else has changed is a shadow again.

        :raises NotFound: the model has no rollout
        """
        async with self._turn:
            rollout = self._require(project, model)
            await self._go_back(rollout, "aborted", f"aborted by {author}")
            return rollout

    async def all(self, *, limit: int = 50) -> list[Rollout]:
        """The newest first, those that ended too."""
        return await self._load(self._store.newest, limit)

    def find(self, project: str, model: str) -> Rollout | None:
        """The one that a model has now."""
        return self._find(project, model)

    # What it does by itself

    async def look(self) -> None:
        """See how each running rollout is, and do what is next."""
        async with self._turn:
            for rollout in [one for one in self._live.values() if one.state == "running"]:
                try:
                    await self._look_at(rollout)
                except MdsliteError as exc:
                    logger.error("rollout of %s: %s", rollout.label, exc.message)

    async def _look_at(self, rollout: Rollout) -> None:
        if not rollout.applied:
            await self._carry_out(rollout)
            return
        changed = self._changed(rollout)
        if changed is not None:
            rollout.state = "paused"
            replaced = "".join(f"; {one}" for one in await self._told_replaced(rollout))
            await self._settle(rollout, f"paused at {rollout.share}: {changed}{replaced}")
            return
        anew = await self._begin_anew(rollout)
        if anew is not None:
            await self._settle(rollout, anew)
            await self._carry_out(rollout)
            return
        now = self._clock()
        rollout.findings = tuple(await self._judge(rollout, now))
        failed = [one for one in rollout.findings if one.state == "fail"]
        if failed:
            why = "; ".join(f"the gate {one.gate} failed: {one.text}" for one in failed)
            await self._go_back(rollout, "rolled_back", f"rolled back from {rollout.share}: {why}")
            return
        if now < rollout.since + rollout.every_s:
            await self._save(rollout)
            return
        still_open = [one for one in rollout.findings if one.state == "open"]
        if still_open:
            if now >= rollout.since + PATIENCE * rollout.every_s:
                why = "; ".join(f"{one.gate}: {one.text}" for one in still_open)
                rollout.state = "paused"
                await self._settle(rollout, f"paused at {rollout.share}, as it cannot be told: {why}")
            else:
                left = span_text(round(rollout.since + PATIENCE * rollout.every_s - now))
                gates = ", ".join(one.gate for one in still_open)
                rollout.message = f"at {rollout.share}, waiting for {gates}, for {left} more at most"
                await self._save(rollout)
            return
        if rollout.at + 1 == len(rollout.steps):
            await self._end(rollout, "promoted", f"promoted: every gate held at {rollout.share}")
            return
        rollout.at, rollout.since, rollout.applied = rollout.at + 1, now, False
        rollout.findings = ()
        await self._settle(rollout, f"stepped up to {rollout.share}")
        await self._carry_out(rollout)

    async def _judge(self, rollout: Rollout, now: float) -> Sequence[Finding]:
        if not rollout.gates:
            return ()
        found = await self._witness.evidence(rollout.project, rollout.model, since=rollout.since, until=now)
        answered = [one for one in found if not one.shadow]
        mine = together([one for one in answered if one.version == rollout.version])
        others = together([one for one in answered if one.version != rollout.version])
        sums = Sums()
        if any(Gate.parse(gate).metric == "agreement" for gate in rollout.gates):
            for primary in rollout.before:
                pair = Pair(rollout.project, rollout.model, primary, rollout.version)
                since = max(rollout.since, rollout.pairs_since)
                one = await self._witness.sums(pair, since=since, until=now)
                sums.take(one)
        return [judge(Gate.parse(gate), mine, others, sums) for gate in rollout.gates]

    def _changed(self, rollout: Rollout) -> str | None:
        """What somebody else has done to the model since the step, None if nothing."""
        versions = self._deployed(rollout.project, rollout.model)
        for version, weight in rollout.weights().items():
            one = versions.get(version)
            if one is None:
                return f"{version} is not deployed any more"
            if abs(float(one.info.weight) - weight) > 1e-6:
                return f"somebody has given {version} the weight {one.info.weight:g}"
        return None

    async def _begin_anew(self, rollout: Rollout) -> str | None:
        """Forget what is known of versions that were replaced since; None where none was."""
        told = await self._told_replaced(rollout)
        if not told:
            return None
        replaced = self._replaced(rollout)
        models = self._models(rollout.project, rollout.model)
        return f"{'; '.join(told)}: {rollout.begin_anew(self._clock(), models, replaced)}"

    async def _told_replaced(self, rollout: Rollout) -> list[str]:
        told = []
        for version in self._replaced(rollout):
            number = await self._call(self._store.replaced_in, rollout.project, rollout.model, version)
            where = "" if number is None else f" in revision {number}"
            told.append(f"{version} was replaced by another model{where}")
        return told

    def _replaced(self, rollout: Rollout) -> list[str]:
        """The versions that take part and are other models than those that are known."""
        now = self._models(rollout.project, rollout.model)
        return [
            version
            for version in rollout.weights()
            if version in now and rollout.models.get(version, now[version]) != now[version]
        ]

    def _models(self, project: str, model: str) -> dict[str, str]:
        return {version: one.identity for version, one in self._deployed(project, model).items()}

    async def _carry_out(self, rollout: Rollout) -> None:
        """Put the step's weights in force; where that fails, the rollout pauses and says why."""
        number = f"step {rollout.at + 1} of {len(rollout.steps)}"
        reason = f"rollout of {rollout.version}: {rollout.share} ({number})"
        try:
            await self._apply(rollout, rollout.weights(), reason)
        except MdsliteError as exc:
            rollout.state = "paused"
            await self._settle(rollout, f"paused at {rollout.share}: {exc.message}")
            return
        rollout.applied = True
        await self._save(rollout)

    async def _go_back(self, rollout: Rollout, state: State, why: str) -> None:
        known = self._deployed(rollout.project, rollout.model).get(rollout.version)
        shadows, told = set[str](), ""
        if rollout.shadow and known is not None and not known.info.shadow:
            told = f"; {rollout.version} is no shadow again, as somebody has changed it"
            if rollout.has_left(known.info):
                shadows, told = {rollout.version}, f"; {rollout.version} is a shadow again"
        try:
            await self._apply(rollout, rollout.before, f"{why[:450]}{told}", shadows)
        except MdsliteError as exc:
            rollout.state = "paused"
            await self._settle(rollout, f"{why}; but the weights could not be put back: {exc.message}")
            return
        await self._end(rollout, state, f"{why}{told}")

    async def _apply(
        self, rollout: Rollout, weights: Mapping[str, float], reason: str, shadows: Set[str] = frozenset()
    ) -> None:
        known = self._deployed(rollout.project, rollout.model)
        present = {version: weight for version, weight in weights.items() if version in known}
        source = WeightsSource(rollout.project, rollout.model, present, frozenset(shadows))
        await self._deployer.apply(Order(source, author=f"rollout {rollout.id}", reason=reason))

    async def _end(self, rollout: Rollout, state: State, why: str) -> None:
        rollout.state = state
        await self._settle(rollout, why)
        self._live.pop(rollout.id, None)

    async def _settle(self, rollout: Rollout, what: str) -> Rollout:
        logger.info("rollout of %s: %s", rollout.label, what)
        rollout.note(self._clock(), what)
        self._reflect(rollout)
        await self._save(rollout)
        return rollout

    def _reflect(self, rollout: Rollout) -> None:
        wants = rollout.state == "running" and any(
            Gate.parse(gate).metric == "agreement" for gate in rollout.gates
        )
        key = (rollout.project, rollout.model, rollout.version)
        self._mirror(key, MIRROR_PERCENT if wants else None)

    def _find(self, project: str, model: str) -> Rollout | None:
        return next(
            (one for one in self._live.values() if (one.project, one.model) == (project, model)), None
        )

    def _require(self, project: str, model: str) -> Rollout:
        found = self._find(project, model)
        if found is None:
            hint = f"mdslite rollout {project}/{model} VERSION begins one"
            raise NotFound(f"{project}/{model} has no rollout under way", hint=hint)
        return found

    async def _look_often(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            with suppress(MdsliteError):
                await self.look()

    async def _load(self, read: Callable[..., list[bytes]], *args: object) -> list[Rollout]:
        rows = await self._call(read, *args)
        assert isinstance(rows, list)
        return [msgspec.json.decode(row, type=Rollout) for row in rows]

    async def _add(self, rollout: Rollout) -> int:
        number = await self._call(self._store.add, rollout.project, rollout.model)
        assert isinstance(number, int)
        return number

    async def _save(self, rollout: Rollout) -> None:
        await self._call(
            self._store.save, rollout.id, msgspec.json.encode(rollout), live=rollout.state not in ENDED
        )
