"""`mdslite rollout`: step a version up while its gates hold, and see or change how that goes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import click

from mdslite.cli import output
from mdslite.cli.options import addressed_to, connect, json_option, url_option
from mdslite.cli.target import Target, parse_model
from mdslite.cli.usage import refuse_typed
from mdslite.hosts import author

Json = Mapping[str, Any]

_ACTIONS = ("pause", "resume", "promote", "abort")
_WISH = ("steps", "every_s", "gates", "ungated", "reason")  # what a rollout is begun with
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)")
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SIGNS = {"pass": "✓", "fail": "✖", "open": "◌"}


def parse_span(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """`10m`, `2h`, `90s` or `1d`, in seconds."""
    found = _SPAN.fullmatch(value.strip())
    if found is None:
        raise click.BadParameter(f"{value!r}: expected a span such as 90s, 10m, 2h or 1d", ctx, param)
    return float(found[1]) * _UNITS_S[found[2]]


def parse_steps(ctx: click.Context, param: click.Parameter, value: str) -> list[float]:
    """`5,25,50,100`."""
    try:
        steps = [float(part) for part in value.split(",")]
    except ValueError:
        steps = [math.nan]
    if not all(map(math.isfinite, steps)):
        raise click.BadParameter(
            f"{value!r}: expected percentages with commas, such as 5,25,50,100", ctx, param
        )
    return steps


@click.command(
    epilog="""\b
Examples:
  mdslite rollout mail/spamfilter v2 --steps 5,25,50,100 --every 10m \\
      --gate 'error_rate<1%' --gate 'p99<1.2x' --gate 'agreement>95%'
  mdslite rollout mail/spamfilter           # how it goes
  mdslite rollout mail/spamfilter pause     # or resume, promote, abort

Gates: error_rate, p50, p99, latency, confidence, agreement; < or >; %, ms, s, or x times the other
versions' figure. One passes once its 95 % interval leaves out the limit, and fails once its 99.9 %
interval does; one that fails puts the weights of before back at once. Every step is a revision.
A shadow is none while it is rolled out; after an abort, or a gate that failed, it is a shadow again,
unless somebody else has changed it meanwhile."""
)
@click.argument("target", metavar="PROJECT/MODEL", callback=parse_model)
@click.argument("version", metavar="[VERSION|pause|resume|promote|abort]", required=False)
@click.option(
    "--steps",
    metavar="P,P,...",
    default="5,25,50,100",
    show_default=True,
    callback=parse_steps,
    help="Percentages of the model's traffic, one after the other.",
)
@click.option(
    "--every",
    "every_s",
    metavar="SPAN",
    default="10m",
    show_default=True,
    callback=parse_span,
    help="How long each lasts.",
)
@click.option("--gate", "gates", multiple=True, metavar="GATE", help="What must hold; may be repeated.")
@click.option("--ungated", is_flag=True, help="Without gates, step it up whatever it does.")
@click.option("--reason", default="", metavar="TEXT", help="Kept with the rollout.")
@json_option
@url_option
def rollout(
    target: Target,
    version: str | None,
    steps: list[float],
    every_s: float,
    gates: tuple[str, ...],
    ungated: bool,
    reason: str,
    as_json: bool,
    url: str,
) -> int:
    """Step a version up while its gates hold, and back where one fails."""
    if version is None or version in _ACTIONS:
        refuse_typed("without a VERSION" if version is None else f"beside {version}", *_WISH)
    with connect(url) as client:
        if version is None:
            found = client.rollout(target.project, target.model)
        elif version in _ACTIONS:
            found = client.change_rollout(target.project, target.model, version, author=author())
        else:
            found = client.begin_rollout(
                target.project,
                target.model,
                version,
                steps=steps,
                every_s=every_s,
                gates=list(gates),
                ungated=ungated,
                reason=reason,
                author=author(),
            )
    if as_json:
        output.write_json(found)
        return 0
    _write(found)
    if found["state"] == "running" and not found["gates"]:
        output.note("no gates: nothing but you will stop it")
    if found["state"] == "running":
        output.note(addressed_to(url, f"watch it: mdslite rollout {target.project}/{target.model}"))
    return 0


def _write(found: Json) -> None:
    steps = " → ".join(
        f"[{share:g} %]" if number == found["step"] else f"{share:g} %"
        for number, share in enumerate(found["steps"], 1)
    )
    fields = {
        "rollout": f"{found['project']}/{found['model']} {found['version']}",
        "state": found["state"],
        "said": found["message"],
        "steps": steps,
        "next": output.time_text(found["until"]) if found["until"] else None,
        "reason": found["reason"] or None,
    }
    output.write_fields({name: value for name, value in fields.items() if value is not None})
    told = {one["gate"]: one for one in found["findings"]}
    if found["gates"]:
        output.write()
    for gate in found["gates"]:
        one = told.get(gate)
        output.write(f"{_SIGNS[one['state']] if one else '◌'} {gate}  {one['text'] if one else ''}".rstrip())
    output.write()
    for note in found["notes"][-10:]:
        output.write_prose(note["what"], head=f"{output.time_text(note['time'])}  ")
