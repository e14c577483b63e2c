"""`mdslite compare`: two versions beside each other."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import click

from mdslite.cli import output
from mdslite.cli.logs import parse_since
from mdslite.cli.options import addressed_to, connect, json_option, url_option
from mdslite.cli.target import Target, parse_model

Json = Mapping[str, Any]

_AT_ONCE = "1000/s"  # the most: a replay goes behind everybody else anyhow


@click.command(
    epilog="""\b
Examples:
  mdslite compare mail/spamfilter v1 v2
  mdslite compare mail/spamfilter v1 v2 --since 24h --disagreements 50
  mdslite compare mail/spamfilter v1 v2 --json | jq .verdict

Figures stand with their 95 % intervals. Errors are what a version is to blame for (5xx), of these
and its good answers; what was refused (4xx) says something of who sent it and is left out. Agreement needs
one of the two to be the other's shadow. Copies get what time requests leave, and the others are dropped:
`mdslite replay` asks later what the log kept."""
)
@click.argument("target", metavar="PROJECT/MODEL", callback=parse_model)
@click.argument("first", metavar="V1")
@click.argument("second", metavar="V2")
@click.option(
    "--since",
    metavar="SINCE",
    default="1h",
    show_default=True,
    callback=parse_since,
    help="From when on: 15m, 24h, 14:00.",
)
@click.option("--until", metavar="UNTIL", callback=parse_since, help="Until when; now by default.")
@click.option(
    "--disagreements",
    "limit",
    type=click.IntRange(0, 200),
    metavar="N",
    default=5,
    show_default=True,
    help="Show at most N requests on which they disagree.",
)
@json_option
@url_option
def compare(
    target: Target,
    first: str,
    second: str,
    since: str,
    until: str | None,
    limit: int,
    as_json: bool,
    url: str,
) -> int:
    """Show errors, latency, confidence and agreement of two versions, and where they disagree."""
    with connect(url) as client:
        found = client.compare(
            target.project, target.model, first, second, since=since, until=until, limit=limit
        )
    if as_json:
        output.write_json(found)
        return 0
    write_comparison(found)
    output.note("errors are 5xx; what was refused (4xx) is left out")
    agreement = found["agreement"]
    if agreement is None:
        output.note("no agreement: neither version has been the other's shadow in this time")
        asked, other = first, second
    elif any(agreement["dropped"].values()):
        asked, other = agreement["primary"], agreement["shadow"]
    else:
        return 0
    filter = f"version={asked} since={since}" + (f" until={until}" if until else "")
    line = f"mdslite replay {shlex.quote(filter)} --to {target}@{other} --compare --rate {_AT_ONCE}"
    output.note(f"ask {other} what the log kept of {asked}'s requests, as fast as others leave time:")
    output.note(addressed_to(url, f"hint: {line}"))
    return 0


def write_comparison(found: Json) -> None:
    """A comparison as people read it."""
    _write_sides(found)
    _write_agreement(found.get("agreement"))
    output.write()
    for line in found["verdict"]:
        output.write_prose(f"· {output.with_local_times(line)}")
    for one in found["disagreements"]:
        output.write()
        output.write(f"✖ {output.time_text(one['time'])}  {one['request_id']}")
        output.write(f"  request  {_cut(one['request'])}")
        output.write(f"  {found['agreement']['primary']:<8} {_cut(one['primary_reply'])}")
        output.write(f"  {found['agreement']['shadow']:<8} {_cut(one['shadow_reply'])}")


def _write_sides(found: Json) -> None:
    """A line for each figure, so that both versions and their difference fit side by side."""
    first, second, difference = found["first"], found["second"], found["difference"]
    titles = [one["version"] + (" (shadow)" if one["shadow"] else "") for one in (first, second)]
    rows = [
        ("requests", first["requests"], second["requests"], ""),
        *(
            (label, _figure(first[name], times, unit), _figure(second[name], times, unit), gap)
            for label, name, times, unit, gap in (
                ("errors", "error_rate", 100, " %", _figure(difference["error_rate"], 100, " %")),
                ("p50 ms", "p50_ms", 1, "", _figure(difference["p50_ratio"], 1, "x")),
                ("p99 ms", "p99_ms", 1, "", _figure(difference["p99_ratio"], 1, "x")),
                ("confidence", "confidence", 1, "", _figure(difference["confidence"])),
            )
        ),
    ]
    output.write_table([output.Column(title) for title in ("", *titles, "difference")], rows)


def _write_agreement(agreement: Json | None) -> None:
    if agreement is None:
        return
    dropped = sum(agreement["dropped"].values())
    copies = agreement["pairs"] + dropped
    output.write()
    output.write_fields(
        {
            "agreement": f"{_figure(agreement['rate'], 100, ' %')} of {agreement['compared']} pairs, "
            f"{agreement['shadow']} as the shadow of {agreement['primary']}",
            "copies": f"{agreement['pairs']} of {copies} answered ({100 * agreement['pairs'] / copies:.2g} %)"
            if dropped
            else None,
            "compute": f"{_figure(agreement['compute_ms'])} ms more a request",
            "confidence": f"{_figure(agreement['confidence'])} more a request",
        }
    )


def _figure(figure: Json | None, times: float = 1, unit: str = "") -> str:
    """`1.23 [1.10, 1.40]`, an open end as two dots."""
    if figure is None:
        return "-"
    low, high = (_number(figure[name], times) for name in ("low", "high"))
    return f"{_number(figure['value'], times)}{unit} [{low}, {high}]"


def _number(value: float | None, times: float) -> str:
    if value is None:
        return ".."
    shown = value * times
    return f"{shown:.2f}" if abs(shown) < 100 else f"{shown:.0f}"


def _cut(text: str, limit: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
