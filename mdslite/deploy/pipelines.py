"""What a pipeline consists of, found out before it is loaded; and that the models it calls are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mdslite import pipelines
from mdslite.deploy.plan import State
from mdslite.errors import LoadFailed, MdsliteError
from mdslite.runtimes.protocol import DATA_SIGNATURE, PipelineReport, ProbeReport

Key = tuple[str, str, str]  # project, model, version


def examine_pipeline(path: Path, probe: Callable[[str], ProbeReport]) -> ProbeReport:
    """Read the pipeline in the folder `path`, and `probe` the dotted module of each handler. Blocks.

    :raises SpecError: its pipeline.yaml is wrong
    :raises LoadFailed: a handler cannot be loaded
    """
    pipeline = pipelines.read(path)
    reports: dict[str, ProbeReport] = {}
    handlers: list[str] = []  # of each node that has one
    for node in pipeline.order:
        if isinstance(node.work, str):
            handlers.append(node.work)
            if node.work not in reports:
                reports[node.work] = _probe_node(node.name, node.work, probe)
    packages = {module: report.package for module, report in reports.items() if report.package is not None}
    return ProbeReport(
        signature=DATA_SIGNATURE,
        memory_bytes=sum(reports[module].memory_bytes for module in handlers),
        load_s=sum(reports[module].load_s for module in handlers),
        bounded=False,
        pipeline=PipelineReport(pipeline.name, packages, tuple(map(str, pipeline.models))),
    )


def _probe_node(name: str, module: str, probe: Callable[[str], ProbeReport]) -> ProbeReport:
    try:
        return probe(module)
    except MdsliteError as exc:
        raise LoadFailed(f"node {name}: {exc.message}", hint=exc.hint) from exc


def check_calls(calls: Mapping[Key, tuple[str, ...]], *, current: State, target: State) -> None:
    """See to it that the models which pipelines call are deployed once `target` is reached.

    `calls` are the models' names by the pipelines' versions.

    :raises LoadFailed: one is not
    """
    for (project, model, version), names in calls.items():
        for name in names:
            if _has(target, name):
                continue
            label = f"{project}/{model} {version}"
            if _has(current, name):
                raise LoadFailed(
                    f"{label}: it calls {name}, which would be deleted",
                    hint=f"keep {name}, or delete {project}/{model} as well",
                )
            raise LoadFailed(
                f"{label}: it calls {name}, which is neither deployed nor in this file",
                hint=f"deploy {name} first, or together with it in one file",
            )


def _has(state: State, name: str) -> bool:
    """Is a model, PROJECT/MODEL or PROJECT/MODEL@VERSION, among what is deployed?"""
    model, _, version = name.partition("@")
    project, _, model = model.partition("/")
    versions = state.get((project, model), {})
    return version in versions if version else bool(versions)
