"""The screen of clusters that follow this box. There are none to follow it yet: it says what serves what, and
what of the files already names a cluster.
"""

from __future__ import annotations

from mdslite.tui.canvas import Pane
from mdslite.tui.clean import clean
from mdslite.tui.lines import Line, bottom, fill, fit, sided
from mdslite.tui.messages import whole_pane
from mdslite.tui.snapshot import Json, Snapshot
from mdslite.tui.wrapping import wrap

_TARGETS = (
    ("NCC", "ncc_operator_config", "a Kubernetes cluster"),
    ("C3DLS", "c3dls_operator_config", "a YARN cluster"),
    ("CUSTOM", "custom_operator_config", "a command of your own"),
)


class Sync(Pane):
    title = "Sync"

    def caption(self, snapshot: Snapshot) -> str:
        return "not configured"

    def lines(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        said = whole_pane(width - 2, snapshot) if snapshot.status is None else None
        inner = said if said is not None else sync_lines(width - 2, snapshot)
        return [*sided(fill(inner, width - 2, height - 1), width), bottom(width)]


def sync_lines(width: int, snapshot: Snapshot) -> list[Line]:
    count = sum(len(model["versions"]) for model in snapshot.models or ())
    lines: list[Line] = [
        [],
        [("  ○ ", "dim"), ("no cluster follows this box", "bold")],
        [],
        *_text(
            f"This appliance serves its {count} version{'' if count == 1 else 's'} itself. A spec may "
            "already hold the settings of a cluster; pushing it there is not part of this version of "
            "mdslite, so nothing here can be out of step.",
            width,
        ),
        [],
        [(f"  {'TARGET':<8} {'WHAT IT IS':<24} {'STATE':<16} IN operator_configs", "head")],
    ]
    lines += [
        [
            (f"  {name:<8} ", "bold"),
            (fit(what, 24), ""),
            (" ○ not configured ", "dim"),
            (config, "dim"),
        ]
        for name, config, what in _TARGETS
    ]
    lines += [
        [],
        *_text("In the deployments file, a version's spec keeps its settings for a cluster:", width),
        [("    operator_configs: {ncc_operator_config: {namespace: models}}", "accent")],
    ]
    return lines + _endpoints(width, snapshot)


def _endpoints(width: int, snapshot: Snapshot) -> list[Line]:
    """Versions that are served elsewhere already, as endpoints of this box."""
    remote: list[tuple[Json, Json]] = [
        (model, version)
        for model in snapshot.models or ()
        for version in model["versions"]
        if version.get("endpoints")
    ]
    if not remote:
        return []
    lines: list[Line] = [[], [("  ENDPOINTS ELSEWHERE", "head")]]
    for model, version in remote:
        for endpoint in version["endpoints"]:
            url = endpoint.get("url") if isinstance(endpoint, dict) else endpoint
            lines.append([(fit(f"  {model['model']} {version['version']}", 28), ""), (clean(url), "dim")])
    return lines


def _text(text: str, width: int) -> list[Line]:
    return [[("  " + line, "")] for line in wrap(text, min(76, width - 4))]
