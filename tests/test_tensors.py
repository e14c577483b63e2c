from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdslite.errors import InvalidJson, InvalidRequest, InvalidTensor
from mdslite.oip.inputs import InputTensor, take_inputs
from mdslite.packing import Shared, from_bfloat16, to_bfloat16
from mdslite.runtimes.protocol import Datatype, Outputs, Rows, Signature, TensorSpec
from mdslite.tensors import Codec, Columns


def make_codec(*inputs: TensorSpec, rows: Rows = "free", outputs: tuple[TensorSpec, ...] = ()) -> Codec:
    return Codec(Signature(inputs, outputs or (TensorSpec("y", "FP32", (None, 2)),), rows))


def decode(codec: Codec, message: object) -> Columns:
    return codec.decode(json.dumps(message).encode())


def column_of(columns: Columns) -> bytes:
    """The one column, of numbers."""
    (column,) = columns.columns
    assert isinstance(column, bytes | memoryview)
    return bytes(column)


def arrays_of(codec: Codec, columns: Columns) -> dict[str, np.ndarray[Any, Any]]:
    return codec.feeds(columns.columns, columns.key, columns.rows)


X4 = TensorSpec("x", "FP32", (None, 4))


def test_instances_of_the_common_shape_become_rows() -> None:
    codec = make_codec(X4)
    columns = decode(codec, {"instances": [[1, 2, 3, 4], [5, 6, 7, 8.5]]})
    assert columns.rows == 2
    np.testing.assert_array_equal(arrays_of(codec, columns)["x"], [[1, 2, 3, 4], [5, 6, 7, 8.5]])


def test_the_named_form_and_the_column_form_give_the_same_rows() -> None:
    codec = make_codec(X4)
    plain = decode(codec, {"instances": [[1, 2, 3, 4]]})
    named = decode(codec, {"instances": [{"x": [1, 2, 3, 4]}]})
    column = decode(codec, {"inputs": {"x": [[1, 2, 3, 4]]}})
    alone = decode(codec, {"inputs": [[1, 2, 3, 4]]})
    assert plain.columns == named.columns == column.columns == alone.columns
    assert plain.key == named.key == column.key == alone.key
    assert (plain.form, column.form) == ("instances", "inputs")


@given(
    st.lists(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4),
        min_size=1,
        max_size=5,
    )
)
def test_the_fast_way_and_the_careful_way_agree(rows: list[list[float]]) -> None:
    codec = make_codec(X4)
    fast = decode(codec, {"instances": rows})
    careful = decode(codec, {"instances": [{"x": row} for row in rows]})
    assert column_of(fast) == column_of(careful)
    assert fast.key == careful.key


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"instances": [[1, 2, 3]]}, 'instances[0]: input "x": an instance of shape [3], expected [4]'),
        ({"instances": [1, 2]}, 'input "x": an instance of shape [], expected [4]'),
        ({"inputs": {"x": [[1, 2, 3]]}}, 'input "x": shape [1,3], expected [?,4]'),
        ({"instances": [[1, 2, 3, "4"]]}, 'expected FP32 values, got the text "4"'),
        ({"instances": [[1, 2, 3, True]]}, "expected FP32 values, got true"),
        ({"instances": [[1, 2, 3, None]]}, "expected FP32 values, got null"),
        ({"instances": [[[1, 2, 3, 4]]]}, "an instance of shape [1,4], expected [4]"),
        ({"instances": [[1, 2], [1]]}, 'instances[0]: input "x": expected a list of 4, got a list of 2'),
        ({"instances": [{"z": [1, 2, 3, 4]}]}, 'unknown input "z": expected "x"'),
        ({"instances": [{}]}, 'missing input "x"'),
        ({"inputs": {"x": [[1, 2, 3, 4]], "y": 1}}, 'unknown input "y"'),
        ({"inputs": {"x": 3}}, "expected a list of rows"),
    ],
)
def test_a_wrong_tensor_is_named_with_what_was_expected(message: object, says: str) -> None:
    with pytest.raises(InvalidTensor) as caught:
        decode(make_codec(X4), message)
    assert says in caught.value.message
    assert caught.value.status == 400


@pytest.mark.parametrize("value", ["99999999999999999999", "-1e20", "3e300"])
def test_a_number_that_no_integer_holds_does_not_fit_into_one(value: str) -> None:
    codec = make_codec(TensorSpec("x", "INT8", (None, 2)))
    with pytest.raises(InvalidTensor, match=r"^instances\[0\]\[1\]: .* does not fit into INT8$"):
        codec.decode(b'{"instances": [[1, %b]]}' % value.encode())


def test_a_number_that_nothing_holds_is_told_apart_from_what_is_no_json() -> None:
    with pytest.raises(InvalidJson, match=r"^a number in the body is beyond the range of float64: line 1"):
        make_codec(X4).decode(b'{"instances": [[' + b"9" * 10_000 + b"]]}")


@pytest.mark.parametrize(
    "message",
    [[], 3, {}, {"instances": 1}, {"instances": [], "inputs": {}}, {"instance": [[1]]}, {"instances": None}],
)
def test_a_body_of_another_form_is_refused(message: object) -> None:
    with pytest.raises(InvalidRequest):
        decode(make_codec(X4), message)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"instances": [[' + b"9" * 10_000 + b"]]}",
        b"\xff\xfe",
        b'{"instances": ' + b"[" * 100_000 + b"NaN" + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        make_codec(X4).decode(body)


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        (b'"\\ud800"', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
        (b'"\\ud83d\\ud83d\\ude00"', "half of a surrogate pair"),
        (b'"\\ud83d\\\\\\ude00"', "half of a surrogate pair"),
        (b'"\xed\xa0\x80"', "can't decode byte 0xed"),
        (b"1" * 10_000, "a number in the body is beyond the range of float64"),
        (b"-1e400", "a number in the body is beyond the range of float64"),
        (b"1,", "the body is no JSON: Expecting value: line 1 column 27"),
        (b"[" * 100_000, "depth limit exceeded"),
    ],
)
def test_nan_excuses_nothing_else_in_a_body(rest: bytes, says: str) -> None:
    with pytest.raises(InvalidJson) as caught:
        make_codec(X4).decode(b'{"instances": [[NaN, 1, ' + rest + b"]]}")
    assert says in caught.value.message


def test_nan_and_infinity_come_in_as_numbers_and_go_out_as_null() -> None:
    codec = make_codec(X4, outputs=(TensorSpec("y", "FP32", (None, 4)),))
    columns = codec.decode(b'{"instances": [[NaN, Infinity, -Infinity, 1]]}')
    values = arrays_of(codec, columns)["x"]
    assert math.isnan(values[0, 0])
    assert values[0, 1] == math.inf
    assert codec.encode([values], "instances") == b'{"predictions":[[null,null,null,1.0]]}'


@pytest.mark.parametrize(
    ("datatype", "fits", "too_large"),
    [
        ("FP16", 65519, 65520),
        ("FP16", -65519.0, -1e39),
        ("BF16", 3.39e38, 3.4e38),
        ("BF16", -3.39e38, -1e300),
        ("FP32", 3.4028235e38, 3.4028236e38),
        ("FP32", -3.4028235e38, -(10**39)),
        ("INT8", -128, -129),
        ("UINT32", 2**32 - 1, 2**32),
    ],
)
def test_a_number_too_large_for_the_input_is_refused_whichever_way_it_came(
    datatype: Datatype, fits: float, too_large: float
) -> None:
    codec = make_codec(TensorSpec("x", datatype, (None, 4)))
    row = [0, 1, too_large, too_large]
    refusal = rf': input "x": the number .* does not fit into {datatype}'
    for message, place in (
        ({"instances": [row]}, r"instances\[0\]\[2\]"),
        ({"instances": [{"x": row}]}, r"instances\[0\].x\[2\]"),
        ({"inputs": {"x": [row]}}, r"inputs.x\[0\]\[2\]"),
    ):
        with pytest.raises(InvalidTensor, match=place + refusal):
            codec.decode(json.dumps(message).encode())
    with pytest.raises(InvalidTensor, match=refusal.removeprefix(": ")) as caught:
        take_inputs(codec, [InputTensor("x", datatype, (1, 4), data=row)])
    assert caught.value.part == "inputs[0].data[2]"
    assert arrays_of(codec, decode(codec, {"instances": [[0, 1, 1, fits]]}))["x"].shape == (1, 4)


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
def test_infinities_that_say_so_are_taken_beside_finite_numbers(datatype: Datatype) -> None:
    codec = make_codec(TensorSpec("x", datatype, (None, 4)))
    codec.decode(b'{"instances": [[1, 2.5, Infinity, -Infinity]]}')
    with pytest.raises(InvalidJson):
        codec.decode(b'{"instances": [[1, 1e999, Infinity, -Infinity]]}')


@pytest.mark.parametrize(
    ("datatype", "good", "bad"),
    [
        ("BOOL", [True, False], [1, 0]),
        ("INT8", [-128, 127], [128, 0]),
        ("UINT8", [0, 255], [-1, 0]),
        ("INT64", [-(2**63), 2**63 - 1], [1.5, 2]),
        ("UINT64", [0, 2**64 - 1], [-1, 0]),
        ("INT32", [1, 2], [True, 2]),
        ("FP16", [1.5, 2], ["1", 2]),
        ("FP64", [1e300, 2], [None, 2]),
        ("BYTES", ["ä", ""], [1, "a"]),
    ],
)
def test_each_datatype_takes_its_own_values_only(datatype: Datatype, good: list[Any], bad: list[Any]) -> None:
    codec = make_codec(TensorSpec("x", datatype, (None, 2)))
    array = arrays_of(codec, decode(codec, {"instances": [good]}))["x"]
    assert array.tolist() == [good]
    with pytest.raises(InvalidTensor):
        decode(codec, {"instances": [bad]})


WORDS = TensorSpec("words", "BYTES", (None,))


@pytest.mark.parametrize(
    "message",
    [
        {"instances": [{"b64": "aGFt"}, {"b64": "c3DDpG0="}]},
        {"instances": [{"words": {"b64": "aGFt"}}, {"words": "späm"}]},
        {"inputs": {"words": ["ham", {"b64": "c3DDpG0="}]}},
        {"inputs": ["ham", "späm"], "signature_name": "serving_default"},
    ],
)
def test_strings_may_come_in_base64_whichever_way_they_are_named(message: object) -> None:
    codec = make_codec(WORDS)
    assert arrays_of(codec, decode(codec, message))["words"].tolist() == ["ham", "späm"]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"b64": "?"}, "expected base64"),
        ({"b64": 5}, "expected base64"),
        ({"b64": "ä"}, "expected base64"),
        ({"b64": "/w=="}, "not valid UTF-8"),
        ({"b65": "aGFt"}, "b65"),
    ],
)
def test_base64_that_is_none_or_no_text_is_refused(value: object, says: str) -> None:
    with pytest.raises(InvalidTensor, match=says):
        decode(make_codec(WORDS), {"instances": [value]})


def test_a_model_that_takes_any_bytes_gets_them_and_gives_them_back() -> None:
    spec = TensorSpec("words", "BYTES", (None,), any_bytes=True)
    codec = make_codec(spec, outputs=(spec,))
    array = arrays_of(codec, decode(codec, {"instances": ["ham", {"b64": "/w=="}]}))["words"]
    assert array.tolist() == ["ham", b"\xff"]
    output = np.array([b"ham", b"\xff"], dtype=object)
    assert codec.encode([output], "instances") == b'{"predictions":["ham",{"b64":"/w=="}]}'


def test_an_input_called_b64_is_an_input() -> None:
    codec = make_codec(TensorSpec("b64", "BYTES", (None,)))
    assert arrays_of(codec, decode(codec, {"instances": [{"b64": "aGFt"}]}))["b64"].tolist() == ["aGFt"]


def test_a_signature_name_is_a_text() -> None:
    with pytest.raises(InvalidRequest, match="signature_name"):
        decode(make_codec(X4), {"signature_name": 5, "instances": [[1, 2, 3, 4]]})


def test_a_large_array_is_not_copied() -> None:
    array = np.ones((8, 4, 4096), np.float32)
    codec = make_codec(TensorSpec("x", "FP32", (None, 4, 4096)))
    columns = codec.from_arrays({"x": array})
    assert np.shares_memory(arrays_of(codec, columns)["x"], array)


def test_bfloat16_rounds_to_nearest_even_and_comes_back() -> None:
    values = np.array([1.0, 1.00390625, 3.3895314e38, -2.5, np.nan, np.inf], dtype=np.float32)
    back = from_bfloat16(to_bfloat16(values))
    assert back[0] == 1.0
    assert back[1] == 1.0  # a tie goes to the even neighbour
    assert back[3] == -2.5
    assert np.isnan(back[4])
    assert np.isinf(back[5])
    codec = make_codec(TensorSpec("x", "BF16", (None, 2)), outputs=(TensorSpec("y", "BF16", (None, 2)),))
    columns = decode(codec, {"instances": [[1.5, -2]]})
    assert codec.encode([arrays_of(codec, columns)["x"]], "instances") == b'{"predictions":[[1.5,-2.0]]}'


def test_several_inputs_need_names_and_equal_rows() -> None:
    codec = make_codec(TensorSpec("a", "FP32", (None,)), TensorSpec("b", "INT64", (None, 2)))
    columns = decode(codec, {"instances": [{"a": 1, "b": [2, 3]}, {"b": [4, 5], "a": 6}]})
    arrays = arrays_of(codec, columns)
    assert arrays["a"].tolist() == [1, 6]
    assert arrays["b"].tolist() == [[2, 3], [4, 5]]
    with pytest.raises(InvalidTensor, match="2 rows"):
        decode(codec, {"inputs": {"a": [1], "b": [[1, 2], [3, 4]]}})
    with pytest.raises(InvalidRequest, match="expected an object"):
        decode(codec, {"instances": [[1, 2]]})


def test_an_optional_input_may_be_left_out_by_all_instances_or_none() -> None:
    codec = make_codec(TensorSpec("a", "FP32", (None,)), TensorSpec("b", "FP32", (None,), optional=True))
    without = decode(codec, {"instances": [{"a": 1}]})
    assert list(arrays_of(codec, without)) == ["a"]
    assert without.key != decode(codec, {"instances": [{"a": 1, "b": 2}]}).key
    with pytest.raises(InvalidRequest, match=r"instances\[1\]"):
        decode(codec, {"instances": [{"a": 1}, {"a": 1, "b": 2}]})


def test_free_dimensions_give_different_shapes_different_keys() -> None:
    codec = make_codec(TensorSpec("x", "FP32", (None, None)))
    short, long = decode(codec, {"instances": [[1, 2]]}), decode(codec, {"instances": [[1, 2, 3]]})
    assert (short.key, long.key) == (((2,),), ((3,),))


def test_shapes_of_as_many_values_are_timed_apart() -> None:
    """A long sequence may take a million times as long as many short ones."""
    many, long = Codec.bucket(((8000, 1),)), Codec.bucket(((1, 8000),))
    assert many != long
    assert Codec.bucket(((1, 4096),)) == long  # each dimension is within a factor of two


def test_what_the_rows_share_is_timed_by_its_shape() -> None:
    def bucket(*values: float) -> object:
        shared = Shared("k", "FP32", (len(values),), np.array(values, np.float32).tobytes())
        return Codec.bucket(((4,), shared))

    assert bucket(1, 2) == bucket(3, 4)
    assert len({Codec.bucket(((4,),)), bucket(1), bucket(1, 2)}) == 3


def test_a_model_without_a_row_dimension_takes_whole_tensors_as_instances() -> None:
    codec = make_codec(TensorSpec("x", "FP32", (2, 2)), rows="none")
    columns = decode(codec, {"instances": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]})
    assert columns.rows == 2
    assert codec.row_sizes(columns.key) == (16,)
    assert decode(codec, {"inputs": {"x": [[1, 2], [3, 4]]}}).rows == 1


def test_an_empty_batch_has_no_rows_and_an_empty_answer() -> None:
    codec = make_codec(X4)
    assert decode(codec, {"instances": []}).rows == 0
    assert decode(codec, {"inputs": {"x": []}}).rows == 0
    assert codec.encode_empty("instances") == b'{"predictions":[]}'
    assert codec.encode_empty("inputs") == b'{"outputs":{"y":[]}}'


def test_several_outputs_become_one_object_a_row() -> None:
    outputs = (TensorSpec("label", "INT64", (None,)), TensorSpec("p", "OBJECT", ()))
    codec = make_codec(X4, outputs=outputs)
    answers: Outputs = [np.array([3, 4], dtype=np.longlong), [{"a": 0.5}, {"a": 0.25}]]
    assert json.loads(codec.encode(answers, "instances")) == {
        "predictions": [{"label": 3, "p": {"a": 0.5}}, {"label": 4, "p": {"a": 0.25}}]
    }
    assert json.loads(codec.encode(answers, "inputs")) == {
        "outputs": {"label": [3, 4], "p": [{"a": 0.5}, {"a": 0.25}]}
    }


def test_float32_is_written_in_its_own_precision() -> None:
    codec = make_codec(X4, outputs=(TensorSpec("y", "FP32", (None, 1)),))
    assert codec.encode([np.array([[0.1]], dtype=np.float32)], "instances") == b'{"predictions":[[0.1]]}'


@given(st.binary(max_size=200))
def test_no_bytes_at_all_crash_the_decoder(body: bytes) -> None:
    with suppress(InvalidRequest):
        make_codec(X4).decode(body)
