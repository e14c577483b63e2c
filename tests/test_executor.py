"""What running a decorated class means: order, batches, errors of single rows, how it is built."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from decorated import Doubles, make, read, texts

import mds
from mdslite.errors import InvalidJson, LoadFailed, ModelError, OutOfMemory
from mdslite.runtimes import executor as executors


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
