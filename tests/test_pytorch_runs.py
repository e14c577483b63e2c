"""Runs of PyTorch models: every datatype, threads, time, memory, and what is said when one fails."""

from __future__ import annotations

import contextlib
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import NUMBERS
from torch_sessions import floats, open_model

from mdslite.errors import DeadlineExceeded, LoadFailed, ModelError, OutOfMemory, Unavailable
from mdslite.packing import to_bfloat16
from mdslite.runtimes.confined import ConfinedRuntime
from mdslite.runtimes.machine import cores
from mdslite.runtimes.protocol import NUMPY_DTYPES, Device, LoadOptions
from mdslite.runtimes.pytorch import TorchRuntime
from mdslite.runtimes.pytorch_engine import reason, run_error

pytest.importorskip("torch")
import torch
import torch_models as tm

DEADLINE_S = 30.0


# Values


@pytest.mark.parametrize(
    "datatype",
    NUMBERS,
)
def test_every_datatype_goes_in_and_comes_out(tmp_path: Path, datatype: str) -> None:
    given = np.arange(6).reshape(2, 3).astype(NUMPY_DTYPES[datatype])
    session = open_model(tm.export(tmp_path / "m.pt2", tm.Identity(), torch.from_numpy(given)))
    assert session.signature.inputs[0].datatype == session.signature.outputs[0].datatype == datatype
    (answer,) = session.run({"x": given})
    assert answer.dtype == given.dtype
    np.testing.assert_array_equal(answer, given)


def test_bfloat16_travels_as_bit_patterns(tmp_path: Path) -> None:
    class Doubled(tm.Module):
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
    class Complex(tm.Module):
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
    class Branches(tm.Module):
        def forward(self, x: Any) -> Any:
            return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))

    assert open_model(tm.export(tmp_path / "m.pt2", tm.Mlp(), torch.zeros(2, 4))).bounded
    session = open_model(tm.export(tmp_path / "b.pt2", Branches(), torch.ones(2, 2)))
    assert not session.bounded
    np.testing.assert_array_equal(session.run({"x": np.ones((1, 2), np.float32)})[0], [[2, 2]])


def test_a_division_of_whole_numbers_that_cuts_off_could_end_the_process(tmp_path: Path) -> None:
    whole, real = torch.ones(2, 2, dtype=torch.int64), torch.ones(2, 2)
    assert open_model(tm.export(tmp_path / "w.pt2", tm.Division(), whole, whole.clone())).hazards == (
        "aten::div",
    )
    assert open_model(tm.export(tmp_path / "r.pt2", tm.Division(), real, real.clone())).hazards == ()
    scripted = tm.trace(tmp_path / "s.pt", tm.Division(), whole, whole.clone())
    inputs = [{"name": name, "datatype": "INT64", "shape": [-1, 2]} for name in "xy"]
    outputs = [{"name": "output", "datatype": "INT64", "shape": [-1, 2]}]  # it refuses zeros
    assert open_model(scripted, inputs=inputs, outputs=outputs).hazards == ("aten::div",)
    assert open_model(tm.script(tmp_path / "m.pt", tm.Mlp())).hazards == ()
    with (
        pytest.raises(Unavailable, match="SIGFPE"),
        contextlib.closing(ConfinedRuntime("PYTORCH").open(tmp_path / "w.pt2", LoadOptions())) as session,
    ):
        session.run({"x": np.full((1, 2), -(2**63)), "y": np.full((1, 2), -1)})


def test_an_exported_program_whose_sizes_are_in_the_data_is_not_bounded(tmp_path: Path) -> None:
    class Positive(tm.Module):
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
