"""What is named on a command line: `PROJECT/MODEL@VERSION`, a project, a moment.

The `parse_` functions are click callbacks: what they return is what the command gets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from mdslite import errors
from mdslite.cli.usage import Hinted

if TYPE_CHECKING:
    from mdslite.client import Client

_NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
_TARGET = re.compile(f"(?P<project>{_NAME})/(?P<model>{_NAME})(?:@(?P<version>{_NAME}))?")
_SCOPE = re.compile(f"(?P<project>{_NAME})(?:/(?P<model>{_NAME}))?")
_CLOCK = re.compile(r"\d\d?:\d\d(:\d\d)?")


@dataclass(frozen=True, slots=True)
class Target:
    project: str
    model: str
    version: str | None = None

    def __str__(self) -> str:
        name = f"{self.project}/{self.model}"
        return name if self.version is None else f"{name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Scope:
    """What `ls` is narrowed to."""

    project: str
    model: str | None = None

    def __str__(self) -> str:
        return self.project if self.model is None else f"{self.project}/{self.model}"


def parse_target(ctx: click.Context, param: click.Parameter, value: str) -> Target:
    """`PROJECT/MODEL`, or `PROJECT/MODEL@VERSION`."""
    return _read(ctx, param, value, "PROJECT/MODEL or PROJECT/MODEL@VERSION")


def _read(ctx: click.Context, param: click.Parameter, value: str, expected: str) -> Target:
    found = _TARGET.fullmatch(value)
    if found is None and re.fullmatch(_NAME, value):
        words = f"{value!r} names a project and no model: expected {expected}"
        raise Hinted(words, ctx, param, hint=f"mdslite ls {value}")
    if found is None:
        raise click.BadParameter(f"{value!r} names no model: expected {expected}", ctx, param)
    return Target(found["project"], found["model"], found["version"])


def parse_model(ctx: click.Context, param: click.Parameter, value: str) -> Target:
    """`PROJECT/MODEL`, for what concerns all its versions."""
    found = _read(ctx, param, value, "PROJECT/MODEL")
    if found.version is not None:
        raise click.BadParameter(
            f"{value!r} names a version: expected PROJECT/MODEL, as this is for all of its versions",
            ctx,
            param,
        )
    return found


def parse_scope(ctx: click.Context, param: click.Parameter, value: str | None) -> Scope | None:
    """`PROJECT`, or `PROJECT/MODEL`."""
    if value is None:
        return None
    found = _SCOPE.fullmatch(value)
    if found is None:
        raise click.BadParameter(f"{value!r}: expected PROJECT or PROJECT/MODEL", ctx, param)
    return Scope(found["project"], found["model"])


def require_scope(client: Client, scope: Scope) -> list[dict[str, Any]]:
    """The models that the scope names.

    :raises NotFound: there is none
    :raises StillLoading: that is not known yet
    """
    found = [one for one in client.models(scope.project) if scope.model in (None, one["model"])]
    if found:
        return found
    if is_loading(client):
        raise errors.StillLoading(
            f"{scope} is not here yet: mdslite was just started, and is still loading what it serves",
            hint="mdslite ls shows what is there",
        )
    said = f"nothing is deployed as {scope}"
    names = [f"{one['project']}/{one['model']}" for one in client.models()]
    meant = [name for name in names if name.partition("/")[2] == str(scope)]  # a model, without its project
    meant = meant or get_close_matches(
        str(scope), [*names, *(name.partition("/")[0] for name in names)], n=1, cutoff=0.85
    )
    if not meant:
        raise errors.NotFound(said, hint="mdslite ls")
    raise errors.NotFound(f"{said}: did you mean {' or '.join(meant)}?", hint=f"mdslite ls {meant[0]}")


def is_loading(client: Client) -> bool:
    """Is what the appliance serves from its start on still being loaded?"""
    status = client.status()
    return not (status["ready"] or status["draining"])


def parse_moment(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """A moment as unix seconds: ISO 8601, in this machine's zone unless it names one, or HH:MM of today."""
    if value is None:
        return None
    text = value.strip()
    try:
        if _CLOCK.fullmatch(text):
            hour, _, rest = text.partition(":")
            text = f"{datetime.now():%Y-%m-%d} {hour:0>2}:{rest}"
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as exc:
        raise click.BadParameter(
            f"{value!r} is no time: expected like '2026-11-17 14:03', or '14:03' for today", ctx, param
        ) from exc
