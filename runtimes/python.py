"""The runtime of Python packages: each in a process of its own, or inside the appliance where its spec says
so, and in a virtual environment of its own where its requirements ask for one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from mdslite.errors import LoadFailed
from mdslite.runtimes.inline import InlineSession
from mdslite.runtimes.isolated import IsolatedSession
from mdslite.runtimes.packages import find_package
from mdslite.runtimes.protocol import DATA_SIGNATURE, LoadOptions, ProbeReport, Trial
from mdslite.runtimes.requirements import find_unmet, parse_requirements
from mdslite.runtimes.supervised import PackageProcess
from mdslite.runtimes.venvs import Environments

LOAD_TIMEOUT_S = 300.0

Announce = Callable[[str, str], None]


class PythonRuntime:
    """Opens packages. `environments` None allows no environment but the appliance's own; `announce` is told
    what the installation of one says, with the label of the version that it is for, from any thread."""

    name = "PYTHON"

    def __init__(
        self,
        environments: Environments | None = None,
        *,
        announce: Announce | None = None,
        load_timeout_s: float = LOAD_TIMEOUT_S,
    ) -> None:
        self._environments = environments
        self._announce = announce
        self._load_timeout_s = load_timeout_s

    def open(self, path: Path, options: LoadOptions) -> Any:
        """A `DataSession` of the package at `path`, whose class is built and warm.

        :raises LoadFailed: with the package's reason, and the end of what it printed
        """
        session: InlineSession | IsolatedSession
        if options.isolation == "inline":
            _refuse_unmet(path, options, hint="leave isolation: inline out: it then gets an environment")
            session = InlineSession(options)
        else:
            session = IsolatedSession(options, python=self._find_python(path, options))
        session.open(path, handler=options.handler, limit_s=self._load_timeout_s)
        return session

    def probe(
        self, path: Path, options: LoadOptions, *, timeout_s: float, trial: Trial | None = None
    ) -> ProbeReport:
        """Import the package at `path` in a process of its own, and say what it is. Builds no instance.

        An environment that it needs is built first, and `timeout_s` does not count that.

        :raises LoadFailed: as `open`, or that `trial` is over
        """
        process = PackageProcess(options, python=self._find_python(path, options))
        begun = perf_counter()
        with (trial or Trial()).ended_by(process.break_off):
            opened = process.open(path, handler=options.handler, build=False, limit_s=timeout_s)
        process.kill()
        return ProbeReport(
            signature=DATA_SIGNATURE,
            memory_bytes=opened.memory_bytes,
            load_s=perf_counter() - begun,
            bounded=False,
            package=opened.report,
        )

    def _find_python(self, path: Path, options: LoadOptions) -> str:
        """The interpreter for a package, which may have to be installed first."""
        if self._environments is None:
            _refuse_unmet(path, options, hint="install it beside mdslite")
            return sys.executable
        requirements = find_package(path, options.handler).requirements
        progress = None if self._announce is None else partial(self._announce, options.label)
        return self._environments.find_python(requirements, progress)


def _refuse_unmet(path: Path, options: LoadOptions, *, hint: str) -> None:
    """See to it that the appliance's own environment is enough.

    :raises LoadFailed: it lacks something
    """
    unmet = find_unmet(parse_requirements(find_package(path, options.handler).requirements))
    if unmet:
        raise LoadFailed(f"its requirements are not met here: {'; '.join(unmet)}", hint=hint)
