"""Python's syntax trees, built on several threads at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_TRIES = 8


def built(build: Callable[[], T]) -> T:
    """What `build` returns, which has the interpreter build a syntax tree: `ast.parse`, `ast.literal_eval`.

    CPython (3.11.7 at least) counts how deep it is in one place for all threads. Where it collects garbage
    meanwhile, and another thread gets its turn and builds a tree, too, the counts disagree and a
    `SystemError` says so, about a source that is as it should be: then it is built again.
    """
    for _ in range(_TRIES):
        try:
            return build()
        except SystemError as exc:
            disturbed = exc
    raise disturbed
