"""Infer messages of the Open Inference Protocol over REST: JSON and bytes to columns, and outputs back."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oip_tensors import X2, Model, binary, fp32, parse, strings, tensor

from mdslite.errors import InvalidRequest
from mdslite.oip.typed import TensorMessages
from mdslite.packing import to_bfloat16
from mdslite.runtimes.protocol import NUMPY_DTYPES, Rows, Signature, TensorSpec
from mdslite.tensors import SHARED_BYTES, Codec

NUMBERS = sorted(set(NUMPY_DTYPES) - {"BYTES"})


# What goes in comes out


def values_of(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == "BYTES":
        return st.text(st.characters(codec="utf-8"), max_size=5)
    if datatype == "BOOL":
        return st.booleans()
    dtype = NUMPY_DTYPES[datatype]
    if datatype == "BF16":
        return st.integers(-256, 256).map(float)
    if dtype.kind == "f":
        return st.floats(width=dtype.itemsize * 8, allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]
    info = np.iinfo(dtype)
    return st.integers(int(info.min), int(info.max))


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, list[int], list[Any]]:
    datatype = draw(st.sampled_from(["BYTES", *NUMBERS]))
    shape = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    count = math.prod(shape)
    return datatype, shape, draw(st.lists(values_of(datatype), min_size=count, max_size=count))


def pack(datatype: str, flat: list[Any]) -> bytes:
    if datatype == "BYTES":
        return strings(*(value.encode() for value in flat))
    if datatype == "BF16":
        return to_bfloat16(np.array(flat, np.float32)).tobytes()
    return np.array(flat, NUMPY_DTYPES[datatype]).tobytes()


def as_text(values: list[Any]) -> list[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in values]


@given(tensors(), st.booleans(), st.sampled_from(["flat", "nested", "binary"]))
def test_any_tensor_comes_back_as_it_went_in(
    given_tensor: tuple[str, list[int], list[Any]], answer_binary: bool, form: str
) -> None:
    datatype, shape, flat = given_tensor
    model = Model(TensorSpec("x", datatype, (None,) * len(shape)))  # type: ignore[arg-type]
    parameters = {"binary_data_output": answer_binary}
    if form == "binary":
        raw = pack(datatype, flat)
        message = {"inputs": [binary("x", datatype, shape, len(raw))], "parameters": parameters}
        head = json.dumps(message).encode()
        reply = model.ask(head + raw, len(head))
    else:
        data: Any = np.empty(len(flat), object)
        data[:] = flat
        nested = data.reshape(shape).tolist() if form == "nested" else flat
        if form == "nested" and 0 in shape[:-1]:
            nested = []  # what is inside of nothing cannot be told
        reply = model.send(inputs=[tensor("x", datatype, shape, data=nested)], parameters=parameters)
    (output,) = reply["outputs"]
    assert (output["name"], output["datatype"]) == ("y", datatype)
    found = as_text(output["data"])
    if datatype == "FP32":  # in JSON as short as it can be and still be the same float32
        found = np.array(found, np.float32).tolist()
    assert found == flat
    assert ("parameters" in output) == answer_binary
    if shape[0]:
        assert output["shape"] == shape


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_large_numbers_are_not_copied_unless_the_runtime_could_not_read_them(offset: int) -> None:
    values = np.arange(SHARED_BYTES, dtype=np.float32)
    model = Model(TensorSpec("x", "FP32", (None, len(values))))
    head = json.dumps({"inputs": [binary("x", "FP32", [1, len(values)], values.nbytes)]}).encode()
    head += b" " * (-len(head) % 4 + offset)
    body = np.frombuffer(head + values.tobytes(), np.uint8)
    model.ask(body.data, len(head))
    np.testing.assert_array_equal(model.feeds["x"][0], values)
    start = body.ctypes.data + len(head)
    assert np.shares_memory(model.feeds["x"], body) == (start % 4 == 0)
    assert model.feeds["x"].flags.aligned


def test_several_inputs_stand_one_after_the_other() -> None:
    spec = TensorSpec("words", "BYTES", (None, 1))
    model = Model(X2, spec, outputs=(TensorSpec("y", "FP32", (None, 2)), TensorSpec("z", "BYTES", (None, 1))))
    words = strings(b"ham", "späm".encode())
    reply = model.send(
        words,
        fp32(1, 2, 3, 4),
        inputs=[binary("words", "BYTES", [2, 1], len(words)), binary("x", "FP32", [2, 2], 16)],
    )
    assert [output["data"] for output in reply["outputs"]] == [[1, 2, 3, 4], ["ham", "späm"]]
    mixed = model.send(
        fp32(1, 2),
        inputs=[tensor("words", "BYTES", [1, 1], data=["ä"]), binary("x", "FP32", [1, 2], 8)],
    )
    assert [output["data"] for output in mixed["outputs"]] == [[1, 2], ["ä"]]


def test_a_reply_names_its_request_its_model_and_its_version() -> None:
    reply = Model(X2).send(id="seven", inputs=[tensor("x", "FP32", [1, 2], data=[1, 2])])
    assert reply == {
        "model_name": "p.m",
        "model_version": "v1",
        "id": "seven",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}],
    }


def test_a_listed_output_follows_its_own_wish_and_the_others_stay_away() -> None:
    outputs = (TensorSpec("y", "FP32", (None, 2)), TensorSpec("z", "FP32", (None, 2)))
    model = Model(X2, TensorSpec("w", "FP32", (None, 2)), outputs=outputs)
    inputs = [tensor("x", "FP32", [1, 2], data=[1, 2]), tensor("w", "FP32", [1, 2], data=[3, 4])]
    listed = [{"name": "z"}, {"name": "y", "parameters": {"binary_data": True}}]
    both = model.send(inputs=inputs, outputs=listed)["outputs"]
    assert [(one["name"], one["data"], "parameters" in one) for one in both] == [
        ("z", [3, 4], False),
        ("y", [1, 2], True),
    ]
    listed = [{"name": "z", "parameters": {"binary_data": False}}]
    one = model.send(inputs=inputs, outputs=listed, parameters={"binary_data_output": True})
    assert [(one["name"], one["data"]) for one in one["outputs"]] == [("z", [3, 4])]


def test_not_a_number_and_infinities_come_in_as_literals_or_bytes_and_never_go_out_as_invalid_json() -> None:
    model = Model(TensorSpec("x", "FP32", (None, 3)))
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[NaN,Infinity,-Infinity]}]}'
    assert model.ask(body)["outputs"][0]["data"] == [None, None, None]
    np.testing.assert_array_equal(model.feeds["x"], [[np.nan, np.inf, -np.inf]])
    exact = model.send(
        fp32(math.nan, math.inf, -math.inf),
        inputs=[binary("x", "FP32", [1, 3], 12)],
        parameters={"binary_data_output": True},
    )
    np.testing.assert_array_equal(exact["outputs"][0]["data"], [np.nan, np.inf, -np.inf])


def test_the_likeliest_classes_are_told_by_value_and_place() -> None:
    model = Model(TensorSpec("x", "FP32", (None, 3)))
    wanted = [{"name": "y", "parameters": {"classification": 2}}]
    inputs = [tensor("x", "FP32", [2, 3], data=[0.25, 0.5, 0.25, -1, -3, -2])]
    (output,) = model.send(inputs=inputs, outputs=wanted)["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == ["0.500000:1", "0.250000:0", "-1.000000:0", "-2.000000:2"]
    many = [{"name": "y", "parameters": {"classification": 9, "binary_data": True}}]
    (output,) = model.send(inputs=inputs, outputs=many)["outputs"]
    assert output["shape"] == [2, 3]
    assert output["data"][0] == b"0.500000:1"


def test_whole_numbers_and_whole_tensors_have_classes_too() -> None:
    model = Model(TensorSpec("x", "INT64", (3,)), rows="none")
    wanted = [{"name": "y", "parameters": {"classification": 1}}]
    (output,) = model.send(inputs=[tensor("x", "INT64", [3], data=[1, 9, 5])], outputs=wanted)["outputs"]
    assert (output["shape"], output["data"]) == ([1], ["9:1"])


def test_a_model_without_rows_takes_one_whole_tensor() -> None:
    model = Model(TensorSpec("x", "FP32", (2, None)), rows="none")
    (output,) = model.send(inputs=[tensor("x", "FP32", [2, 2], data=[[1, 2], [3, 4]])])["outputs"]
    assert output["shape"] == [2, 2]
    scalar = Model(TensorSpec("x", "FP32", ()), rows="none")
    (output,) = scalar.send(fp32(5), inputs=[binary("x", "FP32", [], 4)])["outputs"]
    assert (output["shape"], output["data"]) == ([], [5])


def test_no_rows_are_answered_without_any() -> None:
    model = Model(X2)
    reply = model.send(inputs=[tensor("x", "FP32", [0, 2], data=[])], parameters={"binary_data_output": True})
    assert (reply["outputs"][0]["shape"], reply["outputs"][0]["data"]) == ([0, 2], [])


def test_an_optional_input_may_be_left_out() -> None:
    model = Model(X2, TensorSpec("more", "FP32", (None,), optional=True))
    for _ in range(2):  # the second time by what is remembered of the first
        model.send(fp32(1, 2), inputs=[binary("x", "FP32", [1, 2], 8)])
        assert list(model.feeds) == ["x"]


def test_maps_go_out_as_json_texts() -> None:
    codec = Codec(Signature((X2,), (TensorSpec("p", "OBJECT", (None,)),), "free"))
    messages = TensorMessages(codec, model="p.m", version="v1")
    body = json.dumps({"inputs": [tensor("x", "FP32", [2, 2], data=[1, 2, 3, 4])]}).encode()
    plan, _ = messages.read(body, None)
    reply = parse(messages.write(plan, [[{"ham": np.float32(0.5)}, {1: 2}]]))
    assert reply["outputs"] == [tensor("p", "BYTES", [2], data=['{"ham":0.5}', '{"1":2}'])]


def test_bytes_that_are_no_text_go_out_in_binary_only() -> None:
    spec = TensorSpec("x", "BYTES", (None,), any_bytes=True)
    model = Model(spec)
    raw = strings(b"\xff")
    inputs = [binary("x", "BYTES", [1], len(raw))]
    binary_reply = model.send(raw, inputs=inputs, parameters={"binary_data_output": True})
    assert binary_reply["outputs"][0]["data"] == [b"\xff"]
    with pytest.raises(InvalidRequest, match="expected binary_data"):
        model.send(raw, inputs=inputs)


# Bytes without any JSON


@pytest.mark.parametrize(
    ("spec", "rows", "raw", "shape"),
    [
        (X2, "free", fp32(1, 2, 3, 4), (2, 2)),
        (TensorSpec("x", "FP32", (None,)), "free", fp32(1, 2, 3), (3,)),
        (TensorSpec("x", "FP32", (None, None)), "free", fp32(1, 2, 3), (1, 3)),
        (TensorSpec("x", "UINT8", (None, 2, None)), "free", b"123456", (1, 2, 3)),
        (TensorSpec("x", "FP32", (1, 2)), "one", fp32(1, 2, 3, 4), (2, 2)),
        (TensorSpec("x", "FP32", (2,)), "none", fp32(1, 2), (2,)),
        (TensorSpec("x", "FP32", ()), "none", fp32(1), ()),
    ],
)
def test_bare_bytes_have_the_shape_that_their_number_says(
    spec: TensorSpec, rows: Rows, raw: bytes, shape: tuple[int, ...]
) -> None:
    model = Model(spec, rows=rows)
    (output,) = model.ask(raw, 0)["outputs"]
    assert tuple(output["shape"]) == shape
    assert "binary_data_size" in output["parameters"]


@pytest.mark.parametrize(
    ("specs", "rows", "raw", "says"),
    [
        ([X2], "free", fp32(1, 2, 3), "12 bytes, expected a multiple of the 8"),
        ([TensorSpec("x", "FP32", (2,))], "none", fp32(1), "4 bytes, expected the 8"),
        ([TensorSpec("x", "FP32", (None, None, None))], "free", fp32(1), "expected its shape"),
        ([TensorSpec("x", "BYTES", (None,))], "free", b"ham", "expected its shape"),
        ([X2, TensorSpec("b", "FP32", (None,))], "free", fp32(1), "holds one input"),
    ],
)
def test_bare_bytes_that_could_be_anything_are_refused(
    specs: list[TensorSpec], rows: Rows, raw: bytes, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says):
        Model(*specs, rows=rows).ask(raw, 0)
