"""Packages in a process of their own, and the same ones inline: answers, arrays, settings, health checks."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from isolation import DEADLINE_S, Isolation, answers_of, message_of, opened
from obedient import OBEDIENT, do, write_package

import mds
from mdslite.errors import InvalidJson, InvalidRequest, Unavailable
from mdslite.http.guard import error_body
from mdslite.runtimes.protocol import DataSession, LoadOptions
from mdslite.runtimes.python import PythonRuntime

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes of their own are for Linux")


@pytest.fixture(scope="module", params=["process", "inline"])
def either(request: pytest.FixtureRequest, obedient: Path) -> Iterator[DataSession]:
    """The obedient package, in a process of its own and inline."""
    with opened(obedient, isolation=request.param) as session:
        yield session


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
    batches: tuple[list[np.ndarray[Any, Any]], ...]
    batches = ([large] * 4, [np.arange(5, dtype=np.int8)] * 3, [np.array(1.5)] * 2)
    for rows in batches:
        found = answers_of(either, *rows, tensors=True)
        for row, answer in zip(rows, found, strict=True):
            assert isinstance(answer, np.ndarray)
            assert answer.dtype == row.dtype
            np.testing.assert_array_equal(answer, row)


def test_an_error_that_no_encoding_takes_can_be_told_all_the_same(either: DataSession) -> None:
    found = answers_of(either, do("raise ValueError('caf\u00e9 ' + chr(0xd800))"), "1")
    said = error_body(found[0], "id")  # type: ignore[arg-type]
    assert json.loads(said)["error"] == "ValueError: caf\u00e9 \\ud800"
    assert found[1] == b"1"


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


def test_nothing_is_written_beside_a_package(obedient: Path) -> None:
    with opened(obedient) as session:
        answers_of(session, "1")
    assert [one.name for one in obedient.iterdir()] == ["model.py"]


# Its surroundings


def test_variables_of_the_spec_arrive_and_the_appliance_s_own_do_not(
    obedient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDSLITE_TOKEN", "secret")
    with opened(obedient, env={"COLOUR": "red"}, threads=3) as session:
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
