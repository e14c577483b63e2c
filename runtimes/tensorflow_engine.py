"""The TensorFlow library: imported in one place, quietly, and what its exceptions mean. Opens no model."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mdslite.errors import LoadFailed, MdsliteError, ModelError, OutOfMemory, Unavailable
from mdslite.runtimes.kinds import require
from mdslite.runtimes.protocol import Datatype

RUNTIME = "TENSORFLOW"
_LONGEST = 1000  # characters of a foreign message that we pass on

DATATYPES: Mapping[str, Datatype] = {
    "DT_BOOL": "BOOL",
    "DT_UINT8": "UINT8",
    "DT_UINT16": "UINT16",
    "DT_UINT32": "UINT32",
    "DT_UINT64": "UINT64",
    "DT_INT8": "INT8",
    "DT_INT16": "INT16",
    "DT_INT32": "INT32",
    "DT_INT64": "INT64",
    "DT_HALF": "FP16",
    "DT_BFLOAT16": "BF16",
    "DT_FLOAT": "FP32",
    "DT_DOUBLE": "FP64",
    "DT_STRING": "BYTES",
}

_NODE = re.compile(r"\[\[\{\{.*?\]\]|\[Op:[^\]]*\]")
_PLACE = re.compile(r"^(?:Graph execution error:|Detected at node .*|Original stack trace .*)$", re.MULTILINE)
_MORE = re.compile(
    r"\s+(?:\d+ (?:successful|derived errors)|\(\d+\) [A-Z]\w*: |Hint: If you want to see).*", re.DOTALL
)
_LOST = re.compile(
    r"CUDA_ERROR_(?:ILLEGAL_ADDRESS|LAUNCH_FAILED|ASSERT|MISALIGNED_ADDRESS|ECC_UNCORRECTABLE)"
    r"|an illegal memory access|unspecified launch failure|device-side assert",
    re.IGNORECASE,
)
# What the library writes while it is imported whatever its log level is.
_CHATTER = re.compile(rb"^(?:WARNING: All log messages before absl|[IW]\d{4} ).*")

_import_lock = threading.Lock()


def load() -> Any:
    """Import `tensorflow`, with nothing but errors on stderr.

    :raises LoadFailed: it is not installed, or is broken
    """
    require(RUNTIME)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _import_lock, _hushed():
        try:
            tensorflow = importlib.import_module("tensorflow")
        except (ImportError, OSError, TypeError) as exc:  # a TypeError comes from protobuf's descriptors
            raise LoadFailed(
                f"tensorflow is installed, but cannot be imported: {reason(exc)}",
                hint="install it again: pip install --force-reinstall 'mdslite[tensorflow]'",
            ) from exc
    tensorflow.get_logger().setLevel("ERROR")
    return tensorflow


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep what is written to stderr during the first import; pass on what is not the library's chatter."""
    if "tensorflow" in sys.modules:
        yield
        return
    saved = os.dup(2)
    try:
        with tempfile.TemporaryFile() as kept:
            os.dup2(kept.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(saved, 2)
                kept.seek(0)
                os.write(2, b"".join(line for line in kept if not _CHATTER.match(line)))
    finally:
        os.close(saved)


def exceptions(tensorflow: Any) -> tuple[type[Exception], ...]:
    """Every exception class that TensorFlow raises: its own, and those of its bindings."""
    return (tensorflow.errors.OpError, RuntimeError, ValueError, TypeError, LookupError, MemoryError, OSError)


def reason(exc: BaseException, *, folder: Path | None = None) -> str:
    """The message of what was raised, of several errors the first, without nodes and `folder`'s path."""
    text = _PLACE.sub("", _NODE.sub("", str(getattr(exc, "message", None) or exc)))
    if folder is not None:
        text = text.replace(str(folder), "the model's folder")
    text = " ".join(_MORE.sub("", text.strip()).split())
    return text[:_LONGEST] or type(exc).__name__


def run_error(tensorflow: Any, exc: Exception) -> MdsliteError:
    """The error that a failed run is to its caller."""
    text = reason(exc)
    if isinstance(exc, tensorflow.errors.ResourceExhaustedError | MemoryError):
        return OutOfMemory(f"the model's device has no memory left for this batch: {text}", retry_after_s=1)
    if _LOST.search(str(exc)):
        return Unavailable(
            f"the GPU context is lost: {text}",
            hint="CUDA cannot recover inside a process: restart mdslite; if it comes back, see nvidia-smi -q",
        )
    return ModelError(f"the model failed on this input: {text}")


def load_error(tensorflow: Any, exc: Exception, *, folder: Path) -> MdsliteError:
    """The error that a failed load is to the apply that asked for it."""
    text = reason(exc, folder=folder)
    if isinstance(exc, tensorflow.errors.ResourceExhaustedError | MemoryError):
        return OutOfMemory(f"the device has no memory left for this model: {text}")
    return LoadFailed(f"tensorflow refused the model: {text}")
