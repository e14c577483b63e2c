"""What the keys of the deploy screen begin: each puts together what is wished for, and opens the dialog that
shows what it would do. Changes nothing by itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdslite import calls, errors
from mdslite.tui.clean import clean
from mdslite.tui.deeds import Deed, DeedDialog
from mdslite.tui.deployments import Entry
from mdslite.tui.dialogs import AskDialog, Dialog, NoteDialog
from mdslite.tui.lines import Line, fit
from mdslite.tui.plan_dialog import PlanDialog
from mdslite.tui.snapshot import Json
from mdslite.tui.wishes import parse_rollout, parse_weights, shares_after
from mdslite.tui.wrapping import wrap

if TYPE_CHECKING:
    from mdslite.tui.app import DashApp

DEFAULT_FILE = "deployments.yaml"
_STEPS = (5, 25, 50, 100)  # percent, those that a rollout proposes
_FIRST_GATES = "error_rate<1% p99<1.2x"
_PRINTED_LINES = 40


def change_weights(app: DashApp, entry: Entry, text: str | None = None) -> None:
    """Ask for weights, `v2 20` or only the number of the version under the cursor."""
    weights = weights_of(app, entry)

    def explain(typed: str, width: int) -> list[Line]:
        try:
            wanted = parse_weights(typed, weights, chosen=entry.version["version"])
        except errors.InvalidRequest:
            wanted = {}
        return share_lines(weights, wanted)

    def submit(typed: str) -> Dialog:
        wanted = parse_weights(typed, weights, chosen=entry.version["version"])
        wish = {"project": entry.project, "model": entry.model, "weights": wanted}
        named = ", ".join(f"{version} {weight:g}" for version, weight in wanted.items())
        reason = f"weights of {entry.project}/{entry.model}: {named}"
        return PlanDialog(f"Weights of {entry.project}/{entry.model}", {"weights": wish}, reason=reason)

    if not app.may_change():
        return
    version = entry.version["version"]
    weight = f"{entry.version['weight']:g}"
    value = text if text is not None else f"{version} {weight}"
    heading = f"Weights of {entry.project}/{entry.model}"
    label = "VERSION WEIGHT, several with commas:"
    replaced = weight if text is None else ""
    app.push_screen(AskDialog(heading, value, explain, submit, label=label, replaced=replaced))


def apply_file(app: DashApp, path: str | None = None) -> None:
    """Ask for a file of this machine, and plan what applying it would change."""

    def explain(typed: str, width: int) -> list[Line]:
        there = Path(typed).expanduser()
        known = there.is_file()
        sign: Line = [("✓ ", "good")] if known else [("· ", "dim")]
        said = f"{there.resolve()}" if known else "no such file yet"
        return [[*sign, (clean(said)[: width - 2], "" if known else "dim")]]

    async def submit(typed: str) -> Dialog:
        async def read() -> Mapping[str, Any]:
            return await asyncio.to_thread(read_file, typed)

        reason = f"apply of {Path(typed).name} in the dashboard"
        return PlanDialog(f"Apply {typed}", await read(), reason=reason, again=read)

    if app.may_change():
        app.push_screen(
            AskDialog("Apply a deployments file", path or DEFAULT_FILE, explain, submit, label="file:")
        )


def undo(app: DashApp, revision: int | None = None) -> None:
    """Plan to go back, to the state before the latest revision where none is named."""
    if not app.may_change():
        return
    wanted: int | str = "previous" if revision is None else revision
    heading = (
        "Undo the latest change" if revision is None else f"Go back to the state after revision {revision}"
    )
    app.push_screen(PlanDialog(heading, {"revision": wanted}, reason="undone in the dashboard"))


def delete(app: DashApp, entry: Entry) -> None:
    """Plan to delete the version under the cursor; its name has to be typed."""
    if not app.may_change():
        return
    version = entry.version["version"]
    wish = {"project": entry.project, "model": entry.model, "version": version}
    only = len(weights_of(app, entry)) == 1
    heading = f"Delete {entry.name}" + (" and with it the model" if only else "")
    app.push_screen(PlanDialog(heading, {"remove": wish}, reason=f"delete {entry.name}"))


def load_or_unload(app: DashApp, entry: Entry) -> None:
    """Take the model out of memory, or back."""
    if not app.may_change():
        return
    name = f"{entry.project}/{entry.model}"
    out = any(one["state"] == "unloaded" for one in _versions(app, entry))
    told = f"{name} is answering its requests" if not out else f"{name} was taken out of memory"
    load = Deed(
        "load",
        "loads every version of it that is not in memory; all of them or none",
        calls.load(entry.project, entry.model),
        lambda reply: f"{name} is loaded",
    )
    unload = Deed(
        "unload",
        "finishes what is in flight, then frees its memory: requests get 503 until it is loaded again. It "
        "stays deployed, and no revision is made",
        calls.unload(entry.project, entry.model),
        lambda reply: f"{name} is out of memory; the same key brings it back",
    )
    choices = {"l": load} if out else {"u": unload, "l": load}
    app.push_screen(DeedDialog(f"Load or unload {name}", [[(clean(told), "dim")]], choices))


def roll_out(app: DashApp, entry: Entry) -> None:
    """Begin a rollout of the version under the cursor, or change the one that its model has."""
    if not app.may_change():
        return
    running = next(
        (
            one
            for one in app.snapshot.rollouts
            if (one["project"], one["model"]) == entry.model_key and one["state"] in ("running", "paused")
        ),
        None,
    )
    app.push_screen(
        _change_rollout(app, entry, running) if running is not None else _begin_rollout(app, entry)
    )


def explain_failure(app: DashApp, entry: Entry) -> None:
    """Why a version is as it is, with what its package printed."""
    printed: list[Json] = []

    def lines(width: int) -> list[Line]:
        reason = entry.version.get("reason") or "nothing is wrong with it"
        found: list[Line] = [[(text, "bold")] for text in wrap(clean(reason), width)]
        for one in printed:
            ended = f", which ended ({one['ended']})" if one.get("ended") else ""
            found += [[], [(clean(f"printed by {one['replica']}{ended}:"), "dim")]]
            text = [row for row in str(one["text"]).splitlines() if row.strip()][-_PRINTED_LINES:]
            found += [[(part, "")] for row in text for part in wrap(clean(row), width)]
        return found

    dialog = NoteDialog(f"{entry.name} is {entry.version['state']}", lines)

    async def ask() -> None:
        try:
            told = await app.feed.ask(calls.output(*entry.model_key, entry.version["version"]))
        except errors.MdsliteError:
            return  # what it printed is an extra: the reason is there
        printed.extend(told)
        dialog.redraw()

    app.push_screen(dialog)
    app.run_worker(ask())


def read_file(path: str) -> dict[str, Any]:
    """:raises InvalidRequest: it cannot be read"""
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        why = os.strerror(exc.errno or 0) if isinstance(exc, OSError) else "it is no UTF-8 text"
        raise errors.InvalidRequest(f"cannot read {path}: {why}") from exc
    return {"source": text, "file": path, "base": str(file.resolve().parent)}


def weights_of(app: DashApp, entry: Entry) -> dict[str, float | None]:
    """The weight of each version of the model, None for a shadow."""
    return {one["version"]: None if one["shadow"] else one["weight"] for one in _versions(app, entry)}


def share_lines(weights: dict[str, float | None], wanted: dict[str, float]) -> list[Line]:
    """Each version's weight and share of the traffic, now and then."""
    now, then = shares_after(weights, {}), shares_after(weights, wanted)
    lines: list[Line] = [[("  VERSION       NOW             THEN", "head")]]
    for version, weight in weights.items():
        old = "shadow" if weight is None else f"{weight:g}"
        new = wanted.get(version, weight)
        changed = version in wanted and wanted[version] != weight
        after = "shadow" if new is None else f"{new:g}"
        line: Line = [
            ("~ " if changed else "  ", "warn"),
            (fit(version, 12), "bold" if changed else ""),
            (f"{old:>6} {now[version]:>6.1%}  ", ""),
            (f"{after:>6} {then[version]:>6.1%}", "warn" if changed else "dim"),
        ]
        lines.append(line)
    return lines


def _versions(app: DashApp, entry: Entry) -> list[Json]:
    for model in app.snapshot.models or []:
        if (model["project"], model["model"]) == entry.model_key:
            return [one for one in model["versions"] if one["state"] != "draining"]
    return []


def _begin_rollout(app: DashApp, entry: Entry) -> Dialog:
    version = entry.version["version"]
    above = [step for step in _STEPS if step > 100 * entry.version["share"]]  # a rollout only steps up
    proposed = f"{','.join(map(str, above or _STEPS[-1:]))} every 10m {_FIRST_GATES}"

    def explain(typed: str, width: int) -> list[Line]:
        try:
            wish = parse_rollout(typed)
        except errors.InvalidRequest as exc:
            return [[("· " + clean(exc.message), "dim")]]
        steps = " → ".join(f"{step:g}%" for step in wish.steps)
        lines: list[Line] = [[(f"{clean(version)} gets {steps}, each for {wish.every_text} at least", "")]]
        if not wish.gates:
            return [*lines, [("! no gates: nothing but you will stop it", "warn")]]
        return [
            *lines,
            [("it goes back by itself when one of these fails: ", ""), (clean(" ".join(wish.gates)), "bold")],
        ]

    def submit(typed: str) -> Dialog:
        wish = parse_rollout(typed)
        ask = calls.begin_rollout(
            *entry.model_key,
            version,
            steps=wish.steps,
            every_s=wish.every_s,
            gates=wish.gates,
            ungated=not wish.gates,  # the dialog has said what that means
            author=app.author,
        )
        effect = f"gives {version} {wish.steps[0]:g} % at once; every step is a revision that undo knows"
        deed = Deed(
            "begin",
            effect,
            ask,
            lambda reply: f"{reply['version']} has {reply['share']:g} %: {reply['message']}",
        )
        return DeedDialog(f"Rollout of {entry.name}", explain(typed, 80), {"enter": deed})

    return AskDialog(f"Rollout of {entry.name}", proposed, explain, submit, label="STEPS every SPAN GATES:")


def _change_rollout(app: DashApp, entry: Entry, running: Json) -> Dialog:
    version, share = running["version"], running["share"]
    paused = running["state"] == "paused"

    def deed(action: str, effect: str) -> Deed:
        ask = calls.change_rollout(*entry.model_key, action, author=app.author)
        return Deed(action, effect, ask, lambda reply: f"{reply['state']}: {reply['message']}")

    wait = (
        deed("resume", "goes on with the steps")
        if paused
        else deed("pause", f"keeps {version} at {share:g} %")
    )
    choices = {
        "p": wait,
        "o": deed("promote", f"gives {version} all of the traffic now"),
        "x": deed("abort", "puts the weights back to what they were before it began"),
    }
    effect: list[Line] = [
        [(clean(f"{version} has {share:g} %, {running['state']}: {running['message']}"), "")]
    ]
    return DeedDialog(f"Rollout of {entry.project}/{entry.model}", effect, choices)
