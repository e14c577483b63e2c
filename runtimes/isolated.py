"""A Python package served from a process of its own: a session whose batches cross through shared memory."""

from __future__ import annotations

import sys
from pathlib import Path

from mdslite.errors import Unavailable
from mdslite.runtimes.channel import Check, Checked
from mdslite.runtimes.dialogue import DialogueSession, Emit, extend
from mdslite.runtimes.frames import BadFrame, Frame, find_refused, make_frames, with_refused
from mdslite.runtimes.protocol import DATA_SIGNATURE, Answers, DataFeeds, LoadOptions, RunHandle


class IsolatedSession(DialogueSession):
    """One class in one process. `run`, `stream` and `check` wait for each other."""

    signature = DATA_SIGNATURE
    provider = "process"

    def __init__(self, options: LoadOptions, *, python: str = sys.executable) -> None:
        super().__init__(options, python=python)
        self.threads = options.threads or 1
        self.has_check = False

    def open(self, path: Path, *, handler: str | None, limit_s: float) -> None:
        """Start the process and have it build the class.

        :raises LoadFailed: with the package's reason, how the process ended, or what took too long
        """
        opened = self._dialogue.process.open(path, handler=handler, build=True, limit_s=limit_s)
        self.has_check = opened.report.has_check
        self._dialogue.begin()

    def run(self, feeds: DataFeeds, handle: RunHandle | None = None) -> list[Answers]:
        data = feeds["data"]
        refused = find_refused(data)
        if refused:
            data = [datum for place, datum in enumerate(data) if place not in refused]
        answers = Answers(confidences=[])
        with self._dialogue.turn(handle):
            for frame in make_frames(data) if data else ():
                extend(answers, self._exchange(frame, feeds, None))
        return [with_refused(answers, refused)]

    def stream(self, feeds: DataFeeds, handle: RunHandle | None, emit: Emit) -> list[Answers]:
        data = feeds["data"]
        refused = find_refused(data)
        if refused:
            raise refused[0]
        with self._dialogue.turn(handle):
            return [self._exchange(Frame(data), feeds, emit)]

    def check(self, handle: RunHandle | None = None) -> None:
        with self._dialogue.turn(handle, runs=False):
            reply = self._dialogue.ask(Check())
            if not isinstance(reply, Checked):
                raise BadFrame(f"a {type(reply).__name__} for what a check found")
        if reply.problem is not None:
            raise Unavailable(reply.problem)

    def _exchange(self, frame: Frame, feeds: DataFeeds, emit: Emit | None) -> Answers:
        answers = self._dialogue.exchange(
            frame, confidence=feeds["confidence"], tensors=feeds["tensors"], emit=emit
        )
        if len(answers) != len(frame.rows):
            raise BadFrame(f"{len(answers)} answers to {len(frame.rows)} rows")
        return answers
