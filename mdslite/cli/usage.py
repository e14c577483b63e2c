"""What click says of a command line that makes no sense, in our words, and what to type instead; and what
click does not see: options that would change nothing."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence

import click
from click.core import ParameterSource

from mdslite.cli.options import DEFAULT_URL, addressed_to
from mdslite.errors import InvalidRequest

_NO_NUMBER = re.compile(r"(?P<value>.*) is not (?:a valid (?:integer|float)|in the range )", re.DOTALL)
_EXTRA = re.compile(r"Got unexpected extra arguments? \((?P<words>.*)\)", re.DOTALL)


class Hinted(click.BadParameter):
    """A value that makes no sense, where something better than the command's `--help` is to be typed."""

    def __init__(self, message: str, ctx: click.Context, param: click.Parameter, *, hint: str) -> None:
        super().__init__(message, ctx, param)
        self.hint = hint


def explain(error: click.ClickException, typed: Sequence[str], *, command: str | None) -> InvalidRequest:
    """The error as one of ours, about the words that were typed and the command among them."""
    if not isinstance(error, click.UsageError):
        return InvalidRequest(_on_one_line(error.format_message()), hint="mdslite --help")
    message = error.format_message()
    if isinstance(error, click.NoSuchOption) and error.possibilities == ["--help"]:
        # Every command has that one, and it is a little like many.
        message = message if error.option_name.startswith("--h") else error.message
    wanted = error.param.type if isinstance(error, click.BadParameter) and error.param is not None else None
    if isinstance(wanted, click.IntRange | click.FloatRange) and (no := _NO_NUMBER.match(error.message)):
        words = f"expected {_number_words(wanted)}, got {no['value'].strip(chr(39))}"
        message = message.replace(error.message, words)
    return InvalidRequest(_on_one_line(message), hint=_hint(error, typed, command))


def refuse_ignored(modes: Mapping[str, Sequence[str]], *, always: Sequence[str] = ()) -> None:
    """Refuse what would be ignored. `modes` has, by the parameter that chooses what a command does (the first
    that was typed; "" where none was), the parameters that it reads beside; `always` are read anyhow.

    :raises UsageError: naming them, and what they do not go without or beside
    """
    labels = _typed()
    mode = next((name for name in modes if name in labels), "")
    read = {mode, *modes[mode], *always, "as_json", "url"}
    ignored = [name for name in labels if name not in read]
    if mode or not ignored:
        refuse_typed(f"beside {labels.get(mode)}", *ignored)
        return
    params = {param.name: param for param in click.get_current_context().command.params}
    readers = [_label(params[name]) for name in modes if not {*modes[name]}.isdisjoint(ignored)]
    refuse_typed(f"without {' or '.join(readers)}", *ignored)


def refuse_typed(where: str, *names: str) -> None:
    """:raises UsageError: one of these parameters was typed; `where` says beside or without what"""
    typed = [label for name, label in _typed().items() if name in names]
    if typed:
        raise click.UsageError(f"{' and '.join(typed)} would be ignored {where}", click.get_current_context())


def _typed() -> dict[str, str]:
    """What was typed, by the parameter's name, as people call it."""
    context = click.get_current_context()
    return {
        param.name: _label(param)
        for param in context.command.params
        if param.name and context.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    }


def _label(param: click.Parameter) -> str:
    """`--limit`, or `FILTER` for an argument."""
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    return (param.metavar or param.human_readable_name).removeprefix("[").removesuffix("]").strip("'")


def _number_words(wanted: click.IntRange | click.FloatRange) -> str:
    word = "a whole number" if isinstance(wanted, click.IntRange) else "a number"
    least, most = (None if bound is None else f"{bound:,}" for bound in (wanted.min, wanted.max))
    if least is not None and most is not None:
        return f"{word} from {least} to {most}"
    if least is not None:
        return f"{word} above {least}" if wanted.min_open else f"{word} of {least} or more"
    return word if most is None else f"{word} of {most} or less"


def _hint(error: click.UsageError, typed: Sequence[str], command: str | None) -> str:
    context = error.ctx
    if context is None:
        return "mdslite --help" if command is None else f"mdslite {command} --help"
    if isinstance(error, Hinted):
        return addressed_to(context.params.get("url") or DEFAULT_URL, error.hint)
    extra = _EXTRA.match(error.message)
    if extra is not None and isinstance(given := context.params.get("filter"), str) and given:
        whole = shlex.quote(f"{given} {extra['words']}")
        return f"a filter is one argument: {context.command_path} {whole}"
    if isinstance(error, click.MissingParameter) and (line := _with_its_option(error, context, typed)):
        return line
    return f"{context.command_path} --help"


def _with_its_option(
    error: click.MissingParameter, context: click.Context, typed: Sequence[str]
) -> str | None:
    """The command with the option before the one file that was typed, where that can mean nothing else."""
    if not isinstance(error.param, click.Option):
        return None
    files = [word for word in typed if os.path.isfile(word)]
    if len(files) != 1 or any(isinstance(one, click.Argument) for one in context.command.params):
        return None
    return f"{context.command_path} {error.param.opts[0]} {shlex.quote(files[0])}"


def _on_one_line(text: str) -> str:
    """Click lists choices on lines of their own, with tabs, which would be spelled out."""
    return " ".join(text.split())
