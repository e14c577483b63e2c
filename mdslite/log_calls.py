"""What can be asked of an appliance about its request log, each call described as those of `calls`."""

from __future__ import annotations

from mdslite.asks import Ask, Lines, Pieces, get, get_lines
from mdslite.replies import Json


def logs(
    filter: str = "",
    *,
    limit: int | None = None,
    before: int | None = None,
    after: int | None = None,
    bodies: bool = True,
) -> Ask[Json]:
    """One page of the request log, newest first: `rows`, and `next` to hand in as `before`. `after` is an
    `id` that is known already; without `bodies` no row has its request and reply."""
    return get(
        "/api/v1/logs",
        filter=filter or None,
        limit=limit,
        before=before,
        after=after,
        bodies=None if bodies else "false",
    )


def histogram(filter: str = "", *, interval_s: float | None = None, by: str | None = None) -> Ask[Json]:
    """Requests by time, a series for each version or value of `by`; `since` and `until` are the filter's."""
    return get("/api/v1/logs/histogram", filter=filter or None, interval_s=interval_s, by=by)


def log_row(id: int) -> Ask[Json]:
    """One `row` of the request log, and the `related` ones of the same request."""
    return get(f"/api/v1/logs/{id}")


def top(field: str, filter: str = "", *, limit: int | None = None) -> Ask[Json]:
    """The most frequent values of a field, such as `code` or `reply.label`, with their shares."""
    return get("/api/v1/logs/top", field=field, filter=filter or None, limit=limit)


def export_logs(filter: str = "", *, format: str = "jsonl", limit: int | None = None) -> Pieces:
    """All rows that pass, or the newest `limit`, as a file: `jsonl`, `csv` or `parquet`."""
    return Pieces(get("/api/v1/logs/export", filter=filter or None, format=format, limit=limit))


def percentiles(filter: str = "") -> Ask[Json]:
    """How many, how fast and how sure: by version."""
    return get("/api/v1/logs/percentiles", filter=filter or None)


def follow_logs(filter: str = "", *, bodies: bool = True, skipped: bool = False) -> Lines[Json]:
    """Rows of the request log that are written from now on, for as long as the block runs.

    They are collected from the moment the block is entered, so that a page asked for inside it and the
    rows that follow leave no gap; they may overlap, which the rows' `id` tells. With `skipped` there are,
    between them, objects that have nothing but `skipped`: names of files of the log that cannot be read.
    """
    params = {
        "filter": filter or None,
        "follow": "true",
        "bodies": None if bodies else "false",
        "skipped": "true" if skipped else None,
    }
    return get_lines("GET", "/api/v1/logs", params, wait_s=None)
