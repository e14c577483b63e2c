"""`mdslite backup` and `mdslite restore`: a copy of the store while it serves, and the way back from one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mdslite.cli import output
from mdslite.cli.options import connect, json_option, url_option
from mdslite.cli.usage import refuse_typed
from mdslite.errors import InvalidRequest
from mdslite.sizes import size_text


@click.command(
    epilog="""\b
Examples:
  mdslite backup                          # into the store's own backups/
  mdslite backup /mnt/usb/edge-07.tar
  mdslite backup --log                    # with the request log
  mdslite backup --store ./.mdslite       # of a store that nothing serves"""
)
@click.argument("path", type=click.Path(), metavar="[PATH]", required=False)
@click.option("--log", is_flag=True, help="Take the request log along.")
@click.option("--store", type=click.Path(), metavar="DIR", help="Copy this store, with no appliance to ask.")
@json_option
@url_option
def backup(path: str | None, log: bool, store: str | None, as_json: bool, url: str) -> int:
    """Copy the store while it serves.

    The registry, the models, what is known of drift, comparisons, the queue of labels and the predictions to
    be answered later, with the answers that are still kept; the request log only with --log.
    """
    target = str(Path(path).resolve()) if path else None
    if store is not None:
        refuse_typed("beside --store", "url")
        made = _backup_here(Path(store), Path(target) if target else None, log=log)
    else:
        with connect(url) as client:
            made = client.backup(target, log=log)
    if as_json:
        output.write_json(made)
    else:
        output.write(f"{made['path']}   {size_text(made['size_bytes'])}")
        sizes = (f"{part} {size_text(size)}" for part, size in made["parts"].items())
        output.note(f"in it: {', '.join(sizes)}")
        there = f"{shlex.quote(made['path'])} --store {shlex.quote(made['store'])}"
        # The store is there by then, unless that is what was lost; what --force replaces is kept.
        output.note(f"restore it, with the appliance stopped: mdslite restore {there} --force")
    return 0


def _backup_here(store: Path, target: Path | None, *, log: bool) -> Mapping[str, Any]:
    from mdslite.store import backup as backups

    made = backups.backup(store, target, log=log)
    return {
        "path": str(made.absolute()),
        "store": str(store.absolute()),
        "size_bytes": made.stat().st_size,
        "parts": backups.measure(made),
    }


@click.command(
    epilog="""\b
Examples:
  mdslite restore .mdslite/backups/FILE.tar --store ./.mdslite --force
  mdslite restore /mnt/usb/edge-07.tar --store /srv/mdslite

The appliance on that store has to be stopped first. What was accepted to be answered later and
was still waiting when the backup was made is answered once more, and its webhook called."""
)
@click.argument("backup_path", type=click.Path(), metavar="BACKUP")
@click.option("--store", type=click.Path(), metavar="DIR", required=True, help="Where the store is to be.")
@click.option("--force", is_flag=True, help="Replace a store that is already there.")
@json_option
def restore(backup_path: str, store: str, force: bool, as_json: bool) -> int:
    """Put a backup in the place of a store."""
    from mdslite.store import restore as restores

    _check(Path(backup_path), Path(store))
    aside = restores.restore(Path(backup_path), Path(store), force=force)
    if as_json:
        output.write_json(
            {"store": str(Path(store).resolve()), "replaced": None if aside is None else str(aside)}
        )
    else:
        output.write(f"restored {store} from {backup_path}")
        if aside is not None:
            output.note(f"what was there is kept in {aside}")
        output.note(f"start it with: mdslite up --store {shlex.quote(store)}")
    return 0


def _check(path: Path, store: Path) -> None:
    """:raises InvalidRequest: there is no such backup, or it is a folder; the hint names the newest there"""
    if path.exists() and not path.is_dir():
        return
    from mdslite.store.recovery import list_backups, newest_of

    where = f"--store {shlex.quote(str(store))}"
    if path.is_dir():
        found = newest_of(path)
        hint = (
            "mdslite backup makes one"
            if found is None
            else f"mdslite restore {shlex.quote(str(found))} {where}"
        )
        raise InvalidRequest(f"{path} is a folder: expected a backup's file", hint=hint)
    newest = next(reversed(list_backups(store)), None)
    raise InvalidRequest(
        f"there is no {path}: expected a backup's file",
        hint="mdslite backup makes one" if newest is None else f"the newest of the store's own is {newest}",
    )
