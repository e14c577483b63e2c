"""The SQL of a walk along an hour's rows. Owns what is read of a row, and how a filter narrows the walk."""

from __future__ import annotations

from typing import Any

from mdslite.store.filters import Filter, Sql

SELECT = (
    "e.id, e.lag_us, e.request_id, e.series_id, u.url, e.latency_us, e.queue_us, e.compute_us, "
    "e.upstream_us, e.rows, e.batch_rows, e.confidence, b.request, b.reply, b.request_bytes, b.reply_bytes, "
    "p.spans, t.trace_id"
)
_BODIES_JOIN = "LEFT JOIN bodies b ON b.id = e.id "
JOINS = (
    f"CROSS JOIN urls u ON u.id = e.url_id {_BODIES_JOIN}LEFT JOIN spans p ON p.id = e.id "
    "LEFT JOIN traces t ON t.id = e.id"
)
WITHOUT_BODIES = (
    SELECT.replace("b.request, b.reply, b.request_bytes, b.reply_bytes", "NULL, NULL, 0, 0"),
    JOINS.replace(_BODIES_JOIN, ""),
)


def entries_query(
    select: str,
    joins: str,
    wanted: Filter,
    series: list[int] | None,
    urls: list[int] | None,
    newest: bool,
) -> tuple[str, list[Any]]:
    """A walk along ids; CROSS JOIN keeps SQLite from walking a dictionary instead."""
    in_bodies = wanted.on("bodies")
    first = "bodies b CROSS JOIN entries e ON e.id = b.id" if in_bodies else "entries e"
    if in_bodies:
        joins = joins.replace(_BODIES_JOIN, "")
    walked = "b.id" if in_bodies else "e.id"
    conditions = [f"{walked} >= ?", f"{walked} < ?", among("e.series_id", series), among("e.url_id", urls)]
    values: list[Any] = []
    for condition in (in_bodies, wanted.on("entries")):
        if condition is not None:
            conditions.append(condition[0])
            values += condition[1]
    for moment, operator in ((wanted.since, ">="), (wanted.until, "<")):
        if moment is not None:
            conditions.append(f"e.id - e.lag_us {operator} ?")
            values.append(round(moment * 1e6))
    return (
        f"SELECT {select} FROM {first} {joins} "
        f"WHERE {' AND '.join(conditions)} ORDER BY {walked} {'DESC' if newest else 'ASC'} LIMIT ?",
        values,
    )


def minutes_condition(wanted: Filter, series: list[int] | None) -> Sql | None:
    """What a minute and series must show in the rollups to hold a row that passes; None when anything may."""
    conditions, values = [], []
    if series is not None:
        conditions.append(among("series_id", series))
    for term in wanted.terms:
        if term.field == "latency_ms" and term.operator in (">", ">=", "="):
            # Rollups round to whole microseconds as rows do, so the greatest one bounds them all.
            conditions.append("latency_max_us >= ?")
            values.append(float(term.value) * 1e3)
    return (" AND ".join(conditions), values) if conditions else None


def among(column: str, numbers: list[int] | None) -> str:
    return "1" if numbers is None else f"{column} IN ({','.join(map(str, numbers))})"
