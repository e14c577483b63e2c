"""`mdslite import`: from another server's models to a deployments file."""

from __future__ import annotations

from pathlib import Path

import click

from mdslite.cli import output
from mdslite.cli.options import json_option
from mdslite.errors import Conflict


@click.group(
    name="import",
    epilog="""\b
Examples:
  mdslite import triton ./model_repository
  mdslite import triton ./model_repository --json""",
)
def import_models() -> None:
    """Turn another server's models into a deployments file."""


@import_models.command(
    epilog="""\b
Examples:
  mdslite import triton ./model_repository
  mdslite import triton ./model_repository --project vision -o ./vision
  mdslite up ./vision/deployments.yaml"""
)
@click.argument("repository", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--project", default="triton", show_default=True, help="The project that they become.")
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path), default=Path("from-triton"),
    show_default=True, help="A new folder for the file and the packages.",
)  # fmt: skip
@json_option
def triton(repository: Path, project: str, target: Path, as_json: bool) -> int:
    """Turn a Triton model repository into a deployments file.

    It says what could not be carried over.
    """
    from ruamel.yaml import YAML

    from mdslite.triton.conversion import convert
    from mdslite.triton.repository import read_repository

    models = read_repository(repository)
    if target.exists() and any(target.iterdir()):
        raise Conflict(f"{target} holds something already", hint="choose another folder with --output")
    target.mkdir(parents=True, exist_ok=True)
    done = convert(models, project=project, target=target.resolve())
    file = target / "deployments.yaml"
    yaml = YAML()
    yaml.representer.ignore_aliases = lambda data: True  # each version says all of itself
    with file.open("w") as stream:
        yaml.dump({"deployments": done.models}, stream)
    if as_json:
        notes = [{"model": model, "note": note} for model, note in done.notes]
        output.write_json({"file": str(file), "deployments": done.models, "notes": notes})
        return 0
    for model in done.models:
        versions = ", ".join(version["version"] for version in model["versions"])
        output.write(f"✓ {model['project']}/{model['model']}  {versions}")
    for name, note in done.notes:
        output.write_prose(f"! {name}: {note}")
    output.note(f"wrote {file}")
    output.note(f"next: mdslite up {file}")
    return 0
