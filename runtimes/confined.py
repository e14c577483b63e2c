"""A model served from a process of its own, by the same adapter that would open it in the appliance: those
that a request could crash, and those whose spec asks for it. Batches cross through shared memory.

Answers are the same. It costs a crossing a batch, and the event loop never computes it itself; what stops a
run ends the process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mdslite.errors import MdsliteError
from mdslite.runtimes.channel import OpenModel
from mdslite.runtimes.crossing import pack_feeds, unpack_outputs
from mdslite.runtimes.dialogue import Dialogue
from mdslite.runtimes.frames import Frame
from mdslite.runtimes.machine import memory_bytes
from mdslite.runtimes.protocol import LoadOptions, Outputs, RunHandle, Signature

LOAD_TIMEOUT_S = 300.0
_SHARE = 0.75  # of the memory, that a process may take whose spec does not say


class ConfinedRuntime:
    """Opens models of the runtime `name` in processes of their own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, path: Path, options: LoadOptions) -> ConfinedSession:
        """Open the model at `path`.

        :raises LoadFailed: with the runtime's reason, or how the process ended, or that it took too long
        """
        limit_bytes = options.memory_limit_bytes or round(memory_bytes() * _SHARE)
        session = ConfinedSession(replace(options, memory_limit_bytes=limit_bytes))
        session.open(OpenModel(str(path.resolve()), self.name, options))
        return session


class ConfinedSession:
    """One model in one process. See `protocol.Session` for the contract."""

    signature: Signature
    provider: str
    threads: int

    def __init__(self, options: LoadOptions) -> None:
        self.device = options.device
        self._dialogue = Dialogue(options, python=sys.executable)

    def open(self, order: OpenModel) -> None:
        serves = self._dialogue.process.open_model(order, limit_s=LOAD_TIMEOUT_S)
        self.signature, self.threads = serves.signature, serves.threads
        self.provider = f"{serves.provider} in its own process"
        self._dialogue.begin()

    @property
    def pid(self) -> int:
        return self._dialogue.process.child.pid

    def handle(self) -> RunHandle:
        return self._dialogue.handle()

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], handle: RunHandle | None = None) -> Outputs:
        with self._dialogue.turn(handle):
            answers = self._dialogue.exchange(Frame(pack_feeds(feeds)))
            if len(answers) == 1 and isinstance(answers[0], MdsliteError):
                raise answers[0]
            return unpack_outputs(answers, self.signature)

    def output(self) -> str:
        return self._dialogue.output()

    def watch(self, on_exit: Callable[[str], None]) -> None:
        self._dialogue.watch(on_exit)

    def close(self) -> None:
        """Have the process end, soon and without waiting for it. A run under way fails."""
        self._dialogue.close()
