"""`mdslite token`: who may ask for what, and how often."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import click

from mdslite import errors
from mdslite.cli import output
from mdslite.cli.keeper import Keeper, keeper_of, store_option
from mdslite.cli.options import json_option, url_option
from mdslite.cli.target import Scope, parse_target

_COLUMNS = (
    output.Column("NAME"),
    output.Column("ID"),
    output.Column("SCOPES"),
    output.Column("FOR"),
    output.Column("RATE"),
    output.Column("STATE"),
    output.Column("EXPIRES"),
    output.Column("LAST USED"),
    output.Column("MADE BY", folds=True),
)
_LIMIT_COLUMNS = (output.Column("MODEL"), output.Column("RATE", "right"))
_UNLIMITED = ("off", "none", "unlimited")


@click.group(
    epilog="""\b
Examples:
  mdslite token create root --scope admin --store ./.mdslite   # the first one
  mdslite token create ci --scope predict --project mail --rate 100/s
  mdslite token list
  mdslite token revoke ci
  mdslite token limit mail/spamfilter 500/s

From the first token on every request needs one, on this machine too; who owns the store's folder can
always make another with --store. MDSLITE_TOKEN is the token that the commands show. Each takes --json.""",
)
def token() -> None:
    """Make, list and end tokens; limit how often models may be asked."""


@token.command(
    epilog="""\b
Examples:
  mdslite token create root --scope admin --store ./.mdslite     # up or not
  mdslite token create ci --scope predict --rate 100/s --expires 30d
  mdslite token create board --scope read
  export MDSLITE_TOKEN=$(mdslite token create --scope admin --store .mdslite)

The token is printed on stdout this one time; only its SHA-256 is kept.
predict: predictions, and what models take. read: what is deployed, metrics, logs. admin: everything.""",
)
@click.argument("name", metavar="[NAME]", required=False)
@click.option(
    "--scope", "scopes", multiple=True, required=True, type=click.Choice(["predict", "read", "admin"]),
    help="What it is for. Repeatable.",
)  # fmt: skip
@click.option("--project", metavar="PROJECT", help="For this project alone.")
@click.option("--model", metavar="MODEL", help="For this model of the project alone.")
@click.option("--rate", metavar="N/s", help="How often it may ask: 100/s, 6000/m, 50/h.")
@click.option("--expires", metavar="SPAN", help="How long it is good for: 12h, 30d, 1y. By default for ever.")
@store_option
@json_option
@url_option
def create(
    name: str | None,
    scopes: tuple[str, ...],
    project: str | None,
    model: str | None,
    rate: str | None,
    expires: str | None,
    store: str | None,
    as_json: bool,
    url: str,
) -> int:
    """Make a token and print it."""
    given = {"name": name, "project": project, "model": model, "rate": rate, "expires": expires}
    body = {"scopes": list(scopes), **{key: value for key, value in given.items() if value is not None}}
    with keeper_of(url, store) as keeper:
        is_first = not keeper.needs_token()
        absence = None if project is None else _absence(keeper, Scope(project, model))
        made = keeper.create_token(body)
    if as_json:
        output.write_json(made)
    else:
        output.write(made["token"])
        output.note(_summary(made))
    if absence is not None:
        output.note(absence)
    if is_first:
        output.note("from now on every request needs a token, those from this machine too")
        if "admin" not in scopes:
            again = f"mdslite token create --scope admin --store {shlex.quote(store or 'DIR')}"
            output.note(f"hint: to administer, make another: {again}")
    return 0


@token.command(
    "list",
    epilog="""\b
Examples:
  mdslite token list
  mdslite token list --all            # those that are revoked or expired too
  mdslite token list --json""",
)
@click.option("--all", "everything", is_flag=True, help="Also those that are revoked or expired.")
@store_option
@json_option
@url_option
def list_tokens(everything: bool, store: str | None, as_json: bool, url: str) -> int:
    """List tokens. None shows its secret, which nobody has kept."""
    with keeper_of(url, store) as keeper:
        known = keeper.tokens()
    shown = [one for one in known if everything or one["state"] == "live"]
    if as_json:
        output.write_json(shown)
    elif shown:
        output.write_table(_COLUMNS, [_row(one) for one in shown])
    else:
        output.note("no token is live" if known else "there are no tokens: who reaches it may do everything")
    return 0


@token.command(
    epilog="""\b
Examples:
  mdslite token revoke ci
  mdslite token revoke k3v7q2m4xa            # by its id
  mdslite token revoke root --store ./.mdslite

It ends at once. The last one's end does not open the appliance to everybody.""",
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@store_option
@json_option
@url_option
def revoke(names: tuple[str, ...], store: str | None, as_json: bool, url: str) -> int:
    """End tokens, by their names or ids."""
    with keeper_of(url, store) as keeper:
        ended = [keeper.revoke_token(name) for name in names]
    if as_json:
        output.write_json(ended)
    else:
        for one in ended:
            output.write(f"revoked {one['name']} ({one['id']})")
    return 0


@token.command(
    epilog="""\b
Examples:
  mdslite token limit                            # what is limited
  mdslite token limit mail/spamfilter 500/s      # all callers together
  mdslite token limit mail/spamfilter off

It holds at once, for all versions, and is no part of a deployment: an apply or an undo leaves it alone.""",
)
@click.argument("target", metavar="[PROJECT/MODEL]", required=False)
@click.argument("rate", metavar="[RATE|off]", required=False)
@store_option
@json_option
@url_option
@click.pass_context
def limit(
    ctx: click.Context, target: str | None, rate: str | None, store: str | None, as_json: bool, url: str
) -> int:
    """Limit how often a model may be asked, by all callers together."""
    model = None if target is None else parse_target(ctx, ctx.command.params[0], target)
    if model is not None and (rate is None or model.version is not None):
        raise errors.InvalidRequest(
            f"expected a model and its rate, such as {model.project}/{model.model} 100/s",
            hint="mdslite token limit --help",
        )
    with keeper_of(url, store) as keeper:
        if model is None or rate is None:
            found = keeper.limits()
        else:
            lifts = rate in _UNLIMITED
            absence = None if lifts else _absence(keeper, Scope(model.project, model.model))
            found = [keeper.limit(model.project, model.model, None if lifts else rate)]
            if absence is not None:
                output.note(absence)
    if as_json:
        output.write_json(found[0] if model is not None else found)
    elif found:
        rows = [[f"{one['project']}/{one['model']}", one["rate"] or "unlimited"] for one in found]
        output.write_table(_LIMIT_COLUMNS, rows)
    else:
        output.note("no model is limited")
    return 0


def _absence(keeper: Keeper, scope: Scope) -> str | None:
    """What to say of a name that nothing is deployed as: it may be for what comes one day, or be a slip."""
    models = keeper.models()
    if any((one["project"], scope.model or one["model"]) == (scope.project, one["model"]) for one in models):
        return None
    known = ", ".join(f"{one['project']}/{one['model']}" for one in models) or "nothing"
    return f"note: nothing is deployed as {scope} so far; there is {known}"


def _summary(made: Mapping[str, Any]) -> str:
    """What a token is for, in a line."""
    parts = [" ".join(made["scopes"]), _reach(made)]
    if made["rate"]:
        parts.append(f"at most {made['rate']}")
    parts.append(f"until {output.time_text(made['expires_at'])}" if made["expires_at"] else "for ever")
    called = made["name"] if made["name"] == made["id"] else f"{made['name']} ({made['id']})"
    return f"{called}: {', '.join(parts)}; it is shown this once"


def _row(one: Mapping[str, Any]) -> list[object]:
    return [
        one["name"],
        one["id"],
        " ".join(one["scopes"]),
        _reach(one),
        one["rate"] or "-",
        one["state"],
        output.time_text(one["expires_at"]) if one["expires_at"] else "never",
        output.time_text(one["used_at"]) if one["used_at"] else "never",
        one["created_by"],
    ]


def _reach(one: Mapping[str, Any]) -> str:
    if one["project"] is None:
        return "everything"
    return one["project"] if one["model"] is None else f"{one['project']}/{one['model']}"
