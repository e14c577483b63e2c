"""`mdslite dash`: the terminal dashboard, or, for scripts, its first screen as text or its data as JSON."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from mdslite.cli import output
from mdslite.cli.options import json_option, url_option

if TYPE_CHECKING:
    from mdslite.client import AsyncClient

SIZE = (80, 24)  # of the first screen as text, where nobody says how large


@click.command(
    epilog="""\b
Examples:
  mdslite dash
  mdslite dash --read-only                 # look, and change nothing
  mdslite dash --url http://edge-07:8500
  mdslite dash --once                      # the first screen as text
  mdslite dash --json | jq '.models[].model'

\b
Keys: 1-5 screens, arrows and Enter to go deeper, Esc back, [ and ] through
recorded time, . for now, + and - zoom, q quits; F1 or ? lists all of them."""
)
@click.option("--once", is_flag=True, help="Print the first screen as text and end.")
@click.option("--read-only", is_flag=True, help="Refuse every key that changes something.")
@click.option("--ascii", is_flag=True, help="Draw with ASCII alone.")
@json_option
@url_option
def dash(once: bool, read_only: bool, ascii: bool, as_json: bool, url: str) -> int:
    """Watch and drive an appliance from this terminal."""
    import asyncio

    if as_json:
        output.write_json(asyncio.run(_look(url)))
        return 0
    if once or not (sys.stdout.isatty() and sys.stdin.isatty()):
        output.write(asyncio.run(_draw(url, read_only=read_only, ascii=ascii)))
        return 0
    return asyncio.run(_run(url, read_only=read_only, ascii=ascii))


async def _run(url: str, *, read_only: bool, ascii: bool) -> int:
    from mdslite.tui.app import DashApp
    from mdslite.tui.feed import LiveFeed
    from mdslite.tui.ink import Ink

    async with _connect(url) as client:
        app = DashApp(LiveFeed(client), ink=Ink(ascii=ascii), read_only=read_only)
        await app.run_async()
        return app.return_code or 0


async def _look(url: str) -> dict[str, Any]:
    """:raises MdsliteError: the appliance does not answer, or not to us"""
    from mdslite.tui.feed import LiveFeed
    from mdslite.tui.snapshot import to_plain

    async with _connect(url) as client:
        return to_plain(await LiveFeed(client).once())


async def _draw(url: str, *, read_only: bool, ascii: bool) -> str:
    """:raises MdsliteError: the appliance does not answer, or not to us"""
    from mdslite.tui.feed import LiveFeed
    from mdslite.tui.histogram import bars_that_fit
    from mdslite.tui.once import screen_text
    from mdslite.tui.snapshot import View

    columns, lines = shutil.get_terminal_size(SIZE)
    async with _connect(url) as client:
        snapshot = await LiveFeed(client, view=View(bars=bars_that_fit(columns))).once()
    return screen_text(snapshot, columns, lines, ascii=ascii, read_only=read_only)


def _connect(url: str) -> AsyncClient:
    from mdslite.client import AsyncClient, Retries

    return AsyncClient(
        url,
        token=os.environ.get("MDSLITE_TOKEN"),
        cert_file=os.environ.get("MDSLITE_CLIENT_CERT"),
        retries=Retries(count=0),  # the feed tries again by itself, and says so
    )
