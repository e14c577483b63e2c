"""What a runtime must offer to the lanes, and the values that describe a model. Owns no framework.

A runtime opens a model file into a `Session` on one device. The lanes call `Session.run` from a replica's
thread, or from the event loop when the model is known to be quick and bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

import numpy as np

from mdslite.errors import LoadFailed, MdsliteError

# The Open Inference Protocol's names; OBJECT stands for an output that is no tensor (a sequence of maps).
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "BF16", "FP32", "FP64", "BYTES", "OBJECT",
]  # fmt: skip

# How the first dimension of a model's tensors counts rows:
#   free  every input and output leaves it open: requests may share a batch
#   one   it is fixed at 1: an instance is a tensor without it, run one at a time
#   none  there is no row dimension: an instance is the whole tensor, run one at a time
Rows = Literal["free", "one", "none"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output. `shape` is the model's own, row dimension included; None is a free dimension.
    BYTES are texts (str) unless `any_bytes` says that an element may also be bytes of any kind."""

    name: str
    datatype: Datatype
    shape: tuple[int | None, ...]
    optional: bool = False
    any_bytes: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """`shared` are optional inputs that do not count rows: one value for all rows of a run. `filled` is an
    operator that does not survive an input without elements."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows: Rows
    shared: tuple[TensorSpec, ...] = ()
    filled: str | None = None


# Of what takes and gives free data (Python packages, pipelines) instead of tensors.
DATA_SIGNATURE = Signature((), (TensorSpec("predictions", "OBJECT", (None,)),), "free")


@dataclass(frozen=True, slots=True)
class Device:
    """Where a session computes. `label` is `cpu` or `cuda:0`; memory in bytes, 0 when unknown."""

    kind: Literal["cpu", "cuda"] = "cpu"
    index: int = 0
    name: str = "CPU"
    memory_bytes: int = 0

    @property
    def label(self) -> str:
        return "cpu" if self.kind == "cpu" else f"{self.kind}:{self.index}"


CPU = Device()


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to open a model. `threads` None lets the runtime choose; `settings` are the runtime's own knobs
    (`container_parameter.onnxruntime` of the version spec). The rest concerns Python packages: `env` and
    `memory_limit_bytes` are their child's, `handler` is a dotted module below the package's folder that
    holds the class to serve (None: the only one there is), `label` names the version in messages."""

    device: Device = CPU
    threads: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    isolation: Literal["process", "inline"] = "process"
    env: Mapping[str, str] = field(default_factory=dict)
    memory_limit_bytes: int | None = None
    handler: str | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class PackageReport:
    """What a Python package's decorators say of its class; None where they say nothing."""

    name: str
    version: str
    class_name: str
    runtime: str | None = None
    requirements: tuple[str, ...] = ()
    batch_size: int | None = None
    batch_timeout_ms: float | None = None
    prediction_time_ms: float | None = None
    streams: bool = False  # predict is a generator
    is_async: bool = False
    has_check: bool = False
    has_warmup: bool = False


@dataclass(frozen=True, slots=True)
class PipelineReport:
    """What a pipeline consists of: by handler module what its class says, and the deployed models that it
    calls, as PROJECT/MODEL or PROJECT/MODEL@VERSION."""

    name: str
    handlers: Mapping[str, PackageReport] = field(default_factory=dict)
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What the disposable child found out about a model before the appliance opens it.

    `signature` is as a run showed it, which may differ from an open session's in `rows`. `bounded` is False
    when the graph holds control flow (Loop, Scan, If), is told by data how much to compute, or holds texts or
    what is not known, so that its run time is no function of its inputs' shapes. `memory_bytes` is what
    opening and warming it added to the child. `hazards` are operators by which a request could end the
    process that computes it.
    """

    signature: Signature
    memory_bytes: int
    load_s: float
    bounded: bool
    package: PackageReport | None = None
    pipeline: PipelineReport | None = None
    hazards: tuple[str, ...] = ()


# One row of free data, told apart by its type: `bytes` itself is the JSON text of one value, a subclass of
# bytes a raw body that knows its media type, an array a row of a tensor.
Datum = bytes | np.ndarray[Any, Any]


class Answers(list["bytes | np.ndarray[Any, Any] | MdsliteError"]):
    """One batch of free data's answers, one a row: a JSON text, an array (only where `tensors` were asked
    for), or the error that this row alone met. `confidences` has one entry a row, or is empty."""

    __slots__ = ("confidences",)

    def __init__(self, rows: Iterable[Any] = (), *, confidences: Sequence[float | None] = ()) -> None:
        super().__init__(rows)
        self.confidences = confidences


# One batch's answer, one entry an output in the signature's order: an array whose first axis is rows
# (when the signature has rows), or a list with one JSON-able object a row.
Outputs = Sequence["np.ndarray[Any, Any] | list[Any]"]
Arrays = list["np.ndarray[Any, Any]"]  # the same of a runtime that knows no other values than tensors


class RunHandle(Protocol):
    """Stops one run from another thread."""

    def terminate(self) -> None: ...


class Session(Protocol):
    """A model opened on one device. `run` may be called from several threads at a time."""

    signature: Signature
    device: Device
    provider: str  # what really computes, such as CPUExecutionProvider
    threads: int  # cores that one run keeps busy

    def handle(self) -> RunHandle:
        """A fresh handle for one `run`."""
        ...

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], handle: RunHandle | None = None) -> Outputs:
        """Compute one batch.

        `feeds` hold native-endian, C-contiguous arrays of the signature's dtypes (BF16 as uint16 bit
        patterns, BYTES as object arrays of str), absent optional inputs left out.

        :raises ModelError: the model refused or failed on this input
        :raises OutOfMemory: the device has no room for this batch; a smaller one may fit
        :raises DeadlineExceeded: the handle was terminated
        :raises Unavailable: the device is lost and this session cannot be used again
        """
        ...

    def close(self) -> None: ...


class DataFeeds(TypedDict):
    """What a session of free data runs on. `confidence` is the field of an answer that holds it."""

    data: Sequence[Datum]
    confidence: str | None
    tensors: bool


class DataSession(Protocol):
    """A Python package's class, built on one device."""

    signature: Signature
    device: Device
    provider: str
    threads: int
    has_check: bool

    def handle(self) -> RunHandle: ...

    def run(self, feeds: DataFeeds, handle: RunHandle | None = None) -> Sequence[Answers]:
        """Compute one batch: a sequence of one `Answers`, as long as the data.

        :raises Unavailable: the process that ran it is gone
        :raises DeadlineExceeded: the handle was terminated
        """
        ...

    def stream(
        self, feeds: DataFeeds, handle: RunHandle | None, emit: Callable[[bytes], None]
    ) -> Sequence[Answers]:
        """Run a generator on one datum, `emit` each item's JSON text; the answer says how it ended.

        `emit` may block, and raises ClientClosed when nobody listens any more: then the generator is closed.
        """
        ...

    def check(self, handle: RunHandle | None = None) -> None:
        """Run the class's health check.

        :raises Unavailable: with what it said, or the process that ran it is gone
        """
        ...

    def output(self) -> str:
        """The last of what the class printed."""
        ...

    def watch(self, on_exit: Callable[[str], None]) -> None:
        """Call `on_exit(reason)` once, from any thread, should the session end by itself while it is idle."""
        ...

    def close(self) -> None: ...


class Trial:
    """One probe, for whoever may come to have no use for it. Used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end: Callable[[], object] | None = None
        self.is_over = False

    def give_up(self) -> None:
        """End it, be it under way or not begun yet. Does not wait for its end."""
        with self._lock:
            self.is_over = True
            if self._end is not None:
                self._end()

    @contextmanager
    def ended_by(self, end: Callable[[], object]) -> Iterator[None]:
        """Have `end` called by `give_up` for as long as the block runs.

        :raises LoadFailed: it was given up
        """
        with self._lock:
            if self.is_over:
                raise LoadFailed("nobody waits for the model any more")
            self._end = end
        try:
            yield
        finally:
            with self._lock:
                self._end = None


class Runtime(Protocol):
    """A framework's adapter."""

    name: str  # ONNXRUNTIME, PYTHON, PYTORCH, TENSORFLOW

    def open(self, path: Path, options: LoadOptions) -> Session:
        """Open the model at `path` (a file, or an artifact's folder).

        :raises LoadFailed: with the framework's reason
        """
        ...


NUMPY_DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
