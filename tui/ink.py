"""How roles look: colours that the colour-blind tell apart (Okabe and Ito's), or none, and a letter of ASCII for
each sign that is drawn. Nothing else in the dashboard names a colour.
"""

from __future__ import annotations

from rich.style import Style

from mdslite.tui.lines import cells

SERIES = 8  # versions in a row that look different; then they begin anew
FILLS = "█▓▒░"  # beside the colour, so that a stack can be read without it

_DEFAULT = {
    "dim": "dim",
    "bold": "bold",
    "title": "bold #e6e6e6",
    "head": "dim bold",
    "cursor": "reverse",
    "frame": "#5f6b7a",
    "key": "bold #56b4e9",
    "good": "#009e73",
    "warn": "#e69f00",
    "bad": "bold #d55e00",
    "accent": "#56b4e9",
    "bar": "#0072b2",
    "mark": "bold #f0e442",
    "brush": "reverse",
    "shadow": "#cc79a7",
    "v0": "#56b4e9",
    "v1": "#e69f00",
    "v2": "#009e73",
    "v3": "#f0e442",
    "v4": "#cc79a7",
    "v5": "#0072b2",
    "v6": "#d55e00",
    "v7": "#bbbbbb",
}
THEMES = {"okabe-ito": _DEFAULT}

_ASCII = str.maketrans(
    {
        **dict(zip("─│╭╮╰╯├┤┬┴┼━┃", "-|+++++++++=|", strict=True)),
        **dict(zip("▁▂▃▄▅▆▇█", "__..oo##", strict=True)),
        **dict(zip("▏▎▍▌▋▊▉", ".--==##", strict=True)),
        **dict(zip("▓▒░▀▐", "%+:'|", strict=True)),
        **dict(zip("●◌○✖✓▸▶▲▼◆·…≠→←↵↑↓±×µ°–≥≤", "*oox+>>^v*.~!><<^v+xu'-><", strict=True)),
        **dict(zip("⏸⏪◀└", '"<<`', strict=True)),
    }
)


class Ink:
    """The looks of one dashboard. `ascii` draws with ASCII alone."""

    def __init__(self, theme: str = "okabe-ito", *, ascii: bool = False) -> None:
        self.theme = theme
        self.ascii = ascii
        self._styles: dict[str, Style] = {}

    def style(self, role: str) -> Style:
        """Roles may be joined with a blank: `dim v1`. `rgb:RRGGBB/RRGGBB` is a picture's own two colours."""
        found = self._styles.get(role)
        if found is None:
            found = self._styles[role] = self._make(role)
        return found

    def spell(self, text: str) -> str:
        """The text as it is drawn, of the same width."""
        if not self.ascii or text.isascii():
            return text
        drawn = text.translate(_ASCII)
        if drawn.isascii():
            return drawn
        return "".join(letter if letter.isascii() else "?" * cells(letter) for letter in drawn)

    def use(self, theme: str) -> None:
        self.theme = theme
        self._styles.clear()

    def _make(self, role: str) -> Style:
        looks = THEMES[self.theme]
        if role.startswith("rgb:"):
            front, _, back = role[4:].partition("/")
            return Style.parse(f"#{front} on #{back}" if back else f"#{front}")
        return Style.combine([Style.parse(looks.get(one, "")) for one in role.split()]) if role else Style()
