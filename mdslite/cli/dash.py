"""`mdslite dash`: the terminal dashboard, or, for scripts, its first screen as text or its data as JSON."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, Any

import click

from mdslite.cli import output
from mdslite.cli.options import json_option, read_token, url_option
from mdslite.cli.usage import refuse_typed
from mdslite.errors import InvalidRequest

if TYPE_CHECKING:
    import asyncio

SIZE = (80, 24)  # of the first screen as text, where nobody says how large
SETTLED_S = 2.0  # by then everything that stays is there


@click.command(
    epilog="""\b
Examples:
  mdslite dash
  mdslite dash --demo                      # a recording: nothing has to run
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
@click.option("--demo", is_flag=True, help="Play a recording of the digits example; no appliance needed.")
@click.option("--ascii", is_flag=True, help="Draw with ASCII alone.")
@click.option(
    "--theme",
    metavar="NAME",
    help="okabe-ito, light, contrast or terminal. NO_COLOR=1 draws without colours.",
)
@click.option("--beside", is_flag=True, hidden=True)  # `up --dash`: ask whether the appliance is to go on
@json_option
@url_option
def dash(
    once: bool,
    read_only: bool,
    demo: bool,
    ascii: bool,
    theme: str | None,
    beside: bool,
    as_json: bool,
    url: str,
) -> int:
    """Watch and drive an appliance from this terminal."""
    import asyncio

    if demo:
        refuse_typed("beside --demo", "url")
    where = None if demo else url
    if as_json:
        output.write_json(asyncio.run(_look(where)))
        return 0
    # The screen is drawn on stderr, as Textual does, so that all three have to be the terminal.
    if once or not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        output.write(asyncio.run(_draw(where, read_only=read_only, ascii=ascii)))
        return 0
    return asyncio.run(_run(where, read_only=read_only, ascii=ascii, theme=theme, beside=beside))


async def _run(url: str | None, *, read_only: bool, ascii: bool, theme: str | None, beside: bool) -> int:
    import asyncio

    from mdslite.tui.app import DashApp
    from mdslite.tui.feed import LiveFeed
    from mdslite.tui.ink import Ink
    from mdslite.tui.themes import DEFAULT

    try:
        ink = Ink("none" if os.environ.get("NO_COLOR") else theme or DEFAULT, ascii=ascii)
    except ValueError as exc:
        raise InvalidRequest(f"--theme: {exc}", hint="leave it out for the default") from exc
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)  # where a shell exports them, they would be believed after a resize
    async with _open(url) as client:
        app = DashApp(LiveFeed(client), ink=ink, read_only=read_only, beside=beside)
        with _seldom_collecting(asyncio.get_running_loop()):
            await app.run_async()
        return app.return_code or 0


@contextlib.contextmanager
def _seldom_collecting(loop: asyncio.AbstractEventLoop, *, settled_s: float = SETTLED_S) -> Iterator[None]:
    """Keep the garbage collector from all that is there from the start on: to look through it takes longer
    than a key may, and again and again while rows come."""
    gc.disable()

    def begin() -> None:
        gc.freeze()
        gc.enable()

    begun = loop.call_later(settled_s, begin)
    try:
        yield
    finally:
        begun.cancel()
        gc.unfreeze()
        gc.enable()


async def _look(url: str | None) -> dict[str, Any]:
    """:raises MdsliteError: the appliance does not answer, or not to us"""
    from mdslite.tui.feed import LiveFeed
    from mdslite.tui.snapshot import to_plain

    async with _open(url) as client:
        return to_plain(await LiveFeed(client).once())


async def _draw(url: str | None, *, read_only: bool, ascii: bool) -> str:
    """:raises MdsliteError: the appliance does not answer, or not to us"""
    from mdslite.tui.feed import LiveFeed
    from mdslite.tui.histogram import bars_that_fit
    from mdslite.tui.once import screen_text
    from mdslite.tui.snapshot import View

    columns, lines = shutil.get_terminal_size(SIZE)
    async with _open(url) as client:
        snapshot = await LiveFeed(client, view=View(bars=bars_that_fit(columns))).once()
    return screen_text(snapshot, columns, lines, ascii=ascii, read_only=read_only)


@contextlib.asynccontextmanager
async def _open(url: str | None) -> AsyncGenerator[Any, None]:
    """The client of an appliance, or, without a URL, of the recording."""
    if url is None:
        from mdslite.tui.demo import RecordedClient
        from mdslite.tui.recording import Recording, read_tape

        yield RecordedClient(Recording(read_tape()))
        return
    from mdslite.client import AsyncClient, Retries

    async with AsyncClient(
        url,
        token=read_token(),
        cert_file=os.environ.get("MDSLITE_CLIENT_CERT"),
        retries=Retries(count=0),  # the feed tries again by itself, and says so
    ) as client:
        yield client
