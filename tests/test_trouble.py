"""What fails again and again is told of once, and once more when it is over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from box import Box
from waiting import until

from mdslite.api.labeling import Labeling
from mdslite.api.trouble import Trouble
from mdslite.errors import StorageFull
from mdslite.store.candidates import CandidateStore

pytestmark = pytest.mark.anyio


def test_each_time_that_something_begins_to_fail_and_is_mended_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trouble = Trouble("it is not done", "it is done again")
    for reason in (None, "full", "still full", None, None, "full again", None):
        with trouble.told():
            if reason is not None:
                raise StorageFull(reason)
    said = ["it is not done: full", "it is done again", "it is not done: full again", "it is done again"]
    assert caplog.messages == said


def test_what_is_no_failure_of_the_round_passes(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt), Trouble("it is not done", "it is done again").told():
        raise KeyboardInterrupt
    assert not caplog.messages


@contextmanager
def full(disk: Path) -> Iterator[None]:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        found = os.statvfs(disk)
        file.write(b"\0" * (found.f_bavail * found.f_frsize))
    try:
        yield
    finally:
        ballast.unlink()


async def test_a_full_disk_under_the_queue_of_labels_is_told_once(
    box: Box, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Counted(CandidateStore):
        tries = 0

        def counts(self) -> dict[tuple[str, str, str], int]:
            self.tries += 1
            return super().counts()

    store = Counted(small_disk / "candidates.db")
    labeling = Labeling(
        box.registry,
        box.worker,
        store,
        log=box.request_log,
        comparisons=box.comparisons,
        fleet=box.fleet,
        look_s=0.01,
    )
    await labeling.start()
    try:
        with full(small_disk):
            await until(lambda: caplog.messages)
            tries = store.tries
            await until(lambda: store.tries > tries + 3)
            (line,) = caplog.messages
            assert line.startswith("requests to label are not looked for: ") and "full" in line
        await until(lambda: len(caplog.messages) > 1)
        assert caplog.messages[1:] == ["requests to label are looked for again"]
    finally:
        await labeling.close()
