"""The colours of the dashboard: what each role looks like, theme by theme, and on what ground. All but
`none` keep to hues that the colour-blind tell apart (Okabe and Ito's); `none` has no colour, for NO_COLOR.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

Roles = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Theme:
    """`ground` and `letters` are the screen's own colours; without them, the terminal's."""

    roles: Roles = field(default_factory=dict)
    ground: str | None = None
    letters: str | None = None
    dark: bool = True


_DARK: Final = {
    "dim": "#8a94a3",
    "bold": "bold",
    "title": "bold #ffffff",
    "head": "bold #8a94a3",
    "cursor": "bold on #26405c",
    "frame": "#5f6b7a",
    "key": "bold #56b4e9",
    "good": "#2fc19a",
    "warn": "#e69f00",
    "bad": "bold #ff7a33",
    "accent": "#56b4e9",
    "bar": "#3b8fd1",
    "mark": "bold #f0e442",
    "brush": "reverse",
    "shadow": "#cc79a7",
    "v0": "#56b4e9",
    "v1": "#e69f00",
    "v2": "#2fc19a",
    "v3": "#f0e442",
    "v4": "#cc79a7",
    "v5": "#3b8fd1",
    "v6": "#ff7a33",
    "v7": "#bbbbbb",
}
_LIGHT: Final = {
    **_DARK,
    "dim": "#626c78",
    "title": "bold #000000",
    "cursor": "bold on #cbe2f5",
    "head": "bold #626c78",
    "frame": "#9aa4b0",
    "key": "bold #0072b2",
    "good": "#00734f",
    "warn": "#a06600",
    "bad": "bold #b84300",
    "accent": "#0072b2",
    "bar": "#0072b2",
    "mark": "bold #7a6a00",
    "shadow": "#a3457a",
    "v0": "#0072b2",
    "v1": "#b87400",
    "v2": "#00734f",
    "v3": "#8a7a00",
    "v4": "#a3457a",
    "v5": "#3a7fae",
    "v6": "#b84300",
    "v7": "#666666",
}
_BARE: Final = {
    "dim": "dim", "bold": "bold", "title": "bold", "head": "underline", "cursor": "reverse", "key": "bold",
    "warn": "bold", "bad": "bold underline", "mark": "bold", "brush": "reverse",
}  # fmt: skip

THEMES: Final = {
    "okabe-ito": Theme(_DARK, "#11151b", "#d7dce2"),
    "light": Theme(_LIGHT, "#fbfbf8", "#1c2126", dark=False),
    "contrast": Theme(
        {**_DARK, "dim": "#c8c8c8", "head": "bold #ffffff", "frame": "#a0a0a0", "bar": "#56b4e9"},
        "#000000",
        "#ffffff",
    ),
    "terminal": Theme(
        {
            **_BARE, "frame": "bright_black", "dim": "bright_black", "key": "bold cyan", "good": "green",
            "warn": "yellow", "bad": "bold red", "accent": "cyan", "bar": "blue", "mark": "bold yellow",
            "shadow": "magenta", "v0": "cyan", "v1": "yellow", "v2": "green", "v3": "bright_yellow",
            "v4": "magenta", "v5": "blue", "v6": "red", "v7": "white",
        }
    ),
    "none": Theme(_BARE),
}  # fmt: skip
DEFAULT: Final = "okabe-ito"
