"""`mdslite replay`: logged requests sent to another version once more."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mdslite.cli import output
from mdslite.cli.compare import write_comparison
from mdslite.cli.logs import in_local_time
from mdslite.cli.options import addressed_to, connect, json_option, url_option
from mdslite.cli.target import Target, parse_target
from mdslite.cli.usage import refuse_ignored
from mdslite.hosts import author

if TYPE_CHECKING:
    from mdslite.client import Client

Json = Mapping[str, Any]

_MODES = {
    "as_list": (),
    "shown": (),
    "cancelled": (),
    "": ("filter", "target", "rate", "compare", "limit", "detach"),
}
_LOOK_S = 0.25
_COLUMNS = (
    output.Column("ID", "right"),
    output.Column("STARTED"),
    output.Column("TO"),
    output.Column("STATE"),
    output.Column("SENT", "right"),
    output.Column("FAILED", "right"),
    output.Column("FILTER", folds=True),
)


def parse_version(ctx: click.Context, param: click.Parameter, value: str | None) -> Target | None:
    """`PROJECT/MODEL@VERSION`."""
    if value is None:
        return None
    found = parse_target(ctx, param, value)
    if found.version is None:
        raise click.BadParameter(f"{value!r} names no version: expected PROJECT/MODEL@VERSION", ctx, param)
    return found


@click.command(
    epilog="""\b
Examples:
  mdslite replay 'since=1h' --to mail/spamfilter@v3 --compare
  mdslite replay 'status=200 since=24h' --to mail/spamfilter@v3 --rate 50/s
  mdslite replay 'since=10m' --to mail/spamfilter@v3 --rate 2x --detach
  mdslite replay --list
  mdslite replay --show 7

Without project= and model=, FILTER means the requests to the version's own model. They go behind all other
work of the appliance, so it can take longer than the rate says. Ctrl-C ends the replay, and so does a restart
of the appliance; what came of it is kept. Only requests whose whole body is in the log can be sent."""
)
@click.argument("filter", metavar="['FILTER']", default="", required=False)
@click.option("--to", "target", callback=parse_version, metavar="PROJECT/MODEL@VERSION", help="Where to.")
@click.option(
    "--rate",
    metavar="RATE",
    default="1x",
    show_default=True,
    help="2x: twice the pace of before; 50/s: so many a second.",
)
@click.option("--compare", is_flag=True, help="Put the answers beside those of before.")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    metavar="N",
    default=10_000,
    show_default=True,
    help="At most N requests, the oldest.",
)
@click.option("--detach", is_flag=True, help="Begin it, and do not wait for its end.")
@click.option("--list", "as_list", is_flag=True, help="List replays.")
@click.option("--show", "shown", type=click.IntRange(min=1), metavar="ID", help="Show one.")
@click.option("--cancel", "cancelled", type=click.IntRange(min=1), metavar="ID", help="End one.")
@json_option
@url_option
def replay(
    filter: str,
    target: Target | None,
    rate: str,
    compare: bool,
    limit: int,
    detach: bool,
    as_list: bool,
    shown: int | None,
    cancelled: int | None,
    as_json: bool,
    url: str,
) -> int:
    """Send logged requests to another version, behind everybody else's."""
    refuse_ignored(_MODES)
    with connect(url) as client:
        if as_list:
            _list(client.replays(), as_json=as_json)
            return 0
        if shown is not None or cancelled is not None:
            found = client.replay_progress(shown) if shown else client.cancel_replay(cancelled or 0)
            return _write(found, as_json=as_json)
        if target is None:
            raise click.UsageError("--to PROJECT/MODEL@VERSION is missing")
        begun = client.replay(
            in_local_time(filter),
            target.project,
            target.model,
            target.version or "",
            rate=rate,
            compare=compare,
            limit=limit,
            author=author(),
        )
        if detach:
            if as_json:
                output.write_json(begun)
            else:
                output.write(f"replay {begun['id']} has begun")
                output.note(addressed_to(url, f"see it: mdslite replay --show {begun['id']}"))
            return 0
        return _write(_wait(client, begun), as_json=as_json)


def _wait(client: Client, found: Json) -> Json:
    """Until it ends; Ctrl-C ends it."""
    live = sys.stderr.isatty()
    try:
        while found["ended_at"] is None:
            if live:
                output.note_over(_progress(found))
            time.sleep(_LOOK_S)
            found = client.replay_progress(found["id"])
    except KeyboardInterrupt:
        found = client.cancel_replay(found["id"])
    finally:
        if live:
            output.note_over("")
    return found


def _progress(found: Json) -> str:
    if found["state"] == "counting":
        return f"replay {found['id']}: looking through the log"
    late = f", {found['behind_s']:.0f} s behind its pace" if found["behind_s"] >= 1 else ""
    wrong = f", {found['failed']} failed" if found["failed"] else ""
    return f"replay {found['id']}: {found['sent']} of {found['total']} sent{wrong}{late}"


def _write(found: Json, *, as_json: bool) -> int:
    good = found["state"] != "failed"
    if as_json:
        output.write_json(found)
        return 0 if good else 1
    target = f"{found['project']}/{found['model']}@{found['version']}"
    if found["state"] == "done" and not found["matched"]:
        output.write(f"replay {found['id']} to {target}: no logged request matches, so nothing was sent")
        output.note("see what there is: mdslite logs 'FILTER'")
        return 0
    sent, total = found["sent"], found["total"]
    output.write_fields(
        {
            "replay": f"{found['id']} to {target} at {found['rate']}",
            "state": found["state"] + (f": {found['message']}" if found["message"] else ""),
            "matched": _matched(found),
            "left out": _left_out(found) or None,
            "sent": f"{sent} of {total}" if sent < total else f"{sent}",
            "answered": f"{found['answered']}, {found['failed']} failed, {found['refused']} refused",
        }
    )
    if found["state"] == "done" and not total:
        output.note("nothing was sent: the log kept no whole body of these requests")
    elif found["comparison"] is not None:
        output.write()
        write_comparison(found["comparison"])
    elif found["compare"] and found["ended_at"]:
        output.note("nothing to compare: no request was answered")
    return 0 if good else 1


def _matched(found: Json) -> str:
    """How many there are, and of how many it is known whether they have a body."""
    matched, bodies = found["matched"], found["with_body"]
    if found["state"] == "counting":
        return "not counted yet"
    if found.get("limited"):
        return f"{matched} logged requests; of these the first {bodies} with a body were looked at"
    return f"{matched} logged requests, {bodies} of them with a body"


def _left_out(found: Json) -> str:
    parts = []
    if found["truncated"]:
        parts.append(f"{found['truncated']} whose bodies were cut")
    if found["unreadable"]:
        parts.append(f"{found['unreadable']} that cannot be read again")
    return ", ".join(parts)


def _list(found: Sequence[Json], *, as_json: bool) -> None:
    if as_json:
        output.write_json(found)
        return
    if not found:
        output.note("there has been no replay")
        return
    rows = [
        [
            one["id"],
            output.time_text(one["started_at"]),
            f"{one['project']}/{one['model']}@{one['version']}",
            one["state"],
            f"{one['sent']}/{one['total']}",
            one["failed"],
            one["filter"],
        ]
        for one in found
    ]
    output.write_table(_COLUMNS, rows)
