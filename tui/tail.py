"""The newest rows of the request log as a few lines below everything else."""

from __future__ import annotations

from mdslite.tui import figures
from mdslite.tui.clean import clean
from mdslite.tui.lines import Line, cut, fit
from mdslite.tui.snapshot import Json, Snapshot


def tail_lines(width: int, height: int, snapshot: Snapshot) -> list[Line]:
    """The head, and as many rows as there is room for, the newest first."""
    rows = snapshot.rows
    head: Line = [(" TIME      MODEL          VER     CODE       MS  CONF          S REQUEST", "head")]
    if rows is None:
        said = snapshot.troubles.get("rows")
        return [head, [(f" {clean(said)}", "warn") if said else (" ◌ loading the log", "dim")]]
    if not rows:
        return [
            head,
            [
                (" no request was logged", "dim"),
                (f" that matches {clean(snapshot.view.filter)}" if snapshot.view.filter else " yet", "dim"),
            ],
        ]
    return [head, *(_row(row, width) for row in rows[: height - 1])]


def _row(row: Json, width: int) -> Line:
    failed = row["status"] >= 400
    sure = row.get("confidence")
    bar = figures.bar(sure, 6) if sure is not None else " " * 6
    code = f"✖{row['status']}" if failed else str(row["status"])
    what = f"{row['code']} " if row.get("code") else ""
    line: Line = [
        (f" {figures.clock(row['time'])}  ", ""),
        (fit(row.get("model") or row.get("url") or figures.NONE, 14), ""),
        (" " + fit(row.get("version") or figures.NONE, 6), ""),
        (f"  {code:<5}", "bad" if failed else ""),
        (f"{figures.milliseconds(row.get('latency_ms')):>8}", ""),
        (f"  {figures.confidence(sure):>4} ", ""),
        (bar, "bar"),
        ("  S " if row.get("shadow") else "    ", "shadow"),
    ]
    return [
        *line,
        (cut(clean(what + str(row.get("request_id") or "")), max(0, width - 62)), "bad" if what else "dim"),
    ]
