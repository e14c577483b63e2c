"""What the commands print: escaped text, tables, JSON and errors. Data goes to stdout, the rest to stderr.

Text that came over the network may hold terminal escapes, or brackets that rich would take for markup.
Everything printed passes `escape`, and rich only ever gets `Text` objects, which hold no markup.
"""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

from mdslite import errors

if TYPE_CHECKING:
    from rich.table import Table as RichTable

# C0 and C1 controls, bidirectional overrides, line separators and lone surrogates: what can move a
# cursor, hide or reorder text, or not be written at all.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_UNSAFE_IN_LINES = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))

_MOMENT = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")

# What the lines below the first are set in by; what is copied: a command, up to its last argument, or an
# option with its value.
_LABEL = re.compile(r" *(?:(?:error|hint|note|next): |[✓!✖?·] )?")
_COMMAND = re.compile(
    r"\b(?:mdslite|export|pip|curl) (?:[^\s;,()]+ )*"
    r"(?:[-/@.~'\"\d][^\s;,()]*|[^\s;,()]+[/=.]\w[^\s;,()]*|[A-Z_]{2,})"
    r"|(?<!\S)--[a-z-]+ [^\s;,()]+"
)
_OF_A_FILE = re.compile(r" *\d+ \| ")  # in front of its line's text
_GLUE = "\x00"  # in place of a blank; `escape` leaves none

# How a version's state looks on a terminal: a symbol as well as a colour.
_STATES = {
    "ready": ("●", "green"),
    "loading": ("◌", "yellow"),
    "draining": ("◌", "yellow"),
    "unhealthy": ("✖", "red"),
    "unloaded": ("○", "dim"),
    "failed": ("✖", "red"),
}


_FOLDED_WIDTH = 8  # narrower than this, a column that folds is no help
_BESIDE_WIDTH = 40  # narrower than this, a long text stands better below its row
_BELOW = 5  # columns by which what stands below its row is set in


@dataclass(frozen=True, slots=True)
class Column:
    """What a terminal that is too narrow may do: break the cells of a column that `folds`; write those of the
    last one `below` their rows; in a `Layout`, cut cells in the middle to no less than `least` (0: not)."""

    title: str
    align: Literal["left", "right"] = "left"
    folds: bool = False
    below: bool = False
    least: int = 0


def escape(text: object) -> str:
    """One line of `text` with every control character spelled out."""
    return _UNSAFE.sub(_spell, str(text))


def escape_lines(text: object) -> str:
    """Like `escape`, with line feeds left alone."""
    return _UNSAFE_IN_LINES.sub(_spell, str(text))


def write(text: str = "") -> None:
    """Print lines of data on stdout."""
    sys.stdout.write(escape_lines(text) + "\n")
    sys.stdout.flush()


def write_prose(text: str, *, head: str = "") -> None:
    """Print sentences on stdout, on a terminal broken between words and set in by what stands before them."""
    before = escape(head)
    write(fitted(before + escape_lines(text), sys.stdout, head_length=len(before)))


def note(text: str, *, end: str = "\n") -> None:
    """Print progress on stderr, on a terminal broken between words."""
    sys.stderr.write(fitted(escape_lines(text), sys.stderr) + end)
    sys.stderr.flush()


def note_over(text: str) -> None:
    """Replace the last line of stderr, which must be a terminal, and stay on it: what has no room is cut."""
    shown, width = escape(text), width_of(sys.stderr)
    if width is not None and len(shown) >= width:
        shown = f"{shown[: width - 2]}…"
    sys.stderr.write(f"\r{shown}\x1b[K")
    sys.stderr.flush()


def write_json(value: Any, *, indent: int | None = 2) -> None:
    sys.stdout.write(json_text(value, indent=indent) + "\n")
    sys.stdout.flush()


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON in which a terminal finds nothing to obey."""
    return _UNSAFE_IN_LINES.sub(_spell_json, json.dumps(value, indent=indent, ensure_ascii=False))


def discard(stream: TextIO) -> None:
    """Send what is still written to a stream whose reader has gone to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def write_error(error: errors.MdsliteError) -> None:
    """Print an error with its place and its hint."""
    place = error if isinstance(error, errors.SpecError) else error.place
    where = f"{place.file}:{place.line}:{place.column}: " if place is not None and place is not error else ""
    is_local = isinstance(error, errors.StoreError)  # nobody's words but ours, so that every time in it is
    note(f"error: {where}{with_local_times(error.message) if is_local else error.message}")
    if place is not None and place.excerpt and place.line is not None:
        note(f"{place.line:>3} | {escape(place.excerpt)}")
    if error.hint:
        note(f"hint: {error.hint}")


def write_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """A table: drawn by rich on a terminal, aligned plain text for anything else."""
    cells = [[escape(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _write_rich(columns, cells)
    else:
        write("\n".join(_plain_lines(columns, cells)))


def write_fields(fields: Mapping[str, object], *, indent: str = "") -> None:
    """Name and value a line, values aligned, on a terminal the lines of long ones too; None is left out."""
    shown = {name: value for name, value in fields.items() if value is not None}
    width = max((len(name) for name in shown), default=0)
    most = width_of(sys.stdout)
    for name, value in shown.items():
        head, text = f"{indent}{escape(name):<{width}}  ", escape(value)
        if most is None or len(head) + len(text) <= most or most < 2 * len(head):
            write(head + text)
        else:
            write("\n".join(_wrapped(text, most, first=head, rest=" " * len(head))))


class Layout:
    """A table whose lines are written one by one: its columns are as wide as the first rows and a `typical`
    one ask for. On a terminal nothing is wider than that, and the columns with a `least` width give way."""

    def __init__(
        self, columns: Sequence[Column], rows: Iterable[Sequence[str]], *, typical: Sequence[str]
    ) -> None:
        self._columns = columns
        self._room = width_of(sys.stdout)
        lines = [[one.title for one in columns], typical, *([escape(cell) for cell in row] for row in rows)]
        self._widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        while self._lacks_room and (place := self._widest()) is not None:
            self._widths[place] -= 1

    def write_head(self) -> None:
        if not self._lacks_room:
            self.write_row([column.title for column in self._columns])

    def write_row(self, cells: Sequence[str]) -> None:
        shown = [escape(cell) for cell in cells]
        if self._room is not None and self._lacks_room:
            write("\n".join(_titled_lines(self._columns, shown, self._room)))
            return
        if self._room is not None:
            shown = [cut_middle(cell, width) for cell, width in zip(shown, self._widths, strict=True)]
        write(_aligned(self._columns, shown, self._widths))

    @property
    def _lacks_room(self) -> bool:
        return self._room is not None and sum(self._widths) + 2 * (len(self._widths) - 1) > self._room

    def _widest(self) -> int | None:
        """The widest column that may be narrower."""
        found = [place for place, one in enumerate(self._columns) if 0 < one.least < self._widths[place]]
        return max(found, key=lambda place: self._widths[place], default=None)


def fitted(text: str, stream: TextIO, *, head_length: int = 0) -> str:
    """Lines that are too long for a terminal, broken between words, not within a command, which is copied:
    one that has no line's room is left to the terminal, as a file's lines are. Other streams get them as
    they are."""
    width = width_of(stream)
    if width is None or len(text) <= width:
        return text
    lines = text.split("\n")
    return "\n".join(
        line if len(line) <= width or _OF_A_FILE.match(line) else _broken(line, width, head_length)
        for line in lines
    )


def _broken(line: str, width: int, head_length: int) -> str:
    found = _LABEL.match(line)
    head = line[:head_length] if head_length or found is None else found[0]
    whole = line[len(head) :].rstrip()
    glued = _COMMAND.sub(lambda command: command[0].replace(" ", _GLUE), whole)
    pieces = textwrap.wrap(
        glued,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_on_hyphens=False,
        break_long_words=False,
    )
    return "\n".join(pieces).replace(_GLUE, " ") + line[len(head) + len(whole) :]


def cut_middle(text: str, width: int) -> str:
    """What fits of a text, with the more telling ends of it left."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def width_of(stream: TextIO) -> int | None:
    """How many columns a terminal has; None for what is no terminal, whose lines may be of any length."""
    if not stream.isatty():
        return None
    told = os.environ.get("COLUMNS", "")
    return int(told) if told.isdigit() and int(told) else os.get_terminal_size(stream.fileno()).columns or 80


def number_text(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def time_text(value: object) -> str:
    """A time from the API (unix seconds, or ISO 8601) in this machine's zone."""
    try:
        moment = datetime.fromtimestamp(value) if isinstance(value, int | float) else _parse(str(value))
    except (ValueError, OverflowError, OSError):
        return str(value)
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def with_local_times(text: str) -> str:
    """A text of the API's whose times in UTC are spelled in this machine's zone."""
    return _MOMENT.sub(lambda found: time_text(found[0]), text)


def _parse(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()


def confirm(question: str, *, otherwise: str) -> bool:
    """Ask on stderr; only yes counts.

    :raises InvalidRequest: without a terminal to ask on, with `otherwise` as the command to run instead
    """
    if not sys.stdin.isatty():
        raise errors.InvalidRequest(
            "this asks before it changes anything, and stdin is no terminal", hint=otherwise
        )
    note(f"{question} [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _plain_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [[column.title for column in columns], *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    return [_aligned(columns, line, widths) for line in lines]


def _aligned(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        cell.rjust(width) if column.align == "right" else cell.ljust(width)
        for cell, width, column in zip(cells, widths, columns, strict=True)
    ).rstrip()


def _wrapped(text: str, width: int, *, first: str, rest: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def _titled_lines(columns: Sequence[Column], row: Sequence[str], width: int) -> list[str]:
    """A row whose cells stand behind their titles, as many in a line as there is room for."""
    lines = [""]
    for column, cell in zip(columns, row, strict=True):
        text = f"{column.title} {cell}".strip()
        if cell and lines[-1].strip() and len(lines[-1]) + 2 + len(text) <= width:
            lines[-1] += f"  {text}"
        elif cell:
            lines += textwrap.wrap(
                text, width, initial_indent="  " if lines[1:] else "", subsequent_indent="  "
            )
    return lines[1:]


def _write_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    beside = columns[:-1] if columns[-1].below else columns
    if _narrowest(beside, rows) > console.width:
        for row in rows:
            write("\n".join(_titled_lines(columns, row, console.width)))
        return
    widths = _natural(columns, rows)
    room = console.width - sum(widths[:-1]) - 2 * (len(widths) - 1)
    if beside is columns or room >= min(_BESIDE_WIDTH, widths[-1]):
        console.print(_rich_table(columns, rows))
        return
    for number, row in enumerate(rows):
        console.print(_rich_table(beside, [row[:-1]], widths=widths[:-1], headed=not number))
        for line in _wrapped(row[-1], console.width, first=" " * _BELOW, rest=" " * _BELOW):
            console.print(Text(line))


def _rich_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    widths: Sequence[int] | None = None,
    headed: bool = True,
) -> RichTable:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=headed)
    for place, column in enumerate(columns):
        table.add_column(
            Text(column.title),
            justify=column.align,
            overflow="fold",
            no_wrap=not column.folds,
            min_width=None if widths is None else widths[place],
        )
    for row in rows:
        table.add_row(
            *(
                Text.assemble((f"{_STATES[cell][0]} {cell}", _STATES[cell][1]))
                if column.title == "STATE" and cell in _STATES
                else Text(cell)
                for cell, column in zip(row, columns, strict=True)
            )
        )
    return table


def _natural(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    """How wide each column is where there is room; two more for a state's symbol."""
    return [
        max(len(cell) + 2 * (column.title == "STATE" and cell in _STATES) for cell in (column.title, *cells))
        for column, *cells in zip(columns, *rows, strict=True)
    ]


def _narrowest(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> int:
    """How many columns of a terminal a table takes at least."""
    widths = _natural(columns, [row[: len(columns)] for row in rows])
    fixed = sum(
        min(_FOLDED_WIDTH, width) if column.folds else width
        for column, width in zip(columns, widths, strict=True)
    )
    return fixed + 2 * (len(columns) - 1)


def _spell(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _spell_json(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
