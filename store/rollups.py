"""Counts per second and per minute of each series, for histograms that never read the rows. Owns the two
rollup tables' columns and the sums of one block; the hour file writes them.

Both tables are additive: writing a block adds to what is there, so a restart within the hour loses nothing.
Times are the requests' arrivals. Bucket columns hold the count of values in (previous bound, bound].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mdslite.store.blocks import Block, Floats, Ints

# Upper bounds; one more bucket takes what is above. Prometheus' histograms use the same bounds.
LATENCY_BOUNDS_US = (
    250, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 25_000, 50_000, 75_000, 100_000,
    250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
)  # fmt: skip
CONFIDENCE_BOUNDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

LATENCY_COLUMNS = (*(f"latency_to_{bound}us" for bound in LATENCY_BOUNDS_US), "latency_above")
CONFIDENCE_COLUMNS = tuple(f"confidence_to_{round(bound * 100)}" for bound in CONFIDENCE_BOUNDS)

_SUMS = ("count", "rows", "latency_us", "queue_us", "compute_us", "confidence_count", "confidence_sum")
SECOND_COLUMNS = ("second", "series_id", "count", "latency_us")
MINUTE_COLUMNS = ("minute", "series_id", *_SUMS, *LATENCY_COLUMNS, *CONFIDENCE_COLUMNS, "latency_max_us")

SCHEMA = f"""
CREATE TABLE seconds (
  second INTEGER NOT NULL, series_id INTEGER NOT NULL REFERENCES series(id),
  count INTEGER NOT NULL, latency_us INTEGER NOT NULL,
  PRIMARY KEY (second, series_id)
) WITHOUT ROWID;
CREATE TABLE minutes (
  minute INTEGER NOT NULL, series_id INTEGER NOT NULL REFERENCES series(id),
  {", ".join(f"{name} {'REAL' if name == 'confidence_sum' else 'INTEGER'} NOT NULL" for name in MINUTE_COLUMNS[2:])},
  PRIMARY KEY (minute, series_id)
) WITHOUT ROWID;
"""  # noqa: E501

_MAX_ROWS = 250  # of one INSERT


def latency_buckets(latency_us: Floats) -> Ints:
    """The bucket of each value, `len(LATENCY_BOUNDS_US)` for what is above the last bound."""
    return np.searchsorted(LATENCY_BOUNDS_US, latency_us, side="left")


def second_sums(block: Block, part: slice, series_ids: Ints) -> Iterator[tuple[Any, ...]]:
    """One tuple of SECOND_COLUMNS for each second and series; `series_ids` are those of the part's rows."""
    of, key_seconds, key_series = _group(np.floor(block.time[part]).astype(np.int64), series_ids)
    counts = np.bincount(of)
    latency_us = np.bincount(of, weights=block.latency_ms[part] * 1e3)
    return _tuples(key_seconds, key_series, counts, np.rint(latency_us))


def minute_sums(block: Block, part: slice, series_ids: Ints) -> Iterator[tuple[Any, ...]]:
    """One tuple of MINUTE_COLUMNS for each minute and series."""
    minutes = np.floor(block.time[part] / 60).astype(np.int64) * 60
    of, key_minutes, key_series = _group(minutes, series_ids)
    size = len(key_minutes)
    latency_us = block.latency_ms[part] * 1e3
    confidence = block.confidence[part]
    sure = ~np.isnan(confidence)
    latency_max_us = np.zeros(size)
    np.maximum.at(latency_max_us, of, latency_us)

    def total(values: Floats | Ints) -> Floats:
        return np.bincount(of, weights=np.nan_to_num(values), minlength=size).astype(np.float64)

    return _tuples(
        key_minutes,
        key_series,
        np.bincount(of, minlength=size),
        total(block.rows[part]),
        np.rint(total(latency_us)),
        np.rint(total(block.queue_ms[part] * 1e3)),
        np.rint(total(block.compute_ms[part] * 1e3)),
        total(sure),
        total(confidence),
        *_spread(of, latency_buckets(latency_us), size, len(LATENCY_COLUMNS)),
        *_spread(
            of[sure],
            np.searchsorted(CONFIDENCE_BOUNDS[:-1], confidence[sure], side="left"),
            size,
            len(CONFIDENCE_COLUMNS),
        ),
        np.rint(latency_max_us),
    )


def insert_statement(table: str, columns: Sequence[str], rows: int) -> str:
    """An INSERT of so many rows that adds to what is there (and keeps the greater of `..._max_us`)."""
    values = ",".join([f"({','.join('?' * len(columns))})"] * rows)
    changes = ", ".join(
        f"{name} = max({name}, excluded.{name})" if "_max_" in name else f"{name} = {name} + excluded.{name}"
        for name in columns[2:]
    )
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES {values} "
        f"ON CONFLICT ({columns[0]}, {columns[1]}) DO UPDATE SET {changes}"
    )


def statements(
    table: str, columns: Sequence[str], sums: Iterator[tuple[Any, ...]]
) -> Iterator[tuple[str, list[Any]]]:
    """Statements and their parameters that write `sums`, a bounded number of rows each."""
    rows = list(sums)
    for start in range(0, len(rows), _MAX_ROWS):
        some = rows[start : start + _MAX_ROWS]
        yield insert_statement(table, columns, len(some)), [value for row in some for value in row]


def _group(times: Ints, series_ids: Ints) -> tuple[Ints, Ints, Ints]:
    """Number the distinct (time, series) pairs: the number of each row, then the pairs."""
    first = int(times.min())
    width = int(series_ids.max()) + 1
    keys, of = np.unique((times - first) * width + series_ids, return_inverse=True)
    return of, keys // width + first, keys % width


def _spread(of: Ints, buckets: Ints, size: int, width: int) -> Ints:
    """Counts per bucket, one array of `size` groups for each of `width` buckets."""
    return np.bincount(of * width + buckets, minlength=size * width).reshape(size, width).T


def _tuples(*columns: Floats | Ints) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.tolist() for column in columns), strict=True)
