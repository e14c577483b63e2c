"""What a screen says when there is nothing to show: what is wrong or missing, and what to do next. Loading,
empty, out of reach and not allowed are told apart.
"""

from __future__ import annotations

from mdslite.tui import figures
from mdslite.tui.clean import clean
from mdslite.tui.lines import Line
from mdslite.tui.snapshot import Snapshot
from mdslite.tui.wrapping import wrap


def whole_pane(width: int, snapshot: Snapshot) -> list[Line] | None:
    """The message that takes a whole pane's place, None where there is something to show."""
    connection = snapshot.connection
    if connection.state == "unauthorised":
        return _unauthorised(width, snapshot)
    if connection.state == "unreachable" and snapshot.models is None:
        return _unreachable(width, snapshot)
    if snapshot.models is None:
        return [[], [(f"  ◌ loading from {clean(connection.url)}", "warn")]]
    if not snapshot.models:
        return _empty(snapshot)
    return None


def banner(snapshot: Snapshot) -> Line | None:
    """One line over what was known before the appliance went away."""
    connection = snapshot.connection
    if connection.state != "unreachable" or snapshot.models is None:
        return None
    again = max(0.0, (connection.retry_at or snapshot.clock) - snapshot.clock)
    since = figures.clock(connection.since)
    return [
        (f" ✖ no answer since {since}, what is shown is of before; trying again in {again:.0f} s ", "bad")
    ]


def _unreachable(width: int, snapshot: Snapshot) -> list[Line]:
    connection = snapshot.connection
    first, *more = wrap(clean(connection.message), width - 6) or [""]
    lines: list[Line] = [[], [("  ✖ ", "bad"), (first, "bold")]]
    lines += [[(f"    {text}", "bold")] for text in more] + [[]]
    lines += _hint(connection.hint, width)
    again = max(0.0, (connection.retry_at or snapshot.clock) - snapshot.clock)
    lines += [
        [],
        [
            (f"  Trying again in {again:.0f} s; ", "dim"),
            ("R", "key"),
            (" tries now, ", "dim"),
            ("q", "key"),
            (" quits.", "dim"),
        ],
    ]
    return lines


def _unauthorised(width: int, snapshot: Snapshot) -> list[Line]:
    connection = snapshot.connection
    lines: list[Line] = [
        [],
        [("  ✖ ", "bad"), (f"{clean(connection.url)} does not let this dashboard in", "bold")],
        *([(f"    {text}", "")] for text in wrap(clean(connection.message), width - 6)),
        [],
        *_hint(connection.hint, width),
        [],
        [
            ("  A token with the scope ", "dim"),
            ("read", "bold"),
            (" shows everything, one with ", "dim"),
            ("admin", "bold"),
            (" may change it.", "dim"),
        ],
        [("  On the appliance's machine, in the folder where it was started:", "dim")],
        [("    mdslite token create dash --scope read --scope admin --store .mdslite", "accent")],
    ]
    return lines


def _empty(snapshot: Snapshot) -> list[Line]:
    if snapshot.view.moment is not None:
        return [
            [],
            [("  nothing was deployed then", "bold")],
            [],
            [("  ", ""), (".", "key"), (" goes back to now", "dim")],
        ]
    return [
        [],
        [("  nothing is deployed yet", "bold")],
        [],
        [("  a model:  ", "dim"), ("mdslite up model.onnx", "accent")],
        [
            ("  a file:   ", "dim"),
            ("mdslite apply -f deployments.yaml", "accent"),
            ("  or press ", "dim"),
            ("a", "key"),
        ],
        [("  new:      ", "dim"), ("mdslite init", "accent")],
    ]


def _hint(hint: str | None, width: int) -> list[Line]:
    return [[("  " + text, "accent")] for text in wrap(clean(hint), width - 4)] if hint else []


def no_rows(snapshot: Snapshot) -> Line:
    """Why there are no rows, and what to do about it."""
    view = snapshot.view
    if snapshot.rows is None:
        wrong = snapshot.troubles.get("rows")
        return [(f"  ✖ {clean(wrong)}", "bad")] if wrong else [("  ◌ loading the log", "warn")]
    if view.filter and "rows" in snapshot.troubles:
        return [
            ("  ", ""),
            ("/", "key"),
            (" edits the filter, ", "dim"),
            ("esc", "key"),
            (" drops it", "dim"),
        ]
    if view.filter or view.brush is not None:
        return [
            ("  no request matches: ", "bold"),
            ("esc", "key"),
            (" widens, ", "dim"),
            ("/", "key"),
            (" edits", "dim"),
        ]
    return [
        ("  no request was logged yet: ", "bold"),
        ("mdslite predict P/M -d …", "accent"),
        (" sends one", "dim"),
    ]
