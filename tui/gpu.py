"""The screen of devices: each GPU, or the host where there is none, over the last minutes; what waits in
queues; what each version has in memory and how it batches. Draws from the snapshot alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from textual import events
from textual.binding import Binding, BindingType

from mdslite.tui import figures
from mdslite.tui.canvas import Pane
from mdslite.tui.clean import clean
from mdslite.tui.deployments import provider_of
from mdslite.tui.graph import graph_lines, resample
from mdslite.tui.lines import Line, bottom, cells, cut, cut_middle, fill, fit, sided, spread
from mdslite.tui.messages import whole_pane
from mdslite.tui.snapshot import Json, Snapshot
from mdslite.tui.table import version_roles
from mdslite.tui.wheel import Wheeled

_NAMES: Final = 30  # columns of the words beside a graph
_NAME: Final = 26  # columns of a version's name in the table
_LONGEST_S: Final = 3600.0  # what is recorded by the second


class Gpu(Wheeled, Pane):
    title = "GPU"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "move(-10)", "page up", show=False),
        Binding("pagedown,space", "move(10)", "page down", show=False),
        Binding("home,g", "move(-100000)", "first", show=False),
        Binding("end,G", "move(100000)", "last", show=False),
    ]

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.first = 0

    def caption(self, snapshot: Snapshot) -> str:
        count = len(_gpus(snapshot))
        return f"{count} GPU" + ("s" if count > 1 else "") if count else "no GPU: CPU"

    def lines(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        said = whole_pane(width - 2, snapshot) if snapshot.status is None else None
        if said is not None:
            inner = said
        else:
            inner, self.first = pane_lines(width - 2, height - 1, snapshot, first=self.first)
        return [*sided(fill(inner, width - 2, height - 1), width), bottom(width)]

    def wheel(self, event: events.MouseEvent, steps: int) -> None:
        self.action_move(steps)

    def action_move(self, steps: int) -> None:
        self.first += steps
        self.dash.repaint()


def pane_lines(width: int, height: int, snapshot: Snapshot, *, first: int = 0) -> tuple[list[Line], int]:
    """Devices above versions, and which version is the first that is listed: `first`, unless lines would be
    left free."""
    lines = _device_lines(width, height, snapshot)
    rows, room = version_rows(snapshot), max(0, height - len(lines) - 1)
    first = max(0, min(first, len(rows) - room))
    return lines + _versions(rows[first : first + room], width, snapshot), first


def _device_lines(width: int, height: int, snapshot: Snapshot) -> list[Line]:
    """Graphs, or where there is no room for these a line a device, and a blank line. What is left of `height`
    is for the versions."""
    gpus = _gpus(snapshot)
    devices = [*gpus, *(one for one in _devices(snapshot) if one["label"] == "cpu")]
    versions = sum(len(model["versions"]) for model in snapshot.models or ())
    room = height - min(versions + 2, max(4, height // 3))
    blocks = sum(1 + _has_memory(one) for one in devices) + 1  # the last one: queues
    each = min(6, room // max(1, blocks) - 1)
    lines: list[Line] = []
    if room >= blocks and (each > 1 or len(gpus) <= 2):
        for device in devices:
            lines += _device(device, width, max(1, each), snapshot)
        lines += _queues(width, max(1, each), snapshot)
    else:
        lines += _each_a_line(devices, width, room - 1, snapshot)
        lines += _queues(width, 1, snapshot)
    if not devices:
        wrong = snapshot.troubles.get("history")
        lines.append([(f" {clean(wrong)}" if wrong else " ◌ reading the devices", "warn")])
    lines = lines[: max(0, height - 4)]
    return [*lines, []]


def version_rows(snapshot: Snapshot) -> list[tuple[Json, Json]]:
    """Each version with its model, those that take most memory first."""
    found = [(model, version) for model in snapshot.models or () for version in model["versions"]]
    return sorted(found, key=lambda one: -(one[1].get("memory_bytes") or 0) * (one[1].get("replicas") or 1))


def _device(device: Json, width: int, rows: int, snapshot: Snapshot) -> list[Line]:
    """The graphs of its use and of its memory."""
    is_host = device["label"] == "cpu"
    recorded = _recorded(snapshot, device["label"])
    use, warmth = device.get("utilization_percent"), _warmth(device)
    name = cut(clean("CPU and memory of the host" if is_host else device.get("name")), _NAMES)
    percent = f"{use:.0f} %" if use is not None else ""
    about: list[Line] = [[(name, "dim")], [(warmth, "dim")]]
    if rows == 1:
        percent = "  ".join(filter(None, (warmth, percent)))
    elif rows == 2:
        about = [spread([(cut(name, _NAMES - cells(warmth) - 1), "dim")], [(warmth, "dim")], _NAMES)]
    label = "host" if is_host else str(device["label"])
    lines = _graph(label, percent, about, recorded.get("utilization_percent"), 100.0, width, rows, snapshot)
    if not _has_memory(device):
        return lines
    used, total = device["memory_used_bytes"], device["memory_total_bytes"]
    free: list[Line] = [
        [(figures.bar(used / total, _NAMES - 2), "accent")],
        [(f"{figures.size(total - used)} free", "dim")],
    ]
    told = f"{figures.size(used)} of {figures.size(total)}"
    title, values = "  memory" if is_host else "  VRAM", recorded.get("memory_used_bytes")
    return lines + _graph(title, told, free, values, total, width, rows, snapshot)


def _each_a_line(devices: Sequence[Json], width: int, room: int, snapshot: Snapshot) -> list[Line]:
    """Use, memory, heat and power of many devices; the host is the last of them."""
    left = len(devices) - room
    lines = [_line(one, width, snapshot) for one in (devices[: room - 1] if left > 0 else devices)]
    if left > 0:
        lines.append([(f" and {left + 1} more devices: a taller terminal shows them", "dim")])
    return lines


def _line(device: Json, width: int, snapshot: Snapshot) -> Line:
    is_host, use = device["label"] == "cpu", device.get("utilization_percent")
    bar = 8 if width < 96 else 16
    name = min(24, max(0, width - 66)) if width < 96 else 24
    spark = max(8, width - 48 - bar - name)
    values = _recorded(snapshot, device["label"]).get("utilization_percent") or []
    memory, share = "", ""
    if _has_memory(device):
        used, total = device["memory_used_bytes"], device["memory_total_bytes"]
        memory = f"{figures.size(used)} of {figures.size(total)}"
        share = figures.bar(used / total, bar).replace(" ", "·")
    return [
        (" " + fit("host" if is_host else device["label"], 8), "bold"),
        (f"{f'{use:.0f} %' if use is not None else figures.NONE:>6} ", ""),
        (figures.sparkline(values, spark, top=100.0), "accent"),
        (f" {memory:>13} ", ""),
        (fit(share, bar), "accent"),
        (" " + fit(_warmth(device), 12), ""),
        (" " + cut(clean("" if is_host else device.get("name")), max(0, name - 1)), "dim"),
    ]


def _has_memory(device: Json) -> bool:
    """Does it tell of memory of its own?"""
    return device.get("memory_used_bytes") is not None and bool(device.get("memory_total_bytes"))


def _warmth(device: Json) -> str:
    told = ((device.get("temperature_c"), "°C"), (device.get("power_w"), "W"))
    return " ".join(f"{value:.0f}{unit}" for value, unit in told if value is not None)


def _queues(width: int, rows: int, snapshot: Snapshot) -> list[Line]:
    history = snapshot.history or {}
    values = history.get("queue_rows") or []
    now = values[-1] if values else None
    told = "nothing waits" if now == 0 else f"{now:.0f} rows wait" if now is not None else figures.NONE
    return _graph("queues", told, [], values, None, width, rows, snapshot)


def _graph(
    name: str,
    told: str,
    about: Sequence[Line],
    values: Sequence[float | None] | None,
    top: float | None,
    width: int,
    rows: int,
    snapshot: Snapshot,
) -> list[Line]:
    """Words at the left, the last minutes at the right."""
    room = max(8, width - _NAMES - 3)
    interval_s = float((snapshot.history or {}).get("interval_s") or 1.0)
    count = max(1, round(min(snapshot.view.span_s, _LONGEST_S) / interval_s))
    shown = resample(list(values or ())[-count:], count, room)
    drawn = graph_lines(shown, rows, top=top, role="warn" if name == "queues" else "accent")
    if values and all(one is None for one in values):
        drawn[-1] = [("this device does not tell how much it is used", "dim")]
    head = spread([(fit(clean(name), 10), "bold")], [(told, "")], _NAMES)
    left: list[Line] = [head, *about][:rows] if rows > 1 else [head]
    left += [[(" " * _NAMES, "")]] * (rows - len(left))
    return [
        [(" ", ""), *_exactly(words, _NAMES), (" ", ""), *line]
        for words, line in zip(left, drawn, strict=True)
    ] + ([[]] if rows > 1 else [])


def _versions(rows: Sequence[tuple[Json, Json]], width: int, snapshot: Snapshot) -> list[Line]:
    """What each version holds of the devices, and how well its batches are filled."""
    wide = width >= 96
    place = 16 if wide else 8
    head = f" {'VERSION':<{_NAME}} {'DEVICE':<{place}} {'N':>2} "
    head += f"{'MEMORY':>7} {'QUEUE':>6} {'BATCH':>11} {'COMP':>6}"
    lines: list[Line] = [[(head + ("  PROVIDER" if wide else ""), "head")]]
    roles = version_roles(snapshot.models)
    batches = _batches(snapshot)
    for model, version in rows:
        key = (model["project"], model["model"], version["version"])
        memory = version.get("memory_bytes")
        replicas = version.get("replicas") or 1
        seen = batches.get(key)
        most = (version.get("batch") or {}).get("batch_size")
        batch = f"{seen[0]:.1f}/{most}" if seen and most else figures.NONE
        line: Line = [
            (
                " " + fit(_name(model, version, _NAME), _NAME),
                roles.get(key, ""),
            ),
            (" " + fit(version.get("device") or figures.NONE, place), ""),
            (f" {replicas:>2}", "dim"),
            (f" {figures.size(memory * replicas if memory else None):>7}", ""),
            (f" {figures.count(version.get('queue_rows')):>6}", "warn" if version.get("queue_rows") else ""),
            (f" {batch:>11}", ""),
            (f" {figures.milliseconds(seen[1] if seen else None):>6}", ""),
        ]
        if wide:
            line.append(("  " + cut(provider_of(version), width - 84), "dim"))
        lines.append(line)
    return lines


def _name(model: Json, version: Json, width: int) -> str:
    """Model and version, both of which can be told from others though there is little room."""
    about = f" {version['version']}" + (" S" if version.get("shadow") else "")
    about = cut_middle(clean(about), width // 2)
    return cut_middle(clean(model["model"]), width - cells(about)) + about


def _batches(snapshot: Snapshot) -> dict[tuple[str, str, str], tuple[float, float]]:
    """The mean rows of a batch and the mean milliseconds of computing it, of the newest rows of the log."""
    sums: dict[tuple[str, str, str], tuple[int, float, float]] = {}
    for row in snapshot.rows or ():
        if row.get("batch_rows") and row.get("status") == 200:
            key = (str(row.get("project")), str(row.get("model")), str(row.get("version")))
            count, rows, took = sums.get(key, (0, 0.0, 0.0))
            sums[key] = (count + 1, rows + row["batch_rows"], took + (row.get("compute_ms") or 0.0))
    return {key: (rows / count, took / count) for key, (count, rows, took) in sums.items()}


def _exactly(line: Line, width: int) -> Line:
    return fill([line], width, 1)[0]


def _devices(snapshot: Snapshot) -> list[Json]:
    """The devices as they are at the moment that is shown."""
    if snapshot.view.moment is None:
        return list((snapshot.status or {}).get("devices") or ())
    return [
        {
            name: (value[-1] if value else None) if isinstance(value, list) else value
            for name, value in one.items()
        }
        for one in (snapshot.history or {}).get("devices") or ()
    ]


def _gpus(snapshot: Snapshot) -> list[Json]:
    return [one for one in _devices(snapshot) if one["label"] != "cpu"]


def _recorded(snapshot: Snapshot, label: str) -> Json:
    for one in (snapshot.history or {}).get("devices") or ():
        if one.get("label") == label:
            found: Json = one
            return found
    return {}
