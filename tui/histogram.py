"""The histogram of requests, stacked by version: bars to the eighth of a row, errors and marks along the time
axis, and the brush. Pure drawing; what the keys do to it is the view's.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor

from mdslite.tui import figures
from mdslite.tui.clean import clean
from mdslite.tui.ink import FILLS, SERIES
from mdslite.tui.lines import Line, bottom, cells, cut, edge, fill, fit, sided
from mdslite.tui.moments import unix
from mdslite.tui.snapshot import Json, Snapshot
from mdslite.tui.wrapping import wrap

_TOPS = " ▁▂▃▄▅▆▇█"
REFUSED = "refused"  # what reached no version
_LEAST_LEGEND = 60  # narrower than this, there is no room for a legend
_LABEL_EVERY = 15  # columns between two times of the axis
_WIDEST_AXIS = 6  # columns: `26.7k│`


@dataclass(frozen=True, slots=True)
class Stack:
    """What is stacked: `names` and `counts` by series, from the bottom, and the failures of all."""

    since: float
    interval_s: float
    names: list[str]
    counts: list[list[int]]
    errors: list[int]

    @property
    def buckets(self) -> int:
        return len(self.errors)

    @property
    def until(self) -> float:
        return self.since + self.buckets * self.interval_s


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where things stand: columns left of the bars, the bar in each column, what the rows come to."""

    axis: int
    columns: list[int]
    marks: list[tuple[float, str, str]]
    top: float
    labels: list[str]


def bars_that_fit(width: int) -> int:
    """How many bars a box of `width` columns has room for."""
    return max(8, width - 2 - _WIDEST_AXIS - _legend_width(width))


def bar_at(width: int, height: int, snapshot: Snapshot, x: int) -> int | None:
    """Which bar stands in column `x` of the box, or is the nearest to it; None where there is no bar."""
    stack = read_stack(snapshot.histogram, shadows="shadow" in snapshot.view.filter)
    if stack is None or not any(map(any, stack.counts)):
        return None
    frame = _frame(width - 2, height - 2, snapshot, stack)
    columns = frame.columns
    return columns[max(0, min(len(columns) - 1, x - 1 - frame.axis))] if columns else None


def histogram_lines(width: int, height: int, snapshot: Snapshot) -> list[Line]:
    """The histogram as a box of `height` lines."""
    view = snapshot.view
    about = "all models" if view.model is None else clean("/".join(view.model))
    stack = read_stack(snapshot.histogram, shadows="shadow" in view.filter)
    shown_s = view.span_s
    if stack is not None and not 0 <= stack.until - stack.since - shown_s <= stack.interval_s:
        shown_s = stack.until - stack.since  # of the view before; else one bar more, which is not over
    per = figures.span(stack.interval_s) if stack is not None else "…"
    keys: Line = [
        (f"{cut(about, 30)} {figures.exact_span(shown_s)}  ", "bold"),
        ("+/-", "key"),
        (" zoom ", "dim"),
    ]
    keys += [("←→", "key"), (" brush", "dim")]
    if view.brush is not None:
        start, stop = (figures.clock(one) for one in view.brush)
        keys = [
            (f"{cut(about, 30)}  ", "bold"),
            (f"{start} to {stop}", "mark"),
            ("  esc", "key"),
            (" all", "dim"),
        ]
    top = edge([(f"requests/{per}", "bold")], keys, width)
    inside = _inside(width - 2, height - 2, snapshot, stack)
    return [top, *sided(fill(inside, width - 2, height - 2), width), bottom(width)]


def read_stack(found: Json | None, *, shadows: bool) -> Stack | None:
    """The appliance's answer as a stack; copies for shadows are none of the traffic, unless asked for."""
    if found is None:
        return None
    series = [one for one in found["series"] if shadows or not one.get("shadow")]
    buckets = max(1, round((unix(found["until"]) - unix(found["since"])) / found["interval_s"]))
    several = len({(one["project"], one["model"]) for one in series if one.get("version")}) > 1
    merged: dict[str, list[int]] = {}
    failed = [0] * buckets
    for one in sorted(series, key=_rank):
        version = str(one.get("version") or REFUSED)
        name = f"{one['model']} {version}" if several and one.get("version") else version
        counts = merged.setdefault(clean(name), [0] * buckets)
        for at, value in enumerate(one["counts"][:buckets]):
            counts[at] += value
        for at, value in enumerate(one["errors"][:buckets]):
            failed[at] += value
    names = list(merged)
    if len(names) > SERIES:
        names.sort(key=lambda name: -sum(merged[name]))
        rest = [sum(merged[name][at] for name in names[SERIES - 1 :]) for at in range(buckets)]
        names = [*names[: SERIES - 1], "others"]
        merged["others"] = rest
    return Stack(unix(found["since"]), found["interval_s"], names, [merged[name] for name in names], failed)


def bars_by(stack: Stack, now: float) -> tuple[int, int]:
    """How many bars have begun by now, and how many of them are over: at least one each."""
    passed = (now - stack.since) / stack.interval_s
    return max(1, min(stack.buckets, ceil(passed))), max(1, min(stack.buckets, floor(passed)))


def _rank(series: Json) -> tuple[bool, str, str, bool, tuple[int, str]]:
    """What was refused before it had a version comes last; versions by their number."""
    version = str(series.get("version") or "")
    digits = "".join(letter for letter in version if letter.isdigit())
    return (
        not version,
        str(series.get("project")),
        str(series.get("model")),
        bool(series.get("shadow")),
        (int(digits[:9]) if digits else 0, version),
    )


def _inside(width: int, height: int, snapshot: Snapshot, stack: Stack | None) -> list[Line]:
    if stack is None:
        said = snapshot.troubles.get("histogram")
        return [[(f" {said}", "warn")] if said else [(" ◌ loading the histogram", "dim")]]
    if not any(map(any, stack.counts)):
        return [*_nothing(width, snapshot, stack), []]
    frame = _frame(width, height, snapshot, stack)
    axis, columns = frame.axis, frame.columns
    lines = []
    if frame.marks:
        lines.append([(" " * axis, ""), *_mark_line(frame.marks, columns, stack)])
    drawn = _plot(stack, columns, len(frame.labels), frame.top, snapshot.view.brush)
    legends = _legend(stack, _legend_width(width + 2), len(drawn))
    for row, line in enumerate(drawn):
        beside: Line = legends[row] if row < len(legends) else []
        lines.append([(f"{frame.labels[row]:>{axis - 1}}│", "dim"), *line, *beside])
    lines.append([(" " * (axis - 1) + "└", "dim"), *_axis(stack, columns, snapshot)])
    return lines


def _frame(width: int, height: int, snapshot: Snapshot, stack: Stack) -> _Frame:
    marks = _marks(snapshot, stack)
    highest = max(sum(counts[at] for counts in stack.counts) for at in range(stack.buckets))
    top, labels = scale(highest, max(1, height - 1 - bool(marks)))
    axis, legend = max(4, *(cells(one) + 1 for one in labels)), _legend_width(width + 2)
    wide = max(1, (width - axis - legend) // stack.buckets)
    first = max(0, stack.buckets - (width - axis - legend))  # the oldest are left out where there is no room
    columns = [at for at in range(first, stack.buckets) for _ in range(wide)]
    return _Frame(axis, columns, marks, top, labels)


def scale(highest: float, rows: int) -> tuple[float, list[str]]:
    """What `rows` rows of bars come to together, and what stands beside each, from the top: round numbers,
    every few rows."""

    def cost(choice: tuple[int, int]) -> tuple[float, int]:
        step, apart = choice
        return step * rows / apart / highest + 0.04 * abs(apart - 2), step

    highest = max(1.0, highest)
    size: int = 10 ** max(0, len(str(int(highest))) - 2)
    steps = [one * size * by for by in (1, 10) for one in (1, 2, 3, 4, 5, 6, 8, 10, 15, 25)]
    step, apart = min(
        (
            (step, apart)
            for step in steps
            for apart in range(min(2, rows), rows + 1)
            if step * rows / apart >= highest
        ),
        key=cost,
    )
    labels = [
        figures.count(step * above // apart) if above % apart == 0 else "" for above in range(rows, 0, -1)
    ]
    return step * rows / apart, labels


def _nothing(width: int, snapshot: Snapshot, stack: Stack) -> list[Line]:
    view = snapshot.view
    start, stop = figures.clock(stack.since, seconds=False), figures.clock(stack.until, seconds=False)
    lines: list[Line] = [[], [(f" no requests from {start} to {stop}", "bold")]]
    if view.filter:
        return [
            *lines,
            [(f" that match {clean(view.filter)}: ", "dim"), ("esc", "key"), (" drops the filter", "dim")],
        ]
    models = snapshot.models or []
    if models and models[0]["versions"]:
        name = clean(
            f"{models[0]['project']}/{models[0]['model']}" if view.model is None else "/".join(view.model)
        )
        url = clean(snapshot.connection.url)
        command = f"mdslite predict {shlex.quote(name)} --curl --url {shlex.quote(url)}"
        parts = wrap(command, width - 6)
        lines.append([(" a request to start from: ", "dim")])
        lines += [[(f"   {text} \\", "accent")] for text in parts[:-1]]
        return [*lines, [(f"   {parts[-1]}", "accent")]]
    return lines


def _plot(
    stack: Stack, columns: Sequence[int], rows: int, top: float, brush: tuple[float, float] | None
) -> list[Line]:
    """The bars, the highest row first."""
    grid = [[(" ", "")] * len(columns) for _ in range(rows)]
    done: dict[int, list[tuple[str, str]]] = {}
    for x, at in enumerate(columns):
        if at not in done:
            done[at] = _column(stack, at, rows, top, faint=not _brushed(stack, at, brush))
        for row, part in enumerate(done[at]):
            grid[rows - 1 - row][x] = part
    return [_join(line) for line in grid]


def _column(stack: Stack, at: int, rows: int, top: float, *, faint: bool) -> list[tuple[str, str]]:
    """One bar from the bottom up: in each cell the version that fills most of it."""
    parts: list[tuple[str, str]] = []
    bounds, total = [], 0.0
    for counts in stack.counts:
        total += counts[at]
        bounds.append(total / top * rows)
    height = bounds[-1] if bounds else 0.0
    for row in range(rows):
        level = min(height, row + 1.0) - row
        if level <= 0.0:
            break
        share = [
            min(upper, row + 1.0) - max(lower, float(row))
            for lower, upper in zip([0.0, *bounds], bounds, strict=False)
        ]
        most = max(range(len(share)), key=share.__getitem__)
        eighths = max(1, min(8, round(level * 8)))
        sign = FILLS[most % len(FILLS)] if eighths == 8 else _TOPS[eighths]
        parts.append((sign, f"dim v{most % SERIES}" if faint else f"v{most % SERIES}"))
    return parts


def _brushed(stack: Stack, at: int, brush: tuple[float, float] | None) -> bool:
    """Is this bar in the brush? All are where there is none."""
    if brush is None:
        return True
    middle = stack.since + (at + 0.5) * stack.interval_s
    return brush[0] <= middle < brush[1]


def _axis(stack: Stack, columns: Sequence[int], snapshot: Snapshot) -> Line:
    """Times, with ✖ where requests failed and a heavy line along the brush."""
    brush, width = snapshot.view.brush, len(columns)
    signs = [("━", "mark") if brush and _brushed(stack, at, brush) else ("─", "dim") for at in columns]
    for x, at in enumerate(columns):
        if stack.errors[at]:
            signs[x] = ("✖", "bad")
    seconds = stack.interval_s < 10
    length = 8 if seconds else 5
    days = stack.until - stack.since > 1.5 * 86_400
    failed = [bool(stack.errors[at]) for at in columns]
    for x in _label_places(failed, length) if columns else ():
        moment = stack.since + columns[x] * stack.interval_s
        text = figures.day(moment) if days else figures.clock(moment, seconds=seconds)
        for place, letter in enumerate(text):
            if x + place < width:
                signs[x + place] = (letter, signs[x + place][1])
    return _join(signs)


def _label_places(failed: Sequence[bool], length: int) -> Iterator[int]:
    """Where the times of the axis begin: every so often, and beside failures where that can be."""
    every = max(length + 2, _LABEL_EVERY)
    for x in range(0, max(1, len(failed) - length), every):
        beside = range(x, min(x + every - length, len(failed) - length) + 1)
        yield next((place for place in beside if not any(failed[place : place + length])), x)


def _marks(snapshot: Snapshot, stack: Stack) -> list[tuple[float, str, str]]:
    """Revisions and alerts within the histogram's time: when, what to write, how it looks."""
    found = []
    for revision in snapshot.revisions or []:
        failed = revision.get("state") == "failed"
        found.append(
            (
                unix(revision["time"]),
                f"▲rev{revision['id']}{'✖' if failed else ''}",
                "bad" if failed else "mark",
            )
        )
    for alert in snapshot.alerts or []:
        if alert.get("state") == "firing":
            found.append((unix(alert["time"]), f"◆{clean(alert.get('signal'))}", "warn"))
    return sorted(one for one in found if stack.since <= one[0] < stack.until)


def _mark_line(marks: Sequence[tuple[float, str, str]], columns: Sequence[int], stack: Stack) -> Line:
    """Each mark over its bar; where two would overlap, the earlier one is a sign alone, or none."""
    signs = [(" ", "")] * len(columns)
    free = len(columns)  # to the left of the one after
    for moment, text, role in reversed(marks):
        at = int((moment - stack.since) / stack.interval_s)
        x = next((place for place, one in enumerate(columns) if one >= at), len(columns))
        if free == len(columns) and x < free:  # the last one may stand further left
            x = max(0, min(x, free - len(text)))
        elif x + len(text) > free - 1:
            text = text[0]
        if x + len(text) > free - (free < len(columns)):
            continue
        for place, letter in enumerate(text[: len(columns) - x]):
            signs[x + place] = (letter, role)
        free = x
    return _join(signs)


def _legend(stack: Stack, width: int, rows: int) -> list[Line]:
    """What is stacked, from the top, and how many errors; where there is no room for all, what reached no
    version goes first, and then what is least."""
    if not width:
        return []
    failed = any(stack.errors)
    kept = list(range(len(stack.names)))
    while kept and len(kept) + failed > rows:
        kept.remove(min(kept, key=lambda at: (stack.names[at] != REFUSED, sum(stack.counts[at]))))
    lines: list[Line] = [
        [("  ", ""), (FILLS[at % len(FILLS)], f"v{at % SERIES}"), (f" {fit(stack.names[at], width - 4)}", "")]
        for at in reversed(kept)
    ]
    if failed:
        lines.append([("  ", ""), ("✖", "bad"), (f" {figures.count(sum(stack.errors))} errors", "")])
    return lines


def _join(signs: Sequence[tuple[str, str]]) -> Line:
    """Neighbours of one role as one part."""
    line: Line = []
    for text, role in signs:
        if line and line[-1][1] == role:
            line[-1] = (line[-1][0] + text, role)
        else:
            line.append((text, role))
    return line


def _legend_width(width: int) -> int:
    return 0 if width < _LEAST_LEGEND else 16 if width < 110 else 22
