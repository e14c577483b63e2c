"""Options that several commands share, and the client that they lead to."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from mdslite.client import Client

DEFAULT_URL = "http://127.0.0.1:8500"  # client.DEFAULT_URL, without importing the client for --help

F = TypeVar("F", bound=Callable[..., Any])


def url_option(command: F) -> F:
    return click.option(
        "--url", envvar="MDSLITE_URL", default=DEFAULT_URL, metavar="URL", show_default=True,
        help="The appliance to talk to (or MDSLITE_URL).",
    )(command)  # fmt: skip


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def yes_option(command: F) -> F:
    return click.option("--yes", "-y", is_flag=True, help="Do not ask.")(command)


def connect(url: str, *, ca_file: str | None = None) -> Client:
    """Open a client with the token of MDSLITE_TOKEN; the caller closes it."""
    from mdslite.client import Client

    return Client(url, token=os.environ.get("MDSLITE_TOKEN"), ca_file=ca_file)
