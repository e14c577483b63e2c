"""`mdslite history` and `mdslite undo`: what was applied, by whom and why, and the way back."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mdslite.cli import output
from mdslite.cli.apply import change
from mdslite.cli.options import addressed_to, connect, json_option, url_option, yes_option
from mdslite.cli.usage import refuse_ignored
from mdslite.errors import clip

if TYPE_CHECKING:
    from mdslite.client import Client

Json = Mapping[str, Any]

_COLUMNS = (
    output.Column("REV", "right"),
    output.Column("TIME"),
    output.Column("AUTHOR", folds=True),
    output.Column("STATE"),
    output.Column("CHANGES"),
    output.Column("REASON", folds=True, below=True),
)

_WHY = 140  # characters of a reason in a list: two lines


@click.command(
    epilog="""\b
Examples:
  mdslite history
  mdslite history 3          # one revision: its diff and the applied file
  mdslite history --json"""
)
@click.argument("revision", metavar="[REV]", type=click.IntRange(min=1), required=False)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", default=20, show_default=True, help="The newest N."
)
@json_option
@url_option
def history(revision: int | None, limit: int, as_json: bool, url: str) -> int:
    """List revisions, newest first, or show one in full."""
    refuse_ignored({"revision": (), "": ("limit",)})
    with connect(url) as client:
        if revision is not None:
            found = client.revision(revision)
        else:
            revisions = _newest(client, limit)
    if as_json:
        output.write_json(found if revision is not None else revisions)
    elif revision is not None:
        _write_revision(found)
    elif not revisions:
        output.note("nothing has been applied yet")
        output.note(addressed_to(url, "hint: mdslite apply -f deployments.yaml"))
    else:
        _write_revisions(revisions)
    return 0


@click.command(
    epilog="""\b
Examples:
  mdslite undo               # the state before the last revision
  mdslite undo 3             # the state after revision 3
  mdslite undo 3 --yes --reason 'v2 was slower'

Going back is a revision of its own, so it can be undone too."""
)
@click.argument("revision", metavar="[REV]", type=click.IntRange(min=0), required=False)
@click.option("--dry-run", is_flag=True, help="Only show the plan; exit 2 when something would change.")
@click.option("--reason", metavar="TEXT", help="Kept with the new revision.")
@yes_option
@json_option
@url_option
def undo(revision: int | None, dry_run: bool, reason: str | None, yes: bool, as_json: bool, url: str) -> int:
    """Go back to the state after REV, by default the one before the last revision. Shows the plan first."""
    body = {"revision": "previous" if revision is None else revision}
    again = "mdslite undo --yes" if revision is None else f"mdslite undo {revision} --yes"
    with connect(url) as client:
        return change(client, body, reason=reason, yes=yes, dry_run=dry_run, as_json=as_json, otherwise=again)


def _newest(client: Client, limit: int) -> list[Json]:
    from mdslite.asks import PAGE_MAX

    found: list[Json] = []
    while len(found) < limit:
        before = found[-1]["id"] if found else None
        page = client.revisions(limit=min(limit - len(found), PAGE_MAX), before=before)
        if not page:
            break
        found.extend(page)
    return found


def _write_revisions(revisions: Sequence[Json]) -> None:
    from mdslite.planning import why_text

    rows = [
        [
            one["id"],
            output.time_text(one["time"]),
            one.get("author") or "-",
            one["state"],
            _summary(one.get("summary") or {}),
            _in_short(why_text(one)),
        ]
        for one in revisions
    ]
    output.write_table(_COLUMNS, rows)


def _in_short(why: str) -> str:
    """The beginning of a reason, which may be a failure with all that led to it."""
    first, *more = why.strip().splitlines() or [""]
    return clip(f"{first}…" if more else first, _WHY)


def _summary(counts: Json) -> str:
    signs = {"add": "+", "update": "~", "delete": "x"}
    return " ".join(f"{sign}{counts[name]}" for name, sign in signs.items() if counts.get(name)) or "none"


def _write_revision(found: Json) -> None:
    from mdslite.planning import render_plan, tense_of

    fields = {
        "revision": found["id"],
        "time": output.time_text(found["time"]),
        "author": found.get("author"),
        "state": found["state"],
        "reason": found.get("reason"),
        "error": found.get("error"),
    }
    output.write_fields({name: value for name, value in fields.items() if value != ""})
    if found.get("diff") and found["diff"]["models"]:
        output.write()
        width, tense = output.width_of(sys.stdout), tense_of(found["state"])
        output.write(render_plan(found["diff"], width=width, tense=tense))
    if found.get("source"):
        output.write()
        output.write(found["source"].rstrip("\n"))
