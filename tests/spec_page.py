"""docs/spec.md as the tests read it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "spec.md").read_text()
# Each field with the cells of its row: names, type, default, what a change does, and what it is.
ROWS = [
    (name, row.split(" | "))
    for row in re.findall(r"^\| (`[a-z].*) \|$", PAGE, re.M)
    for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])
]
