"""The ring between the journal and its writer: what went in comes out, and then takes no room."""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdslite.store.ring import Ring

PAGE = mmap.PAGESIZE


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring.create(4 * PAGE)
    yield ring
    ring.close()


def read(ring: Ring, start: int) -> list[bytes]:
    """All records from a position on, as the other process reads them."""
    other, found = Ring(ring.fd), []
    while start < other.appended():
        record, start = other.record(start)
        found.append(record)
    return found


def test_records_come_out_as_they_went_in(ring: Ring) -> None:
    sent = [b"", b"one", b"x" * 5000]
    assert all(ring.put(record) for record in sent)
    assert read(ring, 0) == sent


def test_a_full_ring_takes_nothing_until_something_is_freed(ring: Ring) -> None:
    assert ring.put(b"a" * 3 * PAGE)
    _, after = ring.record(0)
    before = ring.end
    assert not ring.put(b"b" * PAGE)
    assert ring.end == before
    ring.free(after)
    assert ring.put(b"b" * PAGE)
    assert read(ring, after) == [b"b" * PAGE]


def test_rows_are_counted_with_their_position(ring: Ring) -> None:
    ring.put(b"one row")
    ring.put(b"a batch", 32)
    assert ring.end[1] == 33


def test_records_wrap_around_the_end_again_and_again(ring: Ring) -> None:
    chance = random.Random(1)
    sent: list[bytes] = []
    got: list[bytes] = []
    at = 0
    for _ in range(500):
        for _ in range(chance.randrange(6)):
            record = chance.randbytes(chance.randrange(2 * PAGE))
            if ring.put(record):
                sent.append(record)
        for record in read(ring, at):
            got.append(record)
            at += len(record) + 4
        ring.free(at)
    assert got == sent
    assert ring.end[0] > 100 * ring.size


def test_what_is_read_takes_no_memory(ring: Ring) -> None:
    for _ in range(9):
        assert ring.put(b"x" * 3 * PAGE)
        assert os.fstat(ring.fd).st_blocks * 512 >= 3 * PAGE
        ring.free(ring.end[0])
        assert os.fstat(ring.fd).st_blocks * 512 <= 3 * PAGE  # the head, and the page that is begun


LIMITED = """
import resource, sys
from mdslite.errors import StoreError
from mdslite.store.journal import Journal
from pathlib import Path
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
journal = Journal(Path(sys.argv[1]))
try:
    journal.start()
except StoreError as exc:
    print(exc.message, exc.hint)
else:
    assert journal.flush()
    assert journal.close()
"""


def start_limited(folder: Path, file_bytes: int) -> subprocess.CompletedProcess[str]:
    """Start and stop a log where files may have so many bytes."""
    command = [sys.executable, "-c", LIMITED, str(folder), str(file_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_where_files_are_limited_the_ring_is_smaller_and_the_log_says_so(tmp_path: Path) -> None:
    done = start_limited(tmp_path, 8 << 20)
    assert "has 7 MiB in memory instead of 32, as files may be no larger (ulimit -f)" in done.stderr
    assert done.stdout == ""


def test_where_files_are_limited_to_next_to_nothing_the_log_says_what_to_raise(tmp_path: Path) -> None:
    said = start_limited(tmp_path, 1 << 20).stdout
    assert said.startswith("the request log has no room in memory: File too large")
    assert "ulimit -f unlimited" in said
    assert "mdslite up --no-log" in said
