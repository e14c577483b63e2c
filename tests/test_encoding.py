"""Answers of user code as JSON, and the confidence in them."""

from __future__ import annotations

import dataclasses
import enum
import json
import uuid
from collections import namedtuple
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from decorated import make, read, texts

import mds
from mdslite.errors import ModelError
from mdslite.runtimes.encoding import encode
from mdslite.runtimes.executor import find_confidence


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
