"""Which ONNX models are known to be timed by the shapes of their inputs, and may run on the event loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import numpy as np
import odd_models
import onnx
import onnxruntime
import pytest
from computed import array_of
from sized_models import COLUMNS, SIZED, Source, sized

from mdslite.runtimes.onnx import OnnxRuntime
from mdslite.runtimes.protocol import LoadOptions


def is_timed(path: Path) -> bool:
    return OnnxRuntime().inspect(path)


def outcome(path: Path, **inputs: Any) -> Any:
    """What a model gives for three rows, which shows that it is one."""
    session = OnnxRuntime().open(path, LoadOptions())
    try:
        return session.run({"x": np.ones((3, COLUMNS), np.float32), **inputs})[0]
    finally:
        session.close()


def test_control_flow_is_not_timed(tmp_path: Path) -> None:
    assert is_timed(models.mlp(tmp_path / "a.onnx"))
    assert not is_timed(models.loop(tmp_path / "b.onnx"))
    assert not is_timed(odd_models.optional(tmp_path / "c.onnx"))


@pytest.mark.parametrize(
    ("operator", "domain", "timed"),
    [
        ("Relu", "", True), ("TreeEnsembleRegressor", "ai.onnx.ml", True),
        ("QGemm", "com.microsoft", True),
        ("ImageDecoder", "", False), ("RoiAlign", "", False), ("NonMaxSuppression", "", False),
        ("Whatever", "com.example", False),
    ],
)  # fmt: skip
def test_only_operators_that_are_known_to_be_timed_by_shapes_are(
    tmp_path: Path, operator: str, domain: str, timed: bool
) -> None:
    node = onnx.helper.make_node(operator, ["x"], ["y"], domain=domain)
    x, y = models.tensor("x", "FP32", ["N", 2]), models.tensor("y", "FP32", ["N", 2])
    assert is_timed(models.save(tmp_path / "m.onnx", [node], [x], [y])) is timed


@pytest.mark.parametrize("operator", SIZED)
def test_a_size_that_a_request_says_is_not_timed_and_any_other_is(tmp_path: Path, operator: str) -> None:
    asked = sized(tmp_path / "asked.onnx", operator, "request")
    expected = outcome(asked, size=np.array(SIZED[operator][0], np.int64))
    assert not is_timed(asked)
    for source in ("initializer", "constant", "shapes"):
        path = sized(tmp_path / f"{source}.onnx", operator, source)
        np.testing.assert_array_equal(outcome(path), expected)
        assert is_timed(path), source


@pytest.mark.parametrize("source", ["default", "random"])
def test_nor_is_a_size_that_a_request_may_say_or_that_changes_by_itself(
    tmp_path: Path, source: Source
) -> None:
    path = sized(tmp_path / "m.onnx", "Slice", source)
    assert outcome(path).shape == (3, 3)
    assert not is_timed(path)


def test_sizes_that_old_files_list_as_inputs_are_constants(tmp_path: Path) -> None:
    path = sized(tmp_path / "m.onnx", "Slice", "initializer")
    model = onnx.load(path)
    model.ir_version = 3
    for weight in model.graph.initializer:
        model.graph.input.add().CopyFrom(
            onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        )
    onnx.save(model, path)
    session = OnnxRuntime().open(path, LoadOptions())
    assert [one.name for one in (*session.signature.inputs, *session.signature.shared)] == ["x"]
    assert is_timed(path)


def test_a_size_worked_out_from_data_is_not_timed(tmp_path: Path) -> None:
    assert not is_timed(models.hungry(tmp_path / "a.onnx"))
    assert not is_timed(odd_models.collapsing(tmp_path / "b.onnx"))
    assert is_timed(odd_models.unranked(tmp_path / "c.onnx"))  # its sizes come from shapes, by a long way


def test_what_functions_call_an_operator_is_another_one(tmp_path: Path) -> None:
    """A function called Shape that gives data is no reason to trust a size."""
    opset = [onnx.helper.make_opsetid("", models.OPSET), onnx.helper.make_opsetid("f", 1)]
    body = [onnx.helper.make_node("Cast", ["a"], ["b"], to=onnx.TensorProto.INT64)]
    x, y = models.tensor("x", "FP32", [2]), models.tensor("y", "FP32", [None, None])
    nodes = [
        onnx.helper.make_node("Shape", ["x"], ["size"], domain="f"),
        onnx.helper.make_node("ConstantOfShape", ["size"], ["y"]),
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [x], [y]),
        opset_imports=opset,
        ir_version=models.IR_VERSION,
        functions=[onnx.helper.make_function("f", "Shape", ["a"], ["b"], body, opset)],
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    session = OnnxRuntime().open(path, LoadOptions())
    assert array_of(session.run({"x": np.array([2, 3], np.float32)})[0]).shape == (2, 3)
    assert not is_timed(path)


@pytest.mark.parametrize("kept", [0, 0.9])
def test_a_file_that_cannot_be_read_to_its_end_is_not_timed(tmp_path: Path, kept: float) -> None:
    path = models.mlp(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert not is_timed(path)


def test_a_file_in_onnxruntime_s_own_format_is_not_timed(tmp_path: Path) -> None:
    path = tmp_path / "m.ort"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(models.loop(tmp_path / "m.onnx"), options)
    OnnxRuntime().open(path, LoadOptions()).close()
    assert not is_timed(path)
