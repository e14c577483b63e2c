"""A Python package served inside the appliance's process, as `isolation: inline` asks for.

It answers as it would from a process of its own, and costs no crossing. What cannot hold here: a crash is the
appliance's; a run cannot be stopped, so that a hung one is given up with its thread; a busy class holds the
interpreter lock, and with it every other model; `resource.memory` and `container_parameter.env` bind nothing;
what the class prints goes where the appliance prints.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

import mds
from mdslite.errors import DeadlineExceeded, LoadFailed, MdsliteError
from mdslite.runtimes.executor import Executor, build
from mdslite.runtimes.frames import find_refused, with_refused
from mdslite.runtimes.packages import find_package, load_class, unload_class
from mdslite.runtimes.protocol import DATA_SIGNATURE, Answers, DataFeeds, LoadOptions, RunHandle


class InlineSession:
    """One instance of a class. `run` and `stream` wait for each other."""

    signature = DATA_SIGNATURE
    provider = "inline"

    def __init__(self, options: LoadOptions) -> None:
        self.device = options.device
        self.threads = 1
        self.has_check = False
        self._turn = threading.Lock()
        self._cls: type
        self._executor: Executor

    def open(self, path: Path, *, handler: str | None, limit_s: float) -> None:
        """Import the package and build its class.

        :raises LoadFailed: with the package's reason, or that it took too long
        """
        opening = _Opening(path, handler)
        opening.start()
        opening.join(limit_s)
        if opening.is_alive():
            raise LoadFailed(
                f"the package was not loaded within {limit_s:g} s",
                hint="what it does cannot be stopped inside the appliance: restart it, and leave isolation: "
                "inline out",
            )
        if opening.error is not None:
            raise opening.error
        self._cls, self._executor = opening.cls, opening.executor
        self.has_check = self._executor.has_check

    def handle(self) -> RunHandle:
        return _Handle()

    def run(self, feeds: DataFeeds, handle: RunHandle | None = None) -> list[Answers]:
        data = feeds["data"]
        refused = find_refused(data)
        if refused:
            data = [datum for place, datum in enumerate(data) if place not in refused]
        for datum in data:
            if isinstance(datum, np.ndarray):
                datum.flags.writeable = False  # as in a process of its own: it may be somebody else's as well
        with self._turn:
            _begin(handle)
            answers = self._executor.run(data, confidence=feeds["confidence"], tensors=feeds["tensors"])
        return [with_refused(answers, refused)]

    def stream(
        self, feeds: DataFeeds, handle: RunHandle | None, emit: Callable[[bytes], None]
    ) -> list[Answers]:
        refused = find_refused(feeds["data"])
        if refused:
            raise refused[0]
        with self._turn:
            _begin(handle)
            try:
                return [self._executor.stream(feeds["data"][0], emit, confidence=feeds["confidence"])]
            except MdsliteError as exc:  # out of `emit`
                return [Answers([exc], confidences=[None])]

    def check(self, handle: RunHandle | None = None) -> None:
        self._executor.check()

    def output(self) -> str:
        return ""

    def watch(self, on_exit: Callable[[str], None]) -> None:
        """It ends with the appliance only."""

    def close(self) -> None:
        self._executor.close()
        unload_class(self._cls)


class _Handle:
    """Keeps a run from beginning. One that has begun goes on."""

    __slots__ = ("stopped",)

    def __init__(self) -> None:
        self.stopped = False

    def terminate(self) -> None:
        self.stopped = True


class _Opening(threading.Thread):
    """Loads a package on a thread that can be left behind."""

    def __init__(self, path: Path, handler: str | None) -> None:
        super().__init__(name=f"load {path.name}", daemon=True)
        self._path = path
        self._handler = handler
        self.cls: type
        self.executor: Executor
        self.error: MdsliteError | None = None

    def run(self) -> None:
        try:
            self.cls = load_class(find_package(self._path, self._handler))
            self.executor = build(mds.describe(self.cls))
            self.executor.warm()
        except MdsliteError as exc:
            self.error = exc


def _begin(handle: RunHandle | None) -> None:
    if isinstance(handle, _Handle) and handle.stopped:
        raise DeadlineExceeded("the run was stopped before it began")
