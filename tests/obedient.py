"""Python packages for tests: classes that answer, and classes that do what user code should not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

from mdslite.runtimes.protocol import DataFeeds, Datum

HEAD = "import ctypes, os, re, signal, sys, threading, time\nimport numpy as np\nimport mds\n\n"

# Gives back what it gets, but for {"do": CODE}, which it runs, and answers with what CODE calls `x`.
OBEDIENT = """
@mds.predict
@mds.batch(batch_size=32)
def predict(self, data):
    return [self.obey(one) for one in data] + self.__dict__.pop("surplus", [])

def obey(self, one):
    if not isinstance(one, dict) or "do" not in one:
        return one
    known = globals() | {"self": self, "x": None}
    exec(one["do"], known)
    return known["x"]
"""


def write_package(folder: Path, methods: str = OBEDIENT, *, head: str = "", requirements: str = "") -> Path:
    """A package whose class has these methods; `head` stands above the class."""
    folder.mkdir(parents=True, exist_ok=True)
    marks = "@mds.model('obedient', 'v1')\n" + (
        f"@mds.requirements({requirements})\n" if requirements else ""
    )
    body = indent(dedent(methods).strip(), "    ")
    (folder / "model.py").write_text(f"{HEAD}{dedent(head).strip()}\n\n{marks}class Obedient:\n{body}\n")
    return folder


def feeds(*data: Datum | str, tensors: bool = False, confidence: str | None = None) -> DataFeeds:
    """What a session runs on; texts stand for their bytes."""
    rows: Sequence[Any] = [one.encode() if isinstance(one, str) else one for one in data]
    return {"data": rows, "confidence": confidence, "tensors": tensors}


def do(code: str) -> bytes:
    """An instance that has `code` run."""
    return ('{"do": "' + code.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"}').encode()
