"""Takes versions out of memory and back while they stay deployed: load and unload in OIP's words.

What is deployed does not change, so this makes no revision. An unloaded version comes back with an apply that
loads it, or when the appliance starts again.
"""

from __future__ import annotations

import asyncio

from mdslite.deploy.apply import Deployer
from mdslite.deploy.plan import Wanted
from mdslite.serving.fleet import Fleet, Served


async def load_model(deployer: Deployer, fleet: Fleet, project: str, model: str) -> None:
    """Load every version of a model that is not loaded, all or none; it goes on when the caller leaves.

    :raises NotFound: it is not deployed
    :raises LoadFailed, OutOfMemory: a version cannot be loaded; then nothing has changed
    :raises Conflict: an apply is running
    """
    await asyncio.shield(deployer.own(_load(deployer, fleet, project, model), name=f"load {project}/{model}"))


async def unload_model(deployer: Deployer, fleet: Fleet, project: str, model: str) -> None:
    """Take every version of a model out of its routes and, once it has answered what it has, out of memory.

    :raises NotFound: it is not deployed
    :raises Conflict: an apply is running
    """
    async with deployer.turn():
        for served in _versions(fleet, project, model):
            if served.loaded:
                fleet.unload(served.key)


async def _load(deployer: Deployer, fleet: Fleet, project: str, model: str) -> None:
    async with deployer.turn():
        added: list[Served] = []
        try:
            for served in _versions(fleet, project, model):
                if not served.loaded:
                    wanted = Wanted(served.spec, served.digest, size_bytes=0, memory_bytes=None)
                    added.append(await deployer.load(served.key, wanted))
        except BaseException:
            for served in added:
                fleet.discard(served)
            raise
        fleet.switch(added=added)


def _versions(fleet: Fleet, project: str, model: str) -> list[Served]:
    found = [one for one in fleet.all() if one.key[:2] == (project, model) and one.state != "draining"]
    if not found:
        raise fleet.router.unknown(project, model)
    return found
