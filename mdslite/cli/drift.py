"""`mdslite drift` and `mdslite alerts`: what is no longer as it was, and when that began."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import click

from mdslite.cli import output
from mdslite.cli.absence import tell_no_log
from mdslite.cli.logs import parse_since
from mdslite.cli.options import connect, json_option, url_option
from mdslite.cli.target import Scope, Target, parse_scope, parse_target, require_scope
from mdslite.cli.usage import refuse_ignored
from mdslite.errors import Forbidden

Json = Mapping[str, Any]

_SIGNS = {"firing": "✖", "calm": "✓", "waiting": "◌", "resolved": "✓"}
_MEASURES = {"psi": "PSI", "distance": "KS", "ratio": "ratio", "difference": "more"}
_SIGNALS = (
    output.Column(""),
    output.Column("SIGNAL"),
    output.Column("WINDOW"),
    output.Column("VALUES", "right"),
    output.Column("DIFFERENCE", "right"),
    output.Column("FIRES AT", "right"),
    output.Column("P", "right"),
    output.Column("WHAT", folds=True, below=True),
)
_ALERTS = (
    output.Column("ID", "right"),
    output.Column("TIME"),
    output.Column(""),
    output.Column("VERSION"),
    output.Column("SIGNAL"),
    output.Column("WHAT", folds=True, below=True),
)


@click.command(
    epilog="""\b
Examples:
  mdslite drift mail/spamfilter
  mdslite drift mail/spamfilter@v2 --json | jq '.[].signals[].state'
  mdslite drift mail/spamfilter --baseline 7d     # the last week was healthy
  mdslite drift mail/spamfilter --baseline 2026-11-20 --until 2026-11-21
  mdslite drift mail/spamfilter --no-baseline     # learn from the first day

A signal fires when chance hardly explains a difference (P) and when it is as large as FIRES AT: by the
population stability index, the Kolmogorov-Smirnov distance, a ratio of latencies, or more errors.
Requests are counted every ten minutes, so what is shown is up to ten minutes old and says how old."""
)
@click.argument("target", metavar="PROJECT/MODEL[@VERSION]", callback=parse_target)
@click.option(
    "--baseline",
    "since",
    metavar="SINCE",
    callback=parse_since,
    help="Compare with the whole hours since: 24h, 7d, 2026-11-20.",
)
@click.option("--until", metavar="UNTIL", callback=parse_since, help="The end of these; now by default.")
@click.option("--of", "version", metavar="VERSION", help="Compare all versions with this one's.")
@click.option("--no-baseline", is_flag=True, help="Let each version learn from its first day.")
@json_option
@url_option
def drift(
    target: Target,
    since: str | None,
    until: str | None,
    version: str | None,
    no_baseline: bool,
    as_json: bool,
    url: str,
) -> int:
    """Show whether a model's versions get and give what they used to, or choose what that is."""
    refuse_ignored({"since": ("until", "version"), "no_baseline": (), "": ()}, always=("target",))
    if target.version is not None and (since is not None or no_baseline):
        raise click.UsageError(
            f"a baseline is for all versions of a model: expected {target.project}/{target.model}"
        )
    with connect(url) as client:
        if since is not None:
            chosen = client.put_baseline(
                target.project, target.model, since=since, until=until, version=version
            )
            return _write_chosen(chosen, as_json)
        if no_baseline:
            return _write_chosen(client.drop_baseline(target.project, target.model), as_json)
        found = client.drift(target.project, target.model)
        found = [one for one in found if target.version in (None, one["version"])]
        if not found and target.version is not None:
            client.version(target.project, target.model, target.version)  # or says which there are
        is_watched = as_json or tell_no_log(client.status(), "nothing is watched for drift")
    if as_json:
        output.write_json(found)
    elif not found and is_watched:
        output.note(f"nothing is known of {target} yet: it is watched from its first request on")
    for place, one in enumerate(() if as_json else found):
        if place:
            output.write()
        _write(one)
    return 0


@click.command(
    epilog="""\b
Examples:
  mdslite alerts
  mdslite alerts mail/spamfilter --since 7d --json
  mdslite alerts --webhook https://chat.example.org/hooks/models
  mdslite alerts --no-webhook

A webhook gets each alert as JSON, five more times if need be. Addresses inside are refused, as a model's
are, unless the appliance was started with --allow-internal."""
)
@click.argument("scope", metavar="[PROJECT[/MODEL]]", required=False, callback=parse_scope)
@click.option("--since", metavar="SINCE", callback=parse_since, help="Not older than this: 24h, 7d.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), metavar="N", default=20, show_default=True, help="The newest N."
)
@click.option("--webhook", metavar="URL", help="Have alerts posted there.")
@click.option("--no-webhook", is_flag=True, help="Have them posted nowhere.")
@json_option
@url_option
def alerts(
    scope: Scope | None,
    since: str | None,
    limit: int,
    webhook: str | None,
    no_webhook: bool,
    as_json: bool,
    url: str,
) -> int:
    """List what has drifted and what was resolved, newest first, or choose who is told."""
    refuse_ignored({"webhook": (), "no_webhook": (), "": ("scope", "since", "limit")})
    with connect(url) as client:
        if webhook is not None or no_webhook:
            told = client.put_alert_webhook(webhook)
            if as_json:
                output.write_json(told)
            else:
                output.note(
                    f"✓ alerts are posted to {told['url']}" if told["url"] else "✓ alerts are posted nowhere"
                )
                if told["url"]:
                    tell_no_log(client.status(), "no alerts are raised")
            return 0
        project, model = (None, None) if scope is None else (scope.project, scope.model)
        found = client.alerts(project, model, since=since, limit=limit)
        if not found and scope is not None:
            require_scope(client, scope)
        if as_json:
            output.write_json(found)
            return 0
        if found:
            output.write_table(_ALERTS, [_alert_row(one) for one in found])
        else:
            output.note("no alerts")
        with suppress(Forbidden):  # it may hold a secret, and is for those who may change it
            if (told_at := client.alert_webhook()["url"]) is not None:
                output.note(f"alerts are posted to {told_at}")
        tell_no_log(client.status(), "no alerts are raised")
    return 0


def _write_chosen(chosen: Json, as_json: bool) -> int:
    name = f"{chosen['project']}/{chosen['model']}"
    if as_json:
        output.write_json(chosen)
    elif chosen["since"] is None:
        output.note(f"✓ each version of {name} learns from its first day what is usual")
    else:
        whose = f"{chosen['version']} from" if chosen["version"] else "what they were from"
        span = f"{output.time_text(chosen['since'])} to {output.time_text(chosen['until'])}"
        output.note(f"✓ versions of {name} are compared with {whose} {span}")
        output.note("whole hours are taken, the running one as far as it is counted: every ten minutes")
    return 0


def _write(one: Json) -> None:
    usual, counted, message = one["baseline"], one["counted_to"], output.with_local_times(one["message"])
    compared = None
    if usual is not None:
        span = f"{output.time_text(usual['since'])} to {output.time_text(usual['until'])}"
        what = f"{usual['requests']} requests, {usual['rows']} rows of them read"
        compared = f"{usual['version']}, {span} ({usual['kind']}): {what}"
    output.write_fields(
        {
            "version": _label(one),
            "state": f"{one['state']}: {message}" if message else one["state"],
            "compared with": compared,
            "last hour": f"{one['requests']} requests, {one['rows']} rows of them read"
            + (f", {one['unread']} bodies not readable" if one["unread"] else ""),
            "counted": f"every ten minutes, up to {output.time_text(counted)} so far" if counted else None,
        }
    )
    if one["signals"]:
        output.write()
        output.write_table(_SIGNALS, [_signal_row(signal) for signal in one["signals"]])


def _signal_row(one: Json) -> list[object]:
    if one["measure"] is None:
        return [_SIGNS[one["state"]], one["signal"], "-", "-", "-", "-", "-", one["text"]]
    measure = _MEASURES[one["measure"]]
    return [
        _SIGNS[one["state"]],
        one["signal"],
        one["window"],
        one["count"],
        f"{measure} {one['effect']:.3g}",
        f"{one['threshold']:.3g}",
        f"{one['p']:.1g}",
        one["text"],
    ]


def _alert_row(one: Json) -> list[object]:
    return [
        one["id"],
        output.time_text(one["time"]),
        f"{_SIGNS[one['state']]} {one['state']}",
        _label(one),
        one["signal"],
        one["text"],
    ]


def _label(one: Json) -> str:
    return f"{one['project']}/{one['model']} {one['version']}{' (shadow)' if one['shadow'] else ''}"
