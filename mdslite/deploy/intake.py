"""From what a deployments file names to what a plan can compare: artifacts in the store, their digests, and
what a disposable child found out about each model. Changes no route and records no revision.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from mdslite.deploy.events import FetchEvent, Progress, TryEvent
from mdslite.deploy.installs import Installs
from mdslite.deploy.pipelines import examine_pipeline
from mdslite.deploy.plan import Wanted
from mdslite.deploy.turns import Turns
from mdslite.deployments import Deployments
from mdslite.errors import (
    ArtifactError,
    DeadlineExceeded,
    LoadFailed,
    MdsliteError,
    ModelError,
    OutOfMemory,
    StorageFull,
    Unprocessable,
)
from mdslite.fields import Operator, PackageType, SourceType, version_name
from mdslite.runtimes.kinds import PIPELINE, Kind, detect, probe_engine, require, runtime_settings
from mdslite.runtimes.protocol import DATA_SIGNATURE, LoadOptions, ProbeReport, Trial
from mdslite.serving.declared import check_tensors
from mdslite.spec import Spec
from mdslite.store.sources import is_url
from mdslite.uris import SERVED_HINT

if TYPE_CHECKING:
    from mdslite.runtimes.prober import Prober
    from mdslite.store.artifacts import Artifact, ArtifactStore
    from mdslite.store.registry import Registry
    from mdslite.store.worker import Worker

PROBE_TIMEOUT_S = 60.0
# A failure that took so long to find is believed for so long.
FAILURE_SLOW_S = 5.0
FAILURE_KEPT_S = 120.0
NONE_PLANNED: Mapping[str, str] = MappingProxyType({})
REPORT_S = 0.1  # between two reports on one artifact

Trying = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Examined:
    """What kind of model a version is, and what a disposable child found out about it."""

    kind: Kind
    report: ProbeReport


# A version that is served elsewhere: nothing of it is stored, and what it takes its endpoints say.
REMOTE = "remote"  # in the place of a digest
REMOTE_MODEL = Examined(
    Kind("REMOTE", "REMOTE"), ProbeReport(DATA_SIGNATURE, memory_bytes=0, load_s=0.0, bounded=False)
)


@dataclass(frozen=True, slots=True)
class Intake:
    """The way of a model into the appliance, up to its loading. `allow_internal` are the HOST or HOST:PORT of
    internal addresses that a URL may lead to."""

    registry: Registry
    worker: Worker
    artifacts: ArtifactStore
    prober: Prober
    allow_internal: Collection[str] = ()
    probe_timeout_s: float = PROBE_TIMEOUT_S
    installs: Installs = field(default_factory=Installs)
    failures: dict[tuple[str, bytes], tuple[float, str, str | None]] = field(default_factory=dict)

    async def admit(
        self,
        deployments: Deployments,
        progress: Progress,
        *,
        turns: Turns,
        found: dict[tuple[str, str], dict[str, Wanted]],
        planned: Mapping[str, str] = NONE_PLANNED,
    ) -> None:
        """Fetch and digest every artifact that a file names, once each, and probe what is new. `found` fills
        on the way, so that it holds something when this fails. What was last downloaded of a URL is not
        asked for again where it is `planned`: the digest that a version had.

        :raises ArtifactError: an artifact cannot be had, or is not what it should be
        :raises LoadFailed: a model cannot be opened
        :raises StorageFull: the store has no room
        :raises Conflict: another one has been at that for too long
        """
        fetched: dict[str, Artifact] = {}

        @asynccontextmanager
        async def trying(label: str) -> AsyncIterator[None]:
            async with turns.fetching():
                with self.installs.told_to(progress):
                    progress(TryEvent(version=label))
                    yield

        for deployment in deployments.deployments:
            versions = found[deployment.project, deployment.model] = {}
            for version in deployment.versions:
                name = version_name(deployment.project, deployment.model, version.version)
                label = f"{deployment.project}/{deployment.model} {version.version}"
                with blaming(label):
                    wanted = await self._want(version.spec, fetched, progress, turns, planned.get(name))
                    versions[version.version] = wanted
                    if wanted.digest != REMOTE:
                        examined = await self.examine(
                            wanted.digest, version.spec, trying=partial(trying, label)
                        )
                        memory_bytes = examined.report.memory_bytes
                        versions[version.version] = replace(wanted, memory_bytes=memory_bytes)

    async def _want(
        self,
        spec: Spec,
        fetched: dict[str, Artifact],
        progress: Progress,
        turns: Turns,
        planned: str | None,
    ) -> Wanted:
        if spec.service_info.endpoints_infos:
            return Wanted(spec=spec, digest=REMOTE, size_bytes=0)
        if spec.uri not in fetched:
            far = is_url(spec.uri) and planned is None
            async with turns.fetching() if far else turns.adding():
                fetched[spec.uri] = await self._fetch(spec.uri, progress, planned)
        artifact = fetched[spec.uri]
        return Wanted(spec=spec, digest=artifact.digest, size_bytes=artifact.size_bytes)

    async def examine(self, digest: str, spec: Spec, *, trying: Trying = nullcontext) -> Examined:
        """What a stored model is, asking a disposable child at most once for each library that runs it;
        `trying()` is the context of that.

        :raises LoadFailed: it is nothing that can be served here, or the child could not open it
        :raises ArtifactError: the bytes in the store are missing or damaged
        """
        if spec.service_info.endpoints_infos:
            return REMOTE_MODEL
        stored = self.artifacts.get(digest)  # its bytes are verified when the appliance itself opens it
        path = await self.open(digest) if stored is None else stored.path
        kind = await asyncio.to_thread(detect, path, spec.package_type, spec.runtime)
        check_tensors(spec, kind.runtime)
        require(kind.runtime)
        return Examined(kind, await self._report(digest, path, kind, spec, trying))

    async def _report(self, digest: str, path: Path, kind: Kind, spec: Spec, trying: Trying) -> ProbeReport:
        settings = runtime_settings(kind.runtime, spec.container_parameter)
        # ONNX files say all about themselves; of the other kinds, settings may say what they leave open.
        engine = probe_engine(kind.runtime, None if kind.runtime == "ONNXRUNTIME" else settings)
        if kind == PIPELINE:
            engine += " pipeline"  # the same folder, taken for a package, is another thing
        known = await self.worker.call(self.registry.probe, digest, engine)
        if known is not None:
            with suppress(msgspec.ValidationError):  # written by another release: ask again
                return msgspec.convert(known, ProbeReport)
        options, trial = LoadOptions(settings=settings, env=spec.container.env), Trial()
        async with trying():
            try:
                report = await asyncio.to_thread(self._probe, kind, path, options, trial)
            except asyncio.CancelledError:
                trial.give_up()
                raise
        with suppress(StorageFull):  # then it is asked again; whether a write is needed is decided later
            await self.worker.call(
                self.registry.add_probe,
                digest,
                runtime=kind.runtime,
                engine=engine,
                report=msgspec.to_builtins(report),
            )
        return report

    def _probe(self, kind: Kind, path: Path, options: LoadOptions, trial: Trial) -> ProbeReport:
        """Ask a disposable child, which may take a minute to find that a model never opens: an apply that
        follows its plan is not made to wait for that again."""
        key = str(path), msgspec.json.encode(options)
        failed = self.failures.get(key)
        if failed is not None and (age_s := monotonic() - failed[0]) < FAILURE_KEPT_S:
            found = (
                f"that was found {age_s:.0f} s ago; from {FAILURE_KEPT_S - age_s:.0f} s on it is tried again"
            )
            raise LoadFailed(failed[1], hint=found if failed[2] is None else f"{failed[2]}; {found}")
        started = monotonic()
        try:
            return self._probe_anew(kind, path, options, trial)
        except LoadFailed as exc:
            if monotonic() - started > FAILURE_SLOW_S and not trial.is_over:
                self.failures.clear()  # one is enough: the plan's, for the apply
                self.failures[key] = (monotonic(), exc.message, exc.hint)
            raise

    def _probe_anew(self, kind: Kind, path: Path, options: LoadOptions, trial: Trial) -> ProbeReport:
        def probe(handler: str | None) -> ProbeReport:
            return self.prober.probe(
                kind.runtime,
                path,
                replace(options, handler=handler),
                timeout_s=self.probe_timeout_s,
                trial=trial,
            )

        return examine_pipeline(path, probe) if kind == PIPELINE else probe(None)

    async def open(self, digest: str) -> Path:
        """Verify every byte of an artifact, and return where to load it from.

        :raises ArtifactError: it is missing, or its bytes no longer match the digest
        """
        if digest == REMOTE:
            return Path()
        return await asyncio.to_thread(self.artifacts.open, digest)

    async def _fetch(self, uri: str, progress: Progress, planned: str | None) -> Artifact:
        report = _Report(uri, progress, asyncio.get_running_loop())
        try:
            artifact = await asyncio.to_thread(
                self.artifacts.add,
                uri,
                allow=self.allow_internal,
                planned=planned,
                progress=report,
                check=report.check,
            )
        except asyncio.CancelledError:
            report.stopped = True
            raise
        with suppress(StorageFull):
            await self.worker.call(
                self.registry.add_artifact,
                artifact.digest,
                kind=artifact.kind,
                size_bytes=artifact.size_bytes,
                origin=uri,
            )
        return artifact


class _Report:
    """Brings the bytes done from the fetching thread to the event loop, and a stop the other way."""

    def __init__(self, uri: str, progress: Progress, loop: asyncio.AbstractEventLoop) -> None:
        self.stopped = False
        self._uri = uri
        self._progress = progress
        self._loop = loop
        self._next_s = 0.0

    def check(self) -> None:
        """:raises ArtifactError: nobody waits for the artifact any more"""
        if self.stopped:
            raise ArtifactError(f"{self._uri}: its fetching was stopped", hint="apply it again")

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None:
        self.check()
        now = monotonic()
        if now < self._next_s and done_bytes != total_bytes:
            return
        self._next_s = now + REPORT_S
        event = FetchEvent(uri=self._uri, done_bytes=done_bytes, total_bytes=total_bytes)
        self._loop.call_soon_threadsafe(self._progress, event)


@contextmanager
def blaming(label: str) -> Iterator[None]:
    """Say in an error's message which version it is about. What would be the caller's to retry while serving
    (no memory, no time) is a version that cannot be loaded here."""
    try:
        yield
    except (OutOfMemory, DeadlineExceeded, ModelError) as exc:
        raise LoadFailed(f"{label}: {exc.message}", hint=exc.hint) from exc
    except MdsliteError as exc:
        exc.message = f"{label}: {exc.message}"
        exc.args = (exc.message,)
        raise


def refuse_unsupported(deployments: Deployments) -> None:
    """Refuse what a spec may say but this release does not do, before anything is fetched.

    :raises Unprocessable: naming the version, the field and what is supported
    """
    for deployment in deployments.deployments:
        for version in deployment.versions:
            for served, wrong, supported in _LIMITS:
                got = wrong(version.spec)
                if got is not None:
                    raise Unprocessable(
                        f"{deployment.project}/{deployment.model} {version.version}: {served} {got} is not "
                        f"served by this release; expected {supported}",
                        hint=_HINTS.get(served),
                    )


def _enum(name: str, *supported: str) -> Callable[[Spec], Any]:
    def wrong(spec: Spec) -> str | None:
        value = str(getattr(spec, name))
        return None if value in supported else value

    return wrong


def _object_storage(spec: Spec) -> str | None:
    scheme, found, _ = spec.uri.partition("://")
    return f"{scheme}://" if found and scheme.lower() not in ("http", "https") else None


# What is named in the message, what is wrong with a spec there (None: nothing), and what is supported.
_LIMITS: tuple[tuple[str, Callable[[Spec], Any], str], ...] = (
    ("operator", _enum("operator", Operator.UNSET_OPERATOR, Operator.LOCAL), "LOCAL, or none"),
    (
        "package_type",
        _enum("package_type", *(one for one in PackageType if one is not PackageType.DOCKER_IMAGE)),
        "a model file or a package; images are for cluster operators",
    ),
    (
        "source_type",
        _enum("source_type", SourceType.UNSET_SOURCETYPE, SourceType.FILE, SourceType.HTTP),
        "FILE, HTTP, or none",
    ),
    ("the uri", _object_storage, "a path, or an http(s) URL"),
)
_HINTS: Mapping[str, str] = {
    "operator": "leave operator out to serve on this machine",
    "package_type": "leave package_type out, and point uri at the model that is in the image",
    "source_type": "leave source_type out: the uri says it",
    "the uri": SERVED_HINT,
}
