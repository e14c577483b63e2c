"""What is remembered of infer messages, and those to models that take free data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from oip_tensors import X2, Model, binary, fp32, parse, strings, tensor

from mdslite.data import DataCodec
from mdslite.errors import InvalidJson, InvalidRequest, InvalidTensor
from mdslite.oip.free import FreeMessages
from mdslite.oip.message import PLANS_MAX, Messages
from mdslite.runtimes.protocol import Answers, TensorSpec
from mdslite.serving.remote.speech import PassingCodec

# What is remembered


def test_the_same_json_is_read_once() -> None:
    model = Model(X2)
    head = json.dumps({"inputs": [binary("x", "FP32", [1, 2], 8)]}).encode()
    first, _ = model.messages.read(head + fp32(1, 2), len(head))
    second, columns = model.messages.read(head + fp32(3, 4), len(head))
    assert first is second
    assert columns.columns == (fp32(3, 4),)


def test_replies_follow_the_outputs_shapes_when_they_change() -> None:
    model = Model(X2)
    head = json.dumps(
        {"inputs": [binary("x", "FP32", [1, 2], 8)], "parameters": {"binary_data_output": True}}
    ).encode()
    plan, _ = model.messages.read(head + fp32(1, 2), len(head))
    for size in (2, 2, 3, 2):
        output = np.arange(size, dtype=np.float32).reshape(1, size)
        (found,) = parse(model.messages.write(plan, [output]))["outputs"]
        assert (found["shape"], found["data"]) == ([1, size], output[0].tolist())


def test_what_is_remembered_is_bounded() -> None:
    model = Model(TensorSpec("x", "FP32", (None, None)))
    for size in range(PLANS_MAX + 10):
        model.send(b"\0" * 4 * (size + 1), inputs=[binary("x", "FP32", [1, size + 1], 4 * (size + 1))])
    assert len(model.messages._plans) <= PLANS_MAX


# Free data


class Package:
    """Answers with what `answers` makes of the data."""

    def __init__(self, *, streams: bool = False) -> None:
        self.codec = DataCodec(streams=streams)
        self.messages: Messages = FreeMessages(self.codec, model="p.m", version="v1")

    def data(self, body: bytes, head_bytes: int | None = None) -> list[Any]:
        _, columns = self.messages.read(body, head_bytes)
        feeds = self.codec.feeds(columns.columns, columns.key, columns.rows)
        assert feeds["tensors"] is True
        return list(feeds["data"])

    def answer(self, *answers: Any) -> dict[str, Any]:
        body = json.dumps({"inputs": [tensor("instances", "BYTES", [1], data=["1"])]}).encode()
        plan, _ = self.messages.read(body, None)
        (output,) = parse(self.messages.write(plan, [Answers(answers)]))["outputs"]
        assert isinstance(output, dict)
        return output


def test_each_string_is_the_json_of_one_datum() -> None:
    package = Package()
    inputs = [tensor("instances", "BYTES", [2], data=['{"text": "späm"}', "[1, 2]"])]
    assert package.data(json.dumps({"inputs": inputs}).encode()) == ['{"text": "späm"}'.encode(), b"[1, 2]"]
    raw = strings(b'"ham"', b"5")
    head = json.dumps({"inputs": [binary("instances", "BYTES", [2, 1], len(raw))]}).encode()
    assert package.data(head + raw, len(head)) == [b'"ham"', b"5"]


@pytest.mark.parametrize(("datatype", "raw"), [("FP32", fp32(1, 2, 3, 4)), ("BF16", b"\x80\x3f\0\x40" * 2)])
def test_each_row_of_numbers_is_a_datum(datatype: str, raw: bytes) -> None:
    head = json.dumps({"inputs": [binary("instances", datatype, [2, 2], len(raw))]}).encode()
    first, second = Package().data(head + raw, len(head))
    assert first.dtype == np.float32
    assert first.tolist() == [1, 2]
    assert second.shape == (2,)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([], 'expected one input "instances", got none'),
        ([tensor("x", "BYTES", [1], data=["1"])], 'expected one input "instances", got "x"'),
        ([tensor("instances", "OBJECT", [1], data=["1"])], "datatype OBJECT"),
        ([tensor("instances", "BYTES", [], data=["1"])], "first dimension counts rows"),
        ([tensor("instances", "BYTES", [2], data=["1"])], "1 values"),
        ([tensor("instances", "BYTES", [2], data=["1", "ham"])], "element 1 is no JSON"),
        ([tensor("instances", "FP32", [-1], data=[1])], "none of them negative"),
    ],
)
def test_what_is_no_datum_is_refused(inputs: Any, says: str) -> None:
    with pytest.raises(InvalidTensor, match=says):
        Package().data(json.dumps({"inputs": inputs}).encode())


def test_bare_bytes_and_streams_have_no_place_here() -> None:
    with pytest.raises(InvalidRequest, match="expected the JSON"):
        Package().data(b"ham", 0)
    body = json.dumps({"inputs": [tensor("instances", "BYTES", [1], data=["1"])]}).encode()
    with pytest.raises(InvalidRequest, match="streams"):
        Package(streams=True).data(body)


def test_answers_are_json_texts_unless_they_are_arrays_of_one_kind() -> None:
    package = Package()
    assert package.answer(b'{"a":1}', b"2") == tensor("predictions", "BYTES", [2], data=['{"a":1}', "2"])
    arrays = [np.array([1, 2], np.float32), np.array([3, 4], np.float32)]
    assert package.answer(*arrays) == tensor("predictions", "FP32", [2, 2], data=[1, 2, 3, 4])
    assert package.answer(np.array(5), np.array(6)) == tensor("predictions", "INT64", [2], data=[5, 6])
    mixed = package.answer(arrays[0], np.array([1.5]), b"3")
    assert mixed == tensor("predictions", "BYTES", [3], data=["[1.0,2.0]", "[1.5]", "3"])
    assert package.answer(np.array(["ham"]))["data"] == ['["ham"]']


def test_rows_of_numbers_are_json_to_an_endpoint_elsewhere() -> None:
    package = Package()
    package.codec = PassingCodec()
    package.messages = FreeMessages(package.codec, model="p.m", version="v1")
    message = {"inputs": [tensor("instances", "FP32", [2, 2], data=[1, 2, 3, 4])]}
    assert package.data(json.dumps(message).encode()) == [b"[1.0,2.0]", b"[3.0,4.0]"]


def test_json_errors_of_data_are_errors_of_json() -> None:
    with pytest.raises(InvalidJson):
        Package().data(b"{")
