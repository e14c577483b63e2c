"""What a runtime must offer to the lanes, and the values that describe a model. Owns no framework.

A runtime opens a model file into a `Session` on one device. The lanes call `Session.run` from a replica's
thread, or from the event loop when the model is known to be quick and bounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

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
    """One input or output. `shape` is the model's own, row dimension included; None is a free dimension."""

    name: str
    datatype: Datatype
    shape: tuple[int | None, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows: Rows


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
    (`container_parameter.onnxruntime` of the version spec)."""

    device: Device = CPU
    threads: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What the disposable child found out about a model before the appliance opens it.

    `signature` is as a run showed it, which may differ from an open session's in `rows`. `bounded` is False
    when the graph holds control flow (Loop, Scan, If) or tensors as large as a value in the data says, so
    that its run time is no function of its input's size. `memory_bytes` is what opening and warming it added
    to the child.
    """

    signature: Signature
    memory_bytes: int
    load_s: float
    bounded: bool


# One batch's answer, one entry an output in the signature's order: an array whose first axis is rows
# (when the signature has rows), or a list with one JSON-able object a row.
Outputs = Sequence["np.ndarray[Any, Any] | list[Any]"]


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
