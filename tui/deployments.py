"""What is deployed as a table: a line a version, with what it is, how it is and how its traffic goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mdslite.tui import figures
from mdslite.tui.clean import clean
from mdslite.tui.lines import Align, Line, cells, cut_middle, fit
from mdslite.tui.snapshot import Json, Snapshot
from mdslite.tui.traffic import Figures, figures_of

STATES = {
    "ready": ("●", "good"),
    "loading": ("◌", "warn"),
    "draining": ("◌", "warn"),
    "unhealthy": ("✖", "bad"),
    "failed": ("✖", "bad"),
    "unloaded": ("○", "dim"),
    "past": ("·", "dim"),
    "gone": ("·", "dim"),
}
_BAR = 9


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: a version of a model; `first` is it the model's first one, `rollout` what steps it up."""

    project: str
    model: str
    version: Json
    first: bool
    total_weight: float
    rollout: Json | None

    @property
    def model_key(self) -> tuple[str, str]:
        return self.project, self.model

    @property
    def name(self) -> str:
        return f"{self.project}/{self.model}@{self.version['version']}"


@dataclass(frozen=True, slots=True)
class _Shape:
    """Columns of a line: for the name, for the version, for the bar beside a weight, and the figures."""

    name: int
    version: int
    bar: int
    columns: list[_Column]


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    width: int
    text: Callable[[Entry, Figures], str]
    rank: int  # the higher, the sooner it is left out
    align: Align = "right"


# In the order in which they stand.
_COLUMNS = (
    _Column("RPS", 5, lambda one, flow: figures.rate(flow.rps), 0),
    _Column("P50", 5, lambda one, flow: figures.milliseconds(flow.p50_ms), 5),
    _Column("P95", 5, lambda one, flow: figures.milliseconds(flow.p95_ms), 6),
    _Column("P99", 5, lambda one, flow: figures.milliseconds(flow.p99_ms), 1),
    _Column("ERR%", 5, lambda one, flow: figures.percent(flow.error_rate, 2), 2),
    _Column("CONF", 4, lambda one, flow: figures.confidence(flow.confidence), 4),
    _Column("C10", 4, lambda one, flow: figures.confidence(flow.low_confidence), 8),
    _Column("QUEUE", 5, lambda one, flow: figures.count(one.version.get("queue_rows")), 7),
    _Column("~VRAM", 5, lambda one, flow: figures.size(one.version.get("memory_bytes")), 3),
    _Column("PROVIDER", 9, lambda one, flow: provider_of(one.version), 9, "left"),
)
# Beside ERR%, which leaves them out, where a version refused that share of its requests, and so many.
_REFUSED = _Column("REF%", 5, lambda one, flow: figures.percent(flow.refused_share, 1), 2)
_REFUSED_SHARE, _REFUSED_LEAST = 0.05, 10
_EXTRAS = 6  # columns of this rank and above make room for names
_NAME = (10, 28)  # columns for a name: what it gets before the figures, and at most
_VERSION = (5, 16)
_FIXED = 2 + 2 + 6 + 12  # cursor, gaps around the version, weight, state


def entries_of(snapshot: Snapshot) -> list[Entry]:
    """The lines, by model, shadows below those who answer."""
    found = []
    running = {
        (one["project"], one["model"], one["version"]): one
        for one in snapshot.rollouts
        if one["state"] in ("running", "paused")
    }
    for model in sorted(snapshot.models or [], key=lambda one: (one["project"], one["model"])):
        key = (model["project"], model["model"])
        versions = sorted(model["versions"], key=lambda one: (one["shadow"], one["state"] == "draining"))
        total = sum(one["weight"] for one in versions if not one["shadow"])
        for at, version in enumerate(versions):
            rollout = running.get((*key, version["version"]))
            found.append(Entry(*key, version, at == 0, total, rollout))
    return found


def table_lines(width: int, height: int, snapshot: Snapshot, *, cursor: int) -> list[Line]:
    """The head and the lines around the cursor."""
    entries = entries_of(snapshot)
    flows = [figures_of(snapshot, one.project, one.model, one.version) for one in entries]
    shape = _shape(width, entries, tells_refused=any(_refuses(one) for one in flows))
    lines: list[Line] = [_head(shape)]
    for at in seen_entries(height, len(entries), cursor):
        lines.append(_line(entries[at], flows[at], shape, chosen=at == cursor))
    return lines


def _refuses(flow: Figures) -> bool:
    """Whether it is to be told how much was refused."""
    return flow.refused >= _REFUSED_LEAST and (flow.refused_share or 0.0) >= _REFUSED_SHARE


def _shape(width: int, entries: list[Entry], *, tells_refused: bool) -> _Shape:
    """Room for the figures first, but for the extra ones, which come after what names want."""
    bar = _BAR if width >= 96 else 6 if width >= 60 else 0
    left = width - _FIXED - bar - _NAME[0] - _VERSION[0]
    name = max((len(one.model) for one in entries), default=0)
    version = max((len(one.version["version"]) for one in entries), default=0)
    version = max(_VERSION[0], min(_VERSION[1], version))
    wanted = max(0, min(_NAME[1], name) - _NAME[0]) + version - _VERSION[0]
    columns: list[_Column] = []
    order = list(_COLUMNS)
    if tells_refused:
        order.insert(next(at for at, one in enumerate(order) if one.title == "ERR%"), _REFUSED)
    for one in sorted(order, key=lambda column: column.rank):
        if one.width + 1 + (wanted if one.rank >= _EXTRAS else 0) <= left:
            columns.append(one)
            left -= one.width + 1
    columns.sort(key=order.index)
    version = min(version, _VERSION[0] + max(0, left) // 3)
    name = _NAME[0] + left - (version - _VERSION[0])
    return _Shape(max(6, min(_NAME[1], name)), version, bar, columns)


def seen_entries(height: int, count: int, cursor: int) -> range:
    """Which of `count` lines stand below the head of a table of this height."""
    room = max(1, height - 1)
    first = max(0, min(cursor - room // 2, count - room))
    return range(first, min(count, first + room))


def _head(shape: _Shape) -> Line:
    text = f"  {'NAME':<{shape.name}} {'VER':<{shape.version}} {'WEIGHT':<{6 + shape.bar}} {'STATE':<11}"
    for one in shape.columns:
        text += " " + (one.title.rjust(one.width) if one.align == "right" else one.title.ljust(one.width))
    return [(text, "head")]


def _line(entry: Entry, flow: Figures, shape: _Shape, *, chosen: bool) -> Line:
    version, bar = entry.version, shape.bar
    sign, role = STATES.get(version["state"], ("·", ""))
    shadow = version["shadow"]
    weight = "S" if shadow else _weight(version["weight"])
    share = version["weight"] / entry.total_weight if entry.total_weight and not shadow else 0.0
    line: Line = [
        ("▸ " if chosen else "  ", "key"),
        (fit(_name(entry, shape.name), shape.name), "bold" if entry.first else "shadow" if shadow else ""),
        (" " + fit(cut_middle(clean(version["version"]), shape.version), shape.version) + " ", ""),
        (f"{weight:>5} ", "shadow" if shadow else ""),
        ("░" + " " * (bar - 1) if shadow and bar else figures.bar(share, bar), "shadow" if shadow else "bar"),
        (f" {sign} {fit(version['state'], 9)}", role),
    ]
    for one in shape.columns:
        wrong = (one.title == "ERR%" and bool(flow.error_rate)) or (one is _REFUSED and _refuses(flow))
        line.append((" " + fit(one.text(entry, flow), one.width, one.align), "bad" if wrong else ""))
    return [(text, f"{how} bold" if chosen and "bold" not in how else how) for text, how in line]


def _weight(value: float) -> str:
    """In at most five columns."""
    text = f"{value:g}"
    return text if len(text) <= 5 else f"{value:.2f}" if value < 99.995 else figures.count(value)


def _name(entry: Entry, width: int) -> str:
    """With its project, where there is room and need for it."""
    if entry.first:
        whole = clean(f"{entry.project}/{entry.model}")
        fits = entry.project != "default" and cells(whole) <= width
        return whole if fits else cut_middle(clean(entry.model), width)
    if entry.version["shadow"]:
        return "  └ shadow"
    if entry.rollout is not None:
        share = f"{entry.rollout['share']:g}%"
        return f"  └ rollout {share}" if width >= 16 else f"  └ ▶{share}"
    return "  └"


def provider_of(version: Json) -> str:
    provider = str(version.get("provider") or "").removesuffix("ExecutionProvider")
    return clean(provider or version.get("runtime") or figures.NONE)
