"""Labelling at a terminal, a key a request: what is shown, what each key does, and the sums at the end."""

from __future__ import annotations

import os
import re
import shutil
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mdslite import errors
from mdslite.cli import output
from mdslite.cli.label_view import Look, ansi, assign_keys, item_lines, key_text
from mdslite.cli.target import Target

if TYPE_CHECKING:
    from mdslite.client import Client

Json = Mapping[str, Any]

_ENTER, _QUIT, _UNDO = ("\r", "\n"), ("\x03", "\x04", "\x1b"), ("\x7f", "\x08")
_PAGE = 50
_SEQUENCE = re.compile(r"\x1b[\[O][0-?]*[ -/]*[@-~]")  # what an arrow sends, or another key without a letter


@dataclass(slots=True)
class Terminal:
    """Keys in, lines out. `read_key` gives "" at the end of input; `read_line` reads what ends with enter."""

    look: Look
    write: Callable[[str], None]
    read_key: Callable[[], str]
    read_line: Callable[[str], str]


@dataclass(slots=True)
class _Done:
    item: Json
    label: str | None  # None: skipped


@dataclass(slots=True)
class Session:
    """One person's way through the queue of a model."""

    client: Client
    target: Target
    terminal: Terminal
    rule: str | None = None
    author: str | None = None
    _done: list[_Done] = field(default_factory=list)
    _ahead: list[Json] = field(default_factory=list)
    _cursor: int | None = None
    _classes: list[str] = field(default_factory=list)
    _waiting: int = 0

    def run(self) -> None:
        """Until nothing waits any more, or enough is enough."""
        self._fetch()
        if not self._ahead:
            self.client.labeling(self.target.project, self.target.model)  # refuses what is not deployed
        while (item := self._next()) is not None:
            if not self._ask(item):
                break
        self._sum_up()

    def _fetch(self) -> None:
        found = self.client.label_queue(
            self.target.project, self.target.model, rule=self.rule, limit=_PAGE, before=self._cursor
        )
        self._ahead += found["items"]
        self._cursor = found["next"]
        self._classes = list(dict.fromkeys([*self._classes, *found["classes"]]))
        self._waiting = self._waiting or found["waiting"]

    def _next(self) -> Json | None:
        if not self._ahead and self._cursor is not None:
            self._fetch()
        return self._ahead.pop(0) if self._ahead else None

    def _ask(self, item: Json) -> bool:
        """Show a request and do what a key says; False to end."""
        plain = False
        keys = assign_keys(self._classes)
        self._show(item, keys, plain=plain)
        while True:
            key = self.terminal.read_key()
            if not key or key in _QUIT or (key == "q" and "q" not in keys):
                return False
            if key == "\t":
                plain = not plain
                self._show(item, keys, plain=plain)
            elif key in _UNDO:
                if self._undo(item):
                    return True
            elif key == " ":
                self._done.append(_Done(item, None))
                self._say("skipped")
                return True
            elif (label := self._label(item, key, keys)) is not None:
                return self._put(item, label)

    def _label(self, item: Json, key: str, keys: Mapping[str, str]) -> str | None:
        if key in _ENTER:
            return None if item["answer"] is None else str(item["answer"])
        if key == "/":
            return self.terminal.read_line("label: ").strip() or None
        return keys.get(key)

    def _put(self, item: Json, label: str) -> bool:
        try:
            self.client.put_label(item["id"], label, author=self.author)
        except errors.NotFound:
            self._say("gone from the queue meanwhile")
            return True
        self._done.append(_Done(item, label))
        if label not in self._classes:
            self._classes.append(label)
        agree = [one["version"] for one in item["answers"] if one["answer"] == label]
        self._say(f"{label}   " + (f"as {', '.join(agree)} said" if agree else "as none said"))
        return True

    def _undo(self, item: Json) -> bool:
        """Take the last step back and ask again; False when there is none."""
        if not self._done:
            self._say("nothing to undo")
            return False
        last = self._done.pop()
        if last.label is not None:
            self.client.undo_label(last.item["id"], author=self.author)
        self._ahead[:0] = [last.item, item]
        self._say("undone")
        return True

    def _show(self, item: Json, keys: Mapping[str, str], *, plain: bool) -> None:
        terminal = self.terminal
        place = f"{len(self._done) + 1} of {max(self._waiting, len(self._done) + 1)}"
        head = f"{place}   {output.time_text(item['time'])}   {item['reason']}   id {item['id']}"
        rule = "-" if terminal.look.ascii else "─"
        terminal.write(f"\n{output.escape(head)} {rule * max(0, terminal.look.columns - len(head) - 2)}\n\n")
        for line in item_lines(item, terminal.look, plain=plain):
            terminal.write(ansi(line, terminal.look) + "\n")
        terminal.write(f"\n{output.escape(key_text(keys, item))}\n")

    def _say(self, text: str) -> None:
        self.terminal.write(f"> {output.escape(text)}\n")

    def _sum_up(self) -> None:
        labelled = [one for one in self._done if one.label is not None]
        skipped = len(self._done) - len(labelled)
        write = self.terminal.write
        if not self._done:
            write("nothing labelled\n" if self._waiting else "nothing waits for a label\n")
            return
        write(f"\n{len(labelled)} labelled, {skipped} skipped\n")
        right: dict[str, list[int]] = {}
        for one in labelled:
            for answer in one.item["answers"]:
                count = right.setdefault(answer["version"], [0, 0])
                count[0] += answer["answer"] == one.label
                count[1] += 1
        for version, (agreed, total) in right.items():
            write(f"  {output.escape(version)} answered {agreed} of {total} as you did\n")
        write(f"how right they are: mdslite label {self.target} --accuracy\n")


@contextmanager
def open_terminal() -> Iterator[Terminal]:
    """This process's terminal, which gives each key at once for as long as the block runs."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    look = Look(
        columns=shutil.get_terminal_size().columns,
        colour="NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb",
        ascii=encoding != "utf8",
    )

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    typed = ""

    def read_key() -> str:
        nonlocal typed
        typed = typed or os.read(fd, 64).decode("utf-8", "ignore")
        arrow = _SEQUENCE.match(typed)
        length = 1 if arrow is None else arrow.end()
        key, typed = typed[:length], typed[length:]
        return key

    def read_line(prompt: str) -> str:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        try:
            write(prompt)
            return sys.stdin.readline()
        finally:
            _each_key(fd)

    try:
        _each_key(fd)
        yield Terminal(look, write, read_key, read_line)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _each_key(fd: int) -> None:
    """Let a terminal give each key at once and unseen, Ctrl-C as a key like others."""
    tty.setcbreak(fd)
    attributes = termios.tcgetattr(fd)
    attributes[3] &= ~termios.ISIG
    termios.tcsetattr(fd, termios.TCSADRAIN, attributes)
