"""`mdslite load` and `mdslite unload`: what is deployed in memory, or out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mdslite.cli import output
from mdslite.cli.options import addressed_to, connect, json_option, url_option
from mdslite.cli.target import Target, parse_model

if TYPE_CHECKING:
    from mdslite.client import Client


@click.command(
    epilog="""\b
Examples:
  mdslite load mail/spamfilter
  mdslite load mail/spamfilter --json       # the model as it is then

Versions that failed to load are tried again. All of them load, or none does."""
)
@click.argument("target", metavar="PROJECT/MODEL", callback=parse_model)
@json_option
@url_option
def load(target: Target, as_json: bool, url: str) -> int:
    """Load the versions of a deployed model that are not in memory."""
    with connect(url) as client:
        client.load(target.project, target.model)
        _show(client, target, as_json)
    return 0


@click.command(
    epilog="""\b
Examples:
  mdslite unload mail/spamfilter
  mdslite unload mail/spamfilter --json     # the model as it is then

What is in progress is answered. Requests get 503 until the model is loaded again: by mdslite load, by an
apply that changes it, or by a start of the appliance. No revision is made."""
)
@click.argument("target", metavar="PROJECT/MODEL", callback=parse_model)
@json_option
@url_option
def unload(target: Target, as_json: bool, url: str) -> int:
    """Take a model's versions out of memory; they stay deployed."""
    with connect(url) as client:
        client.unload(target.project, target.model)
        _show(client, target, as_json)
    if not as_json:
        output.note(addressed_to(url, f"bring it back: mdslite load {target}"))
    return 0


def _show(client: Client, target: Target, as_json: bool) -> None:
    found = client.model(target.project, target.model)
    if as_json:
        output.write_json(found)
        return
    columns = [output.Column("VERSION"), output.Column("STATE")]
    output.write_table(
        columns,
        [(one["version"], one["state"]) for one in found["versions"] if one["state"] != "draining"],
    )
