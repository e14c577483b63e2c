"""Options that several commands share, and the client that they lead to."""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mdslite import errors

if TYPE_CHECKING:
    from mdslite.client import Client

DEFAULT_URL = "http://127.0.0.1:8500"  # client.DEFAULT_URL, without importing the client for --help

DEFAULT_STORE = "./.mdslite"

_ASKING = re.compile(
    r"\bmdslite (alerts|apply|audit|backup|compare|dash|doctor|drift|history|label|load|logs|ls|predict|"
    r"replay|rollout|show|token (?:limit|list|revoke)|undo|unload)\b"
)
# Those that take a store, and ask an appliance without one.
_KEEPING = re.compile(r"\bmdslite (audit|backup|doctor|token (?:create|limit|list|revoke))\b")
_STARTING = re.compile(r"\bmdslite up\b")
_COMMAND_END = re.compile(r"[;,)]|  |$")

_SHOWN_LENGTH = 60  # characters of what was typed

F = TypeVar("F", bound=Callable[..., Any])


def url_option(command: Callable[..., int]) -> Callable[..., int]:
    """`--url`; errors that name what was typed, and whose hints lead to the same appliance."""

    @functools.wraps(command)
    def addressed(*args: Any, url: str, **options: Any) -> int:
        try:
            return command(*args, url=url, **options)
        except errors.MdsliteError as exc:
            if isinstance(exc, errors.InvalidRequest):
                exc = in_words_of_the_command(exc)
            if isinstance(exc, errors.Unauthorized) and os.environ.get("MDSLITE_TOKEN"):
                exc.message = f"the token of MDSLITE_TOKEN is refused: {exc.message}"
            store = options.get("store")
            if exc.hint is not None:
                exc.hint = addressed_to(url, exc.hint) if store is None else placed_in(store, exc.hint)
            raise exc

    return click.option(
        "--url", envvar="MDSLITE_URL", default=DEFAULT_URL, metavar="URL", show_default=True,
        is_eager=True,  # so that it is known what the hint to a value that makes no sense is to lead to
        help="The appliance to talk to (or MDSLITE_URL).",
    )(addressed)  # fmt: skip


def starting(command: Callable[..., int]) -> Callable[..., int]:
    """Errors of a command with a `store` of its own, whose hints lead to that store."""

    @functools.wraps(command)
    def started(*args: Any, store: str, **options: Any) -> int:
        try:
            return command(*args, store=store, **options)
        except errors.MdsliteError as exc:
            if exc.hint is not None and not _is_default(store):
                exc.hint = placed_in(store, exc.hint)
            raise

    return started


def in_words_of_the_command(error: errors.InvalidRequest) -> errors.InvalidRequest:
    """An error about a field as one about the option or argument that the field was made from, whose
    parameter is called as the field is."""
    context = click.get_current_context()
    name = re.split(r"\W", error.field or "")[0]
    param = next((one for one in context.command.params if one.name == name), None)
    if param is None:
        return error
    words, typed = error.message.removeprefix(f"{error.field}: "), context.params[name]
    if isinstance(typed, str) and repr(typed) not in words and len(typed) <= _SHOWN_LENGTH:
        words = f"{typed!r}: {words}"
    from mdslite.cli.output import with_local_times

    told = with_local_times(click.BadParameter(words, context, param).format_message())
    hint = error.hint if error.hint != errors.BODY_HINT else None
    return errors.InvalidRequest(told, hint=hint or f"{context.command_path} --help")


def addressed_to(url: str, text: str) -> str:
    """A text whose commands, typed where this one was, talk to `url` as well."""
    if url == (os.environ.get("MDSLITE_URL") or DEFAULT_URL) or "--url" in text:
        return text
    address = shlex.quote(url)
    return _ASKING.sub(lambda found: f"{found[0]} --url {address}", text)


def placed_in(store: str, text: str) -> str:
    """A text whose commands, typed where this one was, are about the store, whether or not it is served."""
    folder = shlex.quote(store)
    text = _with(text, _KEEPING, f"--store {folder}")
    text = _with(text, _ASKING, f"--url {shlex.quote(f'unix:{store}')}")
    return text if _is_default(store) else _with(text, _STARTING, f"--store {folder}")


def _is_default(store: str) -> bool:
    return os.path.abspath(store) == os.path.abspath(DEFAULT_STORE)


def _with(text: str, commands: re.Pattern[str], option: str) -> str:
    """The text with the option at its commands that say neither a place nor are about their help."""

    def place(found: re.Match[str]) -> str:
        end = _COMMAND_END.search(text, found.end())
        rest = text[found.end() : end.start() if end else None]
        said = any(one in rest for one in ("--store", "--url", "--help"))
        return found[0] if said else f"{found[0]} {option}"

    return commands.sub(place, text)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def yes_option(command: F) -> F:
    return click.option("--yes", "-y", is_flag=True, help="Do not ask.")(command)


def read_once(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> str | None:
    """The value of an option of which click would take the last one, without a word on the others."""
    if len(values) > 1:
        raise click.BadParameter(f"expected it once, got it {len(values)} times", context, option)
    return values[0] if values else None


def read_token() -> str | None:
    """The token of MDSLITE_TOKEN, if there is one.

    :raises InvalidRequest: it cannot be one
    """
    token = os.environ.get("MDSLITE_TOKEN")
    if token and re.fullmatch(r"[\x21-\x7e]+", token) is None:
        raise errors.InvalidRequest(
            "MDSLITE_TOKEN holds a blank, a line's end or another character that is in no token",
            hint="export it as mdslite token create printed it, or unset MDSLITE_TOKEN to show none",
        )
    return token


def connect(url: str, *, ca_file: str | None = None) -> Client:
    """Open a client with the token of MDSLITE_TOKEN and the certificate of MDSLITE_CLIENT_CERT, if there are
    any; the caller closes it."""
    from mdslite.client import Client, Retries

    return Client(
        url,
        token=read_token(),
        ca_file=ca_file,
        cert_file=os.environ.get("MDSLITE_CLIENT_CERT"),
        retries=Retries(count=0),  # who types a command wants to know now
    )
