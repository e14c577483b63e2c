"""Packages that crash, hang, make noise or cannot be opened, in a process of their own and inline."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from isolation import DEADLINE_S, answers_of, is_gone, opened, pid_of
from obedient import OBEDIENT, do, feeds, write_package
from waiting import hold_on

from mdslite.errors import DeadlineExceeded, LoadFailed, Unavailable
from mdslite.process import TAIL_BYTES
from mdslite.runtimes.protocol import DataSession, LoadOptions, Trial
from mdslite.runtimes.python import PythonRuntime

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes of their own are for Linux")


# Crashes


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("ctypes.string_at(0)", "was killed by signal 11 (SIGSEGV)"),
        ("os._exit(3)", "exited with status 3"),
        ("os.kill(os.getpid(), 9)", "was killed by signal 9, perhaps for want of memory"),
        ("os.abort()", "was killed by signal 6 (SIGABRT)"),
    ],
)
def test_a_crash_is_a_503_that_says_how_it_ended(obedient: Path, code: str, end: str) -> None:
    with opened(obedient) as session:
        with pytest.raises(Unavailable) as caught:
            session.run(feeds("1", do(code)))
        assert caught.value.message.startswith(f"p/m v1: its process {end}")
        assert caught.value.retry_after_s is not None
        with pytest.raises(Unavailable, match="its process"):
            session.run(feeds("1"))
    with opened(obedient) as session:
        assert answers_of(session, "1") == [b"1"]


def test_a_crash_prints_where_it_was(obedient: Path) -> None:
    with opened(obedient) as session:
        with pytest.raises(Unavailable):
            session.run(feeds(do("print('before'); ctypes.string_at(0)")))
        assert "before\n" in session.output()
        assert "Fatal Python error: Segmentation fault" in session.output()
        assert "model.py" in session.output()


def test_a_package_that_uses_more_than_its_memory_is_killed(obedient: Path) -> None:
    with opened(obedient, memory_limit_bytes=256 << 20) as session:
        assert answers_of(session, do("x = len(bytearray(100 << 20))")) == [b"104857600"]
        with pytest.raises(Unavailable, match=r"used more than the 256 MiB that resource\.memory allows"):
            session.run(feeds(do("x = []\nwhile True: x.append(bytearray(1 << 20))")))


def test_an_end_while_idle_is_told(obedient: Path) -> None:
    with opened(obedient) as isolated:
        told = threading.Event()
        reasons: list[str] = []

        def tell(reason: str) -> None:
            reasons.append(reason)
            told.set()

        isolated.watch(tell)
        os.kill(pid_of(isolated), signal.SIGKILL)
        assert told.wait(DEADLINE_S)
        assert reasons == ["its process was killed by signal 9, perhaps for want of memory"]
        with pytest.raises(Unavailable):
            isolated.run(feeds("1"))
        isolated.watch(tell)
        assert len(reasons) == 2


def test_an_end_during_a_run_and_a_close_are_told_to_nobody_else(obedient: Path) -> None:
    reasons: list[str] = []
    with opened(obedient) as session:
        session.watch(reasons.append)
        with pytest.raises(Unavailable):
            session.run(feeds(do("os._exit(1)")))
    with opened(obedient) as session:
        session.watch(reasons.append)
        pid = pid_of(session)
    hold_on(lambda: is_gone(pid))
    assert reasons == []


# Hangs


@pytest.mark.parametrize(
    "code",
    [
        "time.sleep(600)",
        "while True: pass",
        "re.match('(a+)+$', 'a' * 60 + 'b')",  # in C, with the interpreter lock held
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); time.sleep(600)",
    ],
)
def test_a_hang_is_ended_by_its_handle(obedient: Path, code: str) -> None:
    with opened(obedient) as session:
        handle = session.handle()
        answers_of(session, "1")
        pid = pid_of(session)
        timer = threading.Timer(0.2, handle.terminate)
        timer.start()
        with pytest.raises(Unavailable, match="was killed, since it did not answer in time"):
            session.run(feeds(do(code)), handle)
        timer.join()
        assert is_gone(pid)


def test_a_run_that_was_stopped_before_it_began_costs_no_process(isolated: DataSession) -> None:
    handle = isolated.handle()
    handle.terminate()
    with pytest.raises(DeadlineExceeded):
        isolated.run(feeds("1"), handle)
    assert answers_of(isolated, "2") == [b"2"]


def test_a_run_that_is_over_cannot_be_stopped(isolated: DataSession) -> None:
    handle = isolated.handle()
    isolated.run(feeds("1"), handle)
    handle.terminate()
    assert answers_of(isolated, "2") == [b"2"]


def test_an_inline_run_cannot_be_stopped_once_it_runs(obedient: Path) -> None:
    with opened(obedient, isolation="inline") as session:
        handle = session.handle()
        handle.terminate()
        with pytest.raises(DeadlineExceeded):
            session.run(feeds("1"), handle)
        assert session.output() == ""
        session.watch(lambda reason: pytest.fail(reason))


# What user code might do to the way it is spoken to


def test_noise_in_every_descriptor_is_found_out(obedient: Path) -> None:
    code = "for n in range(3, 64):\n try: os.write(n, b'{}')\n except OSError: pass"
    with opened(obedient) as session, pytest.raises(Unavailable, match="what it sent is no answer"):
        session.run(feeds(do(code)))


def test_a_package_that_closes_every_descriptor_is_replaced(obedient: Path) -> None:
    with opened(obedient) as session, pytest.raises(Unavailable, match="its process"):
        session.run(feeds(do("os.closerange(3, 256)")))


def test_a_fork_that_comes_back_does_not_answer(isolated: DataSession) -> None:
    found = answers_of(isolated, do("x = 'parent' if os.fork() else 'child'"), "2")
    assert found == [b'"parent"', b"2"]
    assert answers_of(isolated, "3") == [b"3"]


def test_a_flood_of_output_neither_blocks_nor_grows(isolated: DataSession) -> None:
    flood = do("for n in range(3000): print('x' * 1000, n)")
    assert answers_of(isolated, flood, "2") == [b"null", b"2"]
    hold_on(lambda: " 2999\n" in isolated.output())
    assert len(isolated.output()) == TAIL_BYTES


def test_tracebacks_are_in_the_output(isolated: DataSession) -> None:
    answers_of(isolated, do("raise LookupError('here it is')"))
    hold_on(lambda: "LookupError: here it is\n" in isolated.output())
    assert "model.py" in isolated.output()
    assert "executor.py" not in isolated.output()


# Loads


@pytest.mark.parametrize(
    ("head", "method", "message"),
    [
        ("raise RuntimeError('no weights')", "", "model.py:5: RuntimeError: no weights"),
        ("sys.exit(2)", "", "model.py:5: SystemExit: 2"),
        ("os._exit(2)", "", "before it was imported, its process exited with status 2: so far so good"),
        ("ctypes.string_at(0)", "", "before it was imported, its process was killed by signal 11 (SIGSEGV)"),
        ("", "def __init__(self): 1 / 0", "Obedient.__init__: ZeroDivisionError: division by zero"),
        (
            "",
            "def __init__(self): os._exit(7)",
            "before it was built, its process exited with status 7: so far so good",
        ),
        ("", "@mds.warmup\ndef warm(self): {}['a']", "the warm-up failed: KeyError: 'a'"),
    ],
)
def test_a_package_that_cannot_be_opened_says_why(
    tmp_path: Path, head: str, method: str, message: str
) -> None:
    head = f"print('so far so good', flush=True); {head}"
    package = write_package(tmp_path, f"{OBEDIENT}\n{method}", head=head)
    with pytest.raises(LoadFailed) as caught, opened(package):
        pass
    assert caught.value.message == message
    assert "so far so good" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("head", "method", "stage", "limit_s"),
    [
        ("time.sleep(600)", "", "imported", 0.3),
        ("os.kill(os.getpid(), signal.SIGSTOP)", "", "imported", 0.3),
        ("", "@mds.warmup\ndef warm(self): time.sleep(600)", "warmed up", 2),
    ],
)
def test_a_load_that_hangs_is_ended(
    tmp_path: Path, head: str, method: str, stage: str, limit_s: float
) -> None:
    package = write_package(tmp_path, f"{OBEDIENT}\n{method}", head=f"print('hanging', flush=True); {head}")
    with pytest.raises(LoadFailed) as caught, opened(package, load_timeout_s=limit_s):
        pass
    assert caught.value.message == f"the package was not {stage} within {limit_s:g} s"
    assert "hanging" in str(caught.value.hint)


def test_a_load_that_hangs_inline_is_left_behind(tmp_path: Path) -> None:
    package = write_package(tmp_path, OBEDIENT + "\ndef __init__(self):\n    threading.Event().wait()")
    with (
        pytest.raises(LoadFailed, match=r"was not loaded within 0\.2 s"),
        opened(package, isolation="inline", load_timeout_s=0.2),
    ):
        pass


def test_an_import_that_hangs_is_no_description(tmp_path: Path) -> None:
    package = write_package(tmp_path, head="time.sleep(600)")
    with pytest.raises(LoadFailed, match=r"was not imported within 0\.2 s"):
        PythonRuntime().probe(package, LoadOptions(), timeout_s=0.2)


def test_a_trial_that_is_given_up_ends_the_package_s_process(tmp_path: Path) -> None:
    met = tmp_path / "met"
    head = f"open({str(met)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    package, trial, said = write_package(tmp_path, head=head), Trial(), []

    def probe() -> None:
        try:
            PythonRuntime().probe(package, LoadOptions(), timeout_s=DEADLINE_S, trial=trial)
        except LoadFailed as exc:
            said.append(exc.message)

    thread = threading.Thread(target=probe)
    thread.start()
    pid = int(hold_on(lambda: met.read_text() if met.exists() else ""))
    trial.give_up()
    thread.join(DEADLINE_S)
    assert said == ["before it was imported, its process was ended, as nobody waited for it any more"]
    hold_on(lambda: is_gone(pid))
    probe()
    assert said[1:] == ["nobody waits for the model any more"]


def test_a_process_that_cannot_be_started_is_a_failed_load(obedient: Path) -> None:
    with pytest.raises(LoadFailed, match="could not start p/m v1"), opened(obedient, env={"A=B": "C"}):
        pass
