"""`mdslite doctor`: findings about the machine and the store, from the appliance or without one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from mdslite import errors
from mdslite.cli import output
from mdslite.cli.options import connect, json_option, url_option

DEFAULT_STORE = "./.mdslite"

_SYMBOLS = {"ok": "✓", "warning": "!", "error": "✖"}


@click.command(
    epilog="""\b
Examples:
  mdslite doctor
  mdslite doctor --store /srv/mdslite     # that store, whether or not it is being served
  mdslite doctor --json

Exits 1 when something is broken; warnings alone exit 0."""
)
@click.option("--store", type=click.Path(), metavar="DIR", help=f"The store to check. [{DEFAULT_STORE}]")
@json_option
@url_option
def doctor(store: str | None, as_json: bool, url: str) -> int:
    """Say what is wrong with this machine's GPU, drivers and store, and how to mend it."""
    findings = _unique([*_ask(url), *_check_machine(), *_check_store(store)])
    if as_json:
        output.write_json(findings)
    else:
        for finding in findings:
            output.write(f"{_SYMBOLS.get(finding['level'], '?')} {output.escape(finding['what'])}")
            if finding.get("hint") and finding["level"] != "ok":
                output.write(f"  hint: {output.escape(finding['hint'])}")
    return 1 if any(finding["level"] == "error" for finding in findings) else 0


def _ask(url: str) -> list[Mapping[str, Any]]:
    """What the appliance finds, headed by whether there is one."""
    try:
        with connect(url) as client:
            found = client.doctor()
    except errors.MdsliteError as exc:
        return [{"level": "warning", "what": exc.message, "hint": exc.hint}]
    return [{"level": "ok", "what": f"an appliance serves at {url}", "hint": None}, *found]


def _check_machine() -> list[Mapping[str, Any]]:
    from mdslite.runtimes.check import check_machine

    return [_plain(finding) for finding in check_machine()]


def _check_store(store: str | None) -> list[Mapping[str, Any]]:
    from mdslite.store.check import check_store

    path = Path(store or DEFAULT_STORE)
    if not path.exists():
        if store is None:
            return []  # nothing was ever served from this folder
        raise errors.NotFound(f"there is no store at {store}", hint=f"mdslite up --store {store} makes one")
    return [_plain(finding) for finding in check_store(path)]


def _plain(finding: Any) -> Mapping[str, Any]:
    return {"level": finding.level, "what": finding.what, "hint": finding.hint}


def _unique(findings: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    seen: dict[tuple[str, str], Mapping[str, Any]] = {}
    for finding in findings:
        seen.setdefault((finding["level"], finding["what"]), finding)
    return list(seen.values())
