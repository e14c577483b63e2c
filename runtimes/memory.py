"""How much memory a model adds to this process, or to its GPU: a difference between two readings."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from mdslite.runtimes.nvidia import Nvml, NvmlError
from mdslite.runtimes.protocol import Device


def memory_meter(device: Device, path: Path) -> Callable[[], int]:
    """Start to measure; the function that this returns gives the bytes that came since, never below 0.

    On the CPU: anonymous memory, and what is mapped of the model's own files (ONNX Runtime maps weights that
    lie outside of the model's file). On a GPU: the device's memory, where other processes' changes count too.
    """
    if device.kind == "cuda":
        return _gpu_meter(device)
    before = _anonymous_bytes()
    return lambda: max(0, _anonymous_bytes() - before) + _mapped_bytes(path)


def _gpu_meter(device: Device) -> Callable[[], int]:
    try:
        nvml = Nvml.open()
        gpu = next(one for one in nvml.gpus if one.index == device.index)
    except (NvmlError, StopIteration):
        return lambda: 0
    _open_context(device.index)
    before = nvml.read(gpu).memory_used_bytes or 0
    return lambda: max(0, (nvml.read(gpu).memory_used_bytes or 0) - before)


def _open_context(index: int) -> None:
    """Open CUDA's context on a GPU, hundreds of MiB that all models of a process share: no model's own."""
    with contextlib.suppress(OSError):
        cuda = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        if not cuda.cuInit(0) and not cuda.cuDeviceGet(ctypes.byref(device), index):
            cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)


def _anonymous_bytes() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return int(psutil.Process().memory_info().rss)
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def _mapped_bytes(path: Path) -> int:
    """Resident bytes of mappings of the files at `path` that this process has not changed."""
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return 0
    folder = os.path.realpath(path if path.is_dir() else path.parent)
    total = 0
    ours = False
    for line in lines:
        head, _, rest = line.partition(" ")
        if not head.endswith(":"):  # a mapping: range, rights, offset, device, inode, file
            parts = rest.split(maxsplit=4)
            ours = len(parts) == 5 and parts[4].startswith(f"{folder}/")
        elif ours and head in ("Shared_Clean:", "Private_Clean:"):
            total += int(rest.split()[0]) * 1024
    return total
