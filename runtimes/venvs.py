"""Virtual environments for packages whose requirements the appliance's own environment does not meet.

One for each list of requirements, kept under the store and shared by all versions that have the same list.
Its own packages come first; those of the appliance's environment, mdslite and `mds` among them, are found
behind them by path, and what they meet is not installed again.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import sys
import venv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep, time
from typing import IO

from packaging.requirements import Requirement

from mdslite.errors import LoadFailed
from mdslite.process import Child
from mdslite.runtimes.requirements import OWN, find_unmet, parse_requirements

INSTALL_TIMEOUT_S = 900.0
KEEP_S = 30 * 86_400.0
_TELL_S = 0.25  # between two looks at how far pip, or another builder, is
_LAST_LINES = 12  # of what pip said, in a failure's hint
_MARK = "complete"  # written last, and touched at each use: what lacks it was not finished
_OFFLINE = ("connection", "name resolution", "unreachable", "timed out", "sslerror")

Progress = Callable[[str], None]


class Environments:
    """The environments below `folder`. Every method may be called from any thread.

    Whenever one was built, those are removed that nobody has used for `keep_s`.
    """

    def __init__(
        self, folder: Path, *, install_timeout_s: float = INSTALL_TIMEOUT_S, keep_s: float = KEEP_S
    ) -> None:
        self.folder = folder.absolute()  # its interpreters are started from elsewhere
        self._install_timeout_s = install_timeout_s
        self._keep_s = keep_s
        self._used: set[str] = set()  # by this process

    def find_python(self, requirements: Iterable[str], progress: Progress | None = None) -> str:
        """The interpreter that meets these requirements: this one, or that of an environment of their own,
        which is built if it is not there yet, while `progress` is told what pip says. May take minutes.

        :raises LoadFailed: they cannot be met, in pip's words
        """
        wanted = parse_requirements(requirements)
        if not find_unmet(wanted):
            return sys.executable
        folder = self.folder / environment_name(wanted)
        self._used.add(folder.name)
        try:
            with self._alone_with(folder):
                if not _is_sound(folder, wanted):
                    self._build(folder, wanted, progress or (lambda line: None))
                    self._remove_old()
                (folder / _MARK).touch()
        except OSError as exc:
            raise LoadFailed(f"no environment can be made for its requirements: {exc.strerror}") from exc
        return str(_interpreter(folder))

    @contextmanager
    def _alone_with(self, folder: Path) -> Iterator[None]:
        """Wait for whoever else is building this environment, in this process or another.

        :raises LoadFailed: they take too long
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        deadline = monotonic() + self._install_timeout_s
        with _lock_file(folder).open("w") as lock:
            while not _try_lock(lock):
                if monotonic() > deadline:
                    raise LoadFailed("somebody else has been installing its requirements for too long")
                sleep(_TELL_S)
            yield

    def _remove_old(self) -> None:
        """Remove what this process has not used, and no other has lately."""
        for folder in self.folder.glob("py*-*"):
            if folder.name in self._used or not folder.is_dir():
                continue
            with suppress(OSError), _lock_file(folder).open("w") as lock:
                mark = folder / _MARK
                if _try_lock(lock) and not (mark.exists() and time() - mark.stat().st_mtime < self._keep_s):
                    shutil.rmtree(folder, ignore_errors=True)

    def _build(self, folder: Path, wanted: Sequence[Requirement], progress: Progress) -> None:
        # In its place from the start, for it cannot be moved: its scripts name the interpreter by its path.
        shutil.rmtree(folder, ignore_errors=True)
        progress(f"making an environment with {', '.join(map(str, wanted))}")
        try:
            has_pip = importlib.util.find_spec("pip") is not None
            venv.create(folder, symlinks=True, with_pip=not has_pip)
            _link_appliance(folder)
            self._install(folder, wanted, progress, has_pip=has_pip)
            _check_names(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _install(
        self, folder: Path, wanted: Sequence[Requirement], progress: Progress, *, has_pip: bool
    ) -> None:
        python = str(_interpreter(folder))
        pip = [sys.executable, "-P", "-m", "pip", "--python", python] if has_pip else [python, "-m", "pip"]
        options = ["--no-input", "--progress-bar", "off", "--no-warn-script-location"]
        wheels = ["--cache-dir", str(self.folder / "wheels")]
        child = Child(
            [*pip, "install", *options, *wheels, *map(str, wanted)],
            name="pip",
            env={"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_RETRIES": os.environ.get("PIP_RETRIES", "2")},
            cwd=str(folder),
        )
        child.start()
        try:
            self._follow(child, progress)
        finally:
            child.close()
        if child.exit_code != 0:
            raise _install_failed(wanted, child)

    def _follow(self, pip: Child, progress: Progress) -> None:
        """Tell how far it is until it has ended."""
        deadline = monotonic() + self._install_timeout_s
        told = ""
        while not pip.wait(_TELL_S):
            line = next(iter(_last_lines(pip.output(), 1)), "")
            if line != told:
                told = line
                progress(line)
            if monotonic() > deadline:
                pip.kill(f"did not finish within {self._install_timeout_s:g} s")


def environment_name(wanted: Sequence[Requirement]) -> str:
    """The folder of the environment for these requirements, of this Python on this kind of machine."""
    parts = [platform.python_version(), platform.machine(), sys.prefix, *map(str, wanted)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"py{sys.version_info.major}{sys.version_info.minor}-{digest[:20]}"


def appliance_folders() -> list[str]:
    """Where this process finds installed packages."""
    return [one for one in sys.path if Path(one).name in ("site-packages", "dist-packages")]


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _try_lock(file: IO[str]) -> bool:
    """Take a lock that ends when the file is closed; False when somebody else has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_sound(folder: Path, wanted: Sequence[Requirement]) -> bool:
    """Is it complete, and does it still meet what it was made for? The appliance's own may have changed."""
    if not (folder / _MARK).exists() or not _interpreter(folder).exists():
        return False
    return not find_unmet(wanted, [str(packages_folder(folder)), *appliance_folders()])


def _interpreter(folder: Path) -> Path:
    return folder / "bin" / "python"


def packages_folder(folder: Path) -> Path:
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _link_appliance(folder: Path) -> None:
    """Have the environment look for what it lacks in the appliance's. The .pth files there count too, which
    is how an editable installation is found."""
    steps = ["import site", *(f"site.addsitedir({one!r})" for one in appliance_folders())]
    (packages_folder(folder) / "mdslite_appliance.pth").write_text("; ".join(steps) + "\n")


def _check_names(folder: Path) -> None:
    """See to it that nothing that was installed hides what the appliance brings.

    :raises LoadFailed: something does
    """
    for name in sorted(OWN):
        if any((packages_folder(folder) / one).exists() for one in (name, f"{name}.py")):
            raise LoadFailed(
                f"its requirements install a package named {name}, which would hide the appliance's own",
                hint=f"leave out what asks for it: {name} needs no requirement",
            )


def _install_failed(wanted: Sequence[Requirement], pip: Child) -> LoadFailed:
    said = pip.output()
    last = _last_lines(said, _LAST_LINES)
    reason = next((line for line in reversed(last) if line.startswith("ERROR:")), f"pip {pip.reason}")
    names = ", ".join(map(str, wanted))
    where = "PIP_INDEX_URL names a mirror, PIP_FIND_LINKS with PIP_NO_INDEX=1 a folder of wheels"
    if any(word in said.lower() for word in _OFFLINE):
        advice = f"this machine may not reach the package index; in mdslite's environment, {where}"
    elif "from versions: none" in said:
        advice = f"is that its name, and does this machine reach the package index? {where}"
    else:
        advice = f"try it: python -m pip download {' '.join(repr(str(one)) for one in wanted)}"
    return LoadFailed(
        f"its requirements ({names}) could not be installed: {reason.removeprefix('ERROR:').strip()}",
        hint="\n".join([advice, "pip said at its end:", *last]),
    )


def _last_lines(text: str, count: int) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()][-count:]
