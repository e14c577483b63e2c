"""The `mdslite` command: the list of commands, and how any of them ends.

Each command lives in a module of its own that is imported when the command is called, so that
`mdslite --help` answers without loading an HTTP client, let alone a runtime.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import NoReturn

import click

from mdslite import __version__, errors

# command -> (module, function, the line in `mdslite --help`)
COMMANDS = {
    "up": ("up", "up", "Start the appliance and serve."),
    "apply": ("apply", "apply", "Bring what is deployed in line with a file."),
    "ls": ("show", "ls", "List what is deployed."),
    "show": ("show", "show", "Show a model or a version in full."),
    "predict": ("predict", "predict", "Ask a model for a prediction."),
    "logs": ("logs", "logs", "Search the request log, or follow it."),
    "dash": ("dash", "dash", "Watch and drive it from this terminal."),
    "history": ("history", "history", "List revisions, newest first."),
    "undo": ("history", "undo", "Go back to an earlier revision."),
    "load": ("residence", "load", "Bring a model's versions back into memory."),
    "unload": ("residence", "unload", "Take a model's versions out of memory; they stay deployed."),
    "compare": ("compare", "compare", "Show two versions beside each other."),
    "drift": ("drift", "drift", "Show what is no longer as it was."),
    "alerts": ("drift", "alerts", "List what has drifted, and choose who is told."),
    "label": ("label", "label", "Say what answers should have been; see how right versions are."),
    "replay": ("replay", "replay", "Send logged requests to another version."),
    "rollout": ("rollout", "rollout", "Step a version up while its gates hold."),
    "init": ("init", "init", "Write a new package, or a deployments file for a model."),
    "verify": ("verify", "verify", "Try a Python package before it is deployed."),
    "import": ("import_models", "import_models", "Turn another server's models into a deployments file."),
    "token": ("token", "token", "Make, list and end tokens; limit models."),
    "audit": ("audit", "audit", "List who changed something or was refused."),
    "doctor": ("doctor", "doctor", "Say what is wrong with this machine and its store."),
    "backup": ("backup", "backup", "Copy the store while it serves."),
    "restore": ("backup", "restore", "Put a backup in the place of a store."),
}

# what other tools call it -> command
_ELSEWHERE = {
    "deploy": "apply",
    "serve": "up",
    "start": "up",
    "run": "up",
    "list": "ls",
    "ps": "ls",
    "status": "ls",
    "describe": "show",
    "rollback": "undo",
    "revert": "undo",
}

EPILOG = """\b
Examples:
  mdslite up model.onnx
  mdslite up deployments.yaml
  mdslite predict default/model -d '[1, 2, 3, 4]'
  mdslite logs 'model=spamfilter status>=400' -f

MDSLITE_URL names the appliance to talk to, MDSLITE_TOKEN the token to show it."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, function, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"mdslite.cli.{module}"), function)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        wanted = args[0]
        if wanted in COMMANDS or wanted.startswith("-"):
            return super().resolve_command(ctx, args)
        meant = (
            [_ELSEWHERE[wanted]] if wanted in _ELSEWHERE else get_close_matches(wanted, COMMANDS, cutoff=0.7)
        )
        question = f": did you mean {' or '.join(meant)}?" if meant else ""
        raise errors.InvalidRequest(
            f"there is no command {wanted!r}{question}",
            hint=f"mdslite {meant[0]} --help" if meant else "mdslite --help",
        )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, "-V", "--version", message="mdslite %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A model-serving appliance for one GPU box."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run one command and end the process: 0 fine, 1 error, 130 interrupted, 2 a dry run with changes."""
    _leave(run(args))


def run(args: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Errors become `error:` and `hint:` lines on stderr, and an object on
    stdout where JSON was asked for."""
    typed = sys.argv[1:] if args is None else args
    as_json = "--json" in typed  # whatever else was wrong with them
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a terminal that lacks a letter still gets the line
    try:
        code = cli.main(args=args, prog_name="mdslite", standalone_mode=False)
    except click.Abort:
        return 130
    except click.ClickException as exc:
        from mdslite.cli.usage import explain

        command = next((word for word in typed if word in COMMANDS), None)
        return _fail(explain(exc, typed, command=command), as_json=as_json)
    except errors.MdsliteError as exc:
        return _fail(exc, as_json=as_json)
    return code if isinstance(code, int) else 0


def _leave(code: int) -> NoReturn:
    """End the process. A model's run that does not end, in a thread that nobody waits for, would be cut off
    in the middle of C++ as the interpreter ends, which aborts the process: then it ends without."""
    if any(thread.daemon for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _fail(error: errors.MdsliteError, *, as_json: bool) -> int:
    from mdslite.cli.output import write_error, write_json

    if as_json:
        plain = {"error": error.message, "code": error.code} | error.details()
        write_json(plain, indent=None)  # a line of its own below those of `logs`
    write_error(error)
    return 1
