"""`mdslite audit`: who changed something, or was refused."""

from __future__ import annotations

import click

from mdslite.cli import output
from mdslite.cli.keeper import Json, Keeper, keeper_of, store_option
from mdslite.cli.options import json_option, url_option

_PAGE_MAX = 1000  # client.PAGE_MAX
_COLUMNS = (
    output.Column("TIME"),
    output.Column("WHO"),
    output.Column("FROM"),
    output.Column("WHAT"),
    output.Column("STATUS", "right"),
    output.Column("REMARK", folds=True, below=True),
)


@click.command(
    epilog="""\b
Examples:
  mdslite audit
  mdslite audit --limit 100 --json
  mdslite audit --store ./.mdslite        # as the owner of the store

It has the calls that were to change something, and those that were refused for want of a token or a scope:
the last 10,000 of the former and 1,000 of the latter. Predictions are in mdslite logs.""",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", default=20, show_default=True, help="The newest N."
)
@store_option
@json_option
@url_option
def audit(limit: int, store: str | None, as_json: bool, url: str) -> int:
    """List who changed something or was refused, newest first."""
    with keeper_of(url, store) as keeper:
        lines = _newest(keeper, limit)
    if as_json:
        output.write_json(lines)
    elif not lines:
        output.note("nobody has changed anything yet")
    else:
        output.write_table(_COLUMNS, [_row(line) for line in lines])
    return 0


def _newest(keeper: Keeper, limit: int) -> list[Json]:
    found: list[Json] = []
    while len(found) < limit:
        before = found[-1]["id"] if found else None
        page = keeper.audit(limit=min(limit - len(found), _PAGE_MAX), before=before)
        if not page:
            break
        found.extend(page)
    return found


def _row(line: Json) -> list[object]:
    what = line["what"].replace("_", " ")
    remark = line["remark"] or line["target"]
    return [output.time_text(line["time"]), line["who"], line["origin"] or "-", what, line["status"], remark]
