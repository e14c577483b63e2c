"""What the appliance's parts look like in the admin API's replies. Reads; changes and decides nothing."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter, time

import msgspec

from mdslite import __version__
from mdslite import spec as specs
from mdslite.api.parts import Parts
from mdslite.api.plan_schema import DeployedInfo, DiffInfo, PlanEvent, PlanReply, RevisionInfo, Summary
from mdslite.api.schema import (
    BatchInfo,
    DeviceInfo,
    EndpointState,
    ModelInfo,
    NodeInfo,
    PipelineInfo,
    PrintedInfo,
    Readiness,
    SignatureInfo,
    Status,
    TensorInfo,
    VersionInfo,
    VersionState,
)
from mdslite.deploy.orders import Draft
from mdslite.deploy.plan import to_plain
from mdslite.drawing import draw
from mdslite.errors import NotFound
from mdslite.fields import DEFAULT_BATCH_TIMEOUT_MS, DEFAULT_PREDICTION_TIME_MS
from mdslite.graph import Node
from mdslite.http.access import ANYBODY, NOBODY, Grant
from mdslite.runtimes.protocol import Signature, TensorSpec
from mdslite.serving.fleet import Key, Served
from mdslite.serving.nodes import Handler
from mdslite.serving.pipeline import PipelineLane
from mdslite.serving.remote.lane import RemoteLane
from mdslite.spec import Spec
from mdslite.store.moments import time_text
from mdslite.store.registry import Revision, VersionRow


def status_of(parts: Parts, revision: int, grant: Grant) -> Status:
    """Who asks for some projects alone hears of the machine that all share, not where it keeps what."""
    is_all = grant.project is None
    return Status(
        version=__version__,
        pid=os.getpid() if is_all else 0,
        started_at=time_text(parts.started_at),
        uptime_s=round(time() - parts.started_at, 3),
        revision=revision,
        url=parts.url,
        store=os.path.abspath(parts.settings.store) if is_all else "",
        devices=[
            DeviceInfo(
                label=reading.label,
                name=reading.name,
                utilization_percent=reading.utilization_percent,
                memory_used_bytes=reading.memory_used_bytes,
                memory_total_bytes=reading.memory_total_bytes,
                temperature_c=reading.temperature_c,
                power_w=reading.power_w,
            )
            for reading in parts.history.readings()
        ],
        ready=is_ready(parts),
        draining=parts.draining,
        needs_token=parts.issuer.access.required,
        keeps_log=parts.settings.log,
        log_trouble=log_trouble(parts) if is_all else None,
    )


def log_trouble(parts: Parts) -> str | None:
    """Why the request log is not written just now, and what waits for that; None while it is."""
    found = parts.journal.statistics()
    if found.trouble is None:
        return None
    waiting = "1 row waits" if found.pending == 1 else f"{found.pending:,} rows wait"
    return f"it is not written just now ({found.trouble}); {waiting} in memory"


def is_ready(parts: Parts) -> bool:
    return not (parts.fleet.router.starting or parts.draining)


def readiness_of(parts: Parts, model: tuple[str, str] | None, grant: Grant) -> Readiness:
    """The whole appliance's readiness, or one model's: whether some version takes its traffic. It lists the
    versions that are the grant's to know.

    :raises NotFound: no such model is deployed
    """
    versions = [one for one in parts.fleet.all() if model is None or (one.project, one.model) == model]
    ready = is_ready(parts)
    if model is not None:
        if not versions and not parts.fleet.router.starting:
            raise NotFound(f"no model {'/'.join(model)} is deployed", hint="mdslite ls")
        ready = not parts.draining and any(
            one.state == "ready" and not one.spec.service_info.shadow for one in versions
        )
    return Readiness(
        ready=ready,
        draining=parts.draining,
        versions=[
            VersionState(
                project=one.project, model=one.model, version=one.version, state=one.state, reason=one.reason
            )
            for one in versions
            if grant is not NOBODY and grant.covers(one.project, one.model)
        ],
    )


def models_of(
    parts: Parts, rows: Iterable[VersionRow], *, project: str | None = None, grant: Grant = ANYBODY
) -> list[ModelInfo]:
    """What the fleet serves, by model, as far as it is the grant's to know; `rows` are what the registry has
    deployed."""
    known = {row.key: row for row in rows}
    models: dict[tuple[str, str], list[Served]] = {}
    for served in parts.fleet.all():
        if project in (None, served.project) and grant.covers(served.project, served.model):
            models.setdefault((served.project, served.model), []).append(served)
    return [
        ModelInfo(project=name[0], model=name[1], versions=_versions(parts, versions, known))
        for name, versions in models.items()
    ]


def _versions(parts: Parts, versions: Sequence[Served], known: Mapping[Key, VersionRow]) -> list[VersionInfo]:
    takers = [
        one.spec.service_info.weight
        for one in versions
        if one.state == "ready" and not one.spec.service_info.shadow
    ]
    total = sum(takers)
    found = []
    for one in versions:
        takes = total and one.state == "ready" and not one.spec.service_info.shadow
        share = one.spec.service_info.weight / total if takes else 0.0
        row = known.get(one.key)
        found.append(_version(parts, one, share, row if row and row.digest == one.digest else None))
    return found


def _version(parts: Parts, served: Served, share: float, row: VersionRow | None) -> VersionInfo:
    since = served.loaded_at if served.loaded else None
    recent = parts.metrics.recent(served.project, served.model, served.version, since=since)
    info = served.spec.service_info
    return VersionInfo(
        version=served.version,
        state=served.state,
        reason=served.reason,
        weight=info.weight,
        share=round(share, 6),
        shadow=info.shadow,
        replicas=info.replicas,
        uri=served.spec.uri,
        digest=served.digest,
        size_bytes=row.size_bytes if row else None,
        memory_bytes=served.memory_bytes or (row.memory_bytes if row else None),
        since_revision=row.since_revision if row else None,
        runtime=served.runtime or None,
        device=", ".join(dict.fromkeys(served.devices)) or None,
        provider=served.provider or None,
        loaded_at=time_text(served.loaded_at) if served.loaded else None,
        batch=_batch(served.spec, served),
        signature=_signature(served.signature) if served.signature else None,
        pipeline=_pipeline(served),
        endpoints=_endpoints(served),
        queue_rows=served.queue_rows,
        window_s=round(recent.window_s, 1),
        rps=round(recent.rps, 3),
        p50_ms=recent.p50_ms,
        p99_ms=recent.p99_ms,
        requests=recent.requests,
        errors=recent.errors,
        refused=recent.refused,
        error_rate=recent.error_rate,
        requests_total=recent.requests_total,
    )


def _batch(spec: Spec, served: Served | None = None) -> BatchInfo:
    if served is not None and served.loaded:
        knobs = served.lane.knobs
        batches = not isinstance(served.lane, PipelineLane)  # each of its nodes does
        return BatchInfo(
            batch_size=knobs.batch_size if batches else None,
            batch_timeout_ms=_milliseconds(knobs.batch_timeout_s) if batches else None,
            prediction_time_ms=_milliseconds(knobs.prediction_s),
        )
    asked = spec.batch
    return BatchInfo(
        batch_size=asked.batch_size,
        batch_timeout_ms=_or(asked.batch_timeout_ms, DEFAULT_BATCH_TIMEOUT_MS),
        prediction_time_ms=_or(asked.prediction_time_ms, DEFAULT_PREDICTION_TIME_MS),
    )


def _endpoints(served: Served) -> list[EndpointState] | None:
    if not served.loaded or not isinstance(served.lane, RemoteLane):
        return None
    now = perf_counter()
    return [
        EndpointState(
            url=one.url,
            available=not one.is_ejected(now),
            reason=one.reason if one.is_ejected(now) else None,
            open=one.open,
            requests=one.requests,
            failures=one.failures,
        )
        for one in served.lane.pool.endpoints
    ]


def _pipeline(served: Served) -> PipelineInfo | None:
    if not served.loaded or not isinstance(served.lane, PipelineLane):
        return None
    pipeline, handlers = served.lane.pipeline, served.lane.handlers
    return PipelineInfo(
        name=pipeline.name,
        drawing=draw(pipeline),
        nodes=[_node(node, handlers.get(node.name)) for node in pipeline.order],
    )


def _node(node: Node, handler: Handler | None) -> NodeInfo:
    if handler is None:
        return NodeInfo(node=node.name, runs=str(node.work))
    knobs = handler.lane.knobs
    return NodeInfo(
        node=node.name,
        runs=str(node.work),
        replicas=len(handler.lane.replicas),
        queue_rows=handler.lane.queue_rows,
        batch_size=knobs.batch_size,
        batch_timeout_ms=_milliseconds(knobs.batch_timeout_s),
        prediction_time_ms=_milliseconds(handler.limit_s) if handler.limit_s < math.inf else None,
    )


def _milliseconds(seconds: float) -> float:
    """Whole ones as whole numbers, as they were written."""
    value = round(seconds * 1000, 6)
    return int(value) if value.is_integer() else value


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _signature(signature: Signature) -> SignatureInfo:
    return SignatureInfo(
        inputs=[_tensor(one) for one in (*signature.inputs, *signature.shared)],
        outputs=[_tensor(one) for one in signature.outputs],
        rows=signature.rows,
    )


def _tensor(one: TensorSpec) -> TensorInfo:
    return TensorInfo(name=one.name, datatype=one.datatype, shape=list(one.shape), optional=one.optional)


def past_model(
    project: str, model: str, rows: Iterable[VersionRow], *, at: float, revision: int
) -> ModelInfo:
    """A model as the registry had it at a time; without versions when it was not deployed then."""
    mine = [
        (row, specs.from_plain(dict(row.spec)))
        for row in rows
        if (row.project, row.model) == (project, model)
    ]
    total = sum(spec.service_info.weight for _, spec in mine if not spec.service_info.shadow)
    versions = [
        VersionInfo(
            version=row.version,
            state="past",
            reason=None,
            weight=spec.service_info.weight,
            share=round(spec.service_info.weight / total, 6) if total else 0.0,
            shadow=spec.service_info.shadow,
            replicas=spec.service_info.replicas,
            uri=spec.uri,
            digest=row.digest,
            size_bytes=row.size_bytes,
            memory_bytes=row.memory_bytes,
            since_revision=row.since_revision,
            batch=_batch(spec),
        )
        for row, spec in mine
    ]
    return ModelInfo(
        project=project, model=model, versions=versions, at=time_text(at), revision=revision or None
    )


def printed_of(served: Served) -> list[PrintedInfo]:
    """What the packages of a version have printed, by replica, ended processes before those that serve."""
    found = [one for station in served.stations for one in station.printed()]
    return [PrintedInfo(replica=one.replica, text=one.text, ended=one.ended) for one in found]


def plan_reply(draft: Draft) -> PlanReply:
    return msgspec.convert({**to_plain(draft.plan), "base_revision": draft.base_revision}, PlanReply)


def plan_event(draft: Draft) -> PlanEvent:
    """The last line of a plan that was told of while it was made."""
    return PlanEvent(**msgspec.structs.asdict(plan_reply(draft)))


def summary_of(diff: DiffInfo) -> Summary:
    counts = Counter(step.action for model in diff.models for step in model.steps)
    return Summary(
        add=counts["ADD"], update=counts["UPDATE"], delete=counts["DELETE"], retain=counts["RETAIN"]
    )


def revision_of(revision: Revision) -> RevisionInfo:
    diff = msgspec.convert(revision.diff, DiffInfo)
    return RevisionInfo(
        id=revision.id,
        time=time_text(revision.time),
        author=revision.author,
        reason=revision.reason,
        state=revision.state,
        error=revision.error,
        summary=summary_of(diff),
        diff=diff,
    )


def deployed_of(row: VersionRow) -> DeployedInfo:
    return DeployedInfo(
        project=row.project,
        model=row.model,
        version=row.version,
        spec=dict(row.spec),
        digest=row.digest,
        size_bytes=row.size_bytes,
        memory_bytes=row.memory_bytes,
        since_revision=row.since_revision,
    )
