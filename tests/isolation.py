"""Sessions of packages in a process of their own or inline, and what is asked of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil  # type: ignore[import-untyped]
from obedient import feeds

from mdslite.errors import MdsliteError, ModelError
from mdslite.runtimes.protocol import Answers, DataSession, LoadOptions
from mdslite.runtimes.python import PythonRuntime

DEADLINE_S = 30.0
Isolation = Literal["process", "inline"]


@contextmanager
def opened(
    package: Path, *, isolation: Isolation = "process", load_timeout_s: float = DEADLINE_S, **options: Any
) -> Iterator[DataSession]:
    runtime = PythonRuntime(load_timeout_s=load_timeout_s)
    session = runtime.open(package, LoadOptions(isolation=isolation, label="p/m v1", **options))
    try:
        yield session
    finally:
        session.close()


def answers_of(session: DataSession, *data: Any, **how: Any) -> Answers:
    (answers,) = session.run(feeds(*data, **how))
    return answers


def message_of(answer: Any, kind: type[MdsliteError] = ModelError) -> str:
    assert type(answer) is kind
    assert isinstance(answer, MdsliteError)
    return answer.message


def pid_of(session: Any) -> int:
    return session.pid  # type: ignore[no-any-return]


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
