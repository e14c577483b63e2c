"""Infer messages of the Open Inference Protocol over REST: JSON and bytes to columns, and outputs back."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdslite.data import DataCodec
from mdslite.errors import InvalidJson, InvalidRequest, InvalidTensor, MdsliteError
from mdslite.oip.free import FreeMessages
from mdslite.oip.message import PLANS_MAX, Messages
from mdslite.oip.typed import TensorMessages
from mdslite.packing import from_bfloat16, to_bfloat16
from mdslite.runtimes.protocol import NUMPY_DTYPES, Answers, Rows, Signature, TensorSpec
from mdslite.serving.remote.speech import PassingCodec
from mdslite.tensors import SHARED_BYTES, Codec

X2 = TensorSpec("x", "FP32", (None, 2))
NUMBERS = sorted(set(NUMPY_DTYPES) - {"BYTES"})


class Model:
    """Answers with its inputs: output `y` is input `x`, and so on."""

    def __init__(
        self, *inputs: TensorSpec, rows: Rows = "free", outputs: tuple[TensorSpec, ...] = ()
    ) -> None:
        outputs = outputs or tuple(TensorSpec("y", one.datatype, one.shape) for one in inputs[:1])
        self.codec = Codec(Signature(inputs, outputs, rows))
        self.messages = TensorMessages(self.codec, model="p.m", version="v1")
        self.feeds: dict[str, Any] = {}

    def ask(self, body: bytes | memoryview, head_bytes: int | None = None) -> dict[str, Any]:
        plan, columns = self.messages.read(body, head_bytes)
        if not columns.rows:
            return parse(self.messages.write(plan, None))
        self.feeds = self.codec.feeds(columns.columns, columns.key, columns.rows)
        return parse(self.messages.write(plan, list(self.feeds.values())))

    def send(self, *raws: bytes, **message: Any) -> dict[str, Any]:
        """A message whose inputs are followed by their bytes, where there are any."""
        head = json.dumps(message).encode()
        return self.ask(head + b"".join(raws), len(head) if raws else None)


def parse(message: tuple[bytes, int | None]) -> dict[str, Any]:
    """A reply as a client reads it: each output's `data`, in numbers or strings, whichever way it came."""
    body, head_bytes = message
    head_bytes = len(body) if head_bytes is None else head_bytes
    found = json.loads(body[:head_bytes])
    at = head_bytes
    for output in found["outputs"]:
        parameters = output.get("parameters", {})
        if "binary_data_size" in parameters:
            assert "data" not in output
            raw = body[at : at + parameters["binary_data_size"]]
            at += len(raw)
            output["data"] = read(raw, output["datatype"])
    assert at == len(body)
    return found


def read(raw: bytes, datatype: str) -> list[Any]:
    if datatype != "BYTES":
        array = np.frombuffer(raw, NUMPY_DTYPES[datatype])
        return (from_bfloat16(array) if datatype == "BF16" else array).tolist()
    found, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def tensor(name: str, datatype: str, shape: list[int], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape} | more


def binary(name: str, datatype: str, shape: list[int], size_bytes: int) -> dict[str, Any]:
    return tensor(name, datatype, shape, parameters={"binary_data_size": size_bytes})


def strings(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def fp32(*values: float) -> bytes:
    return np.array(values, np.float32).tobytes()


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


# What is wrong is named


GOOD = tensor("x", "FP32", [1, 2], data=[1, 2])


def changed(**changes: Any) -> dict[str, Any]:
    found = GOOD | changes
    return {"inputs": [{key: value for key, value in found.items() if value is not ...}]}


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ([], "expected an object"),
        ({}, '"inputs": expected a list of tensors, got null'),
        ({"inputs": {}}, '"inputs": expected a list of tensors, got an object'),
        ({"inputs": [5]}, "input 0: expected an object"),
        ({"inputs": []}, 'missing input "x"'),
        ({"inputs": [GOOD, GOOD]}, 'input "x" is given twice'),
        ({"inputs": [GOOD], "id": 5}, '"id": expected a text'),
        ({"inputs": [GOOD], "parameters": 5}, 'expected "parameters" as an object'),
        ({"inputs": [GOOD], "parameters": {"binary_data_output": 1}}, "expected true or false"),
        ({"inputs": [GOOD], "parameters": {"timeout": -1}}, "expected whole microseconds"),
        ({"inputs": [GOOD], "parameters": {"timeout": "1"}}, "expected whole microseconds"),
        ({"inputs": [GOOD], "outputs": {}}, '"outputs": expected a list'),
        ({"inputs": [GOOD], "outputs": ["y"]}, "output 0: expected an object"),
        ({"inputs": [GOOD], "outputs": [{"name": "z"}]}, 'unknown output "z": expected "y"'),
        ({"inputs": [GOOD], "outputs": [{"name": "y"}] * 2}, 'output "y": asked for twice'),
        (
            {"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"classification": -1}}]},
            '"classification": expected a number from 0 on',
        ),
        (
            {"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
            'output "y": shared memory is not served',
        ),
        (changed(name=5), "expected a text as its name"),
        (changed(name="z"), 'unknown input "z": expected "x"'),
        (changed(datatype=...), 'input "x": expected a datatype'),
        (changed(datatype="FP64"), 'input "x": datatype FP64, expected FP32'),
        (changed(shape=...), 'input "x": expected its shape'),
        (changed(shape=[1, 2.0]), 'input "x": expected its shape'),
        (changed(shape=[True, 2]), 'input "x": expected its shape'),
        (changed(shape=[-1, 2]), "none of them negative"),
        (changed(shape=[1, 2, 1]), r"shape \[1,2,1\], expected \[-1,2\]"),
        (changed(shape=[1] * 100), "at most 32 dimensions"),
        (changed(shape=[2**62, 2]), "2 values, but its shape"),
        (changed(shape=[10**30, 2]), 'input "x": expected its shape'),
        (changed(data=...), "got none"),
        (changed(parameters={"binary_data_size": 8}), "got both"),
        (changed(data=..., parameters={"binary_data_size": -8}), "expected a number from 0 on"),
        (changed(data=..., parameters={"binary_data_size": 8}), "0 bytes follow the JSON, expected the 8"),
        (changed(data=..., parameters={"shared_memory_region": "r"}), 'input "x": shared memory'),
        (changed(data=5), 'expected "data" as a list'),
        (changed(data=[1]), "1 values, but its shape"),
        (changed(data=[1, 2, 3]), "3 values, but its shape"),
        (changed(data=[[1], [2]]), r"data nested as \[2,1\], but its shape is \[1,2\]"),
        (changed(data=[[1, 2], 3]), "ragged"),
        (changed(data=[1, None]), 'input "x": expected FP32 values, got null'),
        (changed(data=[1, True]), "got true"),
    ],
)
def test_what_is_wrong_with_a_message_is_named(message: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        Model(X2).ask(json.dumps(message).encode())


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
def test_what_is_wrong_with_the_bytes_is_named(
    datatype: Any, shape: list[int], raw: bytes, says: str
) -> None:
    with pytest.raises(InvalidTensor, match=says):
        Model(TensorSpec("x", datatype, (None, 2))).send(raw, inputs=[binary("x", datatype, shape, len(raw))])


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
    with pytest.raises(InvalidRequest, match="is 100, but the body has 10"):
        Model(X2).ask(b"0123456789", 100)


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
        return parse(self.messages.write(plan, [Answers(answers)]))["outputs"][0]


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
