"""Which ONNX models a request could take the whole process with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hazardous_models
import models
import onnx
import pytest
from hazardous_models import divided_by, division, growing, per_column, recurrent, scaled, widened

from mdslite.runtimes.onnx import OnnxRuntime

Build = Callable[[Path], Path]


def hazards(path: Path) -> tuple[str, ...]:
    return OnnxRuntime().find_hazards(path)[0]


def filled(path: Path) -> str | None:
    return OnnxRuntime().find_hazards(path)[1]


@pytest.mark.parametrize("operator", ["Div", "Mod"])
@pytest.mark.parametrize("datatype", ["INT32", "INT64"])
def test_a_division_of_whole_numbers_is_one(tmp_path: Path, operator: str, datatype: str) -> None:
    assert hazards(division(tmp_path / "m.onnx", operator, datatype)) == (operator,)


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "FP16", "INT8", "UINT64"])
def test_a_division_of_what_the_processor_divides_is_none(tmp_path: Path, datatype: str) -> None:
    for operator in ("Div", "Mod"):
        assert hazards(division(tmp_path / "m.onnx", operator, datatype)) == ()


def test_the_type_of_what_is_divided_is_followed_through_the_graph(tmp_path: Path) -> None:
    assert hazards(scaled(tmp_path / "m.onnx")) == ()
    assert hazards(scaled(tmp_path / "m.onnx", to=onnx.TensorProto.INT32)) == ("Div",)


@pytest.mark.parametrize("typed", ["raw", "values", "node"])
def test_a_divisor_that_the_model_holds_is_none_but_for_minus_one(tmp_path: Path, typed: str) -> None:
    assert hazards(divided_by(tmp_path / "m.onnx", [7, -3], typed=typed)) == ()  # type: ignore[arg-type]
    assert hazards(divided_by(tmp_path / "m.onnx", [7, -1], typed=typed)) == ("Mod",)  # type: ignore[arg-type]


def test_a_divisor_that_counts_columns_is_none(tmp_path: Path) -> None:
    assert hazards(per_column(tmp_path / "m.onnx")) == ()


def test_a_tensor_as_large_as_a_request_says_is_one_and_as_large_as_its_shape_says_is_none(
    tmp_path: Path,
) -> None:
    assert hazards(growing(tmp_path / "m.onnx")) == ("Expand",)
    assert hazards(widened(tmp_path / "m.onnx")) == ()


@pytest.mark.parametrize("operator", ["GRU", "LSTM"])
def test_a_recurrent_layer_is_one_only_where_its_input_may_lose_all_its_steps_on_the_way(
    tmp_path: Path, operator: str
) -> None:
    assert hazards(recurrent(tmp_path / "m.onnx", operator=operator)) == ()
    assert filled(recurrent(tmp_path / "m.onnx", operator=operator)) == operator
    assert hazards(recurrent(tmp_path / "m.onnx", operator=operator, drop=1)) == (operator,)


def test_what_cannot_be_read_for_sure_counts_as_one(tmp_path: Path) -> None:
    assert hazards(hazardous_models.function(tmp_path / "m.onnx")) == ("Div",)
    (tmp_path / "m.ort").write_bytes(b"\x00\x00\x00\x00ORTM")
    assert hazards(tmp_path / "m.ort") == ("operators that cannot be read",)


@pytest.mark.parametrize("build", [models.mlp, models.identity, models.add, models.classifier, models.words])
def test_models_of_other_operators_have_none(tmp_path: Path, build: Build) -> None:
    assert (hazards(build(tmp_path / "m.onnx")), filled(tmp_path / "m.onnx")) == ((), None)
