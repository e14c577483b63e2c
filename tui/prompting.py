"""Opens the line at the bottom: for a filter, a command or a search of all that can be done. Remembers what
was typed before, for as long as the dashboard runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdslite import errors, log_calls
from mdslite.tui.clean import clean
from mdslite.tui.commands import Choice, complete_command, palette, run_command
from mdslite.tui.completion import Candidate, complete_filter, vocabulary_of
from mdslite.tui.prompt import Prompt

if TYPE_CHECKING:
    from mdslite.tui.app import DashApp

_REMEMBERED = 50
_ROWS = 500  # of the log that values are taken from
_BODIES = 20


def open_prompt(app: DashApp, sign: str, text: str = "") -> None:
    """`/` a filter, `:` a command, anything else the palette."""
    if app.query(Prompt):
        return
    past = app.typed.setdefault(sign, [])

    def remember(line: str) -> None:
        if line:
            past[:] = [*(one for one in past if one != line), line][-_REMEMBERED:]

    def filter_by(line: str, picked: Candidate | None) -> None:
        remember(line)
        app.look(filter=line)

    def command(line: str, picked: Candidate | None) -> None:
        remember(line)
        run_command(app, line)

    def choose(line: str, picked: Candidate | None) -> None:
        if isinstance(picked, Choice):
            app.run_choice(picked.run)

    app.words = vocabulary_of(app.snapshot, (app.snapshot.rows or ())[:_ROWS])
    if sign == "/":
        made = Prompt(
            "/",
            text or app.view.filter,
            lambda line: complete_filter(line, app.words),
            filter_by,
            check=lambda line: wrong_with(app, line),
            past=past,
            placeholder="model=fraud confidence<0.6 shadow   Tab completes, Enter filters, Esc leaves",
        )
    elif sign == ":":
        made = Prompt(":", text, lambda line: complete_command(app, line), command, past=past)
    else:
        made = Prompt(sign, text, lambda line: palette(app, line), choose, picks=True)
    app.screen.mount(made)
    if sign in "/:":
        app.run_worker(_learn_fields(app, made), name="words", group="words", exclusive=True)


async def _learn_fields(app: DashApp, prompt: Prompt) -> None:
    """Fields of the bodies of late, which the rows that are held do not have."""
    try:
        page = await app.feed.ask(log_calls.logs(f'{app.view.filter} text~""'.strip(), limit=_BODIES))
    except errors.MdsliteError:
        return  # they are known without their fields
    app.words = vocabulary_of(app.snapshot, [*page["rows"], *(app.snapshot.rows or ())[:_ROWS]])
    prompt.complete_anew()


async def wrong_with(app: DashApp, line: str) -> str | None:
    """What the appliance says against a filter; None where it takes it, or cannot be asked."""
    if not line:
        return None
    try:
        await app.feed.ask(log_calls.logs(f"{line} since={app.snapshot.clock:.3f}", limit=1))
    except errors.InvalidRequest as exc:
        return clean(exc.message)
    except errors.MdsliteError:
        return None  # what is wrong is not the filter
    return None
