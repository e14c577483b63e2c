"""The operations of the Open Inference Protocol beside infer, which is the predict function's. Each takes the
appliance's parts and a checked call. Owns no state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from mdslite import __version__
from mdslite.api import oip_views, views
from mdslite.api.oip_schema import (
    OipConfig,
    OipDone,
    OipIndexBody,
    OipIndexEntry,
    OipInferBody,
    OipInferReply,
    OipLive,
    OipLoadBody,
    OipModel,
    OipModelPath,
    OipModelReady,
    OipReady,
    OipServer,
    OipStatistics,
    OipVersionPath,
)
from mdslite.api.operations import Answer, Call, Nothing, Operation, Raw, declare
from mdslite.api.parts import Parts
from mdslite.deploy.residence import load_model, unload_model
from mdslite.errors import NotFound
from mdslite.http.paths import split_model
from mdslite.media import OCTETS

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
)
SHARED_MEMORY_URLS = ("/v2/systemsharedmemory/{rest:path}", "/v2/cudasharedmemory/{rest:path}")


async def get_server(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> OipServer:
    """The server's name, version and extensions"""
    return OipServer(name="mdslite", version=__version__, extensions=[*EXTENSIONS])


async def get_live(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> OipLive:
    """Is the process alive?"""
    return OipLive()


async def get_ready(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> OipReady | Answer:
    """Can it take traffic? 503 while it loads at start, and while it drains"""
    ready = OipReady(ready=views.is_ready(parts))
    return Raw(msgspec.json.encode(ready), status=200 if ready.ready else 503)


async def get_oip_model(parts: Parts, call: Call[OipModelPath, Nothing, Nothing]) -> OipModel:
    """A model's inputs and outputs, those of the version with most of its traffic"""
    return oip_views.model_of(parts, oip_views.find_version(parts, *_names(call), None))


async def get_oip_version(parts: Parts, call: Call[OipVersionPath, Nothing, Nothing]) -> OipModel:
    """One version's inputs and outputs"""
    return oip_views.model_of(parts, oip_views.find_version(parts, *_names(call), call.path.version))


async def get_model_ready(parts: Parts, call: Call[OipModelPath, Nothing, Nothing]) -> OipModelReady | Answer:
    """Does a version take the model's traffic? 503 where none does"""
    return _readiness(parts, call, None)


async def get_version_ready(
    parts: Parts, call: Call[OipVersionPath, Nothing, Nothing]
) -> OipModelReady | Answer:
    """Can this version serve? 503 where it cannot"""
    return _readiness(parts, call, call.path.version)


async def get_model_config(parts: Parts, call: Call[OipModelPath, Nothing, Nothing]) -> OipConfig:
    """The configuration of the version with most of a model's traffic"""
    return oip_views.config_of(oip_views.find_version(parts, *_names(call), None))


async def get_version_config(parts: Parts, call: Call[OipVersionPath, Nothing, Nothing]) -> OipConfig:
    """One version's configuration"""
    return oip_views.config_of(oip_views.find_version(parts, *_names(call), call.path.version))


async def get_all_statistics(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> OipStatistics:
    """What all versions have computed, and how long it took"""
    return await _statistics(parts, call, None, None)


async def get_model_statistics(parts: Parts, call: Call[OipModelPath, Nothing, Nothing]) -> OipStatistics:
    """What a model's versions have computed, and how long it took"""
    names = _names(call)
    parts.fleet.router.find(*names, None)
    return await _statistics(parts, call, names, None)


async def get_version_statistics(parts: Parts, call: Call[OipVersionPath, Nothing, Nothing]) -> OipStatistics:
    """What one version has computed, and how long it took"""
    names = _names(call)
    parts.fleet.router.find(*names, call.path.version)
    return await _statistics(parts, call, names, call.path.version)


async def index_repository(parts: Parts, call: Call[Nothing, Nothing, OipIndexBody]) -> list[OipIndexEntry]:
    """Every version that is deployed, and its state"""
    grant = call.caller.grant
    versions = [one for one in parts.fleet.all() if grant.covers(one.project, one.model)]
    return oip_views.index_of(versions, ready=call.body.ready)


async def load_repository_model(parts: Parts, call: Call[OipModelPath, Nothing, OipLoadBody]) -> OipDone:
    """Load the versions of a deployed model that are not loaded. It goes on when its caller leaves"""
    project, model = _names(call)
    await load_model(parts.deployer, parts.fleet, project, model)
    return OipDone()


async def unload_repository_model(parts: Parts, call: Call[OipModelPath, Nothing, OipLoadBody]) -> OipDone:
    """Take a model's versions out of memory until they are loaded again, or the appliance is started again.
    They stay deployed"""
    project, model = _names(call)
    await unload_model(parts.deployer, parts.fleet, project, model)
    return OipDone()


class NoSharedMemory:
    """What is at the protocol's URLs for shared memory, which clients on this machine may try."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """:raises NotFound: always"""
        raise NotFound("shared memory is not served: expected the tensors in the infer message")


def make_operations() -> list[Operation]:
    """Every operation under /v2, in an order in which no URL hides another."""
    model = "/v2/models/{name}"
    version = f"{model}/versions/{{version}}"
    repository = "/v2/repository"
    return [
        *_infer_operations(model, version),
        declare("GET", "/v2", get_server, group="oip", scope="open"),
        declare("GET", "/v2/health/live", get_live, group="oip", scope="open"),
        declare("GET", "/v2/health/ready", get_ready, group="oip", scope="open", same=(503,)),
        declare(
            "GET",
            "/v2/models/stats",
            get_all_statistics,
            group="oip",
            scope="predict",
            also="read",
            reach="own",
        ),
        _of_model(model, get_oip_model),
        _of_model(version, get_oip_version),
        _of_model(f"{model}/ready", get_model_ready, same=(503,)),
        _of_model(f"{version}/ready", get_version_ready, same=(503,)),
        _of_model(f"{model}/config", get_model_config),
        _of_model(f"{version}/config", get_version_config),
        _of_model(f"{model}/stats", get_model_statistics),
        _of_model(f"{version}/stats", get_version_statistics),
        declare(
            "POST",
            f"{repository}/index",
            index_repository,
            group="oip",
            scope="predict",
            also="read",
            reach="own",
        ),
        *(
            declare(
                "POST",
                f"{repository}/models/{{name}}/{what}",
                handler,
                group="oip",
                errors=(404, 409, 422, 503),
                scope="admin",
                reach="own",
            )
            for what, handler in (("load", load_repository_model), ("unload", unload_repository_model))
        ),
    ]


def _infer_operations(model: str, version: str) -> list[Operation]:
    urls: tuple[tuple[str, str, type[msgspec.Struct], str], ...] = (
        (f"{model}/infer", "infer", OipModelPath, "Infer with a version chosen by weight"),
        (f"{version}/infer", "infer_version", OipVersionPath, "Infer with one version"),
    )
    return [
        Operation(
            "POST",
            url,
            "oip",
            name=name,
            summary=summary,
            handler=None,
            path=path,
            query=Nothing,
            body=OipInferBody,
            reply=OipInferReply,
            errors=(404, 503, 504),
            scope="predict",
            reach="named",
            consumes=(OCTETS.decode(),),
            produces=(OCTETS.decode(),),
            wishes=(("inference-header-content-length", "how long the JSON is, where bytes follow it"),),
            headers=(
                ("mdslite-version", "the version that answered"),
                ("server-timing", "queue, compute and total, in milliseconds"),
                ("inference-header-content-length", "how long the JSON is, where bytes follow it"),
            ),
        )
        for url, name, path, summary in urls
    ]


def _of_model(
    url: str, handler: Callable[[Any, Call[Any, Any, Any]], Awaitable[Any]], *, same: tuple[int, ...] = ()
) -> Operation:
    errors = (404,) if same else (404, 503)
    return declare(
        "GET", url, handler, group="oip", scope="predict", also="read", reach="own", errors=errors, same=same
    )


def _names(call: Call[Any, Any, Any]) -> tuple[str, str]:
    """Project and model, for one who may ask about them.

    :raises Forbidden: the caller may not
    """
    project, model = split_model(call.path.name)
    call.caller.grant.require_model(project, model)
    return project, model


def _readiness(parts: Parts, call: Call[Any, Any, Any], version: str | None) -> Raw:
    is_ready = oip_views.is_ready(parts, *_names(call), version) and not parts.draining
    reply = OipModelReady(name=call.path.name, ready=is_ready)
    return Raw(msgspec.json.encode(reply), status=200 if is_ready else 503)


async def _statistics(
    parts: Parts, call: Call[Any, Any, Any], names: tuple[str, str] | None, version: str | None
) -> OipStatistics:
    grant = call.caller.grant
    found = [
        one
        for one in parts.fleet.all()
        if one.state != "draining"
        and names in (None, one.key[:2])
        and version in (None, one.version)
        and grant.covers(one.project, one.model)
    ]
    totals = await asyncio.to_thread(parts.metrics.totals, [one.key for one in found])
    return OipStatistics(model_stats=[oip_views.statistics_of(one, totals[one.key]) for one in found])
