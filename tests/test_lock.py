"""One process at a time writes to a store, and a second one is told who does."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mdslite.errors import StoreError, StoreLocked
from mdslite.store.lock import StoreLock, is_locked

HOLD = """
import sys
from pathlib import Path
from mdslite.store.lock import StoreLock
StoreLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding_process(store_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until it is killed."""
    command = [sys.executable, "-c", HOLD, str(store_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_learns_the_pid_of_the_first(tmp_path: Path) -> None:
    with holding_process(tmp_path) as process:
        with pytest.raises(StoreLocked) as caught:
            StoreLock(tmp_path).acquire()
        assert f"pid {process.pid}" in caught.value.message
        assert re.search(r"since \d{4}-\d\d-\d\dT", caught.value.message)
        assert f"kill {process.pid}" in (caught.value.hint or "")
        assert "--store" in (caught.value.hint or "")


def test_a_killed_holder_leaves_nothing_to_clean_up(tmp_path: Path) -> None:
    with holding_process(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        with StoreLock(tmp_path) as lock:
            assert lock.held
            assert lock.holder() is not None


def test_the_lock_is_free_again_after_release(tmp_path: Path) -> None:
    first, second = StoreLock(tmp_path), StoreLock(tmp_path)
    first.acquire()
    first.acquire()
    with pytest.raises(StoreLocked):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    assert second.held and not first.held
    second.release()


def test_the_store_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    with StoreLock(tmp_path / "new" / "store"):
        assert (tmp_path / "new" / "store").stat().st_mode & 0o777 == 0o700


def test_a_lock_file_that_names_nobody_still_locks(tmp_path: Path) -> None:
    with StoreLock(tmp_path) as lock:
        for content in ("", "{", "[]", '{"pid": "x"}'):
            lock.path.write_text(content)
            with pytest.raises(StoreLocked, match="in use by another process"):
                StoreLock(tmp_path).acquire()


def test_a_holder_on_another_host_is_named_with_its_host(tmp_path: Path) -> None:
    with StoreLock(tmp_path) as lock:
        lock.path.write_text('{"pid": 7, "host": "elsewhere", "since": "2026-11-22T14:03:00+00:00"}')
        with pytest.raises(StoreLocked, match="pid 7 on elsewhere") as caught:
            StoreLock(tmp_path).acquire()
        assert "kill" not in (caught.value.hint or "")


def test_a_store_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened") as caught:
        StoreLock(tmp_path / "file" / "store").acquire()
    assert not isinstance(caught.value, StoreLocked)
    assert "--store" in (caught.value.hint or "")


def test_asking_whether_a_store_is_locked_takes_no_lock(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with StoreLock(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_a_child_process_does_not_inherit_the_lock(tmp_path: Path) -> None:
    with StoreLock(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        assert os.waitpid(child.pid, os.WNOHANG) == (0, 0)
        with StoreLock(tmp_path) as lock:
            assert lock.held
    finally:
        child.communicate(b"\n", timeout=10)


def test_a_store_that_is_a_file_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(StoreError, match="it is a file, expected a folder"):
        StoreLock(tmp_path / "store").acquire()


def test_a_folder_made_for_nothing_goes_with_its_lock(tmp_path: Path) -> None:
    with StoreLock(tmp_path / "store") as lock:
        lock.withdraw()
    assert not (tmp_path / "store").exists()
    with StoreLock(tmp_path / "store") as lock:
        (tmp_path / "store" / "registry.db").touch()
        lock.withdraw()
    assert (tmp_path / "store" / "lock").exists()


def test_a_lock_that_its_holder_removed_is_not_taken_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = StoreLock(tmp_path / "store"), StoreLock(tmp_path / "store")
    first.acquire()
    flock = fcntl.flock

    def late(fd: int, how: int) -> None:
        """The first gives it up after the second has opened its file."""
        monkeypatch.setattr(fcntl, "flock", flock)
        first.withdraw()
        first.release()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    second.acquire()
    assert (tmp_path / "store" / "lock").exists()
    with pytest.raises(StoreLocked):
        StoreLock(tmp_path / "store").acquire()
    second.release()
