"""What `mdslite logs` draws beside rows, a histogram, top values, percentiles; and how it writes files."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import IO, TYPE_CHECKING, Any

from mdslite.cli import output
from mdslite.cli.absence import refuse_unknown, tell_skipped
from mdslite.cli.files import new_file, refuse_json_beside
from mdslite.errors import InvalidRequest
from mdslite.sizes import size_text

if TYPE_CHECKING:
    from mdslite.client import Client

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_QUIET_LINES = 3  # without requests, that are drawn one after the other
_LINES = 40  # of a histogram whose interval nobody asked for
_ROUND_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_INTERVAL = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])?")
_FILLS = "█▓▒░▞▚·"  # one for each series, the last one for all others
_PLAIN_FILLS = "#=+-:~."
_TELL_S = 0.2  # between two notes on how far an export is
_TOP = (
    output.Column("VALUE", folds=True),
    output.Column("COUNT", "right"),
    output.Column("SHARE", "right"),
    output.Column(""),
)
_PERCENTILES = (
    output.Column("MODEL", folds=True),
    output.Column("VER"),
    output.Column("S"),
    *(
        output.Column(title, "right")
        for title in ("COUNT", "ERRORS", "REFUSED", "P50 MS", "P90", "P95", "P99", "MAX")
    ),
)
_CONFIDENCES = (
    *_PERCENTILES[:3],
    *(output.Column(title, "right") for title in ("CONF P10", "CONF P50", "CONF MEAN")),
)


def read_interval(text: str) -> float:
    """`10s`, `1m`, `0.5h`, or seconds.

    :raises InvalidRequest: it is none
    """
    found = _INTERVAL.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise InvalidRequest(
            f"{text!r} is no interval", field="interval", hint="write 10s, 1m, 15m, 1h or a number of seconds"
        )
    return float(found[1]) * _UNITS_S[found[2] or "s"]


def show_histogram(client: Client, filter: str, *, interval: str | None, by: str, as_json: bool) -> None:
    interval_s = None if interval is None else read_interval(interval)
    found = client.histogram(filter, interval_s=interval_s, by=by)
    if found.get("series") == []:
        refuse_unknown(client, filter)
    tell_skipped(found.get("skipped", []))
    if as_json:
        output.write_json(found, indent=None)
        return
    if interval_s is None and len(_counts(found)) > _LINES:
        window_s = found["until"] - found["since"]
        wider = next((one for one in _ROUND_S if window_s / one <= _LINES), _ROUND_S[-1])
        # The same window again, not that of a moment later.
        ends = f"since={found['since']:.6f} until={found['until']:.6f}"
        plain = re.sub(r"""(?<!\S)(since|until)\s*=\s*("[^"]*"|'[^']*'|[^\s"']+)""", "", filter)
        found = client.histogram(f"{plain} {ends}", interval_s=float(wider), by=by)
    if not found["series"]:
        output.note("no logged request matches")
        return
    output.write("\n".join(draw_histogram(found, width=_width(), fills=_fills())))


def draw_histogram(found: Mapping[str, Any], *, width: int, fills: str) -> list[str]:
    """A line for each interval, its bar in parts for the greatest series."""
    since, interval_s = found["since"], found["interval_s"]
    totals = _counts(found)
    errors, refused = (
        [sum(column) for column in zip(*(one[kind] for one in found["series"]), strict=True)]
        for kind in ("errors", "refused")
    )
    wrong = _wrong(sum(errors), sum(refused))
    day = f"{datetime.fromtimestamp(since):%Y-%m-%d %H:%M:%S}"
    lines = [
        f"{sum(totals):,} requests, {wrong}from {day}; a line is {_span(interval_s)}",
        "  ".join(
            f"{fills[min(number, len(fills) - 1)]} {_name(one, found['by'])} {one['total']:,}"
            for number, one in enumerate(found["series"][: len(fills) + 5])
        ),
    ]
    room = max(10, width - 40)
    most = max(totals)
    quiet = _quiet_runs(totals)
    for number, total in enumerate(totals):
        if number in quiet:
            if quiet[number]:
                lines.append(f"... {quiet[number]:,} lines without requests")
            continue
        moment = datetime.fromtimestamp(since + number * interval_s)
        clock = moment.strftime("%m-%d %H:%M:%S" if interval_s >= 1 else "%H:%M:%S.%f")
        parts = [one["counts"][number] for one in found["series"]]
        said = _wrong(errors[number], refused[number]).removesuffix(", ")
        lines.append(f"{clock}  {_bar(parts, most, room, fills):<{room}} {total:>9,}  {said}".rstrip())
    return lines


def _wrong(errors: int, refused: int) -> str:
    """What there was of errors and of refused requests, such as `3 errors, 1 refused, `."""
    told = f"{errors:,} error{'s' * (errors != 1)}, " if errors else ""
    return told + (f"{refused:,} refused, " if refused else "")


def _quiet_runs(totals: Sequence[int]) -> dict[int, int]:
    """The lines that are not worth a screen: where each run of them begins its length, then zeros."""
    found: dict[int, int] = {}
    start = 0
    for number, total in enumerate([*totals, 1]):
        if total:
            length = number - start
            if length > _QUIET_LINES:
                found |= dict.fromkeys(range(start, number), 0) | {start: length}
            start = number + 1
    return found


def show_top(client: Client, filter: str, *, field: str, limit: int, as_json: bool) -> None:
    found = client.top(field, filter, limit=limit)
    if found.get("rows") == 0:
        refuse_unknown(client, filter)
    tell_skipped(found.get("skipped", []))
    if as_json:
        output.write_json(found, indent=None)
        return
    room = max(10, min(40, _width() - 50))
    fill = _fills()[0]
    rows = [
        (
            output.json_text(one["value"]) if not isinstance(one["value"], str) else one["value"],
            f"{one['count']:,}",
            f"{one['share']:.1%}",
            fill * round(one["share"] * room),
        )
        for one in found["values"]
    ]
    if not found["rows"]:
        output.note("no logged request matches")
        return
    if rows:
        output.write_table(_TOP, rows)
    missing = f", {found['missing']:,} of them without" if found["missing"] else ""
    other = f"; {found['other']:,} have other values" if found["other"] else ""
    output.note(f"{found['field']} of {found['rows']:,} requests{missing}{other}")


def show_percentiles(client: Client, filter: str, *, as_json: bool) -> None:
    found = client.percentiles(filter)
    if found.get("groups") == []:
        refuse_unknown(client, filter)
    tell_skipped(found.get("skipped", []))
    if as_json:
        output.write_json(found, indent=None)
        return
    if not found["groups"]:
        output.note("no logged request matches")
        return
    output.write_table(_PERCENTILES, [_latency_cells(one) for one in found["groups"]])
    if sure := [one for one in found["groups"] if one["confidence"]]:
        output.write()
        output.write_table(_CONFIDENCES, [_confidence_cells(one) for one in sure])
    if any(one["latency_ms"] is None for one in found["groups"]):
        output.note("latencies are those of good answers: the log's rows have the others'")
    if not found["exact"]:
        output.note("percentiles are within 0.4 %")


def export(
    client: Client,
    filter: str,
    *,
    target: str,
    format: str | None,
    limit: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write all rows that pass, or the newest `limit`, to a file, which appears when it is whole; `-` is
    stdout. As JSON, say what was written."""
    if as_json:
        refuse_json_beside(target)
    chosen = format or FORMATS.get(Path(target).suffix.lower())
    if chosen is None:
        raise InvalidRequest(
            f"{target!r} does not say in which format",
            hint="name it .csv, .jsonl or .parquet, or use --format",
        )
    if target == "-":
        _download(client, filter, chosen, sys.stdout.buffer, limit=limit)
        return
    with new_file(target, force=force) as file:
        written = _download(client, filter, chosen, file, limit=limit)
    if as_json:
        output.write_json({"file": target, **written})


def _download(
    client: Client, filter: str, format: str, file: IO[bytes], *, limit: int | None
) -> dict[str, Any]:
    live = sys.stderr.isatty()
    size_bytes, told_at = 0, monotonic()
    with client.export_logs(filter, format=format, limit=limit) as coming:
        if coming.rows == 0:
            refuse_unknown(client, filter)
        tell_skipped(coming.skipped)
        of = "" if coming.rows is None else f" of {coming.rows:,} rows"
        mark = {"jsonl": b"\n", "csv": b"\r\n"}.get(format)
        rows = 0
        for piece in coming.pieces:
            file.write(piece)
            size_bytes += len(piece)
            rows += piece.count(mark) if mark else 0
            if live and monotonic() >= told_at + _TELL_S:
                told_at = monotonic()
                done = f"{rows:,}{of}, " if mark else f"{of.removeprefix(' of ')}, "
                output.note_over(f"{done}{size_text(size_bytes)}")
        file.flush()
    if live:
        output.note_over("")
    count = f"{coming.rows:,} rows, " if coming.rows is not None else ""
    output.note(f"exported {count}{size_text(size_bytes)}")
    return {"rows": coming.rows, "size_bytes": size_bytes, "skipped": list(coming.skipped)}


def _latency_cells(one: Mapping[str, Any]) -> list[str]:
    latency = one["latency_ms"] or {}
    return [
        *_name_cells(one),
        f"{one['count']:,}",
        f"{one['errors']:,}",
        f"{one['refused']:,}",
        *(output.number_text(latency.get(name), 2) for name in ("p50", "p90", "p95", "p99", "max")),
    ]


def _confidence_cells(one: Mapping[str, Any]) -> list[str]:
    sure = one["confidence"]
    return [*_name_cells(one), *(output.number_text(sure[name], 3) for name in ("p10", "p50", "mean"))]


def _name_cells(one: Mapping[str, Any]) -> list[str]:
    return [
        f"{one['project'] or '-'}/{one['model'] or '-'}" if one["project"] or one["model"] else "no model",
        str(one["version"] or "-"),
        "S" if one["shadow"] else "",
    ]


def _counts(found: Mapping[str, Any]) -> list[int]:
    """All series together, by interval."""
    columns = [one["counts"] for one in found["series"]] + ([found["other"]] if found.get("other") else [])
    return [sum(column) for column in zip(*columns, strict=True)]


def _bar(parts: Sequence[int], most: int, room: int, fills: str) -> str:
    """Rounded at the parts' ends, so that the whole bar is as long as it should be."""
    drawn, total = "", 0
    for number, part in enumerate(parts):
        total += part
        drawn += fills[min(number, len(fills) - 1)] * (round(total / max(most, 1) * room) - len(drawn))
    return drawn or (fills[0] if total else "")


def _name(one: Mapping[str, Any], by: str) -> str:
    if by not in ("version", "model"):
        return str(one["value"] if one["value"] is not None else "-")
    names = [one["project"] or "-", one["model"] or "-"]
    if not any(one[name] for name in ("project", "model")):
        return "no model"
    named = "/".join(names) + (f"@{one['version'] or '-'}" if by == "version" else "")
    return named + (" (shadow)" if one["shadow"] else "")


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"


def _width() -> int:
    return shutil.get_terminal_size().columns


def _fills() -> str:
    return _FILLS if (sys.stdout.encoding or "").lower().startswith("utf") else _PLAIN_FILLS
