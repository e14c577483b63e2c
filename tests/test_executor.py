"""What running a decorated class means: order, batches, errors of single rows, streams, answers as JSON."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
import threading
import uuid
from collections import namedtuple
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

import mds
from mdslite.errors import (
    ClientClosed,
    InvalidJson,
    LoadFailed,
    MdsliteError,
    ModelError,
    OutOfMemory,
    Unavailable,
)
from mdslite.runtimes import executor as executors
from mdslite.runtimes.encoding import encode
from mdslite.runtimes.executor import Executor, build, find_confidence


def make(cls: type) -> Executor:
    """An executor around a class that carries marks on its methods only."""
    return build(mds.describe(mds.model("tested", "v1")(type(cls.__name__, (cls,), {}))))


def texts(*values: Any) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


def read(answers: Any) -> list[Any]:
    """The answers as values; an error as its code and message."""
    return [
        f"{one.code}: {one.message}" if isinstance(one, MdsliteError) else json.loads(one) for one in answers
    ]


class Doubles:
    """One datum a call."""

    @mds.pre
    def parse(self, data: Any) -> Any:
        return data["x"]

    @mds.predict
    def double(self, data: Any) -> Any:
        return data * 2

    @mds.post
    def wrap(self, data: Any) -> Any:
        return {"y": data}


class Batched:
    """Lists of data; keeps what it was called with, and refuses what is poison."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []
        self.parsed = 0

    @mds.pre
    def parse(self, data: Any) -> Any:
        self.parsed += 1
        if data == "bad":
            raise ValueError("bad datum")
        return data

    @mds.predict
    @mds.batch(batch_size=32)
    def predict(self, data: list[Any]) -> list[Any]:
        self.calls.append(list(data))
        if "poison" in data:
            raise RuntimeError("poison in the batch")
        return [f"answer {one}" for one in data]

    @mds.post
    def finish(self, data: Any) -> Any:
        if data == "answer odd":
            raise KeyError("odd")
        return data


class TestRows:
    def test_go_through_pre_predict_and_post_in_order(self) -> None:
        assert read(make(Doubles).run(texts({"x": 1}, {"x": "a"}, {"x": [3]}))) == [
            {"y": 2},
            {"y": "aa"},
            {"y": [3, 3]},
        ]

    def test_need_no_more_than_predict(self) -> None:
        class Plain:
            @mds.predict
            def predict(self, data: Any) -> Any:
                return data

        assert read(make(Plain).run(texts(1, None, {"a": []}))) == [1, None, {"a": []}]

    def test_of_an_empty_batch_are_none_and_predict_is_not_called(self) -> None:
        executor = make(Batched)
        assert executor.run([]) == []

    def test_come_as_bodies_and_arrays_too(self) -> None:
        class Tells:
            @mds.predict
            def predict(self, data: Any) -> Any:
                if isinstance(data, mds.Body):
                    return [data.content_type, len(data)]
                return [type(data).__name__, data]

        row = np.arange(3, dtype=np.float32)
        answers = make(Tells).run([mds.Body(b"\x89PNG", "image/png"), row, b'"text"'])
        assert read(answers) == [["image/png", 4], ["ndarray", [0, 1, 2]], ["str", "text"]]

    @pytest.mark.parametrize("text", [b"{", b"1e999", b"[" * 3000 + b"]" * 3000, b'"\\ud800"'])
    def test_that_are_no_json_fail_alone(self, text: bytes) -> None:
        first, second, third = make(Doubles).run([b'{"x":1}', text, b'{"x":2}'])
        assert isinstance(second, InvalidJson)
        assert read([first, third]) == [{"y": 2}, {"y": 4}]

    def test_that_raise_fail_alone_with_the_message(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = read(make(Doubles).run(texts({"x": 1}, {}, {"x": 2}, {"x": None})))
        assert found[0] == {"y": 2}
        assert found[1] == "model_error: KeyError: 'x'"
        assert found[2] == {"y": 4}
        assert found[3].startswith("model_error: TypeError: unsupported operand")
        printed = capsys.readouterr().err
        assert printed.count("Traceback") == 2
        assert 'data["x"]' in printed
        assert "executor.py" not in printed.replace("test_executor.py", "")

    @pytest.mark.parametrize(
        "raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()]
    )
    def test_may_raise_what_would_end_a_program(self, raised: BaseException) -> None:
        class Exits:
            @mds.predict
            def predict(self, data: Any) -> Any:
                if data:
                    raise raised
                return data

        first, second = make(Exits).run(texts(0, 1))
        assert read([first]) == [0]
        assert isinstance(second, ModelError)
        assert type(raised).__name__ in second.message

    def test_without_memory_say_so(self) -> None:
        class Large:
            @mds.predict
            def predict(self, data: Any) -> Any:
                raise MemoryError

        assert isinstance(make(Large).run(texts(1))[0], OutOfMemory)

    def test_are_arrays_again_where_those_are_wanted(self) -> None:
        class Tensors:
            @mds.predict
            def predict(self, data: Any) -> Any:
                return {
                    "t": np.arange(6).reshape(2, 3).T,
                    "big": np.arange(2, dtype=">i4"),
                    "s": np.float32(1),
                }[data]

        executor = make(Tensors)
        transposed, big, scalar = executor.run(texts("t", "big", "s"), tensors=True)
        assert isinstance(transposed, np.ndarray)
        assert transposed.flags.c_contiguous
        assert transposed.tolist() == [[0, 3], [1, 4], [2, 5]]
        assert isinstance(big, np.ndarray)
        assert big.dtype == np.dtype("=i4")
        assert isinstance(scalar, np.ndarray)
        assert scalar.shape == ()
        assert read(executor.run(texts("t"))) == [[[0, 3], [1, 4], [2, 5]]]


class TestBatches:
    def test_reach_predict_as_one_list(self) -> None:
        executor = make(Batched)
        assert read(executor.run(texts("a", "b"))) == ["answer a", "answer b"]

    def test_hold_only_what_pre_let_through(self) -> None:
        executor = make(Batched)
        assert read(executor.run(texts("a", "bad", "b", "odd"))) == [
            "answer a",
            "model_error: ValueError: bad datum",
            "answer b",
            "model_error: KeyError: 'odd'",
        ]

    def test_are_halved_until_the_poison_is_alone(self) -> None:
        instances: list[Batched] = []

        class Kept(Batched):
            def __init__(self) -> None:
                super().__init__()
                instances.append(self)

        names = [f"n{number}" for number in range(32)]
        names[13] = "poison"
        found = read(make(Kept).run(texts(*names)))
        assert found[13] == "model_error: RuntimeError: poison in the batch"
        assert [one for one in found if "answer" in one] == [
            f"answer {one}" for one in names if one != "poison"
        ]
        (instance,) = instances
        assert instance.parsed == 32
        assert len(instance.calls) == 11

    def test_print_one_traceback_for_each_poisoned_row(self, capsys: pytest.CaptureFixture[str]) -> None:
        make(Batched).run(texts("a", "poison", "b", "c"))
        assert capsys.readouterr().err.count("Traceback") == 1

    @pytest.mark.parametrize(
        ("returned", "said"),
        [
            ([1], "predict returned 1 answer; expected a list of 3, one for each datum"),
            ([1, 2, 3, 4], "predict returned 4 answers; expected a list of 3"),
            ("abc", "predict returned a str; expected a list of 3"),
            (None, "predict returned a NoneType; expected a list of 3"),
            ({"a": 1, "b": 2, "c": 3}, "predict returned a dict"),
            ({1, 2, 3}, "predict returned a set"),
            (iter([1, 2, 3]), "predict returned a list_iterator"),
            (np.array(3), "predict returned a ndarray"),
            (np.zeros((2, 3)), "predict returned 2 answers"),
        ],
    )
    def test_that_come_back_wrong_are_an_error_of_every_row(self, returned: Any, said: str) -> None:
        class Wrong:
            @mds.predict
            @mds.batch(batch_size=3)
            def predict(self, data: list[Any]) -> Any:
                return returned

        found = make(Wrong).run(texts(1, 2, 3))
        assert len(found) == 3
        assert all(isinstance(one, ModelError) and said in one.message for one in found)

    def test_that_are_too_long_fail_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(executors, "ANSWER_BYTES_MAX", 10)

        class Long:
            @mds.predict
            def predict(self, data: int) -> str:
                return "x" * data

        assert read(make(Long).run(texts(8, 9))) == [
            "x" * 8,
            "model_error: an answer of 11 bytes; expected at most 10",
        ]

    @pytest.mark.parametrize("returned", [(1, 2), np.array([1, 2]), np.array([[1], [2]])])
    def test_may_come_back_as_tuples_and_arrays(self, returned: Any) -> None:
        class Array:
            @mds.predict
            @mds.batch(batch_size=3)
            def predict(self, data: list[Any]) -> Any:
                return returned

        assert read(make(Array).run(texts(1, 2))) in ([1, 2], [[1], [2]])

    def test_may_come_back_as_tensors(self) -> None:
        torch = pytest.importorskip("torch")

        class Tensors:
            @mds.predict
            @mds.batch(batch_size=3)
            def predict(self, data: list[Any]) -> Any:
                return torch.tensor(data, requires_grad=True)

            @mds.post
            def post(self, data: Any) -> Any:
                return {"half": data.to(torch.bfloat16), "value": data}

        assert read(make(Tensors).run(texts(1.0, 2.0))) == [
            {"half": 1.0, "value": 1.0},
            {"half": 2.0, "value": 2.0},
        ]

    def test_may_be_changed_by_predict(self) -> None:
        class Takes:
            @mds.predict
            @mds.batch(batch_size=3)
            def predict(self, data: list[Any]) -> Any:
                answers = []
                while data:
                    answers.append(data.pop(0))
                return answers

        assert read(make(Takes).run(texts(1, 2, 3))) == [1, 2, 3]


class TestCoroutines:
    def test_of_a_batch_run_beside_each_other(self) -> None:
        class Meets:
            def __init__(self) -> None:
                self.here = 0
                self.all_here = asyncio.Event()

            @mds.pre
            async def parse(self, data: Any) -> Any:
                await asyncio.sleep(0)
                return data

            @mds.predict
            async def predict(self, data: Any) -> Any:
                self.here += 1
                if self.here == 3:
                    self.all_here.set()
                await asyncio.wait_for(self.all_here.wait(), 20)
                if data == 2:
                    raise ValueError("two")
                return data

        executor = make(Meets)
        assert read(executor.run(texts(1, 2, 3))) == [1, "model_error: ValueError: two", 3]
        executor.close()

    def test_may_take_a_whole_batch(self) -> None:
        class Whole:
            @mds.warmup
            async def warm(self) -> None:
                self.loop = asyncio.get_running_loop()

            @mds.predict
            @mds.batch(batch_size=8)
            async def predict(self, data: list[Any]) -> list[Any]:
                assert asyncio.get_running_loop() is self.loop
                if "poison" in data:
                    raise SystemExit("poison")
                return data

            @mds.health_check
            async def check(self) -> bool:
                return False

        executor = make(Whole)
        executor.warm()
        assert read(executor.run(texts("a", "poison", "b"))) == ["a", "model_error: SystemExit: poison", "b"]
        with pytest.raises(Unavailable, match="the health check answered False"):
            executor.check()
        executor.close()

    def test_run_where_another_loop_is_running(self) -> None:
        class Simple:
            @mds.predict
            async def predict(self, data: Any) -> Any:
                return data

        async def on_a_loop() -> Any:
            return executor.run(texts(1))

        executor = make(Simple)
        assert read(asyncio.run(on_a_loop())) == [1]
        executor.close()

    def test_outlive_a_task_of_theirs_that_exits(self, capsys: pytest.CaptureFixture[str]) -> None:
        class Spawns:
            @mds.predict
            async def predict(self, data: Any) -> Any:
                if data:
                    self.task = asyncio.get_running_loop().create_task(self.leave())
                return data

            async def leave(self) -> None:
                raise SystemExit(4)

        executor = make(Spawns)
        assert read(executor.run(texts(True))) == [True]
        assert read(executor.run(texts(False, False))) == [False, False]
        executor.close()
        assert "SystemExit: 4" in capsys.readouterr().err

    def test_that_still_run_are_cancelled_at_the_end(self) -> None:
        ended = threading.Event()

        class Waits:
            @mds.predict
            async def predict(self, data: Any) -> Any:
                self.task = asyncio.get_running_loop().create_task(self.wait())
                await asyncio.sleep(0)

            async def wait(self) -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.set()

        executor = make(Waits)
        executor.run(texts(1))
        executor.close()
        assert ended.wait(20)


class Counts:
    """A generator; keeps whether it was closed."""

    closed = 0

    @mds.pre
    def parse(self, data: Any) -> int:
        return int(data)

    @mds.predict
    def count(self, data: int) -> Iterator[int]:
        try:
            for number in range(data):
                if number == 5:
                    raise ValueError("five is too many")
                yield number
        finally:
            type(self).closed += 1

    @mds.post
    def wrap(self, data: int) -> Any:
        return {"n": data, "confidence": data / 10}


class CountsLater(Counts):
    @mds.predict
    async def count(self, data: int) -> AsyncIterator[int]:  # type: ignore[override]
        try:
            for number in range(data):
                await asyncio.sleep(0)
                if number == 5:
                    raise ValueError("five is too many")
                yield number
        finally:
            type(self).closed += 1


@pytest.fixture(params=[Counts, CountsLater])
def counting(request: pytest.FixtureRequest) -> Iterator[Executor]:
    executor = make(type("Fresh", (request.param,), {"closed": 0}))
    yield executor
    executor.close()


def closed(executor: Executor) -> int:
    return executor.description.cls.closed  # type: ignore[attr-defined,no-any-return]


class TestStreams:
    def test_emit_each_item_through_post(self, counting: Executor) -> None:
        emitted: list[bytes] = []
        answers = counting.stream(b"3", emitted.append)
        assert read(emitted) == [{"n": n, "confidence": n / 10} for n in range(3)]
        assert read(answers) == [{"n": 2, "confidence": 0.2}]
        assert answers.confidences == [0.2]
        assert closed(counting) == 1

    def test_end_with_the_error_that_came_on_the_way(self, counting: Executor) -> None:
        emitted: list[bytes] = []
        answers = counting.stream(b"9", emitted.append)
        assert len(emitted) == 5
        assert read(answers) == ["model_error: ValueError: five is too many"]

    def test_end_before_they_began_where_pre_raises(self, counting: Executor) -> None:
        emitted: list[bytes] = []
        found = read(counting.stream(b'"x"', emitted.append))
        assert found[0].startswith("model_error: ValueError: invalid literal")
        assert emitted == []

    def test_of_nothing_answer_null(self, counting: Executor) -> None:
        emitted: list[bytes] = []
        assert read(counting.stream(b"0", emitted.append)) == [None]
        assert emitted == []

    def test_are_closed_when_the_client_left(self, counting: Executor) -> None:
        def leave(item: bytes) -> None:
            raise ClientClosed("the client left")

        with pytest.raises(ClientClosed):
            counting.stream(b"3", leave)
        assert closed(counting) == 1

    def test_are_lists_for_who_wants_them_whole(self, counting: Executor) -> None:
        answers = counting.run(texts([], 2, 9, 0))
        wrong, *others = read(answers)
        assert wrong.startswith("model_error: TypeError: int() argument")
        assert others == [
            [{"n": 0, "confidence": 0.0}, {"n": 1, "confidence": 0.1}],
            "model_error: ValueError: five is too many",
            [],
        ]
        assert answers.confidences == [None, 0.1, None, None]

    def test_that_will_not_close_trouble_nobody(self, capsys: pytest.CaptureFixture[str]) -> None:
        class Stays:
            @mds.predict
            def count(self, data: Any) -> Iterator[int]:
                try:
                    yield 1
                except GeneratorExit:
                    yield 2

        def leave(item: bytes) -> None:
            raise ClientClosed("the client left")

        with pytest.raises(ClientClosed):
            make(Stays).stream(b"1", leave)
        assert "generator ignored GeneratorExit" in capsys.readouterr().err

    def test_of_items_that_are_no_json_end_there(self) -> None:
        class Sets:
            @mds.predict
            def count(self, data: Any) -> Iterator[Any]:
                yield 1
                yield {1}

        emitted: list[bytes] = []
        (ended,) = make(Sets).stream(b"1", emitted.append)
        assert emitted == [b"1"]
        assert isinstance(ended, ModelError)
        assert "a set" in ended.message


class TestChecks:
    @pytest.mark.parametrize(
        "found",
        [None, True, {"status": "OK"}, {"status": "ok", "free": 3}, {}, "healthy", 1, {"status": True}],
    )
    def test_pass(self, found: Any) -> None:
        class Checked:
            @mds.predict
            def predict(self, data: Any) -> Any: ...

            @mds.health_check
            def check(self) -> Any:
                return found

        executor = make(Checked)
        assert executor.has_check
        executor.check()

    @pytest.mark.parametrize(
        ("found", "said"),
        [
            (False, "the health check answered False"),
            ("down", "the health check answered 'down'"),
            (
                {"status": "FAIL", "why": "no disk"},
                'the health check answered {"status":"FAIL","why":"no disk"}',
            ),
            ({"status": False}, 'the health check answered {"status":false}'),
            (ValueError("no disk"), "the health check failed: ValueError: no disk"),
            (SystemExit(1), "the health check failed: SystemExit: 1"),
        ],
    )
    def test_fail_with_what_they_said(self, found: Any, said: str) -> None:
        class Checked:
            @mds.predict
            def predict(self, data: Any) -> Any: ...

            @mds.health_check
            def check(self) -> Any:
                if isinstance(found, BaseException):
                    raise found
                return found

        with pytest.raises(Unavailable) as caught:
            make(Checked).check()
        assert caught.value.message == said

    def test_are_not_there_where_the_class_has_none(self) -> None:
        executor = make(Doubles)
        assert not executor.has_check
        executor.check()
        executor.warm()


class TestBuilding:
    @pytest.mark.parametrize("raised", [ValueError("no weights"), SystemExit("no weights")])
    def test_says_what_init_raised(self, raised: BaseException) -> None:
        class Broken:
            def __init__(self) -> None:
                raise raised

            @mds.predict
            def predict(self, data: Any) -> Any: ...

        with pytest.raises(LoadFailed, match=r"Broken\.__init__: \w+: no weights"):
            make(Broken)

    def test_says_what_the_warm_up_raised(self) -> None:
        class Cold:
            @mds.warmup
            def warm(self) -> None:
                raise ValueError("no sun")

            @mds.predict
            def predict(self, data: Any) -> Any: ...

        with pytest.raises(LoadFailed, match="the warm-up failed: ValueError: no sun"):
            make(Cold).warm()


class Colour(enum.Enum):
    RED = "red"


Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass
class Box:
    name: str
    inside: Any


class TestJson:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (np.float32(1.5), 1.5),
            (np.float16(0.5), 0.5),
            (np.int8(-3), -3),
            (np.bool_(True), True),
            (np.str_("x"), "x"),
            (np.array(3), 3),
            (np.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
            (np.arange(6).reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]]),
            (np.array([1, 2], ">i2"), [1, 2]),
            (np.array(["a", "bc"]), ["a", "bc"]),
            (np.array([b"a", b"\xff"]), ["a", {"b64": "/w=="}]),
            (np.array([{"a": 1}, None]), [{"a": 1}, None]),
            (np.zeros((0, 3)), []),
            (np.array([1.0, np.nan, np.inf, -np.inf]), [1.0, None, None, None]),
            (np.array(np.nan), None),
            (float("nan"), None),
            ({"a": [float("inf"), {1: np.float64("nan")}]}, {"a": [None, {"1": None}]}),
            ({"a": {"b": [np.arange(2), (np.int64(3),)]}}, {"a": {"b": [[0, 1], [3]]}}),
            ({0: 0.1, 1: 0.9}, {"0": 0.1, "1": 0.9}),
            ({np.int64(3): 1, None: 2, True: 3, 1.5: 4}, {"3": 1, "null": 2, "true": 3, "1.5": 4}),
            ({b"a": 1}, {"a": 1}),
            (b"text", "text"),
            (bytearray(b"text"), "text"),
            (b"\xff\x00", {"b64": "/wA="}),
            (mds.Body(b"\xff\x00", "image/png"), {"b64": "/wA="}),
            (2**70, 2**70),
            ({"a": 2**70, "b": float("nan")}, {"a": 2**70, "b": None}),
            ("\ud800x", "?x"),
            ((1, (2,)), [1, [2]]),
            (Pair(1, {2: np.int8(3)}), {"left": 1, "right": {"2": 3}}),
            (Box("b", np.arange(2)), {"name": "b", "inside": [0, 1]}),
            (Box("b", {1: 2}), {"name": "b", "inside": {"1": 2}}),
            ([Colour.RED, {1: Colour.RED}], ["red", {"1": "red"}]),
            (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
            (uuid.UUID(int=0), "00000000-0000-0000-0000-000000000000"),
            (np.array(["2026-01-02"], "M8[D]"), ["2026-01-02T00:00:00"]),
            (np.datetime64("2026-01-02"), "2026-01-02T00:00:00"),
        ],
    )
    def test_is_made_of(self, value: Any, expected: Any) -> None:
        assert json.loads(encode(value)) == expected

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ({1, 2}, "the answer holds a set, which is no JSON; expected dicts, lists"),
            ({"tags": [1, {"x": {1}}]}, "the answer holds a set at tags[1].x, which is no JSON"),
            (object(), "the answer holds a object"),
            (iter([1]), "the answer holds a list_iterator"),
            (int, "the answer holds a type"),
            (1 + 2j, "the answer holds a complex"),
            (np.array([1 + 2j]), "the answer holds a complex at [0]"),
            ({(1, 2): 3}, "the answer has a tuple as a key; expected strings as keys"),
            ({"a": {object: 3}}, "the answer has a type as a key at a; expected strings"),
        ],
    )
    def test_is_not_made_of(self, value: Any, said: str) -> None:
        with pytest.raises(ModelError) as caught:
            encode(value)
        assert said in caught.value.message

    def test_is_not_made_of_what_holds_itself(self) -> None:
        value: list[Any] = []
        value.append(value)
        with pytest.raises(ModelError, match="nested more than 200 deep"):
            encode(value)

    def test_fails_for_the_row_whose_answer_is_none(self) -> None:
        class Hostile:
            def tolist(self) -> Any:
                raise RuntimeError("no list")

        class Answers:
            @mds.predict
            def predict(self, data: Any) -> Any:
                return {"set": {1}, "hostile": Hostile(), "fine": 1}[data]

        unset, hostile, fine = read(make(Answers).run(texts("set", "hostile", "fine")))
        assert unset.startswith("model_error: the answer holds a set, which is no JSON")
        assert hostile == "model_error: RuntimeError: no list"
        assert fine == 1


class TestConfidence:
    @pytest.mark.parametrize(
        ("answer", "path", "found"),
        [
            ({"confidence": 0.9}, None, 0.9),
            ({"confidence": np.float32(0.5)}, None, 0.5),
            ({"probabilities": [0.1, 0.9]}, None, 0.9),
            ({"probabilities": np.array([[0.1, 0.7]])}, None, pytest.approx(0.7)),
            ({"probabilities": {"ham": 0.8, "spam": 0.2}}, None, 0.8),
            ({"confidence": 0.3, "probabilities": [0.9]}, None, 0.3),
            ({"score": 0.4, "confidence": 0.9}, "score", 0.4),
            ({"scores": {"spam": 0.2, "ham": 0.8}}, "scores.spam", 0.2),
            ({"scores": [0.2, 0.8]}, "scores.0", 0.2),
            ({"scores": [0.2, 0.8]}, "scores.7", None),
            ({"scores": 1}, "scores.a.b", None),
            ({"confidence": "high"}, None, None),
            ({"confidence": True}, None, None),
            ({"confidence": float("nan")}, None, None),
            ({"probabilities": []}, None, None),
            ({"probabilities": [None, "x"]}, None, None),
            ({}, None, None),
            ([0.9], None, None),
            (0.9, None, None),
        ],
    )
    def test_is_read_from_an_answer(self, answer: Any, path: str | None, found: float | None) -> None:
        assert find_confidence(answer, path) == found

    def test_comes_with_each_row(self) -> None:
        class Sure:
            @mds.predict
            def predict(self, data: Any) -> Any:
                return {"confidence": 1 / data}

        assert make(Sure).run(texts(2, 0, 4)).confidences == [0.5, None, 0.25]
