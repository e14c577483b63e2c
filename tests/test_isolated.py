"""Packages in a process of their own, and the same ones inline: answers, faults, streams, ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import pytest
from obedient import OBEDIENT, do, feeds, write_package
from waiting import hold_on

import mds
from mdslite.errors import (
    ClientClosed,
    DeadlineExceeded,
    InvalidJson,
    InvalidRequest,
    LoadFailed,
    MdsliteError,
    ModelError,
    Unavailable,
)
from mdslite.process import TAIL_BYTES
from mdslite.runtimes import supervised
from mdslite.runtimes.protocol import Answers, DataSession, LoadOptions
from mdslite.runtimes.python import PythonRuntime

DEADLINE_S = 30.0
Isolation = Literal["process", "inline"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes of their own are for Linux")


@contextmanager
def opened(
    package: Path, *, isolation: Isolation = "process", load_timeout_s: float = DEADLINE_S, **options: Any
) -> Iterator[DataSession]:
    runtime = PythonRuntime(load_timeout_s=load_timeout_s)
    session = runtime.open(package, LoadOptions(isolation=isolation, label="p/m v1", **options))
    try:
        yield session
    finally:
        session.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module", params=["process", "inline"])
def either(request: pytest.FixtureRequest, folder: Path) -> Iterator[DataSession]:
    """The obedient package, in a process of its own and inline."""
    with opened(folder, isolation=request.param) as session:
        yield session


@pytest.fixture(scope="module")
def isolated(folder: Path) -> Iterator[DataSession]:
    """The obedient package in a process that all tests share which let it live."""
    with opened(folder) as session:
        yield session


def answers_of(session: DataSession, *data: Any, **how: Any) -> Answers:
    (answers,) = session.run(feeds(*data, **how))
    return answers


def message_of(answer: Any, kind: type[MdsliteError] = ModelError) -> str:
    assert type(answer) is kind
    assert isinstance(answer, MdsliteError)
    return answer.message


def pid_of(session: Any) -> int:
    return session.pid  # type: ignore[no-any-return]


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# Answers, alike in a process of its own and inline


def test_answers_come_in_the_order_of_the_data(either: DataSession) -> None:
    assert answers_of(either, "1", '"two"', "[3]", '{"four": 4.5}', "null") == [
        b"1", b'"two"', b"[3]", b'{"four":4.5}', b"null",
    ]  # fmt: skip
    assert answers_of(either) == []


def test_bodies_and_arrays_are_given_as_they_are(either: DataSession) -> None:
    found = answers_of(either, "1", mds.Body(b"h\xc3\xa9", "text/plain"), np.arange(3))
    assert found == [b"1", '"hé"'.encode(), b"[0,1,2]"]


def test_arrays_come_back_where_tensors_are_wanted(either: DataSession) -> None:
    large = np.random.default_rng(1).random((3, 64, 64), np.float32)
    for rows in ([large] * 4, [np.arange(5, dtype=np.int8)] * 3, [np.array(1.5)] * 2):
        found = answers_of(either, *rows, tensors=True)
        for row, answer in zip(rows, found, strict=True):
            assert isinstance(answer, np.ndarray)
            assert answer.dtype == row.dtype
            np.testing.assert_array_equal(answer, row)


@pytest.mark.parametrize("isolation", ["process", "inline"])
def test_data_know_their_type_and_cannot_be_written_to(tmp_path: Path, isolation: Isolation) -> None:
    methods = """
    @mds.predict
    def predict(self, one):
        return one.flags.writeable if isinstance(one, np.ndarray) else one.content_type
    """
    with opened(write_package(tmp_path, methods), isolation=isolation) as session:
        found = answers_of(session, np.zeros(3), np.zeros(100_000), mds.Body(b"", "audio/wav"))
    assert found == [b"false", b"false", b'"audio/wav"']


def test_confidences_come_with_the_answers(either: DataSession) -> None:
    found = answers_of(either, '{"confidence": 0.5}', "1", '{"confidence": 0.25}')
    assert list(found.confidences) == [0.5, None, 0.25]
    found = answers_of(either, '{"sure": 0.75}', "nonsense", confidence="sure")
    assert list(found.confidences) == [0.75, None]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ValueError('no such luck')", "ValueError: no such luck"),
        ("sys.exit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("x = object()", "the answer holds a object, which is no JSON"),
    ],
)
def test_what_raises_is_that_row_s_error_alone(either: DataSession, code: str, said: str) -> None:
    found = answers_of(either, "1", do(code), "nonsense", "4")
    assert (found[0], found[3]) == (b"1", b"4")
    assert said in message_of(found[1])
    assert "no JSON" in message_of(found[2], InvalidJson)


def test_one_poison_among_32_spoils_one_answer(either: DataSession) -> None:
    data = [str(number) for number in range(32)]
    found = answers_of(either, *data[:17], do("1 / 0"), *data[18:])
    assert message_of(found[17]) == "ZeroDivisionError: division by zero"
    assert [one for one in found if isinstance(one, bytes)] == [
        text.encode() for text in (*data[:17], *data[18:])
    ]


def test_an_array_of_objects_is_refused_and_its_neighbours_are_not(either: DataSession) -> None:
    found = answers_of(either, "1", np.zeros(1, dtype=[("a", "i4")]), "3")
    assert (found[0], found[2]) == (b"1", b"3")
    assert "expected numbers, texts or times" in message_of(found[1], InvalidRequest)


@pytest.mark.parametrize("isolation", ["process", "inline"])
def test_a_wrong_number_of_answers_is_an_error_of_every_row(tmp_path: Path, isolation: Isolation) -> None:
    package = write_package(
        tmp_path, "@mds.predict\n@mds.batch(batch_size=8)\ndef predict(self, data):\n    return data[1:]"
    )
    with opened(package, isolation=isolation) as session:
        found = answers_of(session, "1", "2", "3")
    assert [message_of(one) for one in found] == [
        "predict returned 2 answers; expected a list of 3, one for each datum"
    ] * 3


@pytest.mark.parametrize("isolation", ["process", "inline"])
def test_coroutines_run_for_all_rows_at_once(tmp_path: Path, isolation: Isolation) -> None:
    methods = """
    def __init__(self):
        self.waiting = 0

    @mds.predict
    async def predict(self, datum):
        import asyncio
        self.waiting += 1
        while self.waiting < 3:
            await asyncio.sleep(0.001)
        return datum
    """
    with opened(write_package(tmp_path, methods), isolation=isolation) as session:
        assert answers_of(session, "1", "2", "3") == [b"1", b"2", b"3"]


def test_several_threads_get_their_own_answers(either: DataSession) -> None:
    def ask(number: int) -> bool:
        return answers_of(either, str(number), f"[{number}]") == [b"%d" % number, b"[%d]" % number]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(100)))


# Memory that is shared


def test_answers_may_be_larger_than_the_data(isolated: DataSession) -> None:
    found = answers_of(isolated, do("x = 'y' * 3_000_000"), "1", do("x = 'z' * 10"))
    assert found == [b'"' + b"y" * 3_000_000 + b'"', b"1", b'"zzzzzzzzzz"']


def test_arrays_that_user_code_keeps_do_not_change(tmp_path: Path) -> None:
    methods = """
    kept = []

    @mds.predict
    def predict(self, one):
        if isinstance(one, np.ndarray):
            self.kept.append(one)
        return [[int(one.min()), int(one.max())] for one in self.kept]
    """
    with opened(write_package(tmp_path, methods)) as session:
        for number in range(5):
            answers_of(session, np.full(50_000, number))
        assert answers_of(session, "null") == [b"[[0,0],[1,1],[2,2],[3,3],[4,4]]"]


def test_arrays_that_a_caller_keeps_do_not_change(isolated: DataSession) -> None:
    kept = [answers_of(isolated, np.full(50_000, number), tensors=True)[0] for number in range(5)]
    assert [(int(one.min()), int(one.max())) for one in kept if isinstance(one, np.ndarray)] == [
        (number, number) for number in range(5)
    ]


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
def test_a_crash_is_a_503_that_says_how_it_ended(folder: Path, code: str, end: str) -> None:
    with opened(folder) as session:
        with pytest.raises(Unavailable) as caught:
            session.run(feeds("1", do(code)))
        assert caught.value.message.startswith(f"p/m v1: its process {end}")
        assert caught.value.retry_after_s is not None
        with pytest.raises(Unavailable, match="its process"):
            session.run(feeds("1"))
    with opened(folder) as session:
        assert answers_of(session, "1") == [b"1"]


def test_a_crash_prints_where_it_was(folder: Path) -> None:
    with opened(folder) as session:
        with pytest.raises(Unavailable):
            session.run(feeds(do("print('before'); ctypes.string_at(0)")))
        assert "before\n" in session.output()
        assert "Fatal Python error: Segmentation fault" in session.output()
        assert "model.py" in session.output()


def test_a_package_that_uses_more_than_its_memory_is_killed(folder: Path) -> None:
    with opened(folder, memory_limit_bytes=256 << 20) as session:
        assert answers_of(session, do("x = len(bytearray(100 << 20))")) == [b"104857600"]
        with pytest.raises(Unavailable, match=r"used more than the 256 MiB that resource\.memory allows"):
            session.run(feeds(do("x = []\nwhile True: x.append(bytearray(1 << 20))")))


def test_an_end_while_idle_is_told(folder: Path) -> None:
    with opened(folder) as isolated:
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


def test_an_end_during_a_run_and_a_close_are_told_to_nobody_else(folder: Path) -> None:
    reasons: list[str] = []
    with opened(folder) as session:
        session.watch(reasons.append)
        with pytest.raises(Unavailable):
            session.run(feeds(do("os._exit(1)")))
    with opened(folder) as session:
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
def test_a_hang_is_ended_by_its_handle(folder: Path, code: str) -> None:
    with opened(folder) as session:
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


def test_an_inline_run_cannot_be_stopped_once_it_runs(folder: Path) -> None:
    with opened(folder, isolation="inline") as session:
        handle = session.handle()
        handle.terminate()
        with pytest.raises(DeadlineExceeded):
            session.run(feeds("1"), handle)
        assert session.output() == ""
        session.watch(lambda reason: pytest.fail(reason))


# What user code might do to the way it is spoken to


def test_noise_in_every_descriptor_is_found_out(folder: Path) -> None:
    code = "for n in range(3, 64):\n try: os.write(n, b'{}')\n except OSError: pass"
    with opened(folder) as session, pytest.raises(Unavailable, match="what it sent is no answer"):
        session.run(feeds(do(code)))


def test_a_package_that_closes_every_descriptor_is_replaced(folder: Path) -> None:
    with opened(folder) as session, pytest.raises(Unavailable, match="its process"):
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


def test_a_package_is_described_without_being_built(tmp_path: Path) -> None:
    methods = """
    def __init__(self):
        os._exit(1)

    @mds.health_check
    def fine(self):
        return True

    @mds.predict
    def predict(self, datum):
        yield datum
    """
    report = PythonRuntime().probe(write_package(tmp_path, methods), LoadOptions(), timeout_s=DEADLINE_S)
    package = report.package
    assert package is not None
    assert (package.name, package.version, package.class_name) == ("obedient", "v1", "Obedient")
    assert package.streams and package.has_check and not package.has_warmup
    assert package.batch_size is None
    assert report.memory_bytes > 1 << 20
    assert not report.bounded


def test_an_import_that_hangs_is_no_description(tmp_path: Path) -> None:
    package = write_package(tmp_path, head="time.sleep(600)")
    with pytest.raises(LoadFailed, match=r"was not imported within 0\.2 s"):
        PythonRuntime().probe(package, LoadOptions(), timeout_s=0.2)


def test_a_process_that_cannot_be_started_is_a_failed_load(folder: Path) -> None:
    with pytest.raises(LoadFailed, match="could not start p/m v1"), opened(folder, env={"A=B": "C"}):
        pass


def test_nothing_is_written_beside_a_package(folder: Path) -> None:
    with opened(folder) as session:
        answers_of(session, "1")
    assert [one.name for one in folder.iterdir()] == ["model.py"]


# Its surroundings


def test_variables_of_the_spec_arrive_and_the_appliance_s_own_do_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDSLITE_TOKEN", "secret")
    with opened(folder, env={"COLOUR": "red"}, threads=3) as session:
        names = "'COLOUR', 'OMP_NUM_THREADS', 'MDSLITE_TOKEN'"
        found = answers_of(session, do(f"x = [os.environ.get(one) for one in ({names})]"))
    assert found == [b'["red","3",null]']


def test_the_class_is_built_once_and_warmed_up(tmp_path: Path) -> None:
    methods = OBEDIENT + "\ndef __init__(self):\n    self.did = ['built']\n" + (
        "\n@mds.warmup\ndef warm(self):\n    self.did.append('warm')"
    )  # fmt: skip
    with opened(write_package(tmp_path, methods)) as session:
        for _ in range(2):
            assert answers_of(session, do("x = self.did")) == [b'["built","warm"]']


# Health checks


CHECKED = (
    OBEDIENT
    + """
state = {"status": "OK"}

@mds.health_check
def check(self):
    if self.state == "hang":
        time.sleep(600)
    return self.state
"""
)


@pytest.mark.parametrize("isolation", ["process", "inline"])
def test_a_health_check_is_run_and_says_what_is_wrong(tmp_path: Path, isolation: Isolation) -> None:
    with opened(write_package(tmp_path, CHECKED), isolation=isolation) as session:
        assert session.has_check
        session.check()
        answers_of(session, do("self.state = {'status': 'no disk'}"))
        with pytest.raises(Unavailable, match="no disk"):
            session.check()
        answers_of(session, do("self.state = True"))
        session.check()


def test_a_health_check_that_hangs_is_ended(tmp_path: Path) -> None:
    with opened(write_package(tmp_path, CHECKED)) as session:
        answers_of(session, do("self.state = 'hang'"))
        mine, another = session.handle(), session.handle()
        timers = [threading.Timer(0.2, another.terminate), threading.Timer(0.4, mine.terminate)]
        for timer in timers:
            timer.start()
        with pytest.raises(Unavailable, match="did not answer in time"):
            session.check(mine)
        assert not timers[1].is_alive()


# Streams

STREAMING = """
@mds.predict
def predict(self, datum):
    try:
        for number in range(datum["to"]):
            print("made", number)
            if number == datum.get("raises"):
                raise ValueError("no further")
            yield {"number": number, "text": "x" * datum.get("size", 1)}
    finally:
        print("closed")
"""


@pytest.fixture(scope="module", params=["process", "inline"])
def streaming(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    package = write_package(tmp_path_factory.mktemp("streaming"), STREAMING)
    with opened(package, isolation=request.param) as session:
        yield session


def test_a_stream_comes_in_pieces(streaming: DataSession) -> None:
    pieces: list[bytes] = []
    (answers,) = streaming.stream(feeds('{"to": 3}'), streaming.handle(), pieces.append)
    assert pieces == [b'{"number":%d,"text":"x"}' % number for number in range(3)]
    assert answers == pieces[-1:]


def test_pieces_may_be_large(streaming: DataSession) -> None:
    pieces: list[bytes] = []
    streaming.stream(feeds('{"to": 3, "size": 1000000}'), None, pieces.append)
    assert [len(piece) for piece in pieces] == [1000022] * 3


def test_a_stream_that_breaks_off_says_why(streaming: DataSession) -> None:
    pieces: list[bytes] = []
    (answers,) = streaming.stream(feeds('{"to": 3, "raises": 1}'), None, pieces.append)
    assert len(pieces) == 1
    assert message_of(answers[0]) == "ValueError: no further"
    assert answers_of(streaming, '{"to": 1}') == [b'[{"number":0,"text":"x"}]']


def test_a_stream_ends_when_nobody_listens(streaming: DataSession) -> None:
    pieces: list[bytes] = []

    def emit(piece: bytes) -> None:
        if len(pieces) == 2:
            raise ClientClosed("gone")
        pieces.append(piece)

    (answers,) = streaming.stream(feeds('{"to": 1000000000}'), None, emit)
    assert len(pieces) == 2
    assert isinstance(answers[0], ClientClosed)
    pieces.clear()
    streaming.stream(feeds('{"to": 1}'), None, pieces.append)
    assert len(pieces) == 1


def test_a_generator_runs_no_further_than_it_is_listened_to(tmp_path: Path) -> None:
    with opened(write_package(tmp_path, STREAMING)) as session:
        emitting, go_on = threading.Event(), threading.Event()

        def emit(piece: bytes) -> None:
            emitting.set()
            assert go_on.wait(DEADLINE_S)

        thread = threading.Thread(target=session.stream, args=(feeds('{"to": 50}'), None, emit))
        thread.start()
        assert emitting.wait(DEADLINE_S)
        hold_on(lambda: "made 1\n" in session.output())
        assert "made 3\n" not in session.output()
        go_on.set()
        thread.join(DEADLINE_S)
        hold_on(lambda: "made 49\nclosed\n" in session.output())


# Ends


def test_closing_lets_user_code_end_by_itself(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    head = f"import atexit, pathlib; atexit.register(pathlib.Path({str(ended)!r}).touch)"
    with opened(write_package(tmp_path / "package", head=head)) as session:
        pid = pid_of(session)
    hold_on(lambda: is_gone(pid))
    assert ended.exists()


def test_closing_ends_what_does_not_end_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "CLOSE_S", 0.1)
    head = "threading.Thread(target=time.sleep, args=(600,)).start()"
    with opened(write_package(tmp_path, head=head)) as session:
        pid = pid_of(session)
    hold_on(lambda: is_gone(pid))


def test_closing_ends_a_run_under_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "CLOSE_S", 0.1)
    with opened(folder) as session:
        errors: list[Unavailable] = []

        def run() -> None:
            with pytest.raises(Unavailable) as caught:
                session.run(feeds(do("print('running'); time.sleep(600)")))
            errors.append(caught.value)

        thread = threading.Thread(target=run)
        thread.start()
        hold_on(lambda: "running" in session.output())
    thread.join(DEADLINE_S)
    assert len(errors) == 1


def test_packages_end_with_the_appliance(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from mdslite.runtimes.protocol import LoadOptions\n"
        "from mdslite.runtimes.python import PythonRuntime\n"
        "session = PythonRuntime().open(Path(sys.argv[1]), LoadOptions())\n"
        "print(session.pid, flush=True)\n"
        'data = [b\'{"do": "while True: pass"}\']\n'
        "session.run({'data': data, 'confidence': None, 'tensors': False})\n"
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code, str(folder)], stdout=subprocess.PIPE
    ) as appliance:
        assert appliance.stdout is not None
        pid = int(appliance.stdout.readline())
        appliance.kill()
    hold_on(lambda: is_gone(pid))
