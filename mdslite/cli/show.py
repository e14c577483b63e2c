"""`mdslite ls` and `mdslite show`: what is deployed, and one model or version in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from mdslite.cli import output
from mdslite.cli.options import addressed_to, connect, json_option, url_option
from mdslite.cli.refused import refusal_lines
from mdslite.cli.suggestions import command_line
from mdslite.cli.target import Scope, Target, parse_moment, parse_scope, parse_target, require_scope
from mdslite.sizes import size_text

Json = Mapping[str, Any]

_LS_COLUMNS = [
    output.Column("MODEL", folds=True),
    output.Column("VERSION"),
    output.Column("STATE"),
    *(output.Column(title, "right") for title in ("WEIGHT", "SHARE", "RPS", "P50 MS", "P99 MS", "ERR %")),
]
_PRINTED_LINES = 20
_MINUTE_S = 59  # from here on, for of the second that goes on there is a part as yet

_PAST_COLUMNS = [
    output.Column("VERSION"),
    output.Column("WEIGHT", "right"),
    output.Column("DIGEST"),
    output.Column("URI", folds=True),
]
_NODE_COLUMNS = [
    output.Column("NODE"),
    output.Column("REPLICAS", "right"),
    output.Column("QUEUE", "right"),
    output.Column("BATCH SIZE", "right"),
    output.Column("WAITS MS", "right"),
    output.Column("LIMIT MS", "right"),
]
_ENDPOINT_COLUMNS = [
    output.Column("ENDPOINT", folds=True),
    output.Column("STATE"),
    *(output.Column(title, "right") for title in ("OPEN", "REQUESTS", "FAILURES")),
    output.Column("WHY", folds=True, below=True),
]
_STORED = frozenset({"replicas", "device", "provider", "uri", "digest", "size", "memory", "batch"})
_NODE_FIELDS = ("node", "replicas", "queue_rows", "batch_size", "batch_timeout_ms", "prediction_time_ms")


@click.command(
    epilog="""\b
Examples:
  mdslite ls
  mdslite ls demo
  mdslite ls demo/digits --json

Traffic is that of the last minute, or since a younger version serves. RPS counts
all requests; P50 and P99 are of good answers. ERR % is the share of errors (5xx)
in these and the good answers: what was refused (4xx) is left out, and told below
the table where it is much; --json has "refused" beside "requests"."""
)
@click.argument("scope", metavar="[PROJECT[/MODEL]]", callback=parse_scope, required=False)
@json_option
@url_option
def ls(scope: Scope | None, as_json: bool, url: str) -> int:
    """List what is deployed, with state, weight and traffic."""
    with connect(url) as client:
        found = client.models() if scope is None else require_scope(client, scope)
        is_loading = not found and scope is None and not client.status()["ready"]
        refused = [] if as_json else list(refusal_lines(client, found, url))
    if as_json:
        output.write_json(found)
    elif is_loading:
        output.note("nothing is deployed yet: the appliance is still loading, or stopping")
    elif not found:
        output.note("nothing is deployed yet")
        output.note(addressed_to(url, "hint: mdslite apply -f deployments.yaml"))
    else:
        _write_models(found, url)
        for line in refused:
            output.note(line)
    return 0


@click.command(
    epilog="""\b
Examples:
  mdslite show demo/digits
  mdslite show demo/digits@v2
  mdslite show demo/digits --at '2026-11-17 14:03'   # what served then
  mdslite show demo/digits --json"""
)
@click.argument("target", metavar="PROJECT/MODEL[@VERSION]", callback=parse_target)
@click.option(
    "--at",
    callback=parse_moment,
    metavar="TIME",
    help="What served then (local time).",
)
@json_option
@url_option
def show(target: Target, at: float | None, as_json: bool, url: str) -> int:
    """Show a model or one of its versions in full, now or at a moment of the past."""
    printed: Mapping[str, Sequence[Json]] = {}
    with connect(url) as client:
        if target.version is not None and at is None:
            found = client.version(target.project, target.model, target.version)
            versions = [found]
            if found.get("runtime") == "PYTHON":
                name = target.version
                printed = {name: client.output(target.project, target.model, name)}
        else:
            found = client.model(target.project, target.model, at=at)
            versions = [one for one in found["versions"] if target.version in (None, one["version"])]
            now = versions if at is None else ()
            packages = [one["version"] for one in now if one.get("runtime") == "PYTHON"]
            printed = {name: client.output(target.project, target.model, name) for name in packages}
    if as_json:
        output.write_json(found if target.version is None or at is None else {**found, "versions": versions})
    elif at is not None:
        _write_past(target, at, found, versions)
    else:
        for place, version in enumerate(versions):
            if place:
                output.write()
            _write_version(target, version, url)
            for one in printed.get(version["version"], ()):
                _write_printed(one)
    return 0


def _write_models(models: Sequence[Json], url: str) -> None:
    rows = [
        [
            f"{model['project']}/{model['model']}",
            version["version"],
            version["state"],
            _weight(version),
            _percent(version.get("share")),
            _rate(version.get("rps")),
            output.number_text(version.get("p50_ms")),
            output.number_text(version.get("p99_ms")),
            _percent(version.get("error_rate"), digits=2, sign=""),
        ]
        for model in models
        for version in model["versions"]
    ]
    output.write_table(_LS_COLUMNS, rows)
    output.note(_windows(models))
    for model in models:
        for version in model["versions"]:
            if version.get("reason"):
                name = f"{model['project']}/{model['model']}@{version['version']}"
                reason = addressed_to(url, output.escape(version["reason"]))
                state = (
                    "" if version["state"] == "unloaded" else f" {version['state']}"
                )  # which it says itself
                output.note(f"{name}{state}: {reason}")
            for one in version.get("endpoints") or ():
                if not one["available"]:
                    name = f"{model['project']}/{model['model']}@{version['version']}"
                    output.note(f"{name} leaves out {_where(one)}")


def _windows(models: Sequence[Json]) -> str:
    """What time the figures of a list are of."""
    windows = [version.get("window_s") for model in models for version in model["versions"]]
    young = [f"{one:.0f} s" for one in sorted(filter(None, windows)) if one < _MINUTE_S]
    if not young:
        return "traffic of the last minute"
    if len(young) == len(windows) and young[0] == young[-1]:
        return f"traffic of the last {young[0]}, since they serve"
    return f"traffic of the last minute, or since a version serves: {', '.join(dict.fromkeys(young))}"


def _write_version(target: Target, version: Json, url: str) -> None:
    output.write(f"{target.project}/{target.model}@{version['version']}")
    batch = version.get("batch") or {}
    weight = _weight(version)
    if not version.get("shadow"):
        weight += f" ({_percent(version.get('share'))} of traffic)"
    fields = {
        "state": version["state"],
        "reason": addressed_to(url, version["reason"]) if version.get("reason") else None,
        "weight": weight,
        "replicas": version.get("replicas"),
        "runtime": version.get("runtime"),
        "provider": version.get("provider"),
        "device": version.get("device"),
        "uri": version.get("uri"),
        "digest": version.get("digest"),
        "size": size_text(version.get("size_bytes")),
        "memory": size_text(version.get("memory_bytes")),
        "batch": " ".join(f"{name}={value}" for name, value in batch.items() if value is not None) or None,
        "queue": f"{version.get('queue_rows', 0)} rows",
        _window(version): _traffic(version),
        "requests": version.get("requests_total"),
    }
    if version.get("endpoints"):  # nothing of it is here
        fields = {name: value for name, value in fields.items() if name not in _STORED}
    output.write_fields(fields, indent="  ")
    if version.get("endpoints"):
        _write_endpoints(version["endpoints"])
    if version.get("pipeline"):
        _write_pipeline(version["pipeline"])
    if version.get("signature"):
        _write_signature(version["signature"])
        name = f"{target.project}/{target.model}@{version['version']}"
        output.write(f"  try    {command_line(f'predict {name} --curl', url)}")


def _write_endpoints(endpoints: Sequence[Json]) -> None:
    rows = [
        [
            one["url"],
            "in turn" if one["available"] else "left out",
            one["open"],
            one["requests"],
            one["failures"],
            one["reason"] or "-",
        ]
        for one in endpoints
    ]
    output.write()
    output.write_table(_ENDPOINT_COLUMNS, rows)
    output.write()


def _write_signature(signature: Json) -> None:
    tensors = [(kind[:-1], tensor) for kind in ("inputs", "outputs") for tensor in signature[kind]]
    names = [output.escape(tensor["name"]) for _, tensor in tensors]
    width = max(map(len, names), default=0)
    types = max((len(tensor["datatype"]) for _, tensor in tensors), default=0)
    for (kind, tensor), name in zip(tensors, names, strict=True):
        optional = "  optional" if tensor.get("optional") else ""
        shape = ",".join("?" if size in (None, -1) else str(size) for size in tensor["shape"])
        output.write(f"  {kind:<6} {name:<{width}}  {tensor['datatype']:<{types}} [{shape}]{optional}")


def _write_pipeline(pipeline: Json) -> None:
    output.write()
    for line in pipeline["drawing"].splitlines():
        output.write(f"  {line}".rstrip())
    output.write()
    output.write_table(
        _NODE_COLUMNS,
        [["-" if node[name] is None else node[name] for name in _NODE_FIELDS] for node in pipeline["nodes"]],
    )
    output.write()


def _write_printed(printed: Json) -> None:
    """The last lines of a package's process, with the end of one that ended."""
    lines = [line for line in str(printed["text"]).splitlines() if line.strip()]
    ended = f", which ended ({output.escape(printed['ended'])})" if printed.get("ended") else ""
    if not lines and not ended:
        return
    left_out = len(lines) - _PRINTED_LINES
    more = f" (its last {_PRINTED_LINES} lines, {left_out} before them)" if left_out > 0 else ""
    output.write(f"  printed by {printed['replica']}{ended}{more}:")
    for line in lines[-_PRINTED_LINES:]:
        output.write(f"    {output.escape(line)}")


def _traffic(version: Json) -> str:
    if not version.get("rps"):
        return "no requests"
    told = [f"{_rate(version['rps'])}/s"]
    for name in ("p50", "p99"):  # of good answers, if there were any
        if (latency_ms := version.get(f"{name}_ms")) is not None:
            told.append(f"{name} {output.number_text(latency_ms)} ms")
    if version.get("error_rate") is not None:
        told.append(f"errors {_percent(version['error_rate'], digits=2)}")
    if version.get("refused"):
        told.append(f"refused {version['refused']}")
    return "  ".join(told)


def _window(version: Json) -> str:
    """How much time the figures of a version's traffic are of."""
    window_s = version.get("window_s")
    return "last minute" if window_s is None or window_s >= _MINUTE_S else f"last {window_s:.0f} s"


def _write_past(target: Target, moment: float, found: Json, versions: Sequence[Json]) -> None:
    name, when = f"{target.project}/{target.model}", output.time_text(moment)
    if not versions:
        output.write(f"{target} did not serve at {when}")
        return
    revision = found.get("revision")
    output.write(f"{name} at {when}" + (f" (revision {revision})" if revision is not None else ""))
    rows = [
        [
            version["version"],
            _weight(version),
            _short(version["digest"]),
            version["uri"],
        ]
        for version in versions
    ]
    output.write_table(_PAST_COLUMNS, rows)


def _where(endpoint: Json) -> str:
    return f"{output.escape(endpoint['url'])}: {output.escape(endpoint['reason'] or 'it fails')}"


def _short(digest: str) -> str:
    kind, _, digits = digest.partition(":")
    return f"{kind}:{digits[:12]}"


def _rate(value: float | None) -> str:
    """Requests a second; a few in a minute are not none."""
    return f"{value:.2g}" if value is not None and 0 < value < 1 else output.number_text(value)


def _percent(value: float | None, *, digits: int = 0, sign: str = "%") -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}{sign}"


def _weight(version: Json) -> str:
    if version.get("shadow"):
        return "shadow"
    weight = version.get("weight")
    return "-" if weight is None else f"{weight:.15g}"
