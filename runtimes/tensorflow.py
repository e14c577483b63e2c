"""SavedModels, computed by TensorFlow on the CPU or a GPU. Owns the session: signature, threads, stopping.

A model is loaded into a `tf.compat.v1.Session` and called through `make_callable`, as TensorFlow Serving does
in C++. `tf.saved_model.load` computes the same, but shares one pool of threads with every other model, and
its functions take 120 µs for a 64-64-10 MLP where the session takes 64 µs.

A run that is told to stop closes its TensorFlow session, which ends the run at its next operator; the next
run loads the model again.
"""

from __future__ import annotations

import gc
import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mdslite.errors import DeadlineExceeded, LoadFailed, Unavailable, quoted
from mdslite.runtimes import tensorflow_engine as engine
from mdslite.runtimes.kinds import SAVED_MODEL_FILE
from mdslite.runtimes.machine import cores
from mdslite.runtimes.protocol import (
    Arrays,
    Device,
    LoadOptions,
    RunHandle,
    Signature,
    TensorSpec,
)
from mdslite.runtimes.signature import count_rows
from mdslite.runtimes.tensorflow_operators import graphs, is_timed

DEFAULT_SIGNATURE = "serving_default"
_SERVE = "serve"  # the tag of the graph to serve
_SMALL_BYTES = 1 << 20  # two threads for less work than that cost more than they save
_SETTINGS = frozenset({"signature"})
# They run Python, or read and write files of this machine.
_REFUSED = frozenset({"EagerPyFunc", "PyFunc", "PyFuncStateless", "ReadFile", "WriteFile"})


class TensorflowRuntime:
    """Opens SavedModels: folders with a saved_model.pb."""

    name = engine.RUNTIME

    def open(self, path: Path, options: LoadOptions) -> TensorflowSession:
        """Open the model at `path` on the options' device.

        :raises LoadFailed: TensorFlow is missing, or refuses it, or its signature cannot be served
        :raises OutOfMemory: the device has no room for it
        """
        tensorflow = engine.load()
        unknown = sorted(options.settings.keys() - _SETTINGS)
        if unknown:
            raise LoadFailed(
                f"unknown tensorflow setting {quoted(unknown[0])}: expected {', '.join(sorted(_SETTINGS))}"
            )
        _check_device(tensorflow, options.device)
        size = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
        threads = options.threads or (1 if size < _SMALL_BYTES else cores())
        loader = _Loader(tensorflow, path, options.settings.get("signature"), options.device, threads)
        return TensorflowSession(tensorflow, loader)

    def prepare(self) -> None:
        """Import TensorFlow.

        :raises LoadFailed: it is not installed
        """
        engine.load()

    def inspect(self, path: Path) -> bool:
        """Look into the file at `path` without opening it: does a run's time depend on its input's size only?

        :raises LoadFailed: it is no SavedModel, or runs Python, or handles files
        """
        engine.load()
        saved = _read(path)
        refused = sorted({node.op for nodes in graphs(saved) for node in nodes} & _REFUSED)
        if refused:
            raise LoadFailed(
                f"the model uses {refused[0]}: a served model may not run Python or handle files"
            )
        return is_timed(saved)

    def find_hazards(self, path: Path) -> tuple[tuple[str, ...], str | None]:
        return (), None


@dataclass(slots=True)
class _Opened:
    """A model that is loaded; `closed` by whoever stopped its last run."""

    session: Any
    signature: Signature
    call: Callable[..., Sequence[Any]]
    names: tuple[str, ...]
    closed: bool = False

    def close(self) -> None:
        self.closed = True
        self.session.close()


@dataclass(frozen=True, slots=True)
class _Loader:
    """How a model is loaded, the first time and again."""

    tensorflow: Any
    path: Path
    signature: str | None
    device: Device
    threads: int

    def load(self) -> _Opened:
        """
        :raises LoadFailed: TensorFlow refuses it, or its signature cannot be served
        :raises OutOfMemory: the device has no room for it
        """
        v1 = self.tensorflow.compat.v1
        try:
            graph = self.tensorflow.Graph()
            with graph.as_default():
                session = v1.Session(graph=graph, config=self._config(v1))
                with v1.device(f"/device:GPU:{self.device.index}" if self.device.kind == "cuda" else None):
                    meta = v1.saved_model.loader.load(session, [_SERVE], str(self.path))
            definition = self._choose(meta.signature_def)
            inputs = sorted(definition.inputs.items())
            outputs = sorted(definition.outputs.items())
            signature = _read_signature(inputs, outputs)
            call = session.make_callable(
                [graph.get_tensor_by_name(one.name) for _, one in outputs],
                feed_list=[graph.get_tensor_by_name(one.name) for _, one in inputs],
            )
        except engine.exceptions(self.tensorflow) as exc:
            raise engine.load_error(self.tensorflow, exc, folder=self.path) from exc
        return _Opened(session, signature, call, tuple(name for name, _ in inputs))

    def _config(self, v1: Any) -> Any:
        config = v1.ConfigProto(
            intra_op_parallelism_threads=self.threads,
            inter_op_parallelism_threads=1,
            use_per_session_threads=True,
            allow_soft_placement=True,
        )
        if self.device.kind == "cpu":
            config.device_count["GPU"] = 0
        config.gpu_options.allow_growth = True
        return config

    def _choose(self, signatures: Mapping[str, Any]) -> Any:
        """The signature that the spec names, or the default one, or the only one."""
        known = sorted(name for name in signatures if not name.startswith("__"))
        wanted = self.signature or (known[0] if len(known) == 1 else DEFAULT_SIGNATURE)
        if wanted not in known:
            named = f'no signature "{wanted}"' if known else "no signature that could be called"
            raise LoadFailed(
                f"the SavedModel has {named}: it has {', '.join(known) or 'none'}",
                hint="name one of them: container_parameter: {tensorflow: {signature: NAME}}"
                if known
                else "save it with signatures: tf.saved_model.save(model, folder, signatures=model.serve)",
            )
        return signatures[wanted]


class TensorflowHandle:
    """Stops one run by closing the session that it runs in."""

    __slots__ = ("opened", "terminated")

    def __init__(self) -> None:
        self.opened: _Opened | None = None
        self.terminated = False

    def terminate(self) -> None:
        self.terminated = True
        opened = self.opened
        if opened is not None:
            opened.close()


class TensorflowSession:
    """An open model. See `protocol.Session` for the contract."""

    def __init__(self, tensorflow: Any, loader: _Loader) -> None:
        self._tensorflow = tensorflow
        self._loader = loader
        self._failures = engine.exceptions(tensorflow)
        self._lock = threading.Lock()
        self._opened: _Opened | None = loader.load()
        self._closed = False
        self.signature = self._opened.signature
        self.device = loader.device
        self.provider = "TensorFlow CPU" if loader.device.kind == "cpu" else "TensorFlow CUDA"
        self.threads = loader.threads
        self._bfloat16 = tensorflow.bfloat16.as_numpy_dtype
        self._bfloats = frozenset(one.name for one in self.signature.inputs if one.datatype == "BF16")

    def handle(self) -> TensorflowHandle:
        return TensorflowHandle()

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], handle: RunHandle | None = None) -> Arrays:
        opened = self._open()
        if isinstance(handle, TensorflowHandle):
            handle.opened = opened
        try:
            arrays = [self._prepare(name, feeds[name]) for name in opened.names]
            outputs = opened.call(*arrays)
        except self._failures as exc:
            if isinstance(handle, TensorflowHandle) and handle.terminated:
                raise DeadlineExceeded("the model's run was stopped at its deadline") from exc
            if opened.closed and not self._closed:
                return self.run(feeds, handle)  # who stopped the run before this one was late
            raise engine.run_error(self._tensorflow, exc) from exc
        if isinstance(handle, TensorflowHandle):
            handle.opened = None
        return [self._finish(one) for one in outputs]

    def close(self) -> None:
        """Free the model's memory, once the runs under way are over."""
        with self._lock:
            self._closed = True
            self._discard()

    def _open(self) -> _Opened:
        opened = self._opened
        if opened is not None and not opened.closed:
            return opened
        with self._lock:
            if self._closed:
                raise Unavailable("the model was taken down while this was waiting", retry_after_s=1)
            if self._opened is None or self._opened.closed:
                self._discard()
                self._opened = self._loader.load()
            return self._opened

    def _discard(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
            del opened
            gc.collect()  # a graph and its operations refer to each other

    def _prepare(self, name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return array.view(self._bfloat16) if name in self._bfloats else array

    def _finish(self, output: Any) -> np.ndarray[Any, Any]:
        array = np.asarray(output)
        return array.view(np.uint16) if array.dtype == self._bfloat16 else array


def _read_signature(inputs: Sequence[tuple[str, Any]], outputs: Sequence[tuple[str, Any]]) -> Signature:
    taken = tuple(_tensor_spec("input", name, info) for name, info in inputs)
    given = tuple(_tensor_spec("output", name, info) for name, info in outputs)
    return Signature(taken, given, count_rows(taken, given))


def _tensor_spec(role: str, name: str, info: Any) -> TensorSpec:
    kind = info.WhichOneof("encoding")
    dtype = _dtype_name(info)
    if kind != "name" or dtype not in engine.DATATYPES:
        what = dtype if kind == "name" else str(kind).removeprefix("coo_").replace("_", " ")
        raise LoadFailed(
            f'{role} "{name}" is of type {what.removeprefix("DT_").lower()}, which cannot be sent'
        )
    if info.tensor_shape.unknown_rank:
        if role == "input":
            raise LoadFailed(
                f'input "{name}" is of unknown rank',
                hint="save the model with a shape: tf.TensorSpec([None, 4], tf.float32)",
            )
        return TensorSpec(name, engine.DATATYPES[dtype], ())  # found out by a run, as ONNX models' are
    shape = tuple(None if one.size < 0 else int(one.size) for one in info.tensor_shape.dim)
    return TensorSpec(name, engine.DATATYPES[dtype], shape, any_bytes=dtype == "DT_STRING")


def _dtype_name(info: Any) -> str:
    values = info.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number
    return str(values[info.dtype].name)


def _read(path: Path) -> Any:
    """A SavedModel's message."""
    saved = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2").SavedModel()
    try:
        saved.ParseFromString((path / SAVED_MODEL_FILE).read_bytes())
    except Exception as exc:  # the parser's error class is another one in each implementation of protobuf
        raise LoadFailed(f"{SAVED_MODEL_FILE} is damaged or was not written by TensorFlow") from exc
    return saved


def _check_device(tensorflow: Any, device: Device) -> None:
    """
    :raises LoadFailed: this build of TensorFlow cannot compute there
    """
    if device.kind == "cuda" and len(tensorflow.config.list_physical_devices("GPU")) <= device.index:
        raise LoadFailed(
            f"{device.label} was asked for, but tensorflow {tensorflow.__version__} cannot compute there",
            hint="run: pip install 'tensorflow[and-cuda]'; or serve it on the CPU: resource: {gpu: 0}",
        )
