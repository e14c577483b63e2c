"""`mdslite label`: what waits for a label, one key a request; labels by hand; how right versions are; rules;
training sets."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdslite import errors
from mdslite.cli import output
from mdslite.cli.files import new_file, refuse_json_beside
from mdslite.cli.options import connect, json_option, url_option, yes_option
from mdslite.cli.target import Target, parse_model
from mdslite.cli.usage import refuse_ignored
from mdslite.hosts import author
from mdslite.sizes import size_text

if TYPE_CHECKING:
    from mdslite.client import Client

Json = Mapping[str, Any]

_RULES = ("confidence", "disagreement", "random")
_LIMIT = 50
_CHANGES = ("below_confidence", "disagreements", "share", "classes")
_MODES = {
    "undo": ("id",),
    "label": ("id", "note"),
    "id": (),
    "accuracy": (),
    "rules": _CHANGES,
    **dict.fromkeys(_CHANGES, _CHANGES),
    "target_file": ("force",),
    "forget": ("yes",),
    "": ("rule", "limit"),
}
_COLUMNS = (
    output.Column("ID"),
    output.Column("TIME"),
    output.Column("WHY"),
    output.Column("ANSWERS", folds=True),
    output.Column("INPUT", folds=True),
)
_SCORES = (
    output.Column("VERSION"),
    output.Column("LABELS OF"),
    output.Column("RIGHT", "right"),
    output.Column("ACCURACY", "right"),
)


def parse_share(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """`2%` or `0.02`."""
    if value is None:
        return None
    text = value.strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise click.BadParameter(f"{value!r}: expected a share such as 2% or 0.02", ctx, param)
    return share


def parse_threshold(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """`0.6`, or `off`, which is told as 0."""
    if value is None or value.strip().lower() == "off":
        return None if value is None else 0.0
    try:
        threshold = float(value)
    except ValueError:
        threshold = -1.0
    if not 0 < threshold <= 1:
        raise click.BadParameter(f"{value!r}: expected a confidence such as 0.6, or off", ctx, param)
    return threshold


@click.command(
    epilog="""\b
Examples:
  mdslite label demo/digits                       # one key a request
  mdslite label demo/digits --rule random         # which tell of all traffic
  mdslite label demo/digits --json | jq '.items[].id'
  mdslite label demo/digits 1795348800123456 7    # by hand: an id of the log
  mdslite label demo/digits 1795348800123456 --undo
  mdslite label demo/digits --accuracy
  mdslite label demo/digits --export train.jsonl
  mdslite label demo/digits --below-confidence 0.7 --share 2%

Requests wait for a label because a version was unsure, because a shadow answered otherwise, or at random.
Accuracy over all traffic is told from the random ones alone. A label is for one answer: a request of
several rows takes none."""
)
@click.argument("target", metavar="PROJECT/MODEL", callback=parse_model)
@click.argument("id", metavar="[ID]", type=click.IntRange(min=1), required=False)
@click.argument("label", metavar="[LABEL]", required=False)
@click.option("--note", default="", metavar="TEXT", help="Kept with the label.")
@click.option("--undo", is_flag=True, help="Take the last label of ID back.")
@click.option("--rule", type=click.Choice(_RULES), default=None, help="Only what this rule chose.")
@click.option(
    "--limit", type=click.IntRange(1, 200), metavar="N", help="List so many, on a terminal too; else 50."
)
@click.option("--accuracy", is_flag=True, help="How right each version was.")
@click.option("--rules", is_flag=True, help="Show which requests are chosen.")
@click.option("--below-confidence", callback=parse_threshold, metavar="X|off", help="Choose the less sure.")
@click.option(
    "--disagreements/--no-disagreements", default=None, help="Choose what a shadow answers otherwise."
)
@click.option("--share", callback=parse_share, metavar="SHARE", help="Choose so many at random: 1%.")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="A label to choose from; repeat it.")
@click.option(
    "--export", "target_file", metavar="FILE", help="Write a training set: .jsonl, .csv, .parquet or -."
)
@click.option("--force", is_flag=True, help="Replace a file that --export finds there.")
@click.option("--forget", is_flag=True, help="Drop all labels of the model.")
@yes_option
@json_option
@url_option
def label(
    target: Target,
    id: int | None,
    label: str | None,
    note: str,
    undo: bool,
    rule: str | None,
    limit: int | None,
    accuracy: bool,
    rules: bool,
    below_confidence: float | None,
    disagreements: bool | None,
    share: float | None,
    classes: tuple[str, ...],
    target_file: str | None,
    force: bool,
    forget: bool,
    yes: bool,
    as_json: bool,
    url: str,
) -> int:
    """Say what answers should have been, and see how right versions are."""
    refuse_ignored(_MODES, always=("target",))
    changes = {
        "below_confidence": below_confidence,
        "disagreements": disagreements,
        "share": share,
        "classes": list(classes) or None,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    with connect(url) as client:
        if id is not None:
            _label_one(client, target, id, label, note=note, undo=undo, as_json=as_json)
        elif undo:
            raise errors.InvalidRequest(
                "--undo needs the id of a request", hint=f"mdslite label {target} ID --undo"
            )
        elif accuracy:
            _write_accuracy(client.label_accuracy(target.project, target.model), as_json=as_json)
        elif rules or changes:
            _write_rules(_rules(client, target, changes), as_json=as_json)
        elif target_file is not None:
            _export(client, target, target_file, force=force, as_json=as_json)
        elif forget:
            _forget(client, target, yes=yes, as_json=as_json)
        elif as_json or limit is not None or not (sys.stdin.isatty() and sys.stdout.isatty()):
            _list(client, target, rule=rule, limit=limit or _LIMIT, as_json=as_json)
        else:
            _sit_down(client, target, rule=rule)
    return 0


def _sit_down(client: Client, target: Target, *, rule: str | None) -> None:
    from mdslite.cli.labeling import Session, open_terminal

    with open_terminal() as terminal:
        session = Session(client, target, terminal, rule=rule, author=author())
        session.run()


def _label_one(
    client: Client, target: Target, request: int, label: str | None, *, note: str, undo: bool, as_json: bool
) -> None:
    if label is None and not undo:
        found = client.label(request)
    elif undo:
        found = client.undo_label(request, author=author())
    else:
        found = client.put_label(request, str(label), note=note, author=author())
    if as_json:
        output.write_json(found)
        return
    answers = ", ".join(f"{one['version']} {output.escape(one['answer'])}" for one in found["answers"])
    told = "no label" if found["label"] is None else f"{output.escape(found['label'])} by {found['author']}"
    output.write(f"{found['id']}  {told}  ({answers})")
    for change in found["history"]:
        ending = "" if change["undone_at"] is None else f", undone by {change['undone_by']}"
        said, note = output.escape(change["label"]), output.escape(change["note"])
        line = f"  {output.time_text(change['time'])}  {said} by {change['author']}{ending}  {note}"
        output.write(line.rstrip())


def _list(client: Client, target: Target, *, rule: str | None, limit: int, as_json: bool) -> None:
    from mdslite.cli.label_view import input_text

    found = client.label_queue(target.project, target.model, rule=rule, limit=limit)
    if not found["items"]:
        client.labeling(target.project, target.model)  # a model that is not there is told as such
    if as_json:
        output.write_json(found)
        return
    if not found["items"]:
        output.note(
            f"nothing of {target} waits for a label; mdslite label {target} --rules says what is chosen"
        )
        return
    rows = [
        [
            one["id"],
            output.time_text(one["time"]),
            one["reason"],
            ", ".join(f"{answer['version']} {answer['answer']}" for answer in one["answers"]),
            input_text(one),
        ]
        for one in found["items"]
    ]
    output.write_table(_COLUMNS, rows)
    output.note(f"{found['waiting']} wait; on a terminal, mdslite label {target} shows one after the other")


def _write_accuracy(found: Json, *, as_json: bool) -> None:
    if as_json:
        output.write_json(found)
        return
    if not found["versions"]:
        output.note("nothing is labelled yet")
        return
    rows = []
    for one in found["versions"]:
        for name, words in (("random", "all traffic"), ("picked", "what was picked")):
            score = one[name]
            if score["labelled"] or name == "random":
                rows.append(
                    [
                        one["version"],
                        words,
                        f"{score['correct']} of {score['labelled']}",
                        _share(score["accuracy"]),
                    ]
                )
    output.write_table(_SCORES, rows)
    output.write()
    for note in found["notes"]:
        output.write_prose(f"· {note}")


def _share(figure: Json | None) -> str:
    if figure is None:
        return "-"
    return f"{figure['value']:.1%} [{figure['low']:.1%}, {figure['high']:.1%}]"


def _rules(client: Client, target: Target, changes: Mapping[str, Any]) -> Json:
    now = client.labeling(target.project, target.model)
    if not changes:
        return now
    wanted = {name: changes.get(name, now[name]) for name in _CHANGES}
    wanted["below_confidence"] = wanted["below_confidence"] or None
    return client.put_labeling(target.project, target.model, **wanted)


def _write_rules(found: Json, *, as_json: bool) -> None:
    if as_json:
        output.write_json(found)
        return
    below = found["below_confidence"]
    output.write_fields(
        {
            "less sure than": "off" if below is None else f"{below:g}",
            "disagreements": "yes" if found["disagreements"] else "no",
            "at random": f"{found['share'] * 100:g}%",
            "labels": ", ".join(found["classes"]) or "learned from answers",
        }
    )


def _export(client: Client, target: Target, file: str, *, force: bool, as_json: bool) -> None:
    if as_json:
        refuse_json_beside(file)
    form = Path(file).suffix.lstrip(".").lower() or "jsonl"
    if form not in ("jsonl", "csv", "parquet"):
        raise errors.InvalidRequest(
            f"--export: expected a .jsonl, .csv or .parquet file, or -, got {file!r}",
            hint=f"mdslite label {target} --export set.jsonl",
        )
    with client.export_labels(target.project, target.model, form) as download:
        if file == "-":
            for piece in download.pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.flush()
            return
        with new_file(file, force=force) as stream:
            for piece in download.pieces:
                stream.write(piece)
    size_bytes = Path(file).stat().st_size
    output.note(f"wrote {file} ({size_text(size_bytes)})")
    if as_json:
        output.write_json({"file": file, "rows": download.rows, "size_bytes": size_bytes})


def _forget(client: Client, target: Target, *, yes: bool, as_json: bool) -> None:
    question = f"Drop all labels of {target}, with their history?"
    if not yes and not output.confirm(question, otherwise=f"mdslite label {target} --forget --yes"):
        output.note("nothing was changed")
        return
    found = client.forget_labels(target.project, target.model)
    if as_json:
        output.write_json(found)
        return
    output.write(f"{found['labels']} labels dropped")
