"""Inputs made from a signature, and what a first run teaches about a model."""

from __future__ import annotations

from pathlib import Path

import models
import numpy as np
import odd_models
import pytest
from computed import array_of

from mdslite.errors import OutOfMemory
from mdslite.runtimes.onnx import OnnxRuntime, OnnxSession
from mdslite.runtimes.protocol import NUMPY_DTYPES, LoadOptions, Signature, TensorSpec
from mdslite.runtimes.signature import settle_rows
from mdslite.runtimes.warmup import make_inputs, warm


def open_model(path: Path) -> OnnxSession:
    return OnnxRuntime().open(path, LoadOptions())


@pytest.mark.parametrize("datatype", NUMPY_DTYPES)
def test_made_up_inputs_have_the_signature_s_types(datatype: str) -> None:
    spec = TensorSpec("x", datatype, (None, 3))  # type: ignore[arg-type]
    (made,) = make_inputs(Signature((spec,), (), "free"), 2).values()
    assert made.dtype == NUMPY_DTYPES[datatype]
    assert made.shape == (2, 3)
    assert made.ravel().tolist() == [{"BYTES": "", "BOOL": False}.get(datatype, 0)] * 6


def test_rows_are_counted_in_the_first_dimension_only() -> None:
    inputs = (TensorSpec("a", "FP32", (None, None, 2)), TensorSpec("b", "FP32", (None,)))
    made = make_inputs(Signature(inputs, (), "free"), 5, length=7)
    assert {name: array.shape for name, array in made.items()} == {"a": (5, 7, 2), "b": (5,)}


def test_fixed_dimensions_stay_as_they_are() -> None:
    inputs = (TensorSpec("a", "FP32", (1, 3)), TensorSpec("b", "FP32", ()))
    made = make_inputs(Signature(inputs, (), "none"), 5)
    assert {name: array.shape for name, array in made.items()} == {"a": (1, 3), "b": ()}


def test_optional_inputs_are_left_out() -> None:
    inputs = (TensorSpec("a", "FP32", (None,)), TensorSpec("b", "FP32", (None,), optional=True))
    assert list(make_inputs(Signature(inputs, (), "free"))) == ["a"]


@pytest.mark.parametrize("datatype", models.ONNX_TYPES)
def test_a_model_of_any_datatype_is_warmed(tmp_path: Path, datatype: str) -> None:
    trial = warm(open_model(models.identity(tmp_path / "m.onnx", datatype)))
    assert trial.refusal is None
    assert {rows: array_of(outputs[0]).shape for rows, outputs in trial.outputs.items()} == {
        1: (1, 3),
        2: (2, 3),
    }


def test_a_model_without_rows_is_warmed_once(tmp_path: Path) -> None:
    trial = warm(open_model(models.total(tmp_path / "m.onnx")))
    assert list(trial.outputs) == [1]


def test_a_model_that_refuses_zeros_is_no_failure(tmp_path: Path) -> None:
    trial = warm(open_model(models.gather(tmp_path / "m.onnx", offset=-100)))
    assert trial.outputs == {}
    assert trial.refusal is not None
    assert "out of data bounds" in trial.refusal


def test_longer_inputs_are_tried_where_length_is_free(tmp_path: Path) -> None:
    trial = warm(open_model(models.sixth(tmp_path / "m.onnx")))
    assert trial.refusal is None
    assert array_of(trial.outputs[2][0]).shape == (2,)


def test_a_model_too_large_for_one_row_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory):
        warm(open_model(models.hungry(tmp_path / "m.onnx", extra=1 << 50)))


def test_a_model_whose_rows_do_not_follow_is_not_batched(tmp_path: Path) -> None:
    session = open_model(odd_models.collapsing(tmp_path / "m.onnx"))
    assert session.signature.rows == "free"
    assert settle_rows(session.signature, warm(session).outputs).rows == "none"


def test_a_model_of_unknown_shape_whose_rows_follow_is_batched(tmp_path: Path) -> None:
    session = open_model(odd_models.unranked(tmp_path / "m.onnx"))
    assert session.signature.rows == "none"
    settled = settle_rows(session.signature, warm(session).outputs)
    assert settled.rows == "free"
    assert settled.outputs == (TensorSpec("y", "FP32", (None, None)),)


@pytest.mark.parametrize(
    "build", [models.mlp, models.classifier, odd_models.sequence, models.total, odd_models.optional]
)
def test_a_model_that_says_the_truth_keeps_its_signature(tmp_path: Path, build: object) -> None:
    session = open_model(build(tmp_path / "m.onnx"))  # type: ignore[operator]
    assert settle_rows(session.signature, warm(session).outputs) == session.signature


def test_a_model_that_was_not_warmed_keeps_its_signature(tmp_path: Path) -> None:
    session = open_model(odd_models.unranked(tmp_path / "m.onnx"))
    assert settle_rows(session.signature, {}) == session.signature
    assert np.ndim(session.run({"x": np.ones((2, 2), np.float32)})[0]) == 2
