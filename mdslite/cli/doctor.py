"""`mdslite doctor`: findings about the machine and the store, from the appliance or without one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mdslite import errors
from mdslite.cli import output
from mdslite.cli.options import DEFAULT_STORE, addressed_to, connect, json_option, placed_in, url_option
from mdslite.cli.usage import refuse_typed

Finding = Mapping[str, Any]

_SYMBOLS = {"ok": "✓", "warning": "!", "error": "✖"}


@click.command(
    epilog="""\b
Examples:
  mdslite doctor
  mdslite doctor --store /srv/mdslite    # that store, asking no appliance
  mdslite doctor --json

Exits 1 when something is broken; warnings alone exit 0."""
)
@click.option("--store", type=click.Path(), metavar="DIR", help=f"The store to check. [{DEFAULT_STORE}]")
@json_option
@url_option
def doctor(store: str | None, as_json: bool, url: str) -> int:
    """Say what is wrong with this machine's GPU, drivers and store, and how to mend it."""
    if store is not None:
        refuse_typed("beside --store", "url")
    findings = _ask_or_check(url) if store is None else _check(store, expected=True)
    if as_json:
        output.write_json(findings)
    else:
        for finding in findings:
            what = output.with_local_times(output.escape(finding["what"]))
            output.write_prose(f"{_SYMBOLS.get(finding['level'], '?')} {what}")
            if finding.get("hint") and finding["level"] != "ok":
                output.write_prose(f"  hint: {output.escape(finding['hint'])}")
    return 1 if any(finding["level"] == "error" for finding in findings) else 0


def _ask_or_check(url: str) -> list[Finding]:
    """What the appliance finds; without one, that there is none, and what this process finds by itself."""
    try:
        with connect(url) as client:
            client.status()  # for a stranger is not waited for as long as the store may take
            found = client.doctor()
    except errors.MdsliteError as exc:
        nobody = {"level": "warning", "what": exc.message, "hint": exc.hint}
        store = url.removeprefix("unix:") if url.startswith("unix:") else DEFAULT_STORE
        return [nobody, *_check(store)]
    there = [{**one, "hint": one["hint"] and addressed_to(url, one["hint"])} for one in found]
    return [{"level": "ok", "what": f"an appliance serves at {url}", "hint": None}, *there]


def _check(store: str, *, expected: bool = False) -> list[Finding]:
    """What this process finds by itself; commands in hints are about the store that was looked at."""
    from mdslite.runtimes.check import check_machine
    from mdslite.store.check import check_store

    return [
        {"level": one.level, "what": one.what, "hint": one.hint and placed_in(store, one.hint)}
        for one in (*check_machine(), *check_store(Path(store), expected=expected))
    ]
