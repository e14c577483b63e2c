"""A model served from a process of its own, by the same adapter that would open it in the appliance: those
that a request could crash, and those whose spec asks for it. Batches cross through shared memory.

Answers are the same. It costs a crossing a batch, and the event loop never computes it itself; what stops a
run ends the process.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mdslite.errors import MdsliteError
from mdslite.runtimes.channel import OpenModel
from mdslite.runtimes.crossing import pack_feeds, unpack_outputs
from mdslite.runtimes.dialogue import DialogueSession
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


class ConfinedSession(DialogueSession):
    """One model in one process. See `protocol.Session` for the contract."""

    signature: Signature
    provider: str
    threads: int

    def __init__(self, options: LoadOptions) -> None:
        super().__init__(options, python=sys.executable)

    def open(self, order: OpenModel) -> None:
        serves = self._dialogue.process.open_model(order, limit_s=LOAD_TIMEOUT_S)
        self.signature, self.threads = serves.signature, serves.threads
        self.provider = f"{serves.provider} in its own process"
        self._dialogue.begin()

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], handle: RunHandle | None = None) -> Outputs:
        with self._dialogue.turn(handle):
            answers = self._dialogue.exchange(Frame(pack_feeds(feeds)))
            if len(answers) == 1 and isinstance(answers[0], MdsliteError):
                raise answers[0]
            return unpack_outputs(answers, self.signature)
