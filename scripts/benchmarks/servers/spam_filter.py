"""The spam filter of the examples, as the servers that are compared with mdslite use it: its own class.

`examples/spam/spamfilter` and a folder with `mds` (which needs nothing but Python) are on the path.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any


class SpamFilter:
    """Calls the class's three methods as its decorators say: only the middle one takes a batch."""

    def __init__(self) -> None:
        self._filter = importlib.import_module("model").SpamFilter()
        self._filter.warm_up()

    def answer(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        words = [self._filter.tokenise(text) for text in texts]
        return [self._filter.name(probability) for probability in self._filter.score(words)]

    def answer_requests(self, requests: Sequence[Sequence[str]]) -> list[list[dict[str, Any]]]:
        """All texts of these requests in one batch."""
        answers = iter(self.answer([text for texts in requests for text in texts]))
        return [[next(answers) for _ in texts] for texts in requests]
