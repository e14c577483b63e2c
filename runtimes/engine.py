"""The ONNX Runtime library: imported in one place, quiet and without its telemetry; which of its execution
providers work here, and why not. Opens no model of a user's.

Since 1.29 the library's Linux builds send usage events to their vendor, from a thread that starts with the
import. `ORT_DISABLE_TELEMETRY` turns all of it off, but only when it is set before the import: hence `load`,
through which everything here gets the module. (It also keeps the probe's zygote single-threaded.)
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import io
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdslite.runtimes.failures import reason
from mdslite.runtimes.protocol import Device

CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"

Provider = str | tuple[str, dict[str, str]]

_QUIET = 4  # the library's severity for fatal errors only: its reasons reach us in exceptions

# y = Identity(x), float scalars, opset 13: the smallest model there is, to see which provider computes it.
IDENTITY = bytes.fromhex(
    "0808 3a2f 0a10 0a0178 120179 2208 4964656e74697479 1201 67"
    "5a0b 0a0178 1206 0a04 0801 1200 620b 0a0179 1206 0a04 0801 1200 4204 0a00 100d"
)


def load() -> Any:
    """Import `onnxruntime` (once), with telemetry off and nothing but fatal errors on stderr."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # Through the import system each time: a second thread waits there while the first one is half done.
    module = importlib.import_module("onnxruntime")
    module.set_default_logger_severity(_QUIET)
    return module


def version() -> str:
    """Name the library and its version, such as `onnxruntime 1.31.1`, without importing it."""
    for package in ("onnxruntime-gpu", "onnxruntime"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"onnxruntime {importlib.metadata.version(package)}"
    return "onnxruntime (not installed as a package)"


def providers_for(device: Device, settings: Mapping[str, Any]) -> list[Provider]:
    """List the execution providers to ask for, the preferred one first.

    TensorRT builds an engine for minutes at load, so it is tried only when `settings` say `tensorrt: true`.
    """
    if device.kind == "cpu":
        return [CPU_PROVIDER]
    cuda = {
        "device_id": str(device.index),
        # The default doubles the arena at each growth, which wastes a GPU that several models share.
        "arena_extend_strategy": "kSameAsRequested",
        # The default tries all algorithms at each new batch size, in the middle of a prediction.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if limit_mb := settings.get("gpu_mem_limit_mb"):
        cuda["gpu_mem_limit"] = str(int(limit_mb) * 1024 * 1024)
    chosen: list[Provider] = [(CUDA_PROVIDER, cuda), CPU_PROVIDER]
    if settings.get("tensorrt"):
        chosen.insert(0, (TENSORRT_PROVIDER, {"device_id": str(device.index)}))
    return chosen


def preload_cuda() -> None:
    """Load the CUDA libraries that came as Python packages (the `cuda` extra), where the loader would not
    look; without them do nothing."""
    if importlib.util.find_spec("nvidia") is None:
        return
    # It prints what it could not find, which `cuda_problem` says better.
    with contextlib.redirect_stdout(io.StringIO()):
        load().preload_dlls()


def cuda_problem(*, index: int = 0) -> str | None:
    """Say why CUDA does not compute here, or None when it does.

    Asks the library itself with a one-node model, since it lists providers whose libraries are missing. That
    loads those libraries and opens the GPU, so ask only where there is one.
    """
    runtime = load()
    if CUDA_PROVIDER not in runtime.get_available_providers():
        return f"this build of {version()} has no CUDA provider"
    preload_cuda()
    try:
        session = open_session(IDENTITY, session_options(), providers_for(Device("cuda", index), {}))
    except exceptions() as exc:
        return reason(exc)
    if CUDA_PROVIDER in session.get_providers():
        return None
    return _missing_library("cuda") or "onnxruntime gave no reason: is the driver new enough for its CUDA?"


def tensorrt_problem() -> str:
    """Say what keeps TensorRT from loading, after the library has tried."""
    return _missing_library("tensorrt") or "onnxruntime gave no reason"


def open_session(model: str | bytes, options: Any, providers: list[Provider]) -> Any:
    """Open an `InferenceSession` on a file or on a model's bytes that never falls back behind our back.

    With fallback on, the library prints to stdout and computes on the CPU after any failure of a provider.
    """
    return load().InferenceSession(model, options, providers=providers, enable_fallback=0)


def session_options() -> Any:
    """Fresh options for a session, quiet."""
    options = load().SessionOptions()
    options.log_severity_level = _QUIET
    return options


def exceptions() -> tuple[type[Exception], ...]:
    """Every exception class that the library raises: one a status, and the built-in ones of its bindings."""
    load()
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [one for one in vars(state).values() if isinstance(one, type) and issubclass(one, Exception)]
    return (*own, RuntimeError, ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError)


def _missing_library(provider: str) -> str | None:
    """The dynamic loader's reason why a provider's library does not load.

    Only after the library itself has tried: loaded before that, a provider's static constructors would call
    into a host that is not there yet.
    """
    if sys.platform != "linux":
        return None
    folder = Path(load().__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{provider}.so"))
    except OSError as exc:
        return re.sub(r"\S*/", "", str(exc))
    return None
