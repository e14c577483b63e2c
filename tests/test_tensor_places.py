"""Where in a predict body a mistake stands: the row of many, and the value in it, are named."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from mdslite.errors import InvalidRequest, InvalidTensor
from mdslite.runtimes.protocol import Rows, Signature, TensorSpec
from mdslite.tensors import Codec

X4 = TensorSpec("x", "FP32", (None, 4))
A, B = TensorSpec("a", "FP32", (None, 2)), TensorSpec("b", "INT64", (None, 2))
IMAGE = TensorSpec("x", "FP32", (None, 2, 2))
WORDS = TensorSpec("x", "BYTES", (None, None))
GOOD = [1, 2, 3, 4]


def decode(message: Any, *inputs: TensorSpec, rows: Rows = "free") -> None:
    codec = Codec(Signature(inputs, (TensorSpec("y", "FP32", (None, 2)),), rows))
    codec.decode(json.dumps(message).encode())


@pytest.mark.parametrize(
    ("inputs", "message", "says"),
    [
        ([X4], {"instances": [GOOD] * 36 + [[1, 2]]}, "instances[36]: expected a list of 4, got a list of 2"),
        ([X4], {"instances": [[1, 2]] + [GOOD] * 36}, "instances[0]: expected a list of 4, got a list of 2"),
        ([X4], {"instances": [GOOD, GOOD, 5]}, "instances[2]: expected a list of 4, got the number 5"),
        ([X4], {"instances": [5, GOOD, GOOD]}, "instances[0]: expected a list of 4, got the number 5"),
        (
            [X4],
            {"instances": [GOOD, [1, "2", 3, 4]]},
            'instances[1][1]: expected FP32 values, got the text "2"',
        ),
        ([X4], {"instances": [GOOD, [1, 2, [3], 4]]}, "instances[1][2]: expected FP32 values, got a list"),
        ([X4], {"instances": [[1, 2, [3], 4], GOOD]}, "instances[0][2]: expected FP32 values, got a list"),
        ([X4], {"instances": [[[1], 2, 3, 4], GOOD]}, "instances[0][0]: expected FP32 values, got a list"),
        (
            [X4],
            {"instances": [{"x": GOOD}, {"x": [1]}]},
            "instances[1].x: expected a list of 4, got a list of 1",
        ),
        ([X4], {"inputs": [GOOD, [1, 2, 3, None]]}, "inputs[1][3]: expected FP32 values, got null"),
        ([X4], {"inputs": {"x": [GOOD, [1, 2]]}}, "inputs.x[1]: expected a list of 4, got a list of 2"),
        (
            [A, B],
            {"instances": [{"a": [1, 2], "b": [1, 2]}, {"a": [1, 2], "b": [1, 2.5]}]},
            "instances[1].b[1]: expected INT64 values, got the number 2.5",
        ),
        (
            [IMAGE],
            {"instances": [[[1, 2], [3, 4]], [[1, 2], 3]]},
            "instances[1][1]: expected a list of 2, got",
        ),
        (
            [IMAGE],
            {"inputs": {"x": [[[1, 2], [3, "4"]]]}},
            "inputs.x[0][1][1]: expected FP32 values, got the",
        ),
        (
            [WORDS],
            {"instances": [["a"], ["b"], [3]]},
            "instances[2][0]: expected strings, got the number 3",
        ),
        ([WORDS], {"instances": [["a"], [{"b64": "!"}]]}, 'instances[1][0]: expected base64 in "b64"'),
        ([WORDS], {"instances": [["a"], [{"b64": "/w=="}]]}, "instances[1][0]: string 1 is not valid UTF-8"),
        (
            [WORDS],
            {"instances": [["a"], ["b", "c"]]},
            "instances[1]: expected a list of 1, as another has, got",
        ),
    ],
)
def test_a_mistake_in_one_of_many_rows_is_told_with_its_place(
    inputs: list[TensorSpec], message: Any, says: str
) -> None:
    with pytest.raises(InvalidTensor) as caught:
        decode(message, *inputs)
    place, _, what = says.partition(": ")
    assert caught.value.field == place
    assert re.sub('input "[xab]": ', "", caught.value.message).startswith(f"{place}: {what}")


def test_a_mistake_in_an_input_without_rows_is_told_without_a_row() -> None:
    whole = TensorSpec("x", "FP32", (2, 2))
    with pytest.raises(InvalidTensor, match=r"^inputs\.x\[1\]\[0\]: "):
        decode({"inputs": {"x": [[1, 2], ["a", 2]]}}, whole, rows="none")
    with pytest.raises(InvalidTensor, match=r"^instances\[1\]\[0\]: "):
        decode({"instances": [[[1, 2], [3, 4]], [[1], [3, 4]]]}, whole, rows="none")


def test_a_body_without_the_keys_is_told_which_were_expected() -> None:
    bodies: dict[str, object] = {"neither": {}, "both": {"instances": [], "inputs": {}}}
    for got, message in bodies.items():
        with pytest.raises(InvalidRequest) as caught:
            decode(message, X4)
        says = f'expected one of the keys "instances" and "inputs" in the body, got {got}'
        assert caught.value.message == says


@pytest.mark.parametrize(
    ("inputs", "message", "says"),
    [
        ([X4], {"instances": [GOOD], "signature_name": 5}, "signature_name: expected a text, got the"),
        ([X4], {"inputs": [[1]]}, 'inputs: input "x": shape [1,1], expected [?,4]'),
        ([X4], {"inputs": {"y": [GOOD]}}, 'inputs: unknown input "y": expected "x"'),
        ([A, B], {"inputs": {"a": [[1, 2]]}}, 'inputs: missing input "b"'),
        ([A, B], {"inputs": {"a": [[1, 2]], "b": []}}, 'inputs.b: input "b": 0 rows, but "a" has 1'),
        ([A, B], {"inputs": {"a": [[1, 2]], "b": [[1]]}}, 'inputs.b: input "b": shape [1,1], expected [?,2]'),
    ],
)
def test_a_mistake_in_a_whole_body_or_input_is_told_with_its_place(
    inputs: list[TensorSpec], message: Any, says: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(message, *inputs)
    assert caught.value.message.startswith(says)
    assert caught.value.field == says.partition(":")[0]
