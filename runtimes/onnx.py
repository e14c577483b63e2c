"""ONNX models, computed by ONNX Runtime on the CPU or a GPU. Owns the session's options and the translation
of values and errors; which providers there are is `engine`'s affair, what a message means `failures`'.

What ONNX Runtime 1.31 was seen to do with the arrays it is given, which `OnnxSession.run` rests on:

* read-only arrays (`np.frombuffer` over bytes) and arrays of no rows are taken, the former without a copy;
* strided and transposed arrays are read rightly by `run`, but an `OrtValue` over one reads what lies behind
  its first element: bfloat16 arrays are made contiguous here;
* big-endian arrays are read as if they were native, in silence: they are converted here;
* float16 goes in and out as NumPy's; bfloat16 only as an `OrtValue` over uint16, and comes out as one whose
  `numpy()` refuses it, so that its bytes are copied from its address;
* `bind_cpu_input` knows no optional input (an `optional(tensor)` or an initializer), but an `OrtValue` may be
  bound to each; there is none of strings, so that these go in by `run` only;
* strings may be `str` in object arrays; anything else in them is stored as its `str()`, bytes as "b'...'".
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mdslite.errors import LoadFailed, Unavailable, quoted
from mdslite.runtimes import engine
from mdslite.runtimes.failures import load_error, run_error
from mdslite.runtimes.graph import check_locations, read_graph
from mdslite.runtimes.hazards import find_filled, find_hazards
from mdslite.runtimes.machine import cores
from mdslite.runtimes.protocol import (
    NUMPY_DTYPES,
    Device,
    LoadOptions,
    Outputs,
    RunHandle,
    Signature,
)
from mdslite.runtimes.signature import read_signature

_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
# Below this, two threads made a 64-64-10 MLP slower from 16 rows on; a megabyte of weights is worth them.
_SMALL_BYTES = 1 << 20
_SPIN_US = 100  # from one operator to the next, and to a run that follows soon
_SPIN_SINCE = (1, 31)  # an older onnxruntime may know no such bound, and spin for milliseconds
_OPTIMIZATIONS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_SETTINGS = frozenset(
    {
        "cpu_mem_arena", "gpu_mem_limit_mb", "graph_optimization", "inter_op_threads", "intra_op_threads",
        "mem_pattern", "tensorrt",
    }
)  # fmt: skip


class OnnxRuntime:
    """Opens ONNX models: a file, or a folder that holds one model and the files with its weights."""

    name = "ONNXRUNTIME"

    def open(self, path: Path, options: LoadOptions) -> OnnxSession:
        """Open the model at `path` on the options' device.

        :raises LoadFailed: onnxruntime refuses it, or does not compute on the device that was asked for
        :raises OutOfMemory: the device has no room for it
        """
        model = find_model(path)
        settings = {key: value for key, value in options.settings.items() if value is not None}
        providers = engine.providers_for(options.device, settings)
        made = _session_options(path, options.threads, settings)
        if options.device.kind == "cuda":
            engine.preload_cuda()
        try:
            session = engine.open_session(str(model), made, providers)
        except engine.exceptions() as exc:
            raise load_error(exc, model=model.name, folder=model.parent) from exc
        _check_providers(session.get_providers(), providers, options.device)
        return OnnxSession(
            session, device=options.device, folder=model.parent, threads=made.intra_op_num_threads
        )

    def prepare(self) -> None:
        """Import the library."""
        engine.load()

    def inspect(self, path: Path) -> bool:
        """Look into the file at `path` without opening it: does a run's time depend on its input's size only?

        :raises LoadFailed: weights are kept anywhere but in plain files beside the model
        """
        model = find_model(path)
        graph = read_graph(model)
        check_locations(graph, model.parent)
        return graph.bounded

    def find_hazards(self, path: Path) -> tuple[tuple[str, ...], str | None]:
        graph = read_graph(find_model(path))
        return find_hazards(graph), find_filled(graph)


class OnnxHandle:
    """Stops one run; `options` go with the run."""

    __slots__ = ("options", "terminated")

    def __init__(self, options: Any) -> None:
        self.options = options
        self.terminated = False

    def terminate(self) -> None:
        """Stop the run between two operators, or two turns of a loop; one long operator goes on."""
        self.terminated = True
        self.options.terminate = True


class OnnxSession:
    """An open model. See `protocol.Session` for the contract."""

    def __init__(self, session: Any, *, device: Device, folder: Path, threads: int) -> None:
        self.signature: Signature = read_signature(session)
        self.device = device
        self.provider: str = session.get_providers()[0]
        self.threads = threads
        self._folder = folder
        self._run_options = engine.load().RunOptions
        self._failures = engine.exceptions()
        self._names = [one.name for one in self.signature.outputs]
        inputs = (*self.signature.inputs, *self.signature.shared)
        self._bfloats = frozenset(one.name for one in inputs if one.datatype == "BF16")
        # The dtypes that go to the library as they are: NumPy's built-in ones are singletons, so that a
        # glance finds the arrays that need no work.
        self._dtypes = {
            one.name: NUMPY_DTYPES[one.datatype] for one in inputs if one.name not in self._bfloats
        }
        datatypes = {one.datatype for one in self.signature.outputs}
        self._finish: Callable[[Any], Outputs] | None = _jsonable if "OBJECT" in datatypes else None
        self._compute: Callable[..., Any] = (
            partial(_run_bound, session, engine.load().OrtValue.ortvalue_from_numpy)
            if "BF16" in datatypes
            else session.run
        )

    def handle(self) -> OnnxHandle:
        return OnnxHandle(self._run_options())

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], handle: RunHandle | None = None) -> Outputs:
        options = None
        if handle is not None:
            assert isinstance(handle, OnnxHandle)
            options = handle.options
        dtypes = self._dtypes
        for name, array in feeds.items():
            if array.dtype is not dtypes.get(name):
                feeds = {one: self._prepare(one, feeds[one]) for one in feeds}
                break
        try:
            outputs = self._compute(self._names, feeds, options)
        except self._failures as exc:
            terminated = isinstance(handle, OnnxHandle) and handle.terminated
            raise run_error(exc, terminated=terminated, folder=self._folder) from exc
        return outputs if self._finish is None else self._finish(outputs)

    def close(self) -> None:
        """Free the model's memory, once the runs under way are over."""
        self._compute = _closed

    def _prepare(self, name: str, array: np.ndarray[Any, Any]) -> Any:
        """What ONNX Runtime reads rightly: native byte order, and an OrtValue for bfloat16."""
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if name in self._bfloats and array.dtype == np.uint16:
            array = np.ascontiguousarray(array)
            return engine.load().OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
        return array


def find_model(path: Path) -> Path:
    """Find the model's file at `path`: itself, or the one that a folder holds.

    :raises LoadFailed: no model there, or several and none called model.onnx
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise LoadFailed(f"there is no model file {path.name}")
    found = sorted(one for one in path.iterdir() if one.suffix == ".onnx")
    for one in found:
        if len(found) == 1 or one.name == "model.onnx":
            return one
    names = ", ".join(one.name for one in found[:5]) or "no .onnx file"
    raise LoadFailed(
        f"the folder holds {names}: expected one .onnx file, or one called model.onnx",
        hint="name the file itself instead of its folder, or call it model.onnx",
    )


def _session_options(path: Path, threads: int | None, settings: Mapping[str, Any]) -> Any:
    unknown = sorted(settings.keys() - _SETTINGS)
    if unknown:
        raise LoadFailed(
            f"unknown onnxruntime setting {quoted(unknown[0])}: expected {', '.join(sorted(_SETTINGS))}"
        )
    level = settings.get("graph_optimization", "all")
    if level not in _OPTIMIZATIONS:
        raise LoadFailed(f"graph_optimization {quoted(level)}: expected {', '.join(_OPTIMIZATIONS)}")
    runtime = engine.load()
    made = engine.session_options()
    made.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, _OPTIMIZATIONS[level])
    default = 1 if _size_bytes(path) < _SMALL_BYTES else cores()
    made.intra_op_num_threads = settings.get("intra_op_threads", threads or default)
    made.inter_op_num_threads = settings.get("inter_op_threads", 1)
    parallel = made.inter_op_num_threads > 1
    made.execution_mode = (
        runtime.ExecutionMode.ORT_PARALLEL if parallel else runtime.ExecutionMode.ORT_SEQUENTIAL
    )
    # Threads that spin for long take the cores from other models and from the event loop; those that never do
    # have to be woken for every operator.
    spins = tuple(map(int, runtime.__version__.split(".")[:2])) >= _SPIN_SINCE
    made.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    made.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US * spins))
    made.add_session_config_entry("session.inter_op.allow_spinning", "0")
    made.enable_cpu_mem_arena = settings.get("cpu_mem_arena", True)
    # Memory patterns are for one order of operators; the library warns when both are on.
    made.enable_mem_pattern = settings.get("mem_pattern", True) and not parallel
    return made


def _size_bytes(path: Path) -> int:
    """The size of a model's file, or of all files in its folder."""
    files = [path] if not path.is_dir() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files if one.exists())


def _check_providers(given: list[str], asked: list[engine.Provider], device: Device) -> None:
    """Refuse a session that silently computes elsewhere than was asked for."""
    wanted = [one if isinstance(one, str) else one[0] for one in asked]
    if engine.TENSORRT_PROVIDER in wanted and engine.TENSORRT_PROVIDER not in given:
        raise LoadFailed(f"TensorRT was asked for, but does not load: {engine.tensorrt_problem()}")
    if device.kind == "cuda" and engine.CUDA_PROVIDER not in given:
        why = engine.cuda_problem(index=device.index) or "onnxruntime gave no reason"
        raise LoadFailed(
            f"{device.label} was asked for, but onnxruntime would compute on the CPU: {why}",
            hint="mdslite doctor says how to mend it; without resource.gpu the model is served on the CPU",
        )


def _jsonable(outputs: Any) -> Outputs:
    """Turn maps into objects with string keys, and sequences of tensors into nested lists."""
    return [output if isinstance(output, np.ndarray) else _items(output) for output in outputs]


def _items(output: Any) -> list[Any]:
    return [_item(one) for one in (output if isinstance(output, list) else [output])]


def _item(one: Any) -> Any:
    if isinstance(one, dict):
        return {str(key): value for key, value in one.items()}
    return one.tolist() if isinstance(one, np.ndarray) else one


def _run_bound(
    session: Any, wrap: Callable[..., Any], names: list[str], feeds: Mapping[str, Any], options: Any
) -> list[Any]:
    """Run with outputs as OrtValues on the CPU, the only way to a bfloat16 output's bytes."""
    # They lie over the arrays' memory, and have to live for as long as the run.
    values = {
        name: wrap(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
        for name, value in feeds.items()
    }
    binding = session.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for name in names:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding, options)
    return [_array(value) for value in binding.get_outputs()]


def _array(value: Any) -> np.ndarray[Any, Any]:
    """An OrtValue's tensor; a bfloat16 one as a copy of its bit patterns."""
    if value.element_type() != _BFLOAT16:
        return value.numpy()  # type: ignore[no-any-return]
    shape = tuple(value.shape())
    count = math.prod(shape)
    if not count:
        return np.empty(shape, np.uint16)
    memory = (ctypes.c_uint16 * count).from_address(value.data_ptr())
    return np.frombuffer(memory, np.uint16).reshape(shape).copy()


def _closed(*_: Any) -> Any:
    raise Unavailable("the model was taken down while this was waiting", retry_after_s=1)
