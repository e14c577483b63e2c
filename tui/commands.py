"""What can be typed after `:`, each command with its words and what it does, and what the palette finds:
those, the keys of the screen, the screens, what is deployed. Does nothing itself but call the app's actions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from textual.binding import Binding

from mdslite.tui.bars import in_ascii, sign_of
from mdslite.tui.completion import Candidate, complete_filter, matches
from mdslite.tui.deployments import entries_of
from mdslite.tui.snapshot import SHORTEST_S, SPANS_S

if TYPE_CHECKING:
    from mdslite.tui.app import DashApp

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Command:
    """`run` gets what was typed behind the name, and says what is wrong with it by a ValueError. `words` are
    what may follow the name."""

    name: str
    usage: str
    told: str
    run: Callable[[DashApp, str], Any]
    words: Callable[[DashApp], Sequence[str]] | None = None


@dataclass(frozen=True, slots=True)
class Choice(Candidate):
    """A line of the palette: `run` is what it does."""

    run: Callable[[], Any] = lambda: None


def find(name: str) -> Command | None:
    """The command of a name, or the only one that begins like it."""
    exact = [one for one in COMMANDS if one.name == name]
    close = [one for one in COMMANDS if one.name.startswith(name)]
    return exact[0] if exact else close[0] if len(close) == 1 else None


def complete_command(app: DashApp, text: str) -> list[Candidate]:
    name, blank, rest = text.partition(" ")
    if not blank:
        return [
            Candidate(one.name + (" " if one.usage else ""), 0, f"{one.usage}  {one.told}".strip())
            for one in COMMANDS
            if one.name.startswith(name) and one.name != name
        ]
    command = find(name)
    if command is None:
        return []
    if command.name == "filter":
        found = complete_filter(rest, app.words)
        return [Candidate(one.text, one.start + len(name) + 1, one.told) for one in found]
    start = text.rfind(" ") + 1
    written = text[start:]
    words = command.words(app) if command.words is not None else ()
    found = [Candidate(one, start) for one in words if one.startswith(written) and one != written]
    return found or [Candidate("", len(text), f"{command.name} {command.usage}: {command.told}")]


def run_command(app: DashApp, text: str) -> None:
    """Do what was typed, or say why not."""
    name, _, rest = text.strip().partition(" ")
    if not name:
        return
    command = find(name)
    if command is None:
        close = sorted(COMMANDS, key=lambda one: -(matches(one.name, name) or -99))[:1]
        app.say(f"no command {name!r}: there is {close[0].name!r}; F1 lists all of them", "warn")
        return
    try:
        done = command.run(app, rest.strip())
    except ValueError as exc:
        app.say(f"{command.name}: {exc}; usage: {command.name} {command.usage}", "warn")
        return
    if hasattr(done, "__await__"):
        app.run_worker(done, name=f"command {command.name}", exit_on_error=True)


def palette(app: DashApp, text: str) -> list[Choice]:
    """Everything that can be done here and fits what was typed, the best first."""
    ranked = [
        (score, -at, choice)
        for at, choice in enumerate(_choices(app))
        if (score := matches(f"{choice.text} {choice.told}", text)) is not None
    ]
    if text:
        ranked.sort(key=lambda one: one[:2], reverse=True)
    return [choice for _, _, choice in ranked[:50]]


def _choices(app: DashApp) -> list[Choice]:
    found: list[Choice] = []
    for binding in every_binding(app):
        if binding.description:
            run = partial(app.run_binding, binding)
            sign = in_ascii(sign_of(binding.key)) if app.ink.ascii else sign_of(binding.key)
            found.append(Choice(binding.description, 0, f"key {sign}", run))
    for name, title in app.titles.items():
        found.append(Choice(f"screen {title}", 0, "", partial(app.action_show, name)))
    for model in app.snapshot.models or ():
        term = f"project={model['project']} model={model['model']}"
        what = f"requests of {model['project']}/{model['model']}"
        found.append(Choice(what, 0, "", partial(_requests, app, term)))
    for command in COMMANDS:
        told = f":{command.name} {command.usage}  {command.told}".strip()
        found.append(Choice(command.name, 0, told, partial(_begin, app, command)))
    return found


def every_binding(app: DashApp) -> list[Binding]:
    """The keys that work now: the screen's that is seen, then those that work everywhere."""
    found: list[Binding] = []
    for owner in (app.pane, app):
        for binding in Binding.make_bindings(owner.BINDINGS if owner is not None else []):
            if all(one.action != binding.action for one in found):
                found.append(binding)
    return found


def _begin(app: DashApp, command: Command) -> None:
    if command.usage:
        app.action_prompt(":", command.name + " ")
    else:
        run_command(app, command.name)


async def _requests(app: DashApp, term: str) -> None:
    app.look(filter=term)
    await app.action_show("requests")


def _show(name: str) -> Callable[[DashApp, str], Any]:
    return lambda app, rest: app.action_show(name)


def _apply(app: DashApp, rest: str) -> None:
    from mdslite.tui import driving

    driving.apply_file(app, rest or None)


def _undo(app: DashApp, rest: str) -> None:
    from mdslite.tui import driving

    if rest and not rest.isdigit():
        raise ValueError(f"expected the number of a revision, got {rest!r}")
    driving.undo(app, int(rest) if rest else None)


def _weight(app: DashApp, rest: str) -> None:
    from mdslite.tui import driving

    name, _, weight = rest.partition(" ")
    entry = next((one for one in entries_of(app.snapshot) if one.name == name), None)
    if entry is None:
        known = f"such as {_versions(app)[0]}" if _versions(app) else "and nothing is deployed"
        raise ValueError(f"expected PROJECT/MODEL@VERSION, {known}")
    driving.change_weights(app, entry, weight or None)


def _versions(app: DashApp) -> Sequence[str]:
    return [one.name for one in entries_of(app.snapshot)]


def _models(app: DashApp) -> Sequence[str]:
    return [f"{one['project']}/{one['model']}" for one in app.snapshot.models or ()]


def _label(app: DashApp, rest: str) -> None:
    from mdslite.tui.labeling import label_queue

    label_queue(app, rest)


def _export(app: DashApp, rest: str) -> None:
    from mdslite.tui.exporting import export_rows

    export_rows(app, rest)


def _filter(app: DashApp, rest: str) -> None:
    from mdslite.tui.prompting import wrong_with

    async def narrow() -> None:
        wrong = await wrong_with(app, rest)
        if wrong is None:
            app.look(filter=rest)
        else:
            app.say(wrong, "bad")

    app.run_worker(narrow(), name="filter", group="filter", exclusive=True)


def _span(app: DashApp, rest: str) -> None:
    seconds = read_span(rest)
    if not SHORTEST_S <= seconds <= SPANS_S[-1]:
        raise ValueError(f"expected a span from {SHORTEST_S:.0f}s to 7d, got {rest!r}")
    app.look(span_s=seconds)


def _at(app: DashApp, rest: str) -> None:
    moment = read_moment(rest, app.snapshot.clock)
    if moment > app.snapshot.clock:
        raise ValueError("that is not yet")
    app.look(moment=moment, until=None)


def _theme(app: DashApp, rest: str) -> None:
    app.use_theme(rest)


def _themes(app: DashApp) -> Sequence[str]:
    from mdslite.tui.themes import THEMES

    return list(THEMES)


def read_span(text: str) -> float:
    """Seconds of `90s`, `15m`, `2h30m`.

    :raises ValueError: it is none
    """
    total, number = 0.0, ""
    for letter in text:
        if letter.isdigit() or letter == ".":
            number += letter
        elif letter in _UNITS and number:
            total += float(number) * _UNITS[letter]
            number = ""
        else:
            raise ValueError(f"expected a span such as 15m or 2h, got {text!r}")
    if number or total <= 0:
        raise ValueError(f"expected a span such as 15m or 2h, got {text!r}")
    return total


def read_moment(text: str, now: float) -> float:
    """Unix seconds of `14:03` (the last one that was), `2026-11-22T14:03`, or `15m` ago.

    :raises ValueError: it is none
    """
    words = text.strip()
    if words[-1:] in _UNITS:
        return now - read_span(words)
    today = datetime.fromtimestamp(now)
    if ":" in words and "-" not in words:
        clock = words if words.index(":") == 2 else f"0{words}"
        try:
            moment = datetime.fromisoformat(f"{today:%Y-%m-%d}T{clock}")
        except ValueError:
            raise ValueError(f"expected a time such as 14:03, got {text!r}") from None
        return (moment if moment <= today else moment - timedelta(days=1)).timestamp()
    try:
        return datetime.fromisoformat(words).timestamp()
    except ValueError:
        raise ValueError(f"expected a time such as 14:03 or 2026-11-22T14:03, got {text!r}") from None


COMMANDS: Final = (
    Command("deploy", "", "what is deployed", _show("deploy")),
    Command("requests", "", "the request log", _show("requests")),
    Command("gpu", "", "devices, memory, queues, batches", _show("gpu")),
    Command("changes", "", "revisions with their diffs", _show("changes")),
    Command("sync", "", "clusters that follow this box", _show("sync")),
    Command("filter", "TERMS", "narrow the log, the histogram and the figures", _filter),
    Command(
        "span",
        "15m",
        "how much time the histogram shows",
        _span,
        lambda app: ("1m", "5m", "15m", "1h", "6h", "1d"),
    ),
    Command("at", "14:03", "show everything as it was then", _at, lambda app: ("5m", "1h", "12:00")),
    Command("live", "", "back to now", lambda app, rest: app.action_live()),
    Command("pause", "", "stop, or go on", lambda app, rest: app.action_pause()),
    Command("weight", "P/M@V 20", "change weights, the plan first", _weight, _versions),
    Command("apply", "FILE", "apply a file of this machine, the plan first", _apply),
    Command("undo", "[REV]", "go back to a revision, the plan first", _undo),
    Command("label", "[P/M]", "label what waits for it", _label, _models),
    Command("export", "FILE", "write what the filter finds to a file", _export),
    Command("theme", "NAME", "other colours", _theme, _themes),
    Command("readonly", "", "refuse what changes something, or let it", lambda app, rest: app.action_guard()),
    Command("help", "", "all keys and commands", lambda app, rest: app.action_help()),
    Command("quit", "", "leave", lambda app, rest: app.action_quit()),
)
