"""A model with three versions and its rollouts, by a clock and with evidence that a test gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import models
from box import Box, deployments, file_order, open_box
from clocks import Clock
from seen import evidence

from mdslite.deploy.rollout import Rollout, Wish
from mdslite.deploy.rollouts import Rollouts
from mdslite.runtimes.prober import Prober
from mdslite.store.comparisons import Pair, Sums
from mdslite.store.evidence import Evidence
from mdslite.store.rollouts import RolloutStore

DAY_S = 86_400.0


class Witness:
    """Says what it is told to: the requests a second that each version answers, and how well."""

    def __init__(self) -> None:
        self.per_s = 1.0
        self.errors = 0.0
        self.ms = 10.0
        self.agrees = 1.0
        self.asked_since = 0.0

    async def evidence(self, project: str, model: str, *, since: float, until: float) -> list[Evidence]:
        count = min(20_000, int((until - since) * self.per_s))
        mine = evidence("v2", count, int(count * self.errors), ms=self.ms)
        return [evidence("v1", count, seed=1), mine]

    async def sums(self, pair: Pair, *, since: float, until: float) -> Sums:
        self.asked_since = since
        count = max(0, int((until - since) * self.per_s))
        return Sums(compared=count, agreed=int(count * self.agrees)) if pair.primary == "v1" else Sums()


class Stage:
    """A box with p/m v1 (weight 90), v3 (10) and the shadow v2, and its rollouts by an injected clock."""

    def __init__(self, box: Box, clock: Clock, witness: Witness) -> None:
        self.box = box
        self.clock = clock
        self.witness = witness
        self.mirrored: dict[tuple[str, str, str], float | None] = {}
        self.rollouts = self.make()

    def make(self) -> Rollouts:
        return Rollouts(
            RolloutStore(self.box.registry),
            self.box.worker.call,
            self.box.deployer,
            self.box.fleet.deployed,
            self.witness,
            mirror=self.mirrored.__setitem__,
            clock=self.clock,
            look_s=1e9,
        )

    def weights(self) -> dict[str, float]:
        return {version: one.info.weight for version, one in self.box.fleet.deployed("p", "m").items()}

    def shadows(self) -> list[str]:
        return [version for version, one in self.box.fleet.deployed("p", "m").items() if one.info.shadow]

    async def begin(self, **wish: Any) -> Rollout:
        chosen: dict[str, Any] = {
            "steps": (5, 25, 50, 100), "every_s": 600.0, "gates": ("error_rate<1%",), "author": "ann", **wish
        }  # fmt: skip
        return await self.rollouts.begin(Wish("p", "m", "v2", **chosen))

    async def after(self, seconds: float, *, looks: int = 1) -> Rollout | None:
        for _ in range(looks):
            self.clock.now += seconds / looks
            await self.rollouts.look()
        return self.rollouts.find("p", "m")

    async def last(self) -> Rollout:
        return (await self.rollouts.all())[0]


Test = Callable[[Stage], Coroutine[Any, Any, None]]


def run(test: Test, folder: Path) -> None:
    async def wrapped() -> None:
        async with stage(folder) as found:
            await test(found)

    asyncio.run(wrapped())


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    with closing(Prober()) as prober:
        await asyncio.to_thread(models.identity, folder / "v.onnx")
        async with open_box(folder / "store", prober) as box:
            text = deployments(
                "v1, uri: v.onnx, weight: 90", "v3, uri: v.onnx, weight: 10", "v2, uri: v.onnx, shadow: true"
            )
            await box.deployer.apply(file_order(text, folder))
            yield Stage(box, Clock(), Witness())
