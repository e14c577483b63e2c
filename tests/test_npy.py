"""Bodies that are arrays as NumPy saves them: what is read of them, and what is refused."""

from __future__ import annotations

import pickle
from contextlib import suppress

import numpy as np
import pytest
from h1_client import npy
from hypothesis import given
from hypothesis import strategies as st

from mdslite.errors import InvalidRequest, InvalidTensor, UnsupportedMedia
from mdslite.runtimes.protocol import Signature, TensorSpec
from mdslite.tensors import Codec

CODEC = Codec(Signature((TensorSpec("x", "FP32", (None, 4)),), (TensorSpec("y", "FP32", (None, 2)),), "free"))


def test_a_big_endian_or_fortran_array_is_converted() -> None:
    for array in (
        np.arange(8, dtype=">f4").reshape(2, 4),
        np.asfortranarray(np.arange(8, dtype="f4").reshape(2, 4)),
    ):
        columns = CODEC.decode_npy(npy(array))
        arrays = CODEC.feeds(columns.columns, columns.key, columns.rows)
        np.testing.assert_array_equal(arrays["x"], np.arange(8).reshape(2, 4))


def test_a_pickled_array_is_never_loaded() -> None:
    with pytest.raises(UnsupportedMedia) as caught:
        CODEC.decode_npy(npy(np.array([{"a": 1}], dtype=object), pickled=True))
    assert caught.value.status == 415


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_bare_pickle_is_called_one_and_never_loaded(protocol: int) -> None:
    with pytest.raises(UnsupportedMedia, match="a pickle, which is never loaded"):
        CODEC.decode_npy(pickle.dumps(np.ones(4), protocol))


def npy_of(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


@pytest.mark.parametrize(
    "shape",
    ["(-1, 4)", "(2, 4)", "(99999999999, 99999999999)", "(1, 4, 1)", "(True, 4)", "(" + "1," * 65 + "4)"],
    ids=["negative", "short", "overflow", "rank", "bool", "too many"],
)
def test_a_shape_that_disagrees_with_the_data_is_refused(shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"
    with pytest.raises(InvalidRequest) as caught:
        CODEC.decode_npy(npy_of(header, np.zeros(4, "<f4").tobytes()))
    assert caught.value.status == 400


@pytest.mark.parametrize("shape", ["(0, 9999999999999999999)", "(4611686018427387904, 0, 4)"])
def test_a_shape_without_data_that_overflows_is_refused(shape: str) -> None:
    with pytest.raises(InvalidTensor, match="which is not the 0 bytes"):
        CODEC.decode_npy(npy_of(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"))


@pytest.mark.parametrize(
    "header",
    ["(" * 5000, "-" * 9000 + "1", "1" + "+1" * 4900, "{[]: 1}", "{'a'", "a b"],
    ids=["parentheses", "signs", "sums", "unhashable", "open", "no literal"],
)
def test_a_hostile_header_is_no_array(header: str) -> None:
    with pytest.raises(InvalidRequest, match=r"no \.npy array"):
        CODEC.decode_npy(npy_of(header))


def test_an_array_of_another_dtype_is_named() -> None:
    with pytest.raises(InvalidTensor, match="array of float64, expected FP32"):
        CODEC.decode_npy(npy(np.zeros((1, 4))))


@given(st.binary(max_size=200))
def test_no_bytes_at_all_crash_the_reader(body: bytes) -> None:
    with suppress(InvalidRequest, UnsupportedMedia):
        CODEC.decode_npy(body)
