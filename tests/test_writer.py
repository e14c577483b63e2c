"""The request log's writer as a process: whoever dies, of it and the appliance, each row is written once."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest
from log_rows import NOON, row, running, wanted
from waiting import hold_on

from mdslite.process import Child
from mdslite.store import journal as journals
from mdslite.store.courtesy import NICE
from mdslite.store.journal import Journal
from mdslite.store.letters import Order
from mdslite.store.requests import RequestLog
from mdslite.store.ring import Ring
from mdslite.store.scribe import launch_writer
from mdslite.store.tallies import Tally

WAIT_S = 30.0


class Launcher:
    """Starts writers as the journal does, and remembers them."""

    def __init__(self) -> None:
        self.writers: list[Child] = []

    def __call__(self, order: Order, end: socket.socket, ring: Ring) -> Child:
        self.writers.append(launch_writer(order, end, ring))
        return self.writers[-1]

    def signal(self, number: int) -> None:
        os.kill(self.writers[-1].pid, number)


def ids(folder: Path) -> list[str]:
    """Every request in the log, oldest first."""
    found, after = [], 0
    while (page := RequestLog(folder).tail(wanted(now=NOON), after=after, limit=10_000)).rows:
        found += [entry.request_id for entry in page.rows]
        after = page.next or 0
    assert not page.skipped
    return found


def requests(tallies: list[Tally]) -> int:
    return sum(of.count for tally in tallies for of in tally.requests)


def test_the_writer_imports_only_what_it_needs() -> None:
    told = subprocess.run(
        [sys.executable, "-P", "-c", "import mdslite.store.writer, sys; print(*sys.modules)"],
        capture_output=True, text=True, timeout=30, check=True,
    ).stdout.split()  # fmt: skip
    heavy = {"onnxruntime", "starlette", "uvloop", "asyncio", "mdslite.door", "mdslite.serving"}
    assert not heavy & set(told)


def test_a_writer_without_work_has_imported_next_to_nothing() -> None:
    told = subprocess.run(
        [sys.executable, "-P", "-c", "import mdslite.store.standby, sys; print(*sys.modules)"],
        capture_output=True, text=True, timeout=30, check=True,
    ).stdout.split()  # fmt: skip
    assert not {"numpy", "msgspec", "sqlite3", "subprocess", "logging"} & set(told)


def test_signals_that_are_meant_for_the_appliance_leave_the_writer_alone(tmp_path: Path) -> None:
    launcher = Launcher()
    with running(tmp_path, launch=launcher) as journal:
        assert journal.flush(timeout_s=WAIT_S)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            launcher.signal(number)
        journal.append(row(request_id="after"))
        assert journal.flush(timeout_s=WAIT_S)
        assert journal.statistics().restarts == 0
        assert journal.close()
    assert ids(tmp_path) == ["after"]
    assert launcher.writers[0].reason == "exited with status 0"


def test_the_writer_gives_way_to_others(tmp_path: Path) -> None:
    launcher = Launcher()
    with running(tmp_path, launch=launcher) as journal:
        assert journal.flush(timeout_s=WAIT_S)
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, launcher.writers[0].pid) == min(ours + NICE, 19)


def test_a_writer_that_is_killed_is_replaced_and_every_row_is_written_once(tmp_path: Path) -> None:
    launcher, heard, sent = Launcher(), list[Tally](), 0
    stop = threading.Event()

    def launched_after(known: int) -> bool:
        return len(launcher.writers) > known

    def wrote_after(written: int) -> bool:
        return journal.statistics().written > written

    def keep_killing() -> None:
        chance = random.Random(1)
        for known in range(4):
            hold_on(partial(launched_after, known))
            if known:  # in the midst of its work; else of its imports
                written = journal.statistics().written
                hold_on(partial(wrote_after, written))
            stop.wait(chance.random() * 0.05)
            launcher.writers[known].kill()
        stop.set()

    killer = threading.Thread(target=keep_killing)
    with running(tmp_path, launch=launcher, observers=[heard.append], flush_s=0.005) as journal:
        killer.start()
        while not stop.wait(0.005):
            for _ in range(10):
                journal.append(row(request_id=f"r{sent}"))
                sent += 1
        killer.join()
        assert journal.flush(timeout_s=WAIT_S)
        found = journal.statistics()
        assert journal.close()
    assert ids(tmp_path) == [f"r{number}" for number in range(sent)]
    assert (found.written, found.dropped, found.pending) == (sent, 0, 0)
    assert requests(heard) == sent
    assert found.restarts >= 4


def test_a_writer_that_falls_silent_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher()
    with running(tmp_path, launch=launcher) as journal:
        assert journal.flush(timeout_s=WAIT_S)
        monkeypatch.setattr(journals, "SILENCE_S", 0.3)
        launcher.signal(signal.SIGSTOP)
        journal.append(row(request_id="waits"))
        hold_on(lambda: journal.statistics().restarts)
        monkeypatch.undo()
        assert "did not answer" in str(launcher.writers[0].reason)
        assert journal.flush(timeout_s=WAIT_S)
    assert ids(tmp_path) == ["waits"]


POISONED = """
import sys
from mdslite.store import writer
work = writer.Writer.work
def die(self, head, *, now):
    if head > self.settled:
        sys.exit("poison")
    work(self, head, now=now)
writer.Writer.work = die
writer.main(sys.argv[1:])
"""


def test_rows_that_no_writer_survives_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(journals, "MAX_BACKOFF_S", 0.01)
    deaths = 0

    def launch(order: Order, end: socket.socket, ring: Ring) -> Child:
        nonlocal deaths
        if deaths == journals.FUTILE_MAX:
            return launch_writer(order, end, ring)
        deaths += 1
        places = (str(ring.fd), str(end.fileno()), msgspec.json.encode(order).decode())
        child = Child(
            (sys.executable, "-P", "-c", POISONED, *places), name="a writer", fds=(ring.fd, end.fileno())
        )
        child.start()
        return child

    with running(tmp_path, launch=launch, flush_s=0.01) as journal:
        for number in range(7):
            journal.append(row(request_id=f"poison{number}"))
        hold_on(lambda: journal.statistics().dropped)
        assert "poison" in str(journal.statistics().trouble)
        assert journal.statistics().dropped == 7
        journal.append(row(request_id="sound"))
        assert journal.flush(timeout_s=WAIT_S)
        found = journal.statistics()
        assert (found.written, found.dropped, found.pending, found.trouble) == (1, 7, 0, None)
    assert ids(tmp_path) == ["sound"]


def test_a_machine_that_starts_no_process_keeps_the_rows(tmp_path: Path) -> None:
    ready = threading.Event()

    def launch(order: Order, end: socket.socket, ring: Ring) -> Child:
        if not ready.is_set():
            raise OSError(11, "Resource temporarily unavailable")
        return launch_writer(order, end, ring)

    with running(tmp_path, launch=launch, flush_s=0.01) as journal:
        journal.append(row(request_id="patient"))
        hold_on(lambda: journal.statistics().trouble)
        assert "did not start" in str(journal.statistics().trouble)
        ready.set()
        assert journal.flush(timeout_s=WAIT_S)
    assert ids(tmp_path) == ["patient"]


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from log_rows import row
from mdslite.store.journal import Journal
journal = Journal(Path(sys.argv[1]), flush_s=float(sys.argv[3]))
journal.start()
assert journal.flush(timeout_s=30)
number = 0
while True:
    for _ in range(100):
        journal.append(row(request_id=f"r{number}"))
        number += 1
    print(number, flush=True)
"""


HASTY = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from log_rows import row
from mdslite.store.journal import Journal
from mdslite.store.scribe import launch_writer
launched = threading.Event()
def launch(*things):
    writer = launch_writer(*things)
    launched.set()
    return writer
journal = Journal(Path(sys.argv[1]), launch=launch, flush_s=60)
journal.start()
launched.wait()
for number in range(1000):
    journal.append(row(request_id=f"r{number}"))
print("appended", flush=True)
threading.Event().wait(60)
"""


BEREFT = """
import os, signal, sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from log_rows import row
from waiting import hold_on
from mdslite.store import journal as journals
from mdslite.store.scribe import launch_writer
journals.FIRST_BACKOFF_S = journals.MAX_BACKOFF_S = 60.0  # nobody asks the second writer for anything
writers = []
def launch(*things):
    writers.append(launch_writer(*things))
    return writers[-1]
journal = journals.Journal(Path(sys.argv[1]), launch=launch, flush_s=0.01)
journal.start()
journal.append(row(request_id="r0"))
assert journal.flush(timeout_s=30)
os.kill(writers[0].pid, signal.SIGKILL)
for number in range(1, 1000):
    journal.append(row(request_id=f"r{number}"))
hold_on(lambda: len(writers) > 1)
for number in range(1000, 2000):
    journal.append(row(request_id=f"r{number}"))
print("appended", flush=True)
threading.Event().wait(60)
"""


def kill_an_appliance(folder: Path, *, flush_s: float, rows: int) -> int:
    """Run a journal in a process of its own, and kill that process; how many rows it had appended."""
    command = [sys.executable, "-c", KILLED, str(folder), str(Path(__file__).parent), str(flush_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as appliance:
        assert appliance.stdout is not None
        for line in appliance.stdout:
            if (appended := int(line)) >= rows:
                break
        appliance.kill()
    return appended


def await_the_orphan(folder: Path) -> None:
    """A writer holds its folder for as long as it writes."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


@pytest.mark.parametrize("flush_s", [0.005, 60.0])
def test_an_appliance_that_is_killed_loses_nothing(tmp_path: Path, flush_s: float) -> None:
    appended = kill_an_appliance(tmp_path, flush_s=flush_s, rows=20_000)
    await_the_orphan(tmp_path)
    found = ids(tmp_path)
    assert found == [f"r{number}" for number in range(len(found))]
    assert len(found) >= appended
    assert [path.name for path in tmp_path.iterdir()] == ["2026-11-22T12.db"]  # sealed as at any other end


def test_rows_are_safe_before_their_writer_has_done_anything(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HASTY, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as appliance:
        assert appliance.stdout is not None
        assert appliance.stdout.readline()
        appliance.kill()
    # It may be met while the file is made or sealed, and is then left out of an answer.
    hold_on(lambda: len(RequestLog(tmp_path).query(wanted(now=NOON), limit=1000).rows) == 1000)
    await_the_orphan(tmp_path)
    assert ids(tmp_path) == [f"r{number}" for number in range(1000)]


def test_a_writer_that_is_killed_leaves_its_rows_to_another_even_if_the_appliance_is_killed_next(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", BEREFT, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as appliance:
        assert appliance.stdout is not None
        assert appliance.stdout.readline()
        assert ids(tmp_path) == ["r0"]
        appliance.kill()
    hold_on(lambda: len(RequestLog(tmp_path).query(wanted(now=NOON), limit=2000).rows) == 2000)
    await_the_orphan(tmp_path)
    assert ids(tmp_path) == [f"r{number}" for number in range(2000)]


def test_the_next_appliance_waits_for_the_writer_of_one_that_was_killed(tmp_path: Path) -> None:
    appended = kill_an_appliance(tmp_path, flush_s=60.0, rows=50_000)
    with running(tmp_path, launch=launch_writer) as journal:
        journal.append(row(request_id="next"))
        assert journal.flush(timeout_s=WAIT_S)
    found = ids(tmp_path)
    assert len(found) > appended
    assert found[-1] == "next"


def test_a_journal_that_is_closed_in_a_hurry_leaves_the_rest_to_its_writer(tmp_path: Path) -> None:
    launcher = Launcher()
    with running(tmp_path, launch=launcher, flush_s=60) as journal:
        assert journal.flush(timeout_s=WAIT_S)
        launcher.signal(signal.SIGSTOP)
        for number in range(1000):
            journal.append(row(request_id=f"r{number}"))
        assert not journal.close(timeout_s=0.2)
        with suppress(ProcessLookupError):  # it was given up within that time, and another one goes on
            os.kill(launcher.writers[0].pid, signal.SIGCONT)
    assert all(writer.wait(WAIT_S) for writer in launcher.writers)
    assert ids(tmp_path) == [f"r{number}" for number in range(1000)]


def test_a_journal_that_never_started_takes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(row())
    assert journal.statistics().dropped == 1
    assert not journal.flush()
    assert journal.close()
