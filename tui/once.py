"""The first screen as plain text, for scripts and for terminals that are none."""

from __future__ import annotations

from mdslite.tui.bars import tabs_line
from mdslite.tui.clean import clean
from mdslite.tui.deploy import pane_lines
from mdslite.tui.header import HEIGHT, header_lines
from mdslite.tui.ink import Ink
from mdslite.tui.lines import fill, plain
from mdslite.tui.snapshot import Snapshot


def screen_text(
    snapshot: Snapshot, width: int, height: int, *, ascii: bool = False, read_only: bool = False
) -> str:
    """`height` lines of at most `width` columns."""
    ink = Ink(ascii=ascii)
    lines = header_lines(width, snapshot, read_only=read_only)
    lines.append(tabs_line(width, {"deploy": "Deploy"}, "deploy", ""))
    lines += pane_lines(width, height - HEIGHT - 1, snapshot)
    return "\n".join(ink.spell(clean(plain(line))).rstrip() for line in fill(lines, width, height))
