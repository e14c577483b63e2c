"""The log's files as other tools see them, while they are written, and as the page about them says."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from log_rows import NOON, Clock, row, running

from mdslite.store.journal import Journal

PAGE = (Path(__file__).parent.parent / "docs" / "request-log.md").read_text()
FILE = "2026-11-22T12.db"


def ask_sqlite3(file: Path, sql: str) -> str:
    """What the command of that name answers, called as the page says."""
    command = shutil.which("sqlite3")
    if command is None:
        pytest.skip("there is no sqlite3 command here")
    found = subprocess.run(
        [command, "-readonly", str(file), sql], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout.strip()


def write_some(journal: Journal, count: int) -> None:
    for _ in range(count):
        journal.append(row(request=b'{"instances": [1]}', trace_id=bytes(range(16))))
    assert journal.flush()


def test_the_sqlite3_command_reads_the_hour_that_is_being_written(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        for turn in range(1, 6):
            write_some(journal, 1000)
            wal = (tmp_path / f"{FILE}-wal").stat()
            found = ask_sqlite3(tmp_path / FILE, "SELECT count(*), max(trace_id) FROM requests")
            assert found == f"{turn * 1000}|{bytes(range(16)).hex()}"
            after = (tmp_path / f"{FILE}-wal").stat()
            assert (after.st_size, after.st_ino) == (wal.st_size, wal.st_ino)  # who reads writes nothing
        assert journal.statistics().trouble is None
    assert ask_sqlite3(tmp_path / FILE, "PRAGMA integrity_check; SELECT count(*) FROM requests") == "ok\n5000"
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_reader_that_holds_its_snapshot_stops_no_writing(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        write_some(journal, 10)
        with closing(sqlite3.connect(f"file:{tmp_path / FILE}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")
            count = "SELECT count(*) FROM requests"
            assert db.execute(count).fetchone() == (10,)
            write_some(journal, 3000)
            assert db.execute(count).fetchone() == (10,)
            db.execute("COMMIT")
            assert db.execute(count).fetchone() == (3010,)


def test_the_documented_columns_of_the_view_are_all_there_are(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        write_some(journal, 1)
        with closing(sqlite3.connect(f"file:{tmp_path / FILE}?mode=ro", uri=True)) as db:
            real = [name for _, name, *_ in db.execute("PRAGMA table_info(requests)")]
    text = PAGE.split("The view `requests` has everything")[1].split(".\n")[0]
    assert set(re.findall(r"`(\w+)`", text)) == set(real)


def test_the_documented_columns_of_the_tables_exist(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        write_some(journal, 1)
        with closing(sqlite3.connect(f"file:{tmp_path / FILE}?mode=ro", uri=True)) as db:
            tables = {
                name: {column for _, column, *_ in db.execute(f"PRAGMA table_info({name})")}
                for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
            }
            facts = {name for (name,) in db.execute("SELECT name FROM facts").fetchall()}
    described = PAGE.split("| table | holds |")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", described, re.MULTILINE))
    assert rows.keys() == tables.keys()
    for table in ("entries", "bodies", "spans", "traces", "minutes", "seconds"):
        named = set(re.findall(r"`(\w+)`", rows[table]))
        assert named <= tables[table] | {"traceparent"}, table
    assert facts <= set(re.findall(r"`(\w+)`", rows["facts"]))


def test_duckdb_reads_the_hour_that_is_being_written(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    extension = pytest.importorskip("duckdb_extension_sqlite_scanner")
    (file,) = Path(extension.__path__[0]).rglob("*.duckdb_extension")
    query = PAGE.split("```duckdb\n")[1].split("```")[0].replace(".mdslite/log/2026-11-22T14.db", "FILE")
    program = (
        f"import duckdb; c = duckdb.connect(); c.execute(\"LOAD '{file}'\")\n"
        f"print(c.execute({query!r}.replace('FILE', {str(tmp_path / FILE)!r})).fetchall())"
    )
    with running(tmp_path, Clock(NOON)) as journal:
        write_some(journal, 20)
        found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        write_some(journal, 1)
    assert (found.stdout.strip(), found.stderr) == ("[('v1', 20, 2.0)]", "")
