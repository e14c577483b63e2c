"""The request log's writing end where the disk is full, gone or another's too, and where it is killed."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from applying import V1, apply
from box import Box, Caller
from journals import count, ids, sql
from log_rows import HOUR_S, NOON, Clock, files, row, running, wanted

from mdslite.errors import StoreError
from mdslite.store.journal import Journal
from mdslite.store.requests import RequestLog
from mdslite.store.tallies import Tally


def test_a_folder_that_cannot_be_used_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(log) as journal:
        assert journal.flush()
        log.rmdir()
        log.write_text("in the way")
        journal.append(row())
        assert not journal.flush()
        assert journal.statistics().trouble is not None
        with pytest.raises(StoreError, match="cannot be read"):
            RequestLog(log).query(wanted())
        log.unlink()
        log.mkdir()
        assert journal.flush()
        assert len(ids(log)) == 1


@pytest.mark.anyio
async def test_status_and_doctor_say_what_waits_for_a_log_that_cannot_be_written(
    box: Box, folder: Path
) -> None:
    await apply(box, folder, V1)
    log = box.settings.store / "log"
    assert (await Caller(box.app).get("/api/v1/status")).json["log_trouble"] is None
    assert await asyncio.to_thread(box.journal.flush)
    box.journal.close()
    with running(log) as journal:
        box.journal = journal
        log.rename(log.with_name("away"))
        log.write_text("in the way")
        journal.append(row())
        assert not await asyncio.to_thread(journal.flush)
        said = (await Caller(box.app).get("/api/v1/status")).json["log_trouble"]
        assert said.startswith("it is not written just now (")
        assert said.endswith("); 1 row waits in memory")
        heard = await Caller(box.app).get("/api/v1/doctor")
        assert heard.status == 200, heard.body
        last = heard.json[-1]
        assert (last["level"], last["what"]) == ("error", f"request log: {said}")
        log.unlink()
        log.with_name("away").rename(log)
        assert await asyncio.to_thread(journal.flush)
        assert (await Caller(box.app).get("/api/v1/status")).json["log_trouble"] is None


def append_until_full(journal: Journal, *, rounds: int = 400) -> int:
    """Write until the disk refuses; the number of appended rows."""
    count = 0
    for _ in range(rounds):
        for _ in range(500):
            journal.append(row(request_id="x" * 64))
        count += 500
        if not journal.flush():
            return count
    raise AssertionError("the disk never filled up")


def test_a_full_disk_is_waited_for_and_then_written(small_disk: Path) -> None:
    heard: list[Tally] = []
    log = small_disk / "log"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (2 << 20))
    with running(log, ring_bytes=1 << 20, observers=[heard.append]) as journal:
        appended = append_until_full(journal)
        full = journal.statistics()
        assert full.trouble is not None
        assert full.pending > 0
        readable = len(ids(log))  # what was written stays readable
        assert readable == full.written
        while not journal.statistics().dropped:  # more than the bound
            for _ in range(500):
                journal.append(row())
            appended += 500
            assert not journal.flush()
        assert count(heard) == appended - journal.statistics().dropped
        ballast.unlink()
        assert journal.flush()
        after = journal.statistics()
        assert after.trouble is None
        assert after.written + after.dropped == appended
        journal.append(row(request_id="recovered"))
        assert journal.flush()
        assert ids(log)[-1] == "recovered"
        assert len(ids(log)) == after.written + 1
        assert count(heard) == after.written + 1


def test_a_stop_says_how_many_rows_the_disk_did_not_take(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (small_disk / "ballast").write_bytes(b"\0" * (2 << 20))
    with running(small_disk / "log", ring_bytes=1 << 20) as journal:
        appended = append_until_full(journal)
        caplog.clear()
        assert not journal.close()
        left = appended - len(ids(small_disk / "log"))
        assert left == journal.statistics().pending > 0
        said = [line for line in caplog.messages if "were not written" in line]
        assert said == [f"{left:,} rows of the request log were not written: {journal.statistics().trouble}"]
        while not journal.statistics().dropped:
            journal.append(row())
        caplog.clear()
        journal.close()
        assert caplog.messages[0].endswith("; 1 had no room in memory before")


def test_a_stop_that_wrote_all_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(tmp_path) as journal:
        journal.append(row())
    assert caplog.messages == []


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from log_rows import row, running
with running(Path(sys.argv[1])) as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
    for _ in range(100):
        for _ in range(500):
            journal.append(row(request_id="x" * 64))
        if not journal.flush():
            break
    found = journal.statistics()
    assert found.trouble and found.written and found.pending, found
print(journal.statistics().written)
"""


def test_a_write_error_loses_nothing_that_was_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "predictions go on" in done.stderr
    assert len(ids(tmp_path)) == int(done.stdout) > 500


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from log_rows import row, running
with running(Path(sys.argv[1])) as journal:
    number = 0
    while True:
        for _ in range(200):
            journal.append(row(request_id=f"r{number}"))
            number += 1
        assert journal.flush()
        print(number, flush=True)
"""


def test_kill_9_loses_only_what_was_not_flushed(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        for line in child.stdout:
            if (flushed := int(line)) >= 3000:
                break
        child.send_signal(signal.SIGKILL)
        child.wait(20)
    assert "2026-11-22T12.db-wal" in files(tmp_path)
    left = ids(tmp_path)
    assert len(left) >= flushed
    assert left == [f"r{number}" for number in range(len(left))]
    assert sql(tmp_path / "2026-11-22T12.db", "PRAGMA integrity_check") == [("ok",)]
    assert sql(tmp_path / "2026-11-22T12.db", "SELECT sum(count) FROM seconds") == [(len(left),)]
    with running(tmp_path, Clock(NOON + HOUR_S)) as journal:  # the old file is only sealed
        assert journal.flush()
        assert files(tmp_path) == ["2026-11-22T12.db"]
    assert ids(tmp_path) == left


def test_somebody_elses_lock_is_waited_for(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        journal.append(row())
        assert journal.flush()
        with closing(sqlite3.connect(tmp_path / "2026-11-22T12.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            journal.append(row())
            assert not journal.flush(timeout_s=0.05)
            other.execute("ROLLBACK")
        assert journal.flush(timeout_s=20)
        assert journal.statistics().written == 2


def test_readers_read_while_rows_are_written(tmp_path: Path) -> None:
    stop = threading.Event()
    faults: list[BaseException] = []
    rounds = 0

    def keep_reading() -> None:
        nonlocal rounds
        log = RequestLog(tmp_path)
        newest = 0
        try:
            while not stop.is_set():
                page = log.query(wanted(), limit=50)
                assert not page.skipped
                assert [entry.id for entry in page.rows] == sorted((e.id for e in page.rows), reverse=True)
                if page.rows:
                    assert page.rows[0].id >= newest
                    newest = page.rows[0].id
                rounds += 1
        except BaseException as exc:
            faults.append(exc)

    reader = threading.Thread(target=keep_reading)
    with running(tmp_path, flush_s=0.005) as journal:
        reader.start()
        number = 0
        while rounds < 30 and not faults:
            for _ in range(100):
                journal.append(row(time=NOON + number // 20_000 * HOUR_S))  # over several hours
                number += 1
            assert journal.flush()
        stop.set()
        reader.join()
    assert not faults
    assert len(RequestLog(tmp_path).query(wanted(), limit=10_000).rows) == min(number, 10_000)
