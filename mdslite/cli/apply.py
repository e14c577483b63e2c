"""`mdslite apply`: the plan of a file, the question, and the progress. `undo` shares all but the file."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdslite import errors
from mdslite.cli import output
from mdslite.cli.files import unreadable
from mdslite.cli.options import addressed_to, connect, json_option, read_once, url_option, yes_option
from mdslite.cli.progress import follow, showing
from mdslite.hosts import author

if TYPE_CHECKING:
    from mdslite.client import Client
    from mdslite.planning import Tense

CHANGED = 2  # --dry-run: something would change

_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_DEPLOYMENTS = re.compile(rb"^(?:\{\s*)?[\"']?deployments[\"']?\s*:", re.MULTILINE)
_READ_MOST, _READ_BYTES = 50, 1 << 16  # files of a folder, and of each, that are looked at
_INIT_HINT = "mdslite init MODEL writes one for a model"
# What an apply that fails so is kept for.
_KEPT = {errors.ArtifactError.code, errors.LoadFailed.code, errors.TooLarge.code}


@click.command(
    epilog="""\b
Examples:
  mdslite apply -f deployments.yaml
  mdslite apply -f deployments.yaml --dry-run  # exits 2 where it changes
  mdslite apply -f deployments.yaml --yes --reason 'v2 to a tenth'
  mdslite apply -f deployments.yaml --prune    # deletes what it does not name

Versions that are missing from the file are deleted, in the models that the file names. All that is
added loads and warms up first; then all routes switch together, or none does.""",
)
@click.option(
    "-f", "--file", "path", required=True, multiple=True, callback=read_once, metavar="FILE",
    help="The deployments.yaml; - is stdin.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only show the plan; exit 2 when something would change.")
@click.option("--prune", is_flag=True, help="Also delete every model that the file does not name.")
@click.option("--reason", metavar="TEXT", help="Kept with the revision.")
@yes_option
@json_option
@url_option
def apply(
    path: str, dry_run: bool, prune: bool, reason: str | None, yes: bool, as_json: bool, url: str
) -> int:
    """Bring what is deployed in line with a file: show the plan, ask, apply."""
    body = {**read_source(path), "prune": prune}
    again = f"mdslite apply -f {shlex.quote(path)}{' --prune' if prune else ''} --yes"
    with connect(url) as client:
        return change(client, body, reason=reason, yes=yes, dry_run=dry_run, as_json=as_json, otherwise=again)


def read_source(path: str) -> dict[str, Any]:
    """The parts of a request that carry a file: its text, its name and the folder its paths start from.

    :raises InvalidRequest: when it cannot be read
    """
    if path == "-":
        return {"source": sys.stdin.read(), "file": "stdin", "base": os.getcwd()}
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except IsADirectoryError as exc:
        inside = _deployments_in(file)
        raise errors.InvalidRequest(
            f"{path} is a folder: expected a deployments file",
            hint=_INIT_HINT if inside is None else f"mdslite apply -f {shlex.quote(str(inside))}",
        ) from exc
    except OSError as exc:
        raise unreadable(path, exc, hint=_INIT_HINT) from exc
    except UnicodeDecodeError as exc:
        raise errors.InvalidRequest(
            f"{path} is no UTF-8 text: expected a deployments.yaml",
            hint=f"to serve a model file: mdslite up {shlex.quote(path)}",
        ) from exc
    return {"source": text, "file": path, "base": str(file.resolve().parent)}


def _deployments_in(folder: Path) -> Path | None:
    """The file in a folder that is likely to be meant: by its name, or the only one that has deployments."""
    try:
        found = sorted(one for one in folder.iterdir() if one.suffix.lower() in _SUFFIXES and one.is_file())
    except OSError:
        return None
    for one in found:
        if one.stem.lower() == "deployments":
            return one
    telling = [one for one in found[:_READ_MOST] if _has_deployments(one)]
    return telling[0] if len(telling) == 1 else None


def _has_deployments(file: Path) -> bool:
    try:
        with file.open("rb") as content:
            return _DEPLOYMENTS.search(content.read(_READ_BYTES)) is not None
    except OSError:
        return False


def change(
    client: Client,
    body: Mapping[str, Any],
    *,
    reason: str | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    otherwise: str,
) -> int:
    """Show the plan of `body`, ask, apply it and show the progress; the exit code.

    `otherwise` is the command that does the same without asking.
    """
    from mdslite.planning import as_planned

    wanted = {**body, "reason": reason, "author": author()}
    with showing(several=True) as progress:
        made = follow(client.follow_plan(body), progress, otherwise="mdslite ls")
    if made["event"] == "result":
        # The apply fails as its plan did, and is kept as a failed revision: that was said yes to.
        if yes and not dry_run and made["code"] in _KEPT:
            return _carry_out(client, wanted, None, as_json=as_json)
        _write_told(made, made.get("diff"), [], as_json=as_json)
        return _tell_failure(made, client.url)
    plan = {name: value for name, value in made.items() if name != "event"}
    if not as_json:
        write_plan(plan)
    if dry_run or not plan["changed"]:
        if as_json:
            output.write_json({"plan": plan, "steps": [], "result": None})
        return CHANGED if dry_run and plan["changed"] else 0
    if not yes and not output.confirm("Apply?", otherwise=otherwise):
        if as_json:
            output.write_json({"plan": plan, "steps": [], "result": None})
        output.note("nothing was applied")
        return 1
    return _carry_out(client, as_planned(wanted, plan), plan, as_json=as_json)


def write_plan(plan: Mapping[str, Any], *, tense: Tense = "will") -> None:
    from mdslite.planning import render_plan

    if plan["models"]:
        output.write(render_plan(plan, width=output.width_of(sys.stdout), tense=tense))
    if not plan["changed"]:
        output.write("nothing would change")


def _carry_out(
    client: Client, wanted: Mapping[str, Any], plan: Mapping[str, Any] | None, *, as_json: bool
) -> int:
    steps: list[Mapping[str, Any]] = []
    with showing(several=plan is None or _models_changed(plan) > 1) as progress:
        try:
            result = follow(
                client.apply(wanted), progress, otherwise="mdslite history --limit 1", ended=steps
            )
        except KeyboardInterrupt:
            going_on = "\nthe appliance goes on with it; mdslite history tells how it ends"
            output.note(addressed_to(client.url, going_on))
            raise
    if as_json or plan is None:
        _write_told(result, plan or result.get("diff"), steps, as_json=as_json)
    return _conclude(result, client.url, as_json=as_json)


def _write_told(
    result: Mapping[str, Any],
    plan: Mapping[str, Any] | None,
    steps: Sequence[Mapping[str, Any]],
    *,
    as_json: bool,
) -> None:
    """What was to be done, as far as it is known; as JSON with the steps that were taken and how it ended."""
    if as_json:
        ended = {name: value for name, value in result.items() if name != "diff"}
        output.write_json({"plan": plan, "steps": steps, "result": ended})
    elif plan is not None:
        from mdslite.planning import tense_of

        write_plan(plan, tense=tense_of(result["state"]))


def _tell_failure(result: Mapping[str, Any], url: str) -> int:
    from mdslite.replies import error_from

    error = error_from(result)
    if error.hint is not None:
        error.hint = addressed_to(url, error.hint)
    output.write_error(error)
    return 1


def _models_changed(plan: Mapping[str, Any]) -> int:
    return sum(any(step["action"] != "RETAIN" for step in model["steps"]) for model in plan["models"])


def _conclude(result: Mapping[str, Any], url: str, *, as_json: bool) -> int:
    if result["state"] == "failed":
        _tell_failure(result, url)
        number = result.get("revision")
        failed = (
            "nothing was switched" if number is None else f"revision {number} failed, nothing was switched"
        )
        output.note(f"{failed}: what served before still serves")
        return 1
    if as_json:
        return 0
    if result["state"] == "unchanged":
        output.write("nothing changed")
    else:
        seconds = output.number_text(result.get("seconds"))
        back = addressed_to(url, "mdslite undo")
        output.write(f"revision {result['revision']} in {seconds} s   undo: {back}")
    return 0
