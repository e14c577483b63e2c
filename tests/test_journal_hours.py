"""The request log's files: one an hour, kept for as long as they may be, set aside when they are damaged."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from journals import SPANS, ids, read, sql
from log_rows import HOUR_S, NOON, Clock, files, row, running

# Hours


def test_rows_go_to_the_file_of_their_hour(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        journal.append(row(request_id="before", time=NOON - 10))
        journal.append(row(request_id="across", time=NOON - 0.001, latency_ms=500.0))
        journal.append(row(request_id="after", time=NOON + 1))
        assert journal.flush()
        assert files(tmp_path) == [
            "2026-11-22T11.db", "2026-11-22T12.db", "2026-11-22T12.db-shm", "2026-11-22T12.db-wal",
        ]  # fmt: skip
    assert sql(tmp_path / "2026-11-22T11.db", "SELECT request_id FROM requests") == [("before",)]
    assert sql(tmp_path / "2026-11-22T12.db", "SELECT request_id FROM requests") == [("across",), ("after",)]
    assert ids(tmp_path) == ["before", "across", "after"]


def test_an_hour_without_traffic_after_it_is_sealed_too(tmp_path: Path) -> None:
    clock = Clock()
    with running(tmp_path, clock) as journal:
        journal.append(row())
        assert journal.flush()
        assert "2026-11-22T12.db-wal" in files(tmp_path)
        for _ in range(2):
            clock.pass_by(HOUR_S)
            assert journal.flush()
        assert files(tmp_path) == ["2026-11-22T12.db"]


def test_an_hour_that_a_reader_holds_is_sealed_later(tmp_path: Path) -> None:
    clock = Clock()
    with running(tmp_path, clock) as journal:
        journal.append(row())
        assert journal.flush()
        with closing(sqlite3.connect(f"file:{tmp_path / '2026-11-22T12.db'}?mode=ro", uri=True)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM entries").fetchone()
            clock.pass_by(HOUR_S)
            journal.append(row(time=clock.now))
            assert journal.flush()
            assert "2026-11-22T12.db-shm" in files(tmp_path)
            assert reader.execute("SELECT count(*) FROM entries").fetchone() == (1,)
        clock.pass_by(60)
        assert journal.flush()
        assert "2026-11-22T12.db-shm" not in files(tmp_path)
    assert len(ids(tmp_path)) == 2


def test_a_restart_within_the_hour_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with running(tmp_path) as journal:
            journal.append(row(request_id=name))
            assert journal.flush()
    assert ids(tmp_path) == ["first", "second"]
    file = tmp_path / "2026-11-22T12.db"
    assert sql(file, "SELECT count(*) FROM series") == [(1,)]
    assert sql(file, "SELECT count, latency_us FROM seconds") == [(2, 4000)]
    assert sql(file, "SELECT count, latency_us, latency_to_2000us, latency_max_us FROM minutes") == [
        (2, 4000, 2, 2000)
    ]


@pytest.mark.parametrize("jump_s", [-30.0, -3 * HOUR_S, 3 * HOUR_S, -400 * 86400.0])
def test_ids_rise_however_the_clock_jumps(tmp_path: Path, jump_s: float) -> None:
    with running(tmp_path) as journal:
        for number, time in enumerate([NOON, NOON + jump_s, NOON + jump_s + 1, NOON, NOON + jump_s]):
            journal.append(row(request_id=f"r{number}", time=time))
            assert journal.flush()
    with running(tmp_path) as journal:  # and over a restart
        journal.append(row(request_id="r5", time=NOON + jump_s))
        assert journal.flush()
    entries = read(tmp_path)
    assert [entry.request_id for entry in entries] == ["r0", "r1", "r2", "r3", "r4", "r5"]
    assert [entry.time for entry in entries] == pytest.approx(
        [NOON, NOON + jump_s, NOON + jump_s + 1, NOON, NOON + jump_s, NOON + jump_s]
    )
    if abs(jump_s) > HOUR_S:
        assert len(files(tmp_path)) == 2


# Retention


def fill_hours(folder: Path, hours: int, *, rows: int = 1) -> None:
    """Files of so many hours, the last of which began at noon."""
    with running(folder) as journal:
        for hour in range(hours):
            for number in range(rows):
                start = NOON - (hours - 1 - hour) * HOUR_S
                journal.append(row(request_id=f"h{hour}-{number}", time=start))


def test_old_hours_are_unlinked_with_their_companions(tmp_path: Path) -> None:
    fill_hours(tmp_path, 5)
    (tmp_path / "2026-11-22T08.db-wal").write_bytes(b"")
    (tmp_path / "2026-11-22T08.db-shm").write_bytes(b"")
    (tmp_path / "2026-11-22T08.set-aside-1.db").write_bytes(b"junk")
    (tmp_path / "notes.db").write_bytes(b"mine")
    clock = Clock(NOON + 30)
    with running(tmp_path, clock, max_age_s=2 * HOUR_S) as journal:
        clock.pass_by(900)  # the clock is trusted only after a while
        assert journal.flush()
    assert files(tmp_path) == ["2026-11-22T10.db", "2026-11-22T11.db", "2026-11-22T12.db", "notes.db"]


def test_the_oldest_hours_go_when_the_log_is_too_large(tmp_path: Path) -> None:
    fill_hours(tmp_path, 4, rows=2000)
    size_bytes = (tmp_path / "2026-11-22T12.db").stat().st_size
    clock = Clock()
    with running(tmp_path, clock, max_bytes=int(size_bytes * 2.5)) as journal:
        assert journal.flush()
        assert files(tmp_path) == ["2026-11-22T11.db", "2026-11-22T12.db"]


def test_the_file_being_written_is_never_removed(tmp_path: Path) -> None:
    clock = Clock()
    with running(tmp_path, clock, max_bytes=0, max_age_s=0) as journal:
        clock.pass_by(1000)
        for _ in range(3):
            journal.append(row(time=clock.now))
            assert journal.flush()
            clock.pass_by(60)
        assert len(ids(tmp_path)) == 3
        clock.pass_by(3 * HOUR_S)  # it stays the one being written until it is sealed
        journal.append(row(time=clock.now))
        assert journal.flush()
        clock.pass_by(60)
        assert journal.flush()
        assert len(ids(tmp_path)) == 1


def test_a_wrong_clock_removes_nothing_for_its_age(tmp_path: Path) -> None:
    fill_hours(tmp_path, 3)
    clock = Clock()
    with running(tmp_path, clock, max_age_s=HOUR_S) as journal:
        clock.pass_by(60)
        clock.jump(10 * 365 * 86400)  # somebody set the wrong year
        assert journal.flush()
        clock.pass_by(300)
        assert journal.flush()
        assert len(files(tmp_path)) == 3
        clock.jump(-10 * 365 * 86400)
        clock.pass_by(60)
        assert journal.flush()
        clock.pass_by(HOUR_S)
        assert journal.flush()
        assert files(tmp_path) == ["2026-11-22T12.db"]


def test_hours_in_the_future_stay(tmp_path: Path) -> None:
    fill_hours(tmp_path, 2)
    clock = Clock(0.0)  # a machine without a battery starts in 1970
    with running(tmp_path, clock, max_age_s=HOUR_S) as journal:
        clock.pass_by(3 * HOUR_S)
        assert journal.flush()
    assert len(files(tmp_path)) == 2


# Damage


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096 : 4096 + 2048] = os.urandom(2048)
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["junk", "damaged", "foreign", "newer", "incomplete", "folder"])
def test_an_unusable_file_is_set_aside_and_named(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "2026-11-22T12.db"
    if kind == "junk":
        file.write_bytes(b"not a database at all" * 1000)
    elif kind == "folder":
        file.mkdir()
    elif kind == "foreign":
        with closing(sqlite3.connect(file)) as db:
            db.execute("CREATE TABLE mine (a)")
    else:
        fill_hours(tmp_path, 1, rows=500)
        with closing(sqlite3.connect(file)) as db:
            if kind == "newer":
                db.execute("PRAGMA user_version = 99")
            if kind == "incomplete":
                db.execute("DROP TABLE minutes")
        if kind == "damaged":
            damage(file)
    (tmp_path / "2026-11-22T12.set-aside-1.db").write_bytes(b"an earlier one")
    with running(tmp_path) as journal:
        journal.append(row(request_id="fresh"))
        assert journal.flush()
        assert journal.statistics().set_aside == ("2026-11-22T12.set-aside-2.db",)
        assert journal.statistics().dropped == 0
    assert ids(tmp_path) == ["fresh"]
    assert (tmp_path / "2026-11-22T12.set-aside-2.db").exists()


def age(file: Path, version: int = 1) -> None:
    """Make it what an earlier schema was."""
    first = "DROP TABLE spans; ALTER TABLE series DROP COLUMN client;" if version == 1 else ""
    with closing(sqlite3.connect(file)) as db:
        db.executescript(
            f"DROP VIEW requests; {first} DROP TABLE traces; ALTER TABLE bodies DROP COLUMN redacted;"
            "DELETE FROM facts WHERE name != 'max_lag_us'; CREATE VIEW requests AS SELECT id FROM entries;"
            f"PRAGMA user_version = {version}"
        )


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_earlier_schema_is_read_and_goes_on(tmp_path: Path, version: int) -> None:
    fill_hours(tmp_path, 2, rows=3)
    for name in files(tmp_path):
        age(tmp_path / name, version)
    assert [(entry.client, entry.spans) for entry in read(tmp_path)] == [(None, None)] * 6
    assert len(read(tmp_path, "client!=alice")) == 6
    assert read(tmp_path, "client=alice") == []
    with running(tmp_path) as journal:
        journal.append(row(request_id="new", client="alice", spans=SPANS))
        assert journal.flush()
        assert journal.statistics().set_aside == ()
    assert [entry.request_id for entry in read(tmp_path, "client=alice")] == ["new"]
    assert len(ids(tmp_path)) == 7
    assert sql(tmp_path / "2026-11-22T12.db", "SELECT count(*) FROM requests WHERE spans IS NULL") == [(3,)]
    # Nobody touches what is over.
    assert sql(tmp_path / "2026-11-22T11.db", "PRAGMA user_version") == [(version,)]


def test_a_file_of_the_first_schema_that_is_damaged_is_set_aside(tmp_path: Path) -> None:
    fill_hours(tmp_path, 1)
    age(tmp_path / "2026-11-22T12.db")
    with closing(sqlite3.connect(tmp_path / "2026-11-22T12.db")) as db:
        db.execute("DROP TABLE minutes")
    with running(tmp_path) as journal:
        journal.append(row(request_id="fresh"))
        assert journal.flush()
        assert len(journal.statistics().set_aside) == 1
    assert ids(tmp_path) == ["fresh"]


def test_a_file_that_somebody_meddles_with_is_set_aside(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        journal.append(row(request_id="before"))
        assert journal.flush()
        with closing(sqlite3.connect(tmp_path / "2026-11-22T12.db")) as meddler:
            meddler.execute("DROP TABLE bodies")
        for number in range(5000):
            journal.append(row(request_id=f"r{number}", request=b"body"))
        assert not journal.flush()
        assert journal.flush()
        assert journal.statistics().written == 5001
        assert journal.statistics().set_aside == ("2026-11-22T12.set-aside-1.db",)
    assert len(ids(tmp_path)) == 5000
