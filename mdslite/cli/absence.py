"""What to say of what the request log does not show. Nothing of what a filter names: a model that never was
is a mistake, one that nobody asked is not. A file that could not be read: its rows are missing, whatever is
shown."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from mdslite.cli import output
from mdslite.cli.target import is_loading
from mdslite.errors import NotFound

if TYPE_CHECKING:
    from mdslite.client import Client

_NAMES = ("project", "model", "version")
_FILES_MOST = 5  # that are named in a line


def tell_skipped(skipped: Sequence[str]) -> None:
    """Say which of the log's files could not be read, if any."""
    if skipped:
        files = ", ".join(skipped[:_FILES_MOST])
        if len(skipped) > _FILES_MOST:
            files += f" and {len(skipped) - _FILES_MOST} more"
        output.note(
            f"request log: {files} could not be read, so what is logged there is missing here\n"
            "hint: mdslite doctor"
        )


def tell_no_log(status: Mapping[str, Any], so: str) -> bool:
    """Say what follows where an appliance of this status keeps no request log; whether it keeps one."""
    keeps_log: bool = status["keeps_log"]
    if not keeps_log:
        output.note(f"no request log is kept (mdslite up --no-log), so {so}")
    return keeps_log


def refuse_unknown(client: Client, filter: str) -> None:
    """:raises NotFound: nothing passes the filter, as what it names is neither deployed nor in the log"""
    error = find_absence(client, filter)
    if error is not None:
        raise error


def find_absence(client: Client, filter: str) -> NotFound | None:
    """Of a filter that nothing passes: an error when it names what is neither deployed nor in the log, all of
    which could be read."""
    named = _named(filter)
    if not named:
        return None
    models = client.models()
    if any(_has(one, named) for one in models):
        return None
    terms = " ".join(f"{name}={value}" for name, value in named.items())
    logged = client.logs(terms, limit=1, bodies=False)
    if logged["rows"] or logged.get("skipped") or is_loading(client):
        return None  # it was deployed and is asked for, or may have been, or may be soon
    label = ", ".join(f"{name} {value}" for name, value in named.items())
    better = _nearest(models, named)
    said = f"nothing is deployed as {label}, and the log has no request of it"
    if better is None:
        return NotFound(said, hint="mdslite ls")
    return NotFound(f"{said}: did you mean {better}?", hint=f"mdslite logs {shlex.quote(better)}")


def _named(filter: str) -> dict[str, str]:
    """The project, model and version that a filter wants; none of them where it contradicts itself."""
    from mdslite.store.filters import parse

    found = parse(filter, now=time.time()).terms  # the server has read it already
    terms = [(term.field, str(term.value)) for term in found if term.operator == "=" and term.field in _NAMES]
    named = dict(terms)
    return named if all(term in named.items() for term in terms) else {}


def _has(model: Mapping[str, Any], named: Mapping[str, str]) -> bool:
    versions = [one["version"] for one in model["versions"]]
    return all(model[name] == named.get(name, model[name]) for name in ("project", "model")) and (
        named.get("version", "") in ("", *versions)
    )


def _nearest(models: Sequence[Mapping[str, Any]], named: Mapping[str, str]) -> str | None:
    """The terms with the one name that is near to a deployed one in its place."""
    there = {
        "project": {one["project"] for one in models},
        "model": {one["model"] for one in models},
        "version": {one["version"] for model in models for one in model["versions"]},
    }
    better = dict(named)
    for name, value in named.items():
        near = get_close_matches(value, there[name], n=1, cutoff=0.6)
        if not near:
            return None
        better[name] = near[0]
    if better == named or not any(_has(one, better) for one in models):
        return None
    return " ".join(f"{name}={value}" for name, value in better.items())
