"""What click says of a command line that makes no sense, in our words, and what to type instead."""

from __future__ import annotations

import re
import shlex

import click

from mdslite.errors import InvalidRequest

_NO_NUMBER = re.compile(r"(?P<value>.*) is not (?:a valid (?:integer|float)|in the range )", re.DOTALL)
_EXTRA = re.compile(r"Got unexpected extra arguments? \((?P<words>.*)\)", re.DOTALL)


def explain(error: click.ClickException) -> InvalidRequest:
    """The error as one of ours."""
    if not isinstance(error, click.UsageError):
        return InvalidRequest(_on_one_line(error.format_message()), hint="mdslite --help")
    message = error.format_message()
    wanted = error.param.type if isinstance(error, click.BadParameter) and error.param is not None else None
    if isinstance(wanted, click.IntRange | click.FloatRange) and (no := _NO_NUMBER.match(error.message)):
        words = f"expected {_number_words(wanted)}, got {no['value'].strip(chr(39))}"
        message = message.replace(error.message, words)
    return InvalidRequest(_on_one_line(message), hint=_hint(error))


def _number_words(wanted: click.IntRange | click.FloatRange) -> str:
    word = "a whole number" if isinstance(wanted, click.IntRange) else "a number"
    least, most = (None if bound is None else f"{bound:,}" for bound in (wanted.min, wanted.max))
    if least is not None and most is not None:
        return f"{word} from {least} to {most}"
    if least is not None:
        return f"{word} above {least}" if wanted.min_open else f"{word} of {least} or more"
    return word if most is None else f"{word} of {most} or less"


def _hint(error: click.UsageError) -> str:
    context = error.ctx
    if context is None:
        return "mdslite --help"
    extra = _EXTRA.match(error.message)
    if extra is not None and isinstance(given := context.params.get("filter"), str) and given:
        whole = shlex.quote(f"{given} {extra['words']}")
        return f"a filter is one argument: {context.command_path} {whole}"
    return f"{context.command_path} --help"


def _on_one_line(text: str) -> str:
    """Click lists choices on lines of their own, with tabs, which would be spelled out."""
    return " ".join(text.split())
