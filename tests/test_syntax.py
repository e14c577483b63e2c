"""Syntax trees that are built while another thread builds one."""

from __future__ import annotations

import ast
import gc
import sys
import threading
from collections.abc import Iterator

import pytest

from mdslite.syntax import built

DISTURBED = "AST constructor recursion depth mismatch (before=165, after=215)"


def _fails(*errors: Exception) -> Iterator[Exception | None]:
    yield from errors
    yield None


def _build(outcomes: Iterator[Exception | None]) -> str:
    error = next(outcomes)
    if error is not None:
        raise error
    return "a tree"


def test_a_tree_is_built_again_when_another_thread_disturbed_it() -> None:
    outcomes = _fails(SystemError(DISTURBED), SystemError(DISTURBED))
    assert built(lambda: _build(outcomes)) == "a tree"


def test_a_lasting_system_error_is_raised() -> None:
    outcomes = _fails(*[SystemError(DISTURBED)] * 1000)
    with pytest.raises(SystemError, match="depth mismatch"):
        built(lambda: _build(outcomes))
    assert next(outcomes) is not None, "it tried a thousand times"


def test_what_is_wrong_with_the_source_is_told_at_once() -> None:
    outcomes = _fails(SyntaxError("invalid syntax"), SyntaxError("again"))
    with pytest.raises(SyntaxError, match="invalid syntax"):
        built(lambda: _build(outcomes))


def test_threads_that_build_at_once_all_get_their_trees() -> None:
    """With garbage collected all the time, about one tree in thirty thousand was disturbed."""
    source = "\n".join(f"a{i} = [{i}, (b, {{c: d}})]" for i in range(200))
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                assert len(built(lambda: ast.parse(source)).body) == 200
        except BaseException as exc:
            wrong.append(exc)

    threads = [threading.Thread(target=work) for _ in range(3)]
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(5)
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
    assert not wrong
