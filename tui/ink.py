"""How roles look in a theme, and a letter of ASCII for each sign that is drawn. Nothing but this and `themes`
knows colours.
"""

from __future__ import annotations

from rich.style import Style

from mdslite.tui.lines import cells
from mdslite.tui.themes import DEFAULT, THEMES, Theme

SERIES = 8  # versions in a row that look different; then they begin anew
FILLS = "█▓▒░"  # beside the colour, so that a stack can be read without it

_ASCII = str.maketrans(
    {
        **dict(zip("─│╭╮╰╯├┤┬┴┼━┃", "-|+++++++++=|", strict=True)),
        **dict(zip("▁▂▃▄▅▆▇█", "__..oo##", strict=True)),
        **dict(zip("▏▎▍▌▋▊▉", ".--==##", strict=True)),
        **dict(zip("▓▒░▀▐", "%+:'|", strict=True)),
        **dict(zip("●◌○✖✓▸▶▲▼◆·…≠→←↵↑↓±µ°≥≤", "*oox+>>^v*.~!><<^v+u'><", strict=True)),
        **dict(zip("⏸⏪◀└", '"<<`', strict=True)),
    }
)


class Ink:
    """The looks of one dashboard. `ascii` draws with ASCII alone."""

    def __init__(self, theme: str = DEFAULT, *, ascii: bool = False) -> None:
        self.theme = check_theme(theme)
        self.ascii = ascii
        self._styles: dict[str, Style] = {}

    @property
    def colours(self) -> bool:
        """Are there colours for pictures?"""
        return self.theme != "none" and not self.ascii

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

    @property
    def looks(self) -> Theme:
        return THEMES[self.theme]

    def use(self, theme: str) -> None:
        """:raises ValueError: there is no such theme"""
        self.theme = check_theme(theme)
        self._styles.clear()

    def _make(self, role: str) -> Style:
        roles = self.looks.roles
        if role.startswith("rgb:"):
            front, _, back = role[4:].partition("/")
            return Style.parse(f"#{front} on #{back}" if back else f"#{front}")
        return Style.combine([Style.parse(roles.get(one, "")) for one in role.split()]) if role else Style()


def check_theme(name: str) -> str:
    """:raises ValueError: there is no such theme"""
    if name not in THEMES:
        raise ValueError(f"no theme {name!r}: there are {', '.join(THEMES)}")
    return name
