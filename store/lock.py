"""The lock that lets one process at a time write to a store, and tells a second one who holds it.

The kernel drops the lock with the process, however that ends, so there is no stale lock to clean up. Two
processes must not lock two files of the same name: only its holder removes the file, with a folder that it
made for nothing, and who locks a file looks whether it is still the one of that name.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from mdslite.errors import StoreError, StoreLocked
from mdslite.store.moments import time_text

LOCK_NAME = "lock"
# How long the writer of an appliance that was killed may go on for, and a little.
LOG_WAIT_S = 15.0
_LOCK_ATTEMPTS = 5
_LOCK_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Holder:
    """Who wrote the lock's file last: the present holder if the lock is held, else the previous one. `since`
    is a time as the API writes them."""

    pid: int
    host: str
    since: str


class StoreLock:
    """Hold it for as long as the store may be written. A context manager, or `acquire` and `release`."""

    def __init__(self, store_dir: Path) -> None:
        self.path = store_dir / LOCK_NAME
        self._store_dir = store_dir
        self._fd: int | None = None
        self._made = False

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def held(self) -> bool:
        return self._fd is not None

    def acquire(self) -> None:
        """Take the lock, making the store's folder if need be.

        :raises StoreLocked: another process (or another lock object of this one) holds it; names its pid
        :raises StoreError: the folder cannot be made or written
        """
        if self._fd is not None:
            return
        self._made = not self._store_dir.exists()
        fd = self._open()
        try:
            while True:
                _lock(fd)
                if self._is_named(fd):
                    break
                os.close(fd)
                fd = self._open()
        except BlockingIOError as exc:
            os.close(fd)
            raise self._refusal() from exc
        except OSError as exc:
            os.close(fd)
            raise StoreError(
                f"the store {self._store_dir} cannot be locked: {exc.strerror}",
                hint="choose a folder on a local disk with --store DIR",
            ) from exc
        _sign(fd)
        self._fd = fd

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)  # closing drops the lock
            self._fd = None

    def withdraw(self) -> None:
        """Remove the folder that `acquire` made, if nothing but the lock is in it. Only for the holder."""
        if not self._made or os.listdir(self._store_dir) != [LOCK_NAME]:
            return
        with suppress(OSError):
            self.path.unlink()
            self._store_dir.rmdir()

    def _is_named(self, fd: int) -> bool:
        """Is the locked file the one that others would open?"""
        try:
            return os.path.samestat(os.fstat(fd), self.path.stat())
        except OSError:
            return False

    def holder(self) -> Holder | None:
        """Read who signed the lock's file; None when nobody did or it is not readable."""
        try:
            found = json.loads(self.path.read_bytes())
            since = time_text(datetime.fromisoformat(found["since"]).timestamp())
            return Holder(pid=int(found["pid"]), host=str(found["host"]), since=since)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _open(self) -> int:
        try:
            self._store_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            why = "it is a file, expected a folder" if self._store_dir.is_file() else exc.strerror
            raise StoreError(
                f"the store {self._store_dir} cannot be opened: {why}",
                hint="choose a folder that you may write to with --store DIR",
            ) from exc

    def _refusal(self) -> StoreLocked:
        holder = self.holder()
        if holder is None:
            who, stop = "another process", "stop that process"
        else:
            here = holder.host == socket.gethostname()
            place = "" if here else f" on {holder.host}"
            who = f"pid {holder.pid}{place} (since {holder.since})"
            stop = f"stop it (kill {holder.pid})" if here else f"stop it on {holder.host}"
        elsewhere = shlex.quote(f"{self._store_dir}-2")
        return StoreLocked(
            f"the store {self._store_dir} is in use by {who}; one process at a time may write to it",
            hint=f"{stop}, or use a store of its own: --store {elsewhere}",
        )


def is_locked(store_dir: Path) -> bool:
    """Say whether some process holds the store's lock, without taking it for longer than the question."""
    try:
        fd = os.open(store_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared, so that two questions at once do not answer each other with yes.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _lock(fd: int) -> None:
    """Lock at once, or within the moment that `is_locked` of another process may take."""
    for attempt in range(_LOCK_ATTEMPTS):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if attempt == _LOCK_ATTEMPTS - 1:
                raise
        time.sleep(_LOCK_PAUSE_S)


def _sign(fd: int) -> None:
    """Write who holds the lock. A full disk is no reason to refuse it: the name is only told to others."""
    name = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time_text(time.time()),
    }
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(name).encode(), 0)
    except OSError:
        return


@contextmanager
def log_lock(folder: Path, *, wait_s: float | None = None) -> Iterator[None]:
    """Hold the request log's folder. The writer of an appliance that was killed outlives the store's lock,
    and two connections that write a WAL can corrupt it. A folder that is not there has nobody in it.

    :raises StoreLocked: somebody still held it after `wait_s`
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        if wait_s is None:
            fcntl.flock(fd, fcntl.LOCK_EX)
        else:
            _wait_for(fd, folder, time.monotonic() + wait_s)
        yield
    finally:
        os.close(fd)


def _wait_for(fd: int, folder: Path, until: float) -> None:
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() >= until:
            raise StoreLocked(
                f"{folder} is still written by the request log's writer of an appliance that has ended",
                hint="it ends within seconds; try again then",
            )
        time.sleep(_LOCK_PAUSE_S)
