"""What is wrong with an infer message of the Open Inference Protocol is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oip_tensors import X2, Model, binary, fp32, strings, tensor

from mdslite.errors import InvalidRequest, InvalidTensor, MdsliteError
from mdslite.runtimes.protocol import TensorSpec

GOOD = tensor("x", "FP32", [1, 2], data=[1, 2])


def changed(**changes: Any) -> dict[str, Any]:
    found = GOOD | changes
    return {"inputs": [{key: value for key, value in found.items() if value is not ...}]}


@pytest.mark.parametrize(
    ("message", "field", "says"),
    [
        ([], None, 'expected an object with "inputs", got a list'),
        ({}, "inputs", 'expected a list of tensors, got no key "inputs"'),
        ({"inputs": None}, "inputs", "expected a list of tensors, got null"),
        ({"inputs": {}}, "inputs", "expected a list of tensors, got an object"),
        ({"inputs": [GOOD, 5]}, "inputs[1]", "expected an object"),
        ({"inputs": []}, "inputs", 'missing input "x"'),
        ({"inputs": [GOOD, GOOD]}, "inputs[1].name", 'input "x" is given twice'),
        ({"inputs": [GOOD], "id": 5}, "id", "expected a text"),
        ({"inputs": [GOOD], "parameters": 5}, "parameters", "expected an object"),
        (
            {"inputs": [GOOD], "parameters": {"binary_data_output": 1}},
            "parameters.binary_data_output",
            "expected true or false",
        ),
        (
            {"inputs": [GOOD], "parameters": {"timeout": -1}},
            "parameters.timeout",
            "expected whole microseconds",
        ),
        (
            {"inputs": [GOOD], "parameters": {"timeout": "1"}},
            "parameters.timeout",
            "expected whole microseconds",
        ),
        ({"inputs": [GOOD], "outputs": {}}, "outputs", "expected a list"),
        ({"inputs": [GOOD], "outputs": ["y"]}, "outputs[0]", "expected an object"),
        (
            {"inputs": [GOOD], "outputs": [{"name": "z"}]},
            "outputs[0].name",
            'unknown output "z": expected "y"',
        ),
        ({"inputs": [GOOD], "outputs": [{"name": "y"}] * 2}, "outputs[1]", 'output "y": asked for twice'),
        (
            {"inputs": [GOOD], "outputs": [{"name": "y", "parameters": []}]},
            "outputs[0].parameters",
            'output "y": expected an object, got a list',
        ),
        (
            {"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"classification": -1}}]},
            "outputs[0].parameters.classification",
            'output "y": expected a whole number from 0 on',
        ),
        (
            {"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
            "outputs[0].parameters.shared_memory_region",
            'output "y": shared memory is not served',
        ),
        (changed(name=5), "inputs[0].name", "expected a text as its name, got the number 5"),
        (changed(name=...), "inputs[0].name", 'expected a text as its name, got no key "name"'),
        (changed(name="z"), "inputs[0].name", 'unknown input "z": expected "x"'),
        (
            changed(datatype=...),
            "inputs[0].datatype",
            'input "x": expected a datatype such as FP32, got no key "datatype"',
        ),
        (changed(datatype="FP64"), "inputs[0].datatype", 'input "x": datatype FP64, expected FP32'),
        (
            changed(shape=...),
            "inputs[0].shape",
            'input "x": expected its shape as a list of integers, got no key "shape"',
        ),
        (changed(shape=[1, 2.0]), "inputs[0].shape", 'input "x": expected its shape'),
        (changed(shape=[True, 2]), "inputs[0].shape", 'input "x": expected its shape'),
        (changed(shape=[-1, 2]), "inputs[0].shape", 'input "x": shape [-1,2], expected at most 32'),
        (changed(shape=[1, 2, 1]), "inputs[0].shape", 'input "x": shape [1,2,1], expected [?,2]'),
        (changed(shape=[1] * 100), "inputs[0].shape", 'input "x": shape [1,1,'),
        (changed(shape=[2**62, 2]), "inputs[0].data", 'input "x": 2 values, but its shape'),
        (changed(shape=[10**30, 2]), "inputs[0].shape", 'input "x": expected its shape'),
        (changed(data=...), "inputs[0]", 'input "x": expected either "data" or the parameter'),
        (changed(parameters={"binary_data_size": 8}), "inputs[0]", 'input "x": expected either "data" or'),
        (
            changed(data=..., parameters={"binary_data_size": -8}),
            "inputs[0].parameters.binary_data_size",
            'input "x": expected a whole number from 0 on',
        ),
        (
            changed(data=..., parameters={"binary_data_size": 8}),
            "inputs",
            "0 bytes follow the JSON, expected the 8",
        ),
        (
            changed(data=..., parameters={"shared_memory_region": "r"}),
            "inputs[0].parameters.shared_memory_region",
            'input "x": shared memory',
        ),
        (changed(data=5), "inputs[0].data", 'input "x": expected a list'),
        (changed(data=[1]), "inputs[0].data", 'input "x": 1 values, but its shape'),
        (changed(data=[1, 2, 3]), "inputs[0].data", 'input "x": 3 values, but its shape'),
        (
            changed(data=[[1], [2]]),
            "inputs[0].data",
            'input "x": data nested as [2,1], but its shape is [1,2]',
        ),
        (changed(data=[[1, 2], 3]), "inputs[0].data[1]", 'input "x": expected a list of 2, got the number 3'),
        (
            changed(shape=[2, 2], data=[[1, 2], [3, None]]),
            "inputs[0].data[1][1]",
            'input "x": expected FP32 values, got null',
        ),
        (changed(data=[1, None]), "inputs[0].data[1]", 'input "x": expected FP32 values, got null'),
        (changed(data=[1, True]), "inputs[0].data[1]", 'input "x": expected FP32 values, got true'),
    ],
)
def test_what_is_wrong_with_a_message_is_named_with_its_place(
    message: Any, field: str | None, says: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Model(X2).ask(json.dumps(message).encode())
    assert caught.value.field == field
    assert caught.value.message.startswith(says if field is None else f"{field}: {says}")


def test_a_mistake_in_another_input_than_the_first_is_told_with_its_number() -> None:
    both = Model(X2, TensorSpec("z", "INT64", (None, 1)))
    good = tensor("z", "INT64", [1, 1], data=[7])
    for wrong, field in (
        (good | {"shape": [1, 2]}, "inputs[1].shape"),
        (good | {"data": [2.5]}, "inputs[1].data[0]"),
        (good | {"shape": [2, 1], "data": [7, 7]}, "inputs"),
    ):
        with pytest.raises(InvalidTensor) as caught:
            both.send(inputs=[GOOD, wrong])
        assert caught.value.field == field


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "says"),
    [
        ("FP32", [1, 2], fp32(1), "4 bytes, but FP32 of shape"),
        ("FP32", [1, 2], fp32(1, 2, 3), "12 bytes, but FP32 of shape"),
        ("FP32", [2**62, 2], fp32(1, 2), "8 bytes, but FP32 of shape"),
        ("BOOL", [1, 2], b"\x01\x02", "expected 0 or 1"),
        ("BYTES", [1, 2], strings(b"ham"), "1 strings, but its shape says 2"),
        ("BYTES", [1, 2], strings(b"a", b"b", b"c"), "more strings than the 2"),
        ("BYTES", [1, 2], strings(b"a", b"b") + b"\0", "1 bytes are left over"),
        ("BYTES", [1, 2], b"\xff\xff\xff\xff", "string 0 has 4294967295 bytes, but 0 are left"),
        ("BYTES", [1, 2], strings(b"a", b"\xff"), "string 1 is not valid UTF-8"),
    ],
)
def test_what_is_wrong_with_the_bytes_is_named_after_good_ones_too(
    datatype: Any, shape: list[int], raw: bytes, says: str, times: int
) -> None:
    model = Model(TensorSpec("x", datatype, (None, 2)))
    inputs = [binary("x", datatype, shape, len(raw))]
    if times == 2 and (good := _good_bytes(datatype, len(raw))):
        model.send(good, inputs=inputs)
    with pytest.raises(InvalidTensor, match=says) as caught:
        model.send(raw, inputs=inputs)
    assert caught.value.field == "inputs[0]"


def _good_bytes(datatype: str, size_bytes: int) -> bytes | None:
    """So many bytes that are two values."""
    if datatype == "BOOL":
        return bytes(size_bytes)
    return strings(b"", bytes(size_bytes - 8)) if datatype == "BYTES" and size_bytes >= 8 else None


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("raw", "says"), [(b"1234567", "7 bytes follow"), (b"123456789", "9 bytes follow")])
def test_missing_and_surplus_bytes_are_refused_the_second_time_too(raw: bytes, says: str, times: int) -> None:
    model = Model(X2)
    inputs = [binary("x", "FP32", [1, 2], 8)]
    if times == 2:
        model.send(fp32(1, 2), inputs=inputs)
    with pytest.raises(InvalidTensor, match=says):
        model.send(raw, inputs=inputs)


def test_a_header_longer_than_the_body_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="100 bytes, but the body has 10") as caught:
        Model(X2).ask(b"0123456789", 100)
    assert caught.value.field == "inference-header-content-length"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 10_000 + b"}"])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(MdsliteError) as found:
        Model(X2).ask(body)
    assert found.value.status == 400


def test_an_output_without_numbers_has_no_classes() -> None:
    model = Model(TensorSpec("x", "BYTES", (None,)))
    with pytest.raises(InvalidRequest, match="holds no numbers"):
        model.send(
            inputs=[tensor("x", "BYTES", [1], data=["a"])],
            outputs=[{"name": "y", "parameters": {"classification": 1}}],
        )


@given(st.binary(max_size=60), st.integers(0, 80) | st.none())
def test_no_body_breaks_the_reader(body: bytes, head_bytes: int | None) -> None:
    try:
        Model(X2).ask(body, head_bytes)
    except MdsliteError as exc:
        assert exc.status == 400
