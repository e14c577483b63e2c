"""The lines at the top: which appliance, which moment, how its devices and its traffic are, what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from urllib.parse import urlsplit

from mdslite.hosts import UNIX
from mdslite.tui import figures
from mdslite.tui.canvas import Canvas
from mdslite.tui.clean import clean
from mdslite.tui.lines import Line, cells, cut, line_width, spread
from mdslite.tui.snapshot import Json, Snapshot
from mdslite.tui.traffic import Total, add_up

HEIGHT = 3
_WIDE = 110


class Header(Canvas):
    def lines(self, width: int, height: int, snapshot: Snapshot) -> list[Line]:
        return header_lines(width, snapshot, read_only=self.dash.read_only)


def header_lines(width: int, snapshot: Snapshot, *, read_only: bool = False) -> list[Line]:
    return [
        _first(width, snapshot, read_only=read_only),
        _devices(width, snapshot),
        _traffic(width, snapshot),
    ]


def _first(width: int, snapshot: Snapshot, *, read_only: bool) -> Line:
    status, url = snapshot.status or {}, snapshot.connection.url
    if url.startswith(UNIX):
        url = status.get("url") or url
    left: Line = [(" mdslite ", "title"), (_host(url), "bold")]
    revision = _revision(snapshot)
    if revision is not None:
        left.append((f"  rev{revision}", ""))
    port = urlsplit(url).port if not url.startswith(UNIX) else None
    if port:
        left.append((f"  :{port}", "dim"))
    if status.get("draining") and snapshot.connection.state == "live":
        left.append(("  ◌ draining", "warn"))
    if read_only:
        left.append(("  read-only", "warn"))
    return spread(left, _live(snapshot), width)


def _revision(snapshot: Snapshot) -> int | None:
    """The one in force at the moment that is shown."""
    if snapshot.view.moment is None:
        return (snapshot.status or {}).get("revision")
    return next((one.get("revision") for one in snapshot.models or []), None)


def _live(snapshot: Snapshot) -> Line:
    connection, view = snapshot.connection, snapshot.view
    if connection.state == "connecting":
        return [("◌ connecting ", "warn")]
    if connection.state != "live":
        return [(f"✖ {connection.state} {figures.clock(snapshot.clock)} ", "bad")]
    if view.moment is not None:
        return [("◀ PAST ", "mark"), (figures.day_clock(view.moment, snapshot.clock) + " ", "mark")]
    if view.paused:
        return [("= PAUSED ", "warn"), (figures.clock(snapshot.clock) + " ", "")]
    return [("▶ LIVE ", "good"), (figures.clock(snapshot.clock) + " ", "")]


def _devices(width: int, snapshot: Snapshot) -> Line:
    history = snapshot.history or {}
    recorded = {one["label"]: one for one in history.get("devices", [])}
    known = (snapshot.status or {}).get("devices", [])
    if snapshot.view.moment is not None:
        known = [_at_end(one) for one in recorded.values()]
    gpus = [one for one in known if one["label"] != "cpu"]
    host = next((one for one in known if one["label"] == "cpu"), None)
    spark = 16 if width >= _WIDE else 8
    line: Line = [(" ", "")]
    for gpu in gpus[: 2 if width >= 150 else 1]:
        line += _gpu(gpu, recorded.get(gpu["label"], {}), spark, wide=width >= _WIDE)
    if len(gpus) > 1 and width < 150:
        line.append((f"+{len(gpus) - 1} GPU  ", "dim"))
    queue = (history.get("queue_rows") or [None])[-1]
    if queue is not None:
        line.append((f"queue {queue:.0f}  ", "warn" if queue else ""))
    if host is not None:
        line += _host_load(host, recorded.get("cpu", {}), spark if not gpus or width >= _WIDE else 0)
    return line


def _gpu(gpu: Json, recorded: Json, spark: int, *, wide: bool) -> Line:
    used, total = gpu.get("memory_used_bytes"), gpu.get("memory_total_bytes")
    name = f" {cut(str(gpu.get('name')), 22)}" if wide else ""
    line: Line = [(f"GPU{gpu['label'].rpartition(':')[2]}{name} ", "bold")]
    if (use := gpu.get("utilization_percent")) is not None:
        values = recorded.get("utilization_percent", [])
        line += [(f"{use:.0f}% ", ""), (figures.sparkline(values, spark, top=100.0), "accent")]
    if used is not None and total:
        line += [
            (f"  VRAM {used / 1e9:.1f}/{total / 1e9:.0f}G ", ""),
            (figures.bar(used / total, 9 if not wide else 16).replace(" ", "·"), "accent"),
        ]
    warmth = [
        f"{_whole(value)}{unit}"
        for value, unit in ((gpu.get("temperature_c"), "°C"), (gpu.get("power_w"), "W"))
        if value is not None
    ]
    return [*line, ("  " + " ".join(warmth) + "  ", "")]


def _host_load(host: Json, recorded: Json, spark: int) -> Line:
    used, total = host.get("memory_used_bytes"), host.get("memory_total_bytes")
    line: Line = [(f"CPU {_whole(host.get('utilization_percent'))}%", "")]
    if spark:
        line += [
            (" " + figures.sparkline(recorded.get("utilization_percent", []), spark, top=100.0), "accent")
        ]
        if used is not None and total:
            line += [(f"  RAM {used / 1e9:.1f}/{total / 1e9:.0f}G", "")]
    return line


def _traffic(width: int, snapshot: Snapshot) -> Line:
    connection = snapshot.connection
    if connection.state == "unreachable" and snapshot.models is not None:  # no figures: they are of before
        return [(cut(f" ✖ {clean(connection.hint or connection.message)}", width), "bad")]
    total = add_up(snapshot)
    line: Line = [(" ", "")]
    if total is not None:
        line += _figures(total)
    room = width - line_width(line) - 3
    right: Line = []
    for text, role in _alarms(snapshot):
        left = room - line_width(right) - 2 * bool(right)
        if left < min(12, cells(text)):
            break
        right += [("  " if right else "", ""), (cut(clean(text), left), role)]
    return spread(line, [*right, (" ", "")] if right else [], width)


def _figures(total: Total) -> Line:
    failed = total.error_rate
    return [
        (f"{figures.rate(total.rps)}/s", "bold"),
        (f"  p50 {figures.milliseconds(total.p50_ms)}  p99 {_milliseconds(total.p99_ms)}", ""),
        (f"  err {figures.percent(failed, 2)}%" if failed is not None else "", "bad" if failed else ""),
        (f"  over {figures.span(ceil(total.window_s))}" if total.window_s is not None else "", "dim"),
    ]


def _alarms(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """What somebody should look at, the worst first."""
    for model in snapshot.models or []:
        for version in model["versions"]:
            if version["state"] in ("failed", "unhealthy"):
                yield f"✖ {model['model']} {version['version']} {version['state']}, press e", "bad"
    for alert in firing_alerts(snapshot)[:3]:
        yield f"▲ {alert.get('model')} {alert.get('text')}", "warn"
    progress = snapshot.progress
    if progress is not None:
        yield (
            f"◌ applying ({progress.get('index')}/{progress.get('count')}) {progress.get('version')}",
            "accent",
        )
    for one in snapshot.rollouts:
        if one["state"] in ("running", "paused"):
            yield f"▶ rollout {one['model']} {one['version']} {one['share']:g}% {one['state']}", "accent"
    for name, text in snapshot.troubles.items():
        yield f"{name}: {text}", "dim"


def firing_alerts(snapshot: Snapshot) -> list[Json]:
    """Those that fired and were not resolved since, the newest first."""
    alerts = snapshot.alerts or []
    over = {one.get("opened") for one in alerts if one.get("state") == "resolved"}
    return [one for one in alerts if one.get("state") == "firing" and one.get("id") not in over]


def _at_end(recorded: Json) -> Json:
    """A device as its history ends."""
    return {
        name: (value[-1] if value else None) if isinstance(value, list) else value
        for name, value in recorded.items()
    }


def _host(url: str) -> str:
    if url.startswith(UNIX):
        return cut(url, 30)
    return urlsplit(url).hostname or url


def _milliseconds(value: float | None) -> str:
    text = figures.milliseconds(value)
    return f"{text}ms" if text[-1].isdigit() else text


def _whole(value: float | None) -> str:
    return figures.NONE if value is None else f"{value:.0f}"
