"""What there is to say about the version that the cursor stands on, as a narrow block of lines."""

from __future__ import annotations

from collections.abc import Iterator

from mdslite.tui import figures
from mdslite.tui.clean import clean
from mdslite.tui.deployments import STATES, Entry, entries_of
from mdslite.tui.lines import Line, cut
from mdslite.tui.snapshot import Snapshot
from mdslite.tui.wrapping import wrap

_LABEL = 10


def detail_lines(width: int, height: int, snapshot: Snapshot, *, cursor: int) -> list[Line]:
    entries = entries_of(snapshot)
    if not entries:
        return []
    entry = entries[min(cursor, len(entries) - 1)]
    return list(_about(entry, width, snapshot))[:height]


def _about(entry: Entry, width: int, snapshot: Snapshot) -> Iterator[Line]:
    version = entry.version
    sign, role = STATES.get(version["state"], ("·", ""))
    for text in wrap(clean(entry.name), width):
        yield [(text, "title")]
    yield [
        (f"{sign} {version['state']}", role),
        (f"  since rev{version['since_revision']}" if version.get("since_revision") else "", "dim"),
    ]
    if version.get("reason"):
        for text in wrap(clean(version["reason"]), width)[:3]:
            yield [(text, "bad")]
    if entry.rollout is not None:
        yield from _rollout(entry, width)
    batch = version.get("batch") or {}
    fields = {
        "share": "shadow"
        if version["shadow"]
        else f"{figures.percent(version.get('share'), 1)} % of the traffic",
        "runs on": ", ".join(filter(None, (version.get("runtime"), version.get("device")))),
        "provider": version.get("provider"),
        "replicas": version.get("replicas"),
        "batch": f"{batch.get('batch_size')} rows, waits {batch.get('batch_timeout_ms')} ms"
        if batch.get("batch_size")
        else None,
        "queue": f"{version.get('queue_rows')} rows",
        "memory": f"~{figures.size(version.get('memory_bytes'))} a replica"
        if version.get("memory_bytes")
        else None,
        "answered": f"{version['requests_total']:,}" if version.get("requests_total") is not None else None,
        "artifact": f"{str(version['digest'])[7:19]} {figures.size(version.get('size_bytes'))}",
        "uri": version.get("uri"),
    }
    for name, value in fields.items():
        if value not in (None, ""):
            yield [(f"{name:<{_LABEL}}", "dim"), (cut(clean(value), width - _LABEL), "")]
    signature = version.get("signature") or {}
    for kind in ("inputs", "outputs"):
        for tensor in signature.get(kind, []):
            shape = ",".join("?" if one is None else str(one) for one in tensor["shape"])
            text = f"{tensor['name']} {tensor['datatype']}[{shape}]"
            yield [(f"{kind[:-1]:<{_LABEL}}", "dim"), (cut(clean(text), width - _LABEL), "")]


def _rollout(entry: Entry, width: int) -> Iterator[Line]:
    rollout = entry.rollout or {}
    steps = " ".join(
        f"[{step:g}]" if at == rollout["step"] else f"{step:g}" for at, step in enumerate(rollout["steps"], 1)
    )
    yield [("rollout   ", "dim"), (f"{rollout['state']} {steps} %", "accent")]
    for finding in rollout.get("findings", []):
        sign, role = {"pass": ("✓", "good"), "fail": ("✖", "bad")}.get(finding["state"], ("◌", "warn"))
        yield [(f"{sign} ", role), (cut(clean(f"{finding['gate']}  {finding['text']}"), width - 2), "")]
