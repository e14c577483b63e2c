"""What there is under a name: a question about nothing is answered 404, not with an empty answer."""

from __future__ import annotations

from mdslite.api.parts import Parts


async def versions_of(parts: Parts, project: str, model: str) -> list[str]:
    """The versions of a model that are deployed, loaded or not."""
    rows = await parts.worker.call(parts.registry.current)
    return sorted(row.version for row in rows if (row.project, row.model) == (project, model))


async def require_model(parts: Parts, project: str, model: str) -> None:
    """:raises NotFound: no such model is deployed
    :raises StillLoading: that is not known yet
    """
    if not await versions_of(parts, project, model):
        raise parts.fleet.router.unknown(project, model)
