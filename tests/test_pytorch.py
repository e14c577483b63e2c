"""PyTorch models, exported programs and TorchScript: signatures, values and the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_sessions import floats, open_model

from mdslite.deployments import load
from mdslite.errors import LoadFailed, ModelError, SpecError
from mdslite.runtimes.protocol import Signature, TensorSpec

pytest.importorskip("torch")
import torch
import torch_models as tm
from torch.export import Dim


def only_input(signature: Signature) -> TensorSpec:
    (found,) = signature.inputs
    return found


# Exported programs


def test_an_exported_program_says_its_signature(tmp_path: Path) -> None:
    signature = open_model(tm.export(tmp_path / "m.pt2", tm.Mlp(), torch.zeros(2, 4))).signature
    assert signature == Signature(
        (TensorSpec("x", "FP32", (None, 4)),), (TensorSpec("output", "FP32", (None, 3)),), "free"
    )


def test_an_exported_program_computes_what_the_module_does(tmp_path: Path) -> None:
    module = tm.Mlp()
    session = open_model(tm.export(tmp_path / "m.pt2", module, torch.zeros(2, 4)))
    for rows in (1, 2, 3, 32):
        given = floats(rows, 4)
        (answer,) = session.run({"x": given})
        np.testing.assert_allclose(answer, module(torch.from_numpy(given)).detach().numpy(), rtol=1e-6)


def test_a_first_dimension_that_was_not_exported_free_is_fixed(tmp_path: Path) -> None:
    one = open_model(tm.export(tmp_path / "1.pt2", tm.Mlp(), torch.zeros(1, 4), shapes=({},))).signature
    assert (one.rows, only_input(one).shape) == ("one", (1, 4))
    two = open_model(tm.export(tmp_path / "2.pt2", tm.Mlp(), torch.zeros(2, 4), shapes=({},))).signature
    assert (two.rows, only_input(two).shape) == ("none", (2, 4))


def test_outputs_are_named_by_their_place(tmp_path: Path) -> None:
    path = tm.export(tmp_path / "m.pt2", tm.Named(), torch.zeros(3, 2), torch.zeros(3, 2))
    session = open_model(path)
    assert [one.name for one in session.signature.inputs] == ["a", "b"]
    assert session.signature.outputs == (
        TensorSpec("sum", "FP32", (None, 2)),
        TensorSpec("parts.0", "FP32", (None,)),
        TensorSpec("parts.1", "FP32", (None, 1)),
    )
    a, b = floats(2, 2), floats(2, 2) + 1
    total, first, second = session.run({"b": b, "a": a})
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_array_equal(first, a.sum(1))
    np.testing.assert_array_equal(second, b[:, :1])
    pair = open_model(tm.export(tmp_path / "p.pt2", tm.Pair(), torch.zeros(3, 2))).signature
    assert [one.name for one in pair.outputs] == ["output_0", "output_1"]


def test_what_an_example_left_out_stays_out(tmp_path: Path) -> None:
    class Scaled(tm.Module):
        def forward(self, x: Any, mask: Any = None, scale: float = 1.0) -> Any:
            return {"y": x * scale if mask is None else x * mask, "nothing": None}

    shapes = {"x": {0: tm.ROWS}, "scale": None}
    session = open_model(tm.export(tmp_path / "m.pt2", Scaled(), torch.zeros(2, 2), shapes=shapes, scale=3.0))
    assert [one.name for one in session.signature.inputs] == ["x"]
    assert [one.name for one in session.signature.outputs] == ["y"]
    np.testing.assert_array_equal(session.run({"x": floats(2, 2)})[0], 3 * floats(2, 2))


def test_a_size_that_counts_more_than_rows_is_no_row_dimension(tmp_path: Path) -> None:
    class Similarity(tm.Module):
        def forward(self, x: Any) -> Any:
            return x @ x.T

    path = tm.export(tmp_path / "m.pt2", Similarity(), torch.zeros(3, 2))
    assert open_model(path).signature.rows == "none"


def test_inputs_of_different_free_sizes_have_no_rows(tmp_path: Path) -> None:
    class Cross(tm.Module):
        def forward(self, a: Any, b: Any) -> Any:
            return a @ b.T

    shapes = ({0: Dim("m")}, {0: Dim("n")})
    path = tm.export(tmp_path / "m.pt2", Cross(), torch.zeros(3, 2), torch.zeros(5, 2), shapes=shapes)
    session = open_model(path)
    assert session.signature.rows == "none"
    assert session.run({"a": floats(2, 2), "b": floats(4, 2)})[0].shape == (2, 4)


def test_more_rows_than_were_exported_run_in_parts(tmp_path: Path) -> None:
    path = tm.export(tmp_path / "m.pt2", tm.Pair(), torch.zeros(3, 2), shapes=({0: Dim("rows", max=4)},))
    session = open_model(path)
    assert session.signature.rows == "free"
    given = floats(10, 2)
    doubled, total = session.run({"x": given})
    np.testing.assert_array_equal(doubled, 2 * given)
    np.testing.assert_allclose(total, given.sum(1))


def test_a_least_number_of_rows_makes_them_no_rows(tmp_path: Path) -> None:
    path = tm.export(tmp_path / "m.pt2", tm.Pair(), torch.zeros(8, 2), shapes=({0: Dim("rows", min=4)},))
    session = open_model(path)
    assert session.signature.rows == "none"
    with pytest.raises(ModelError, match='input "x": dimension 0 is 3, but was exported to be at least 4'):
        session.run({"x": floats(3, 2)})


def test_sizes_keep_to_what_they_were_exported_for(tmp_path: Path) -> None:
    length = Dim("length", max=64)
    shapes = ({0: tm.ROWS, 1: length}, {0: tm.ROWS, 1: length})
    example = torch.zeros(3, 7, dtype=torch.long)
    session = open_model(tm.export(tmp_path / "m.pt2", tm.Tokens(), example, example, shapes=shapes))
    assert session.signature.rows == "free"
    ids = np.ones((2, 9), np.int64)
    assert session.run({"ids": ids, "mask": ids})[0].shape == (2, 5)
    with pytest.raises(ModelError, match='"mask": dimension 1 is 8, but dimension 1 of "ids" is 9'):
        session.run({"ids": ids, "mask": ids[:, :8].copy()})
    long = np.ones((2, 65), np.int64)
    with pytest.raises(ModelError, match='"ids": dimension 1 is 65, but was exported to be at most 64'):
        session.run({"ids": long, "mask": long})


def test_a_size_that_has_to_be_even_is_checked(tmp_path: Path) -> None:
    class Halves(tm.Module):
        def forward(self, x: Any) -> Any:
            return x.reshape(x.shape[0], 2, -1).sum(1)

    shapes = ({0: tm.ROWS, 1: 2 * Dim("half", min=1)},)
    session = open_model(tm.export(tmp_path / "m.pt2", Halves(), torch.zeros(3, 8), shapes=shapes))
    assert session.run({"x": floats(2, 6)})[0].shape == (2, 3)
    with pytest.raises(ModelError, match="dimension 1 is 5, but was exported to be a multiple of 2"):
        session.run({"x": floats(2, 5)})


def test_a_program_that_changes_its_own_state_is_refused(tmp_path: Path) -> None:
    path = tm.export(tmp_path / "m.pt2", tm.Counter(), torch.zeros(3, 2))
    with pytest.raises(LoadFailed, match=r'm\.pt2: it changes its own "runs" at each run') as caught:
        open_model(path)
    assert "model.eval()" in str(caught.value.hint)


@pytest.mark.parametrize("form", ["export", "script"])
def test_a_model_that_writes_to_its_input_leaves_the_caller_s_alone(tmp_path: Path, form: str) -> None:
    if form == "export":
        session = open_model(tm.export(tmp_path / "m.pt2", tm.Writer(), torch.zeros(3, 2)))
    else:
        stated = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
        session = open_model(tm.script(tmp_path / "m.pt", tm.Writer()), inputs=[stated])
    given = np.frombuffer(floats(2, 2).tobytes(), np.float32).reshape(2, 2)
    for _ in range(2):
        np.testing.assert_array_equal(session.run({"x": given})[0], floats(2, 2) + 1)
    np.testing.assert_array_equal(given, floats(2, 2))


def test_a_program_is_told_apart_by_its_content_not_its_name(tmp_path: Path) -> None:
    exported = tm.export(tmp_path / "m.pt2", tm.Mlp(), torch.zeros(2, 4)).rename(tmp_path / "m.pt")
    assert open_model(exported).signature.rows == "free"
    scripted = tm.script(tmp_path / "s.ts", tm.Mlp()).rename(tmp_path / "model.pt2")
    assert open_model(scripted).signature.rows == "free"


# TorchScript


def test_a_trace_says_its_inputs_and_its_rows_are_tried(tmp_path: Path) -> None:
    signature = open_model(tm.trace(tmp_path / "m.pt", tm.Mlp(), torch.zeros(2, 4))).signature
    assert signature == Signature(
        (TensorSpec("x", "FP32", (None, 4)),), (TensorSpec("output", "FP32", (None, 3)),), "free"
    )
    tokens = torch.zeros(3, 7, dtype=torch.long)
    signature = open_model(tm.trace(tmp_path / "t.pt", tm.Tokens(), tokens, tokens)).signature
    assert [(one.datatype, one.shape) for one in signature.inputs] == [("INT64", (None, 7))] * 2


def test_a_trace_that_holds_on_to_its_rows_keeps_its_example_s_shape(tmp_path: Path) -> None:
    class Flat(tm.Module):
        def forward(self, x: Any) -> Any:
            return x.reshape(2, -1)

    signature = open_model(tm.trace(tmp_path / "m.pt", Flat(), torch.zeros(2, 3, 2))).signature
    assert (signature.rows, only_input(signature).shape) == ("none", (2, 3, 2))


def test_a_script_says_little_but_its_first_layer_more(tmp_path: Path) -> None:
    linear = open_model(tm.script(tmp_path / "l.pt", tm.Mlp())).signature
    assert (only_input(linear).shape, linear.rows) == ((None, 4), "free")
    convolution = open_model(tm.script(tmp_path / "c.pt", tm.Convolution())).signature
    assert only_input(convolution) == TensorSpec("image", "FP32", (None, 3, None, None))
    assert convolution.outputs == (TensorSpec("output", "FP32", (None, 2, None, None)),)


def test_a_script_that_says_too_little_is_refused_with_what_to_write(tmp_path: Path) -> None:
    path = tm.script(tmp_path / "m.pt", tm.Identity())
    with pytest.raises(LoadFailed, match=r'm\.pt: TorchScript does not say .* the input "x" is') as caught:
        open_model(path)
    assert "container_parameter: {torch: {inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]}}" in str(
        caught.value.hint
    )
    stated = {"name": "x", "datatype": "INT8", "shape": [-1, 2]}
    signature = open_model(path, inputs=[stated]).signature
    assert signature.outputs == (TensorSpec("output", "INT8", (None, 2)),)


def test_what_the_spec_lists_has_to_be_what_forward_takes(tmp_path: Path) -> None:
    path = tm.script(tmp_path / "m.pt", tm.Mlp())
    stated = {"name": "y", "datatype": "FP32", "shape": [-1, 4]}
    with pytest.raises(LoadFailed, match='inputs lists "y", but forward takes "x"'):
        open_model(path, inputs=[stated])
    exported = tm.export(tmp_path / "m.pt2", tm.Mlp(), torch.zeros(2, 4))
    with pytest.raises(LoadFailed, match="an exported program says them itself"):
        open_model(exported, inputs=[stated])
    with pytest.raises(LoadFailed, match="unknown torch setting 'nonsense'"):
        open_model(path, nonsense=1)


def test_the_spec_s_settings_are_typed() -> None:
    text = "deployments: [{project: p, model: m, versions: [{version: v1, spec: {uri: m.pt, "
    text += "container_parameter: {torch: %s}}}]}]"
    good = "{intra_op_threads: 2, inputs: [{name: x, datatype: BF16, shape: [-1, 4]}]}"
    (model,) = load(text % good, file="d.yaml", base=Path("/")).deployments
    torch_settings = model.versions[0].spec.container.torch
    assert torch_settings.inputs is not None and torch_settings.inputs[0].shape == (-1, 4)
    for wrong in (
        "{inputs: [{name: x, datatype: FLOAT, shape: [1]}]}",
        "{inputs: [{name: x}]}",
        "{input: []}",
    ):
        with pytest.raises(SpecError):
            load(text % wrong, file="d.yaml", base=Path("/"))


def test_a_model_that_refuses_zeros_needs_its_outputs_stated(tmp_path: Path) -> None:
    path = tm.script(tmp_path / "m.pt", tm.Refusing())
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    with pytest.raises(LoadFailed, match=r"its outputs are not known, .* nothing but zeros") as caught:
        open_model(path, inputs=inputs)
    assert "outputs: [{name: output" in str(caught.value.hint)
    session = open_model(path, inputs=inputs, outputs=[{"name": "y", "datatype": "FP32", "shape": [-1, 3]}])
    assert session.signature.rows == "free"
    assert session.run({"x": np.ones((2, 4), np.float32)})[0].shape == (2, 3)


def test_an_optional_tensor_of_a_script_may_be_offered_and_left_out(tmp_path: Path) -> None:
    path = tm.script(tmp_path / "m.pt", tm.Masked())
    assert [one.name for one in open_model(path).signature.inputs] == ["x"]
    stated = [
        {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
        {"name": "mask", "datatype": "FP32", "shape": [-1, 1]},
    ]
    session = open_model(path, inputs=stated)
    assert [one.optional for one in session.signature.inputs] == [False, True]
    assert session.signature.rows == "free"
    x = floats(2, 4)
    zeros = np.zeros((2, 1), np.float32)
    np.testing.assert_array_equal(session.run({"x": x, "mask": zeros})[0], np.zeros((2, 3)))
    assert session.run({"x": x})[0].any()


def test_a_script_that_takes_more_than_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match='input "count" is of type int: only tensors can be sent'):
        open_model(tm.script(tmp_path / "m.pt", tm.Repeat()))


def test_dictionaries_of_a_script_name_its_outputs(tmp_path: Path) -> None:
    session = open_model(tm.trace(tmp_path / "m.pt", tm.Pair(), torch.zeros(3, 2)))
    assert [one.name for one in session.signature.outputs] == ["output_0", "output_1"]
    doubled, total = session.run({"x": floats(2, 2)})
    np.testing.assert_array_equal(doubled, 2 * floats(2, 2))
    np.testing.assert_allclose(total, floats(2, 2).sum(1))
