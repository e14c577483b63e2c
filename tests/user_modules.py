"""Modules of user code, run from a text, and what is said against them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any


def run_module(text: str, folder: Path) -> dict[str, Any]:
    """Run Python text as `model.py`; what it defined."""
    file = folder / "model.py"
    file.write_text(textwrap.dedent(text))
    names: dict[str, Any] = {"__name__": "model"}
    exec(compile(file.read_text(), str(file), "exec"), names)
    return names
