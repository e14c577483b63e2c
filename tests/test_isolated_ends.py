"""Streams of packages in a process of their own and inline, and how such processes end."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from isolation import DEADLINE_S, answers_of, is_gone, message_of, opened, pid_of
from obedient import do, feeds, write_package
from waiting import hold_on

from mdslite.errors import ClientClosed, Unavailable
from mdslite.runtimes import supervised
from mdslite.runtimes.protocol import DataSession

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes of their own are for Linux")


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


def test_closing_ends_a_run_under_way(obedient: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "CLOSE_S", 0.1)
    with opened(obedient) as session:
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


def test_packages_end_with_the_appliance(obedient: Path) -> None:
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
        [sys.executable, "-P", "-c", code, str(obedient)], stdout=subprocess.PIPE
    ) as appliance:
        assert appliance.stdout is not None
        pid = int(appliance.stdout.readline())
        appliance.kill()
    hold_on(lambda: is_gone(pid))
