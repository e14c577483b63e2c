"""`mdslite logs`: pages of the request log, oldest line first as a log is read, and `-f` for what comes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from mdslite.cli import output
from mdslite.cli.absence import find_absence, refuse_unknown, tell_no_log, tell_skipped
from mdslite.cli.options import connect, json_option, url_option
from mdslite.cli.usage import refuse_ignored
from mdslite.errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from mdslite.client import Client

Row = Mapping[str, Any]

_COLUMNS = (
    output.Column("TIME"),
    output.Column("MODEL", least=8),
    output.Column("VER"),
    output.Column("CODE", least=18),
    output.Column("MS", "right"),
    output.Column("CONF", "right"),
    output.Column("S"),
    output.Column("REQUEST", least=9),
)
# What most rows have room in: those that come later stand below those that were there.
_TYPICAL = ("12:00:00.000", "project/model", "v1", "504 deadline_exceeded", "1000.0", "0.99", "S", "0" * 24)
# What each way to see the log reads of the other options.
_MODES = {
    "histogram": ("interval", "by"),
    "top": ("limit",),
    "percentiles": (),
    "export": ("format", "limit", "force"),
    "follow": ("limit",),
    "": ("limit",),
}
_VIEWS = ("histogram", "top", "percentiles", "export")
_LIMIT = 20  # rows, or values, where nobody says how many
_ASKED = re.compile(r"/projects/([^/]+)/models/([^/:?]+)|/v2/models/([^/.]+)\.([^/?]+)/")
_CLOCK = re.compile(r"\d\d?:\d\d(:\d\d)?")
_MOMENT = re.compile(r"""(?<!\S)(since|until)\s*=\s*("[^"]*"|'[^']*'|[^\s"']+)""")


@click.command(
    epilog="""\b
Examples:
  mdslite logs
  mdslite logs 'model=spamfilter confidence<0.6 shadow' --limit 50
  mdslite logs 'status>=400 since=15m' --json
  mdslite logs 'project=mail latency_ms>20' -f
  mdslite logs 'request.amount>100 reply.label=spam text~"refund"'
  mdslite logs since=24h --histogram --interval 15m
  mdslite logs 'status>=400 since=1h' --top code
  mdslite logs since=1h --percentiles
  mdslite logs 'model=spamfilter since=7d' --export spam.parquet

\b
FILTER is one quoted argument of conditions that must all hold: FIELD=VALUE,
or != < <= > >= and ~ (contains), !~. Fields: project model version shadow
status code latency_ms queue_ms compute_ms upstream_ms rows batch_rows
confidence endpoint client url request_id trace_id, text (in the bodies),
request.NAME and reply.NAME (in JSON bodies), since, until (15m, 2h, 1d, or a
time of this machine's zone: 14:03, 2026-11-17T14:03).""",
)
@click.argument("filter", metavar="['FILTER']", default="", required=False)
@click.option("-f", "--follow", is_flag=True, help="Keep printing rows as they come; Ctrl-C stops.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="N",
    help="How many of the newest rows, or values of --top: 20 by default. Of --export: all by default.",
)
@click.option("--histogram", is_flag=True, help="Draw how many there were over time.")
@click.option("--interval", metavar="SPAN", help="How long a line of the histogram is: 10s, 1m, 15m, 1h.")
@click.option(
    "--by",
    type=click.Choice(["version", "status", "code", "endpoint", "client", "model"]),
    default="version",
    show_default=True,
    help="What the histogram stacks.",
)
@click.option("--top", metavar="FIELD", help="Show a field's most frequent values, --limit of them.")
@click.option("--percentiles", is_flag=True, help="Show latency and confidence of good answers by version.")
@click.option("--export", metavar="FILE", help="Write rows to a .csv, .jsonl or .parquet file; - is stdout.")
@click.option("--format", type=click.Choice(["csv", "jsonl", "parquet"]), help="Of the exported file.")
@click.option("--force", is_flag=True, help="Replace a file that --export finds there.")
@json_option
@url_option
def logs(filter: str, follow: bool, limit: int | None, as_json: bool, url: str, **shown: Any) -> int:
    """Search the request log, or follow it. Oldest row first; --json prints one object a line."""
    refuse_ignored(_MODES, always=("filter",))
    wanted, most = in_local_time(filter), _LIMIT if limit is None else limit
    view = next((name for name in _VIEWS if shown[name] not in (None, False)), None)
    if limit == 0 and view is not None:
        raise InvalidRequest(f"--limit 0 leaves --{view} nothing", hint="give it 1 or more, or leave it out")
    with connect(url) as client:
        status = None if as_json else client.status()
        if status is not None:
            tell_no_log(status, "requests are not added to what there is")
        if view is not None:
            _show(client, wanted, limit, as_json=as_json, **shown)
            return 0
        if follow:
            _follow(client, wanted, most, as_json=as_json)
            return 0
        found, skipped = _newest(client, wanted, most, bodies=as_json)
        if most and not found:
            refuse_unknown(client, wanted)
        trouble = None if status is None else status.get("log_trouble")
        rows = sorted(found, key=lambda row: row["time"])  # ids follow the answers
    if as_json:
        for row in rows:
            _write_row(row)
    _tell_skipped(skipped, as_json=as_json)
    if as_json:
        return 0
    if rows:
        layout = _layout(rows)
        layout.write_head()
        for row in rows:
            layout.write_row(_cells(row))
    elif most and not skipped:
        output.note(f"no logged request matches {filter!r}" if filter else "no request was logged yet")
    if trouble is not None:
        output.note(f"of the latest requests the log says nothing: {trouble}")
    return 0


def _show(
    client: Client,
    filter: str,
    limit: int | None,
    *,
    as_json: bool,
    histogram: bool,
    interval: str | None,
    by: str,
    top: str | None,
    percentiles: bool,
    export: str | None,
    format: str | None,
    force: bool,
) -> None:
    """One of the views."""
    from mdslite.cli import log_figures

    if histogram:
        log_figures.show_histogram(client, filter, interval=interval, by=by, as_json=as_json)
    elif top is not None:
        log_figures.show_top(
            client, filter, field=top, limit=_LIMIT if limit is None else limit, as_json=as_json
        )
    elif percentiles:
        log_figures.show_percentiles(client, filter, as_json=as_json)
    elif export is not None:
        log_figures.export(
            client, filter, target=export, format=format, limit=limit, force=force, as_json=as_json
        )


def in_local_time(filter: str, now: datetime | None = None) -> str:
    """A filter whose moments without an offset, read in this machine's zone, are spelled with theirs.

    They go to the end, and blanks stay in their places, so that positions in errors are those of `filter`.
    """
    moved: list[str] = []

    def move(found: re.Match[str]) -> str:
        moment = _local(found[2].strip("\"'").strip(), now or datetime.now())
        if moment is None:
            return found[0]
        moved.append(f"{found[1]}={moment.isoformat()}")
        return " " * len(found[0])

    return " ".join([_MOMENT.sub(move, filter), *moved])


def parse_since(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A moment as the appliance reads it: what has no offset is of this machine's zone."""
    return None if value is None else local_moment(value)


def local_moment(text: str, now: datetime | None = None) -> str:
    """A moment without an offset, read in this machine's zone, with its offset; any other text as it is."""
    moment = _local(text.strip(), now or datetime.now())
    return text if moment is None else moment.isoformat()


def _local(text: str, now: datetime) -> datetime | None:
    """A moment of this machine's zone; None for a span, a number, one with an offset, or no moment at all."""
    if text.replace(".", "", 1).isdigit():  # unix seconds
        return None
    try:
        if _CLOCK.fullmatch(text):
            moment = datetime.fromisoformat(f"{now:%Y-%m-%d}T{text.zfill(5 if text.count(':') == 1 else 8)}")
            return (moment if moment <= now else moment - timedelta(days=1)).astimezone()
        moment = datetime.fromisoformat(text)
        return moment.astimezone() if moment.tzinfo is None else None
    except (ValueError, OverflowError, OSError):
        return None


def _newest(client: Client, filter: str, limit: int, *, bodies: bool) -> tuple[list[Row], list[str]]:
    """The newest `limit` rows, oldest first, page by page as the appliance hands them out; and the names of
    the log's files that could not be read."""
    from mdslite.asks import PAGE_MAX

    rows: list[Row] = []
    skipped: dict[str, None] = {}
    cursor: int | None = None
    while len(rows) < limit:
        most = min(limit - len(rows), PAGE_MAX)
        page = client.logs(filter, limit=most, before=cursor, bodies=bodies)
        rows.extend(page["rows"])
        skipped |= dict.fromkeys(page.get("skipped", []))
        cursor = page.get("next")
        if cursor is None or not page["rows"]:
            break
    return rows[::-1], list(skipped)


def _follow(client: Client, filter: str, limit: int, *, as_json: bool) -> None:
    with client.follow_logs(filter, bodies=as_json, skipped=True) as coming:
        there, skipped = _newest(client, filter, limit, bodies=as_json)
        _tell_skipped(skipped, as_json=as_json)
        if not there and (absence := find_absence(client, filter)) is not None:
            output.note(f"{absence.message}\nhint: {absence.hint}")  # and yet it may come
        layout = _layout(there)
        if not as_json:
            layout.write_head()
        for row in there:
            _write_row(row, None if as_json else layout)
        # What came between the two questions is in both answers.
        newest, told = there[-1]["id"] if there else 0, set(skipped)
        for line in coming:
            if "skipped" in line:
                _tell_skipped([name for name in line["skipped"] if name not in told], as_json=as_json)
                told.update(line["skipped"])
            elif line["id"] > newest:
                _write_row(line, None if as_json else layout)
    raise Unavailable("the appliance ended the log here", hint="mdslite ls says whether it still serves")


def _layout(rows: Sequence[Row]) -> output.Layout:
    return output.Layout(_COLUMNS, [_cells(row) for row in rows], typical=_TYPICAL)


def _write_row(row: Row, layout: output.Layout | None = None) -> None:
    """As a line of a table, or as JSON."""
    if layout is None:
        output.write_json(row, indent=None)
    else:
        layout.write_row(_cells(row))


def _tell_skipped(skipped: Sequence[str], *, as_json: bool) -> None:
    tell_skipped(skipped)
    if as_json and skipped:
        output.write_json({"skipped": skipped}, indent=None)


def _cells(row: Row) -> list[str]:
    model = f"{row['project']}/{row['model']}" if row.get("project") and row.get("model") else _asked(row)
    code = f"{row['status']}" if not row.get("code") else f"{row['status']} {row['code']}"
    confidence = row.get("confidence")
    return [
        _time(row["time"]),
        str(model or "-"),
        str(row.get("version") or "-"),
        code,
        output.number_text(row.get("latency_ms")),
        "-" if confidence is None else f"{confidence:.2f}",
        "S" if row.get("shadow") else "",
        str(row.get("request_id") or "-"),
    ]


def _asked(row: Row) -> str:
    """Which model a request was for that reached none, as a question, or its URL."""
    url = row.get("url") or ""
    found = _ASKED.match(url)
    return url if found is None else f"{found[1] or found[3]}/{found[2] or found[4]}?"


def _time(value: Any) -> str:
    """The time of day, to the millisecond; to the second with its date when it is another day's."""
    if not isinstance(value, int | float):
        return output.time_text(value)
    moment = datetime.fromtimestamp(value)
    today = datetime.now().date()
    if moment.date() == today:
        return moment.strftime("%H:%M:%S.%f")[:-3]
    return moment.strftime("%m-%d %H:%M:%S" if moment.year == today.year else "%Y-%m-%d %H:%M")
