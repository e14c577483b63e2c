"""What the rows that are looked at have in common, in the place of a chosen one: each version's figures, what
went wrong, who asked. Draws from the snapshot alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mdslite.tui import figures
from mdslite.tui.clean import clean
from mdslite.tui.lines import Line, fit, spread
from mdslite.tui.snapshot import Json, Snapshot
from mdslite.tui.table import version_roles


def summary_lines(snapshot: Snapshot, rows: Sequence[Json], width: int, height: int) -> list[Line]:
    lines = _versions(snapshot, width)
    if rows:
        span_s = max(1e-3, rows[0]["time"] - rows[-1]["time"])
        heading = f"of the newest {len(rows):,}"
        lines += [[], [(heading, "head"), (f"  ({figures.span(round(span_s, 1))})", "dim")]]
        lines += _counts("status", Counter(_status(row) for row in rows), len(rows), width)
        lines += _counts(
            "client", Counter(row.get("client") or figures.NONE for row in rows), len(rows), width
        )
        lines += _confidences(rows, width)
    lines += [[], [("↓", "key"), (" chooses a row and shows it here", "dim")]]
    return lines[:height]


def _versions(snapshot: Snapshot, width: int) -> list[Line]:
    groups = (snapshot.percentiles or {}).get("groups") or []
    if not groups:
        said = snapshot.troubles.get("percentiles")
        known = said == snapshot.troubles.get("rows")  # which the table says
        return [[(clean(said), "warn")]] if said and not known else []
    roles = version_roles(snapshot.models)
    name = max(8, width - 36)
    head = f"{'':<{name}} {'COUNT':>7} {'ERR%':>6} {'P50':>6} {'P99':>6} {'CONF':>5}"
    lines: list[Line] = [[(head, "head")]]
    for group in groups[:8]:
        slow, sure = group.get("latency_ms") or {}, group.get("confidence") or {}
        count, failed = group.get("count") or 0, group.get("errors") or 0
        key = (str(group.get("project")), str(group.get("model")), str(group.get("version")))
        words = (group.get("model") or figures.NONE, group.get("version"), "S" if group.get("shadow") else "")
        title = " ".join(str(word) for word in words if word)
        lines.append(
            [
                (fit(title, name), roles.get(key, "")),
                (f" {figures.count(count):>7}", ""),
                (f" {figures.percent(group.get('error_rate'), 2):>6}", "bad" if failed else "dim"),
                (f" {figures.milliseconds(slow.get('p50')):>6}", ""),
                (f" {figures.milliseconds(slow.get('p99')):>6}", ""),
                (f" {figures.confidence(sure.get('p50')):>5}", ""),
            ]
        )
    return lines


def _counts(name: str, counts: Counter[str], total: int, width: int) -> list[Line]:
    if len(counts) < 2 and name != "status":
        return []
    bar = max(4, width - 34)
    return [
        [
            (fit(name if not at else "", 8), "dim"),
            (fit(value, 16), "bad" if value.startswith("✖") else ""),
            (f"{count:>6,} ", ""),
            (figures.bar(count / total, bar), "bar"),
        ]
        for at, (value, count) in enumerate(counts.most_common(5))
    ]


def _confidences(rows: Sequence[Json], width: int) -> list[Line]:
    """How sure the answers are: a column for each twentieth."""
    found = [row["confidence"] for row in rows if row.get("confidence") is not None]
    if not found:
        return []
    columns = [0] * 20
    for value in found:
        columns[max(0, min(19, int(value * 20)))] += 1
    text = figures.sparkline([float(one) for one in columns], 20)
    return [spread([(fit("conf", 8), "dim"), ("0 ", "dim"), (text, "accent"), (" 1", "dim")], [], width)]


def _status(row: Json) -> str:
    if row["status"] < 400:
        return str(row["status"])
    return f"✖{row['status']} {row.get('code') or ''}".strip()
