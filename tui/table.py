"""Rows of the request log as lines of a table under the filter that they pass, with as many columns as there
is room for. Owns the columns and their order; is told which rows to show, and which of them is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mdslite.tui import figures
from mdslite.tui.clean import clean
from mdslite.tui.ink import SERIES
from mdslite.tui.lines import Align, Line, Part, cut, fit, spread
from mdslite.tui.messages import no_rows
from mdslite.tui.snapshot import Snapshot

Row = Mapping[str, Any]
Roles = Mapping[tuple[str, str, str], str]  # (project, model, version) -> role

HEAD_ROWS: Final = 2  # the filter, the columns' names
_BAR_WIDTH: Final = 6


@dataclass(frozen=True, slots=True)
class Column:
    """`rank` says which columns go first when there is little room: those with the greatest."""

    title: str
    width: int
    rank: int
    parts: Callable[[Row, int, Roles], list[Part]]
    align: Align = "left"


def version_roles(models: Sequence[Mapping[str, Any]] | None) -> dict[tuple[str, str, str], str]:
    """The colour of each version, by its place in its model."""
    return {
        (model["project"], model["model"], version["version"]): f"v{at % SERIES}"
        for model in models or ()
        for at, version in enumerate(model["versions"])
    }


def table_lines(
    rows: Sequence[Row], snapshot: Snapshot, width: int, *, chosen: int | None, follows: bool
) -> list[Line]:
    """The filter, the columns' names, and the rows; `follows` says that new rows push the others down."""
    columns = columns_for(width, one_model="model=" in snapshot.view.filter)
    lines = [_filter_line(width, snapshot, follows=follows), head_line(columns, width)]
    if not rows:
        return [*lines, [], no_rows(snapshot)]
    roles = version_roles(snapshot.models)
    return lines + [row_line(row, columns, width, roles=roles, chosen=row["id"] == chosen) for row in rows]


def _filter_line(width: int, snapshot: Snapshot, *, follows: bool) -> Line:
    view = snapshot.view
    left: Line = [(" / ", "key")]
    if view.filter:
        left.append((clean(view.filter), "bold"))
    else:
        left.append(("everything", "dim"))
    if view.brush is not None:
        start, stop = view.brush
        left.append((f"  {figures.clock(start)}-{figures.clock(stop)}", "mark"))
    wrong = snapshot.troubles.get("rows")
    right: Line = []
    if wrong:
        right = [(cut(clean(wrong), max(10, width - 20)), "bad"), (" ", "")]
    elif snapshot.missed and follows:
        right = [("faster than the screen: rows are left out ", "warn")]
    return spread(left, right, width)


def columns_for(width: int, *, one_model: bool = False) -> list[Column]:
    """The columns that fit into `width`; the last one takes what is left. With `one_model`, none for it."""
    wanted = [column for column in _COLUMNS if not (one_model and column.title == "MODEL")]
    while len(wanted) > 3 and sum(column.width + 1 for column in wanted) + 1 > width:
        wanted.remove(max(wanted, key=lambda column: column.rank))
    return wanted


def head_line(columns: Sequence[Column], width: int) -> Line:
    words = " ".join(fit(column.title, _width(columns, column, width), column.align) for column in columns)
    return [(" " + words, "head")]


def row_line(row: Row, columns: Sequence[Column], width: int, *, roles: Roles, chosen: bool = False) -> Line:
    """One row; the chosen one in reverse and marked."""
    line: Line = [("▸" if chosen else " ", "")]
    for column in columns:
        line += column.parts(row, _width(columns, column, width), roles)
        line.append((" ", ""))
    line.pop()
    return [(text, f"{role} cursor".strip()) for text, role in line] if chosen else line


def code_part(row: Row, width: int) -> Part:
    """A status, bad ones with a sign as well as a colour."""
    status = row.get("status") or 0
    if status < 400:
        return fit(str(status), width, "right"), "dim" if status == 200 else ""
    return fit(f"✖{status}", width, "right"), "warn" if status < 500 else "bad"


def _width(columns: Sequence[Column], column: Column, width: int) -> int:
    if column is not columns[-1]:
        return column.width
    return max(1, width - 1 - sum(one.width + 1 for one in columns[:-1]))


def _time(row: Row, width: int, roles: Roles) -> list[Part]:
    moment = datetime.fromtimestamp(row["time"])
    text = moment.strftime("%H:%M:%S.%f")[: -3 if width > 8 else -7]
    return [(fit(text, width), "")]


def _model(row: Row, width: int, roles: Roles) -> list[Part]:
    if row.get("model") is None:
        return [(fit(row.get("url") or figures.NONE, width), "dim")]
    return [(fit(row["model"], width), "")]


def _version(row: Row, width: int, roles: Roles) -> list[Part]:
    key = (str(row.get("project")), str(row.get("model")), str(row.get("version")))
    return [(fit(row.get("version") or figures.NONE, width), roles.get(key, ""))]


def _code(row: Row, width: int, roles: Roles) -> list[Part]:
    return [code_part(row, width)]


def _latency(row: Row, width: int, roles: Roles) -> list[Part]:
    return [(fit(figures.milliseconds(row.get("latency_ms")), width, "right"), "")]


def _confidence(row: Row, width: int, roles: Roles) -> list[Part]:
    value = row.get("confidence")
    if value is None:
        return [(fit("", width), "")]
    number = fit(figures.confidence(value), 4, "right")
    if width < 4 + 1 + _BAR_WIDTH:
        return [(fit(number, width), "")]
    role = "warn" if value < 0.6 else "accent"
    return [(number + " ", ""), (figures.bar(value, _BAR_WIDTH), role), (" " * (width - 5 - _BAR_WIDTH), "")]


def _shadow(row: Row, width: int, roles: Roles) -> list[Part]:
    return [(fit("S" if row.get("shadow") else "", width), "shadow")]


def _milliseconds(name: str) -> Callable[[Row, int, Roles], list[Part]]:
    def parts(row: Row, width: int, roles: Roles) -> list[Part]:
        return [(fit(figures.milliseconds(row.get(name)), width, "right"), "dim")]

    return parts


def _batch(row: Row, width: int, roles: Roles) -> list[Part]:
    text = f"{row.get('rows') or 0}/{row.get('batch_rows') or 0}"
    return [(fit(text if row.get("batch_rows") else "", width, "right"), "dim")]


def _client(row: Row, width: int, roles: Roles) -> list[Part]:
    return [(fit(row.get("client") or "", width), "dim")]


def _told(row: Row, width: int, roles: Roles) -> list[Part]:
    """What went wrong, or the id of the request."""
    if row.get("code"):
        return [(fit(row["code"], width), "warn" if (row.get("status") or 0) < 500 else "bad")]
    return [(fit(row.get("request_id") or "", width), "dim")]


_COLUMNS: Final = (
    Column("TIME", 8, 0, _time),
    Column("MODEL", 10, 3, _model),
    Column("VER", 6, 1, _version),
    Column("CODE", 4, 1, _code, "right"),
    Column("MS", 6, 1, _latency, "right"),
    Column("QUEUE", 6, 7, _milliseconds("queue_ms"), "right"),
    Column("COMP", 6, 6, _milliseconds("compute_ms"), "right"),
    Column("CONF", 11, 2, _confidence),
    Column("S", 1, 2, _shadow),
    Column("BATCH", 7, 8, _batch, "right"),
    Column("CLIENT", 10, 9, _client),
    Column("REQUEST", 10, 3, _told),
)
