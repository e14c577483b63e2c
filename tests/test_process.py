"""A supervised child: what it gets, what is kept of its output, and how its end is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from isolation import is_gone
from waiting import hold_on

from mdslite.errors import MdsliteError
from mdslite.process import TAIL_BYTES, Child, size_text

DEADLINE_S = 30.0
LINUX = sys.platform == "linux"


@contextmanager
def running(
    code: str,
    *arguments: str,
    env: dict[str, str] | None = None,
    fds: tuple[int, ...] = (),
    memory_limit_bytes: int | None = None,
    on_exit: Callable[[str], None] | None = None,
) -> Iterator[Child]:
    """A child that runs `code` in Python."""
    child = Child(
        (sys.executable, "-P", "-c", code, *arguments),
        name="the child",
        env=env,
        fds=fds,
        memory_limit_bytes=memory_limit_bytes,
        on_exit=on_exit,
    )
    child.start()
    try:
        yield child
    finally:
        child.close()


def end_of(code: str) -> str:
    with running(code) as child:
        assert child.wait(DEADLINE_S)
        assert child.reason is not None
        return child.reason


# How it ends


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("pass", "exited with status 0"),
        ("print('one'); print('two'); raise SystemExit(3)", "exited with status 3: two"),
        ("raise ValueError('no such luck')", "exited with status 1: ValueError: no such luck"),
        ("import os; os._exit(9)", "exited with status 9"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9, perhaps for want of memory"),
        ("import ctypes; ctypes.string_at(0)", "was killed by signal 11 (SIGSEGV)"),
    ],
)  # fmt: skip
def test_an_end_is_told_in_words(code: str, reason: str) -> None:
    assert end_of(code) == reason


def test_an_end_is_announced_once_with_its_reason() -> None:
    heard: list[str] = []
    with running("input()", on_exit=heard.append) as child:
        assert child.wait(DEADLINE_S)
        child.kill("nobody hears this")
        child.close()
    assert len(heard) == 1
    assert heard == [child.reason]
    assert not child.running


def test_a_killed_child_ended_for_the_reason_given() -> None:
    with running("import time; time.sleep(600)") as child:
        assert child.running
        assert child.reason is None
        child.kill("was not wanted any more")
        assert child.wait(DEADLINE_S)
        assert child.reason == "was not wanted any more"


def test_a_child_dies_with_what_it_started() -> None:
    code = (
        "import subprocess, sys\n"
        "made = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(made.pid, flush=True)\n"
        "raise SystemExit(input())"
    )
    with running(code) as child:
        assert child.wait(DEADLINE_S)
        grandchild = int(child.output().split()[0])
    hold_on(lambda: is_gone(grandchild))


def test_a_command_that_is_not_there_is_an_error_of_ours() -> None:
    child = Child(("/no/such/program",), name="the child")
    with pytest.raises(MdsliteError, match="could not start the child: No such file or directory"):
        child.start()
    assert not child.running
    child.close()


def test_a_variable_that_has_no_name_is_an_error_of_ours() -> None:
    child = Child((sys.executable, "-c", ""), name="the child", env={"A=B": "C"})
    with pytest.raises(MdsliteError, match="could not start the child: illegal environment variable name"):
        child.start()
    child.close()


@pytest.mark.skipif(not LINUX, reason="Linux tells a child that its parent ended")
def test_a_child_that_asks_for_it_ends_with_its_parent(tmp_path: Path) -> None:
    inner = (
        "import os, sys, time; from mdslite.process import end_with_parent\n"
        "end_with_parent(int(sys.argv[1])); print(os.getpid(), flush=True); time.sleep(600)"
    )
    outer = (
        "import os, sys, time; from mdslite.process import Child\n"
        f"child = Child((sys.executable, '-P', '-c', {inner!r}, str(os.getpid())), name='inner')\n"
        "child.start()\n"
        "while not child.output(): time.sleep(0.01)\n"
        "print(child.output(), flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", outer], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    hold_on(lambda: is_gone(pid))


# What it prints


def test_the_end_of_a_flood_is_kept_and_no_more() -> None:
    code = "for number in range(100_000): print('line', number)\n"
    with running(code) as child:
        assert child.wait(DEADLINE_S)
        output = child.output()
    assert output.endswith("line 99999\n")
    assert len(output) == TAIL_BYTES


def test_a_child_that_floods_its_output_can_be_killed() -> None:
    with running("while True: print('x' * 1000)") as child:
        hold_on(lambda: len(child.output()) == TAIL_BYTES)
        assert child.running
        child.kill("printed too much")
        assert child.wait(DEADLINE_S)
    assert child.reason == "printed too much"


def test_output_that_is_no_text_is_shown_all_the_same() -> None:
    with running("import os; os.write(1, b'\\xff\\x00ok')") as child:
        assert child.wait(DEADLINE_S)
        assert child.output() == "\ufffd\x00ok"


def test_a_child_that_closes_its_output_is_still_watched() -> None:
    with running("import os, sys, time; os.close(1); os.close(2); time.sleep(0.1); os._exit(4)") as child:
        assert child.wait(DEADLINE_S)
        assert child.reason == "exited with status 4"


# What it gets


def test_the_appliance_s_own_variables_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSLITE_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("COLOUR", "blue")
    with running("import os; print(sorted(os.environ.items()))", env={"COLOUR": "red", "SIZE": "9"}) as child:
        assert child.wait(DEADLINE_S)
        assert "secret" not in child.output()
        assert "('COLOUR', 'red')" in child.output()
        assert "('SIZE', '9')" in child.output()


def test_only_the_descriptors_that_it_is_given_are_open() -> None:
    ours, theirs = os.pipe()
    other, other_end = os.pipe()
    os.set_inheritable(other_end, True)
    code = (
        "import os, sys; os.write(int(sys.argv[1]), b'hello')\n"
        "try: os.write(int(sys.argv[2]), b'hello')\n"
        "except OSError: print('closed')"
    )
    try:
        with running(code, str(theirs), str(other_end), fds=(theirs,)) as child:
            assert child.wait(DEADLINE_S)
            assert child.output() == "closed\n"
        assert os.read(ours, 100) == b"hello"
    finally:
        for end in (ours, theirs, other, other_end):
            os.close(end)


def test_ctrl_c_does_not_reach_it() -> None:
    with running("import time; print('up', flush=True); time.sleep(600)") as child:
        hold_on(lambda: child.output() == "up\n")
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait(DEADLINE_S)
        assert child.reason == "was killed by signal 15 (SIGTERM)"


# Its memory


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_a_child_beyond_its_memory_is_killed() -> None:
    code = "held = []\nwhile True: held.append(bytearray(1 << 20))"
    with running(code, memory_limit_bytes=64 << 20) as child:
        assert child.wait(DEADLINE_S)
        assert child.reason == "used more than the 64 MiB that resource.memory allows"


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_memory_is_what_is_touched_not_what_is_reserved() -> None:
    code = (
        "import mmap, time\n"
        "reserved = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "print('up', flush=True); time.sleep(600)"
    )
    with running(code, memory_limit_bytes=64 << 20) as child:
        hold_on(lambda: child.output() == "up\n")
        assert 1 << 20 < child.memory_bytes() < 64 << 20
        assert child.running


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(512 << 20, "512 MiB"), (3 << 29, "1.5 GiB"), (100_000_000, "95.37 MiB")]
)
def test_sizes_are_written_as_people_do(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text
