"""Packages for tests: a class's methods as text, written into a folder."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

ECHO = """
    @mds.predict
    def answer(self, data):
        return data
"""


def class_text(body: str = ECHO, *, name: str = "Model", above: str = "") -> str:
    """A module with one class: `body` are its methods, `above` further decorators of it."""
    return f"import mds\n\n\n{above}@mds.model('{name.lower()}', 'v1')\nclass {name}:\n" + textwrap.indent(
        textwrap.dedent(body).strip("\n"), "    "
    )


def write_package(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files into a folder, which is made."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder
