"""What `mdslite doctor` and the admin API's doctor route list: one finding a line. Checks nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` is a sentence for a person; `hint` says what to do about it, with a command if there is one."""

    level: Level
    what: str
    hint: str | None = None
