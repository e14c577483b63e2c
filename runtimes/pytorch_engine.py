"""The PyTorch library: imported in one place, its arrays and what its exceptions mean. Opens no model.

PyTorch's OpenMP threads spin for milliseconds after each operator that they shared (17 ms of processor time
in a pause of 20 ms were seen, 1 ms with the passive policy), which takes the cores from other models and from
the event loop. The policy is read when the library is loaded, hence `load`, through which everything here
gets it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from mdslite.errors import DeadlineExceeded, LoadFailed, MdsliteError, ModelError, OutOfMemory, Unavailable
from mdslite.runtimes.failures import LOST_CUDA_ERRORS
from mdslite.runtimes.kinds import require
from mdslite.runtimes.protocol import Datatype

RUNTIME = "PYTORCH"
_LONGEST = 1000  # characters of a foreign message that we pass on

DATATYPES: dict[str, Datatype] = {
    "torch.bool": "BOOL",
    "torch.uint8": "UINT8",
    "torch.uint16": "UINT16",
    "torch.uint32": "UINT32",
    "torch.uint64": "UINT64",
    "torch.int8": "INT8",
    "torch.int16": "INT16",
    "torch.int32": "INT32",
    "torch.int64": "INT64",
    "torch.float16": "FP16",
    "torch.bfloat16": "BF16",
    "torch.float32": "FP32",
    "torch.float64": "FP64",
}

# What came before the exception in a message of TorchScript's interpreter or of a failed check in C++.
_RAISED = re.compile(r"^(?:\w+\.)*(?:\w*Error|\w*Exception): ", re.MULTILINE)
_FRAMES = re.compile(
    r"\n(?:Exception raised from |CUDA kernel errors might |For debugging consider |C\+\+ Captured).*",
    re.DOTALL,
)
_CHECK = re.compile(r"\[enforce fail at [^\]]*\] (?:[^.]*\. )?")
_NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad_alloc|_STATUS_ALLOC_FAILED"
    r"|Storage size calculation overflowed",
    re.IGNORECASE,
)
_LOST = re.compile(
    r"CUDA error: (?:device-side assert|an illegal|unspecified launch|misaligned|invalid program counter"
    r"|hardware stack|uncorrectable ECC|the launch timed out|invalid device context|driver shutting down"
    r"|device .* lost|unknown error)"
    r"|(?:CUBLAS|CUDNN)_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)",
    re.IGNORECASE,
)


def load() -> Any:
    """Import `torch`.

    :raises LoadFailed: it is not installed, or is broken
    """
    require(RUNTIME)
    with _passive_threads():
        try:
            torch = importlib.import_module("torch")
        except (ImportError, OSError) as exc:
            raise LoadFailed(
                f"torch is installed, but cannot be imported: {reason(exc)}",
                hint="install it again: pip install --force-reinstall 'mdslite[torch]'",
            ) from exc
    # Rows come from the immutable bytes of requests; a model that writes to its inputs gets copies.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
    return torch


@contextlib.contextmanager
def _passive_threads() -> Iterator[None]:
    """While `torch` is imported for the first time, have OpenMP's idle threads sleep at once."""
    if "torch" in sys.modules or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    try:
        yield
    finally:
        os.environ.pop("OMP_WAIT_POLICY", None)


def to_tensor(torch: Any, array: np.ndarray[Any, Any], datatype: Datatype) -> Any:
    """A tensor on the CPU over an array's own memory, which may be read-only: not to be written to."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if datatype == "BF16" else tensor


def to_array(torch: Any, tensor: Any) -> np.ndarray[Any, Any]:
    """An array over the memory of a tensor, or over a copy of it where that is on a device."""
    if tensor.dtype is torch.bfloat16:
        return tensor.cpu().view(torch.int16).numpy().view(np.uint16)  # type: ignore[no-any-return]
    return tensor.cpu().numpy()  # type: ignore[no-any-return]


def datatype_of(tensor: Any, *, name: str) -> Datatype:
    """The datatype of a tensor.

    :raises LoadFailed: it is no tensor, or of a type that cannot be sent
    """
    dtype = str(getattr(tensor, "dtype", type(tensor).__name__))
    if dtype not in DATATYPES:
        raise LoadFailed(f'"{name}" is of type {dtype.removeprefix("torch.")}, which cannot be sent')
    return DATATYPES[dtype]


def exceptions(torch: Any) -> tuple[type[Exception], ...]:
    """Every exception class that PyTorch raises: TorchScript's, and built-in ones and their kinds."""
    return (
        torch.jit.Error, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError,
        AttributeError, MemoryError,
    )  # fmt: skip


def reason(exc: BaseException) -> str:
    """The message of what was raised, without the interpreter's trace and the library's stack."""
    text = _FRAMES.sub("", str(exc))
    raised = list(_RAISED.finditer(text))
    if raised and "\n" in text[: raised[-1].start()]:
        text = text[raised[-1].end() :]
    text = " ".join(_CHECK.sub("", text).split())
    return text[:_LONGEST] or type(exc).__name__


def run_error(exc: Exception) -> MdsliteError:
    """The error that a failed run is to its caller."""
    text = reason(exc)
    if _no_memory(exc):
        return OutOfMemory(f"the model's device has no memory left for this batch: {text}", retry_after_s=1)
    if getattr(exc, "error_code", None) in LOST_CUDA_ERRORS or _LOST.search(str(exc)):
        return Unavailable(
            f"the GPU context is lost: {text}",
            hint="CUDA cannot recover inside a process: restart mdslite; an index out of a table's range "
            "does this too: serve the model with resource: {gpu: 0} to see which",
        )
    return ModelError(f"the model failed on this input: {text}")


def load_error(exc: Exception, *, model: str) -> MdsliteError:
    """The error that a failed load is to the apply that asked for it."""
    if _no_memory(exc):
        return OutOfMemory(f"{model}: the device has no memory left for this model: {reason(exc)}")
    return LoadFailed(f"{model}: torch refused the model: {reason(exc)}")


def stopped() -> DeadlineExceeded:
    return DeadlineExceeded("the model's run was stopped at its deadline")


def _no_memory(exc: Exception) -> bool:
    return isinstance(exc, MemoryError) or _NO_MEMORY.search(str(exc)) is not None
