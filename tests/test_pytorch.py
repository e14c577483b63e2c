"""PyTorch models, exported programs and TorchScript: signatures, values, errors and the settings."""

from __future__ import annotations

import gc
import importlib
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdslite.deployments import load
from mdslite.errors import DeadlineExceeded, LoadFailed, ModelError, OutOfMemory, SpecError, Unavailable
from mdslite.packing import to_bfloat16
from mdslite.runtimes.machine import cores
from mdslite.runtimes.protocol import NUMPY_DTYPES, Device, LoadOptions, Signature, TensorSpec
from mdslite.runtimes.pytorch import TorchRuntime, TorchSession
from mdslite.runtimes.pytorch_engine import reason, run_error

torch = pytest.importorskip("torch")
tm = importlib.import_module("torch_models")
Dim = torch.export.Dim

DEADLINE_S = 30.0


def open_model(path: Path, **settings: Any) -> TorchSession:
    return TorchRuntime().open(path, LoadOptions(settings=settings))


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


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
    class Scaled(torch.nn.Module):
        def forward(self, x: Any, mask: Any = None, scale: float = 1.0) -> Any:
            return {"y": x * scale if mask is None else x * mask, "nothing": None}

    shapes = {"x": {0: tm.ROWS}, "scale": None}
    session = open_model(tm.export(tmp_path / "m.pt2", Scaled(), torch.zeros(2, 2), shapes=shapes, scale=3.0))
    assert [one.name for one in session.signature.inputs] == ["x"]
    assert [one.name for one in session.signature.outputs] == ["y"]
    np.testing.assert_array_equal(session.run({"x": floats(2, 2)})[0], 3 * floats(2, 2))


def test_a_size_that_counts_more_than_rows_is_no_row_dimension(tmp_path: Path) -> None:
    class Similarity(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x @ x.T

    path = tm.export(tmp_path / "m.pt2", Similarity(), torch.zeros(3, 2))
    assert open_model(path).signature.rows == "none"


def test_inputs_of_different_free_sizes_have_no_rows(tmp_path: Path) -> None:
    class Cross(torch.nn.Module):
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
    class Halves(torch.nn.Module):
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
    class Flat(torch.nn.Module):
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


# Values


@pytest.mark.parametrize(
    "datatype",
    [
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
    ],
)
def test_every_datatype_goes_in_and_comes_out(tmp_path: Path, datatype: str) -> None:
    given = np.arange(6).reshape(2, 3).astype(NUMPY_DTYPES[datatype])
    session = open_model(tm.export(tmp_path / "m.pt2", tm.Identity(), torch.from_numpy(given)))
    assert session.signature.inputs[0].datatype == session.signature.outputs[0].datatype == datatype
    (answer,) = session.run({"x": given})
    assert answer.dtype == given.dtype
    np.testing.assert_array_equal(answer, given)


def test_bfloat16_travels_as_bit_patterns(tmp_path: Path) -> None:
    class Doubled(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x + x

    path = tm.export(tmp_path / "m.pt2", Doubled(), torch.zeros(2, 2, dtype=torch.bfloat16))
    session = open_model(path)
    assert session.signature.outputs[0].datatype == "BF16"
    (answer,) = session.run({"x": to_bfloat16(np.array([[1, 2]], np.float32))})
    np.testing.assert_array_equal(answer, to_bfloat16(np.array([[2, 4]], np.float32)))


def test_nan_and_infinity_are_computed(tmp_path: Path) -> None:
    session = open_model(tm.export(tmp_path / "m.pt2", tm.Pair(), torch.zeros(2, 2)))
    _, total = session.run({"x": np.array([[np.inf, 1], [np.nan, 1]], np.float32)})
    np.testing.assert_array_equal(total, [np.inf, np.nan])


def test_a_type_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    class Complex(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.fft.fft(x)

    with pytest.raises(LoadFailed, match='"output" is of type complex64, which cannot be sent'):
        open_model(tm.export(tmp_path / "m.pt2", Complex(), torch.zeros(2, 4)))


def test_runs_from_several_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    session = open_model(tm.export(tmp_path / "m.pt2", tm.Pair(), torch.zeros(2, 2)))
    with ThreadPoolExecutor(4) as pool:
        for number, (doubled, _) in enumerate(
            pool.map(lambda n: session.run({"x": np.full((3, 2), n, np.float32)}), range(64))
        ):
            np.testing.assert_array_equal(doubled, np.full((3, 2), 2 * number))


# Threads, time and memory


def test_a_small_model_takes_one_thread_and_a_large_one_all_cores(tmp_path: Path) -> None:
    small = tm.trace(tmp_path / "s.pt", tm.Mlp(), torch.zeros(2, 4))
    assert open_model(small).threads == 1
    large = tm.trace(tmp_path / "l.pt", tm.Mlp((4, 70_000, 3)), torch.zeros(2, 4))
    assert open_model(large).threads == cores()
    assert open_model(large, intra_op_threads=3).threads == 3
    assert TorchRuntime().open(large, LoadOptions(threads=5)).threads == 5


def test_every_run_has_its_own_number_of_threads(tmp_path: Path) -> None:
    session = open_model(tm.trace(tmp_path / "m.pt", tm.Mlp(), torch.zeros(2, 4)), intra_op_threads=3)

    def run() -> int:
        session.run({"x": floats(2, 4)})
        return int(torch.get_num_threads())

    torch.set_num_threads(1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result(DEADLINE_S) == 3
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("module", "inputs", "bounded"),
    [
        ("Mlp", None, True),
        ("Convolution", None, True),
        ("Turns", [{"name": "turns", "datatype": "INT64", "shape": [-1]}], False),
        ("Hungry", [{"name": "size", "datatype": "INT64", "shape": [-1, 1]}], False),
    ],
)
def test_a_script_is_bounded_unless_its_data_say_how_long_it_takes(
    tmp_path: Path, module: str, inputs: Any, bounded: bool
) -> None:
    path = tm.script(tmp_path / "m.pt", getattr(tm, module)())
    assert open_model(path, **({"inputs": inputs} if inputs else {})).bounded is bounded


def test_an_exported_program_with_branches_is_not_bounded(tmp_path: Path) -> None:
    class Branches(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))

    assert open_model(tm.export(tmp_path / "m.pt2", tm.Mlp(), torch.zeros(2, 4))).bounded
    session = open_model(tm.export(tmp_path / "b.pt2", Branches(), torch.ones(2, 2)))
    assert not session.bounded
    np.testing.assert_array_equal(session.run({"x": np.ones((1, 2), np.float32)})[0], [[2, 2]])


def test_an_exported_program_whose_sizes_are_in_the_data_is_not_bounded(tmp_path: Path) -> None:
    class Positive(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.nonzero(x > 0)

    session = open_model(tm.export(tmp_path / "m.pt2", Positive(), torch.ones(2, 2)))
    assert not session.bounded
    assert session.signature.rows == "none"
    assert session.run({"x": np.array([[1, -1], [0, 2]], np.float32)})[0].tolist() == [[0, 0], [1, 1]]


def test_a_run_that_was_told_to_stop_gives_no_answer(tmp_path: Path) -> None:
    session = open_model(tm.trace(tmp_path / "m.pt", tm.Mlp(), torch.zeros(2, 4)))
    handle = session.handle()
    handle.terminate()
    with pytest.raises(DeadlineExceeded, match="stopped at its deadline"):
        session.run({"x": floats(2, 4)}, handle)


def test_a_closed_session_frees_its_weights_and_answers_nothing(tmp_path: Path) -> None:
    session = open_model(tm.export(tmp_path / "m.pt2", tm.Mlp(), torch.zeros(2, 4)))
    gc.collect()
    weights = [
        weakref.ref(one) for one in gc.get_objects() if type(one) is torch.Tensor and one.shape == (8, 4)
    ]
    assert weights
    session.close()
    assert not any(one() is not None for one in weights)
    with pytest.raises(Unavailable, match="taken down"):
        session.run({"x": floats(2, 4)})


# Errors


@pytest.mark.parametrize("form", ["export", "script"])
def test_an_index_out_of_range_is_the_model_s_error(tmp_path: Path, form: str) -> None:
    if form == "export":
        session = open_model(tm.export(tmp_path / "m.pt2", tm.Gather(), torch.zeros(2, 1, dtype=torch.long)))
    else:
        stated = {"name": "index", "datatype": "INT64", "shape": [-1, 1]}
        session = open_model(tm.script(tmp_path / "m.pt", tm.Gather()), inputs=[stated])
    with pytest.raises(ModelError) as caught:
        session.run({"index": np.array([[1], [99]])})
    assert caught.value.message == (
        "the model failed on this input: index 99 is out of bounds for dimension 0 with size 8"
    )
    np.testing.assert_array_equal(session.run({"index": np.array([[2]])})[0], [[20]])


def test_what_a_script_raises_reaches_the_caller_without_its_trace(tmp_path: Path) -> None:
    stated = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
    output = {"name": "y", "datatype": "FP32", "shape": [-1, 3]}
    session = open_model(tm.script(tmp_path / "m.pt", tm.Refusing()), inputs=[stated], outputs=[output])
    with pytest.raises(ModelError) as caught:
        session.run({"x": np.full((1, 4), -1, np.float32)})
    assert caught.value.message == "the model failed on this input: negative values are not for me"


def test_too_little_memory_is_told_apart_and_the_session_recovers(tmp_path: Path) -> None:
    stated = {"name": "size", "datatype": "INT64", "shape": [-1, 1]}
    session = open_model(tm.script(tmp_path / "m.pt", tm.Hungry()), inputs=[stated])
    with pytest.raises(OutOfMemory) as caught:
        session.run({"size": np.array([[1 << 50]])})
    assert str(tmp_path) not in caught.value.message
    np.testing.assert_array_equal(session.run({"size": np.array([[2]])})[0], [[2]])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", OutOfMemory),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", OutOfMemory),
        ("CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronous", Unavailable),
        ("CUDA error: an illegal memory access was encountered", Unavailable),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`", Unavailable),
        ("CUDA error: invalid configuration argument", ModelError),
        ("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x8)", ModelError),
    ],
)
def test_a_gpu_s_errors_are_told_apart(text: str, error: type[Exception]) -> None:
    assert type(run_error(RuntimeError(text))) is error


def test_a_reason_is_one_line_without_places() -> None:
    error = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
        "to allocate 8 bytes.\nException raised from alloc at ../c10/core.cpp:9 (most recent call first):\n#0"
    )
    assert reason(error) == "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
    assert reason(RuntimeError()) == "RuntimeError"


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA works here")
def test_a_gpu_that_torch_cannot_use_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tm.trace(tmp_path / "m.pt", tm.Mlp(), torch.zeros(2, 4))
    with pytest.raises(
        LoadFailed, match=r"cuda:0 was asked for, but torch .* cannot compute there"
    ) as caught:
        TorchRuntime().open(path, LoadOptions(device=Device("cuda")))
    assert "gpu: 0" in str(caught.value.hint)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA does not work here")
def test_a_gpu_computes_the_same(tmp_path: Path) -> None:
    module = tm.Mlp((4, 70_000, 3))
    given = floats(8, 4)
    for path in (
        tm.export(tmp_path / "m.pt2", module, torch.zeros(2, 4)),
        tm.trace(tmp_path / "m.pt", module, torch.zeros(2, 4)),
    ):
        session = TorchRuntime().open(path, LoadOptions(device=Device("cuda")))
        (answer,) = session.run({"x": given})
        np.testing.assert_allclose(answer, module(torch.from_numpy(given)).detach().numpy(), atol=1e-3)
        session.close()


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tm.trace(tmp_path / "m.pt", tm.Mlp(), torch.zeros(2, 4))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(LoadFailed, match="torch is not installed") as caught:
        open_model(path)
    assert caught.value.hint == "run: pip install 'mdslite[torch]', then restart mdslite"


def test_nothing_imports_torch_before_a_model_needs_it() -> None:
    code = "import sys, mdslite.appliance, mdslite.runtimes.probe; assert 'torch' not in sys.modules"
    importlib.import_module("subprocess").run([sys.executable, "-P", "-c", code], check=True, timeout=60)
