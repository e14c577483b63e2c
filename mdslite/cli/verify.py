"""`mdslite verify`: a package loaded, checked and asked here and now, with a timed report."""

from __future__ import annotations

import mimetypes
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdslite import errors
from mdslite.cli import output
from mdslite.cli.files import similar, unreadable
from mdslite.cli.options import json_option, read_once

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHOWN_REPLY = 2000  # characters


@click.command(
    epilog="""\b
Examples:
  mdslite verify ./spamfilter/package
  mdslite verify ./package -d '{"instances": [{"text": "hello"}]}'
  mdslite verify ./package -d @photo.jpg  # a raw body, typed by its name
  mdslite verify package.tar.gz --inline --json

Loads the package, runs its warm-up and health check, serves it at /predict on a free port of this machine
and sends it requests. Without --data that is sample.json, in the package or beside it. Exits 1 with the
traceback of the package's code when anything fails."""
)
@click.argument("package", type=click.Path(), metavar="PACKAGE")
@click.option(
    "-d", "--data", multiple=True, callback=read_once, metavar="JSON|@FILE", help="The request's body."
)
@click.option("--inline", is_flag=True, help="Run it in this process, as `isolation: inline` would.")
@click.option(
    "--store", type=click.Path(), default="./.mdslite", show_default=True, metavar="DIR",
    help="Where environments for requirements are kept.",
)  # fmt: skip
@json_option
def verify(package: str, data: str | None, inline: bool, store: str, as_json: bool) -> int:
    """Try a package before it is deployed: load it, check it, ask it."""
    import asyncio

    from mdslite.rehearsal import Rehearsal
    from mdslite.trial import Body

    _check(Path(package))
    body = None if data is None else Body(*read_data(data))
    rehearsal = Rehearsal(
        Path(package),
        isolation="inline" if inline else "process",
        store=Path(store),
        tell=(lambda step: None) if as_json else _show_step,
        progress=output.note,
    )
    report = asyncio.run(rehearsal.run(body))
    if as_json:
        output.write_json(_as_json(package, report))
    else:
        _show_end(report)
    return 0 if report.error is None else 1


def _check(package: Path) -> None:
    if package.exists():
        return
    meant = similar(package)
    raise errors.InvalidRequest(
        f"there is no {package}: expected a package's folder, archive or .py file",
        hint="mdslite init NAME writes one" if meant is None else f"mdslite verify {shlex.quote(str(meant))}",
    )


def read_data(data: str) -> tuple[bytes, str, str]:
    """What `--data` says: a body, its content type and where it came from.

    :raises InvalidRequest: its file cannot be read
    """
    if not data.startswith("@"):
        return data.encode(), "application/json", ""
    name = data[1:]
    try:
        content = Path(name).read_bytes()
    except OSError as exc:
        raise unreadable(name, exc, hint="leave -d out to send the package's sample.json") from exc
    kind, _ = mimetypes.guess_type(name)
    return content, kind or "application/octet-stream", name


def _show_step(step: Any) -> None:
    mark = "✓" if step.fine else "✖"
    said = step.said if step.fine else "failed"  # why is said below
    output.write_prose(said, head=f"{mark} {output.escape(step.name):<18} {_time_text(step.seconds):>9}  ")
    if step.drawing:
        output.write("\n".join(f"  {line}".rstrip() for line in step.drawing.splitlines()))


def _show_end(report: Any) -> None:
    if report.reply is not None:
        text = report.reply.decode("utf-8", "replace").strip()
        output.write(text if len(text) <= _SHOWN_REPLY else f"{text[:_SHOWN_REPLY]}...")
    if report.error is not None:
        if report.output:
            output.note(report.output)
        output.write_error(report.error)


def _as_json(package: str, report: Any) -> Mapping[str, Any]:
    error = report.error
    return {
        "package": package,
        "fine": error is None,
        "steps": [
            {
                "name": step.name,
                "ms": round(step.seconds * 1e3, 3),
                "fine": step.fine,
                "said": step.said,
                **({"drawing": step.drawing} if step.drawing else {}),
            }
            for step in report.steps
        ],
        "reply": None if report.reply is None else report.reply.decode("utf-8", "replace"),
        "output": report.output,
        "error": None if error is None else {"code": error.code, "error": error.message, "hint": error.hint},
    }


def _time_text(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
