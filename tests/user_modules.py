"""Modules of user code, run from a text, and what is said against them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

# As it is documented, word for word.
LISTING = """\
import mds

@mds.model('spamfilter', 'v1')
@mds.runtime('tensorflow')
@mds.context({"my_param": 11111})
@mds.requirements(["numpy"])
class SpamFilter(object):
    def __init__(self):
        ...

    @mds.health_check
    def my_health_check(self):
        return {"status": "OK"}

    @mds.warmup
    def my_warmup(self):
        ...

    @mds.pre
    def my_pre(self, data):
        return data

    @mds.predict
    def my_predict(self, data):
        return [{'answer': 42}]

    @mds.post
    def my_post(self, data):
        return data
"""


def run_module(text: str, folder: Path) -> dict[str, Any]:
    """Run Python text as `model.py`; what it defined."""
    file = folder / "model.py"
    file.write_text(textwrap.dedent(text))
    names: dict[str, Any] = {"__name__": "model"}
    exec(compile(file.read_text(), str(file), "exec"), names)
    return names
