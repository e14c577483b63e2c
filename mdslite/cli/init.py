"""`mdslite init`: a new package that works at once, or a deployments file for a model that there is."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from mdslite import errors
from mdslite.cli import output
from mdslite.cli.options import json_option
from mdslite.cli.templates import TEMPLATES
from mdslite.fields import NAME_PATTERN, make_name

DEPLOYMENTS = "deployments.yaml"
PROBE_TIMEOUT_S = 120.0


@click.command(
    epilog="""\b
Examples:
  mdslite init spamfilter                 # a package in ./spamfilter/package
  mdslite init flowers --runtime onnx     # one that runs an ONNX model
  mdslite init model.onnx                 # ./deployments.yaml, from the model
  mdslite init model.onnx -f other.yaml

Nothing that is there is ever overwritten."""
)
@click.argument("target", metavar="NAME|MODEL")
@click.option(
    "--runtime", type=click.Choice(list(TEMPLATES)), help="What the package computes with. [python]"
)
@click.option("-f", "--file", metavar="FILE", help=f"Where a model's deployments go. [{DEPLOYMENTS}]")
@json_option
def init(target: str, runtime: str | None, file: str | None, as_json: bool) -> int:
    """Write a package that works at once, or a deployments file for a model."""
    path = Path(target)
    if _holds(path, DEPLOYMENTS):
        raise errors.InvalidRequest(f"{target} is there already", hint=f"mdslite up {target}/{DEPLOYMENTS}")
    if path.exists() and not _is_empty(path):
        if runtime is not None:
            raise errors.InvalidRequest(
                f"--runtime is for a new package, and {target} is there already",
                hint="choose another name, or leave --runtime out",
            )
        written, following = _deploy_model(path, Path(file or DEPLOYMENTS))
    elif path.suffix:
        raise errors.InvalidRequest(f"there is no {target}", hint="mdslite init NAME writes a new package")
    elif file is not None:
        raise errors.InvalidRequest(
            "--file is for a model; a package gets a deployments.yaml of its own", hint="leave --file out"
        )
    else:
        written, following = _write_package(path, runtime or "python")
    if as_json:
        output.write_json({"written": [str(one) for one in written], "next": following})
        return 0
    for one in written:
        output.write(f"wrote  {one}")
    for line in following:
        output.write(f"next:  {line}")
    return 0


def _holds(path: Path, name: str) -> bool:
    return path.is_dir() and (path / name).exists()


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _write_package(folder: Path, runtime: str) -> tuple[list[Path], list[str]]:
    name = folder.name
    if not re.match(NAME_PATTERN, name):
        raise errors.InvalidRequest(
            f"{name!r} is no name: expected 1 to 63 letters, digits, _ or -, the first one no _ or -",
            hint=f"mdslite init {shlex.quote(str(folder.with_name(make_name(name))))}",
        )
    template = TEMPLATES[runtime]
    package = folder / "package"
    files = {package / one: content for one, content in template.fill(name).items()}
    files[folder / "sample.json"] = template.sample_text().encode()
    files[folder / DEPLOYMENTS] = _deployments_text(name, "./package").encode()
    _write(files)
    quoted = shlex.quote(str(folder))
    return list(files), [
        f"mdslite verify {quoted}/package",
        f"mdslite up {quoted}/{DEPLOYMENTS}",
        f"mdslite predict default/{name} -d @{quoted}/sample.json",
    ]


def _deploy_model(path: Path, file: Path) -> tuple[list[Path], list[str]]:
    """A deployments file for the model at `path`, with what is known of it in comments."""
    name = make_name(path.stem if path.is_file() else path.resolve().name)
    uri = os.path.relpath(path.resolve(), file.resolve().parent)
    text = _deployments_text(name, uri if uri.startswith("..") else f"./{uri}", list(_notes(path)))
    _write({file: text.encode()})
    quoted = shlex.quote(str(file))
    return [file], [f"mdslite up {quoted}", f"mdslite apply -f {quoted} --dry-run"]


def _notes(path: Path) -> Iterator[str]:
    """What a deployments file says of a model in comments.

    :raises LoadFailed: it is no model that can be served
    """
    from mdslite.runtimes.kinds import detect

    kind = detect(path)
    if kind.runtime == "PYTHON":
        if kind.package_type == "MDS":
            from mdslite.runtimes.packages import find_package

            source = find_package(path)
            yield f"class {source.class_name} ({source.place})"
        return
    import msgspec

    from mdslite.runtimes.prober import Prober
    from mdslite.runtimes.protocol import LoadOptions

    prober = Prober()
    try:
        report = prober.probe(kind.runtime, path, LoadOptions(), timeout_s=PROBE_TIMEOUT_S)
    finally:
        prober.close()
    yield from _signature_notes(msgspec.to_builtins(report.signature))


def _signature_notes(signature: Mapping[str, Any]) -> Iterator[str]:
    for word in ("input", "output"):
        for tensor in signature[f"{word}s"]:
            yield f"{word} {_tensor_text(tensor)}"
    if signature["rows"] == "free":
        yield "requests may share batches: of 32 rows, unless batch: {batch_size: N} says otherwise"
    else:
        yield "its first dimension is fixed, so requests do not share batches"


def _tensor_text(tensor: Mapping[str, Any]) -> str:
    shape = ", ".join("?" if size is None else str(size) for size in tensor["shape"])
    optional = ", optional" if tensor["optional"] else ""
    return f"{output.escape(tensor['name'])}: {tensor['datatype']} [{shape}]{optional}"


def _deployments_text(name: str, uri: str, notes: list[str] | None = None) -> str:
    """A deployments file with one version."""
    lines = ["deployments:", "- project: default", f"  model: {name}", "  versions:", "  - version: v1"]
    lines += ["    spec:", f"      uri: {uri if _is_plain(uri) else json.dumps(uri)}"]
    lines += [f"      # {note}" for note in notes or ()]
    lines += ["      service_info: {weight: 100}", ""]
    return "\n".join(lines)


def _is_plain(text: str) -> bool:
    """May it stand in YAML without quotes?"""
    return all(letter.isalnum() or letter in "./_-" for letter in text)


def _write(files: Mapping[Path, bytes]) -> None:
    """Write files that are not there yet, and their folders.

    :raises InvalidRequest: one is there, or cannot be written; then nothing of them is
    """
    for path in files:
        if os.path.lexists(path):
            raise errors.InvalidRequest(
                f"{path} is there already, and nothing was written", hint="choose another name or --file"
            )
    made: list[Path] = []
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                made.append(path)
                file.write(content)
    except OSError as exc:
        for path in made:
            path.unlink(missing_ok=True)
        raise errors.InvalidRequest(
            f"cannot write {path}: {exc.strerror}", hint="choose a folder that you may write to"
        ) from exc
