"""NVIDIA's own library as `pynvml` calls it: C functions that write through pointers and return numbers. What
stands above it is the real `pynvml`, with its structures, its names and its errors.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pynvml

_FIRST = 0x1000  # handles are addresses


@dataclass(frozen=True)
class Board:
    """What a GPU, or a part of one, answers; None: NVML_ERROR_NOT_SUPPORTED, which `nvidia-smi` shows as N/A.
    `parts` are those of a divided one (MIG)."""

    name: str
    uuid: str
    total_bytes: int | None
    used_bytes: int = 0
    utilization: int | None = None
    temperature: int | None = None
    milliwatts: int | None = None
    parts: tuple[Board, ...] | None = None
    is_part: bool = False


class NvmlLibrary:
    """The functions of libnvidia-ml.so.1 that are asked for; another name is one that this driver lacks."""

    def __init__(self, boards: Sequence[Board], *, cuda: int = 13000) -> None:
        self._boards = list(boards)
        self._all = [one for board in boards for one in (board, *(board.parts or ()))]
        self._cuda = cuda

    def __getattr__(self, name: str) -> Callable[..., int]:
        answers: dict[str, Callable[..., int]] = {
            "nvmlInitWithFlags": lambda flags: 0,
            "nvmlShutdown": lambda: 0,
            "nvmlSystemGetCudaDriverVersion": lambda out: _put(out, self._cuda),
            "nvmlDeviceGetCount_v2": lambda out: _put(out, len(self._boards)),
            "nvmlDeviceGetHandleByIndex_v2": lambda index, out: self._point(out, self._boards[index.value]),
            "nvmlDeviceGetHandleByUUID": self._by_uuid,
            "nvmlDeviceGetUUID": lambda handle, text, size: _write(text, self._at(handle).uuid),
            "nvmlDeviceGetName": lambda handle, text, size: _write(text, self._at(handle).name),
            "nvmlDeviceGetMemoryInfo": self._memory,
            "nvmlDeviceGetUtilizationRates": self._use,
            "nvmlDeviceGetTemperature": lambda handle, sensor, out: _put(out, self._at(handle).temperature),
            "nvmlDeviceGetPowerUsage": lambda handle, out: _put(out, self._at(handle).milliwatts),
            "nvmlDeviceGetMigMode": self._mode,
            "nvmlDeviceGetMaxMigDeviceCount": lambda handle, out: _put(out, 7),
            "nvmlDeviceGetMigDeviceHandleByIndex": self._part,
            "nvmlDeviceIsMigDeviceHandle": lambda handle, out: _put(out, self._at(handle).is_part),
        }
        try:
            return answers[name]
        except KeyError:
            raise AttributeError(name) from None

    def _at(self, handle: Any) -> Board:
        return self._all[(ctypes.cast(handle, ctypes.c_void_p).value or 0) - _FIRST]

    def _point(self, out: Any, board: Board) -> int:
        ctypes.cast(out, ctypes.POINTER(ctypes.c_void_p))[0] = _FIRST + self._all.index(board)
        return int(pynvml.NVML_SUCCESS)

    def _by_uuid(self, uuid: Any, out: Any) -> int:
        for board in self._all:
            if board.uuid.encode() == uuid.value:
                return self._point(out, board)
        return int(pynvml.NVML_ERROR_NOT_FOUND)

    def _memory(self, handle: Any, out: Any) -> int:
        board = self._at(handle)
        if board.total_bytes is None:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        out._obj.total, out._obj.used = board.total_bytes, board.used_bytes
        out._obj.free = board.total_bytes - board.used_bytes
        return int(pynvml.NVML_SUCCESS)

    def _use(self, handle: Any, out: Any) -> int:
        board = self._at(handle)
        if board.utilization is None:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        out._obj.gpu, out._obj.memory = board.utilization, 1
        return int(pynvml.NVML_SUCCESS)

    def _mode(self, handle: Any, now: Any, pending: Any) -> int:
        board = self._at(handle)
        if board.is_part:
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        if board.name.startswith("NVIDIA GeForce"):
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        now._obj.value = pending._obj.value = int(board.parts is not None)
        return int(pynvml.NVML_SUCCESS)

    def _part(self, handle: Any, index: Any, out: Any) -> int:
        parts = self._at(handle).parts or ()
        if index.value >= len(parts):
            return int(pynvml.NVML_ERROR_NOT_FOUND)
        return self._point(out, parts[index.value])


@contextmanager
def installed(*boards: Board, cuda: int = 13000) -> Iterator[Any]:
    """The real `pynvml`, on such a machine."""
    before = pynvml.nvmlLib
    pynvml.nvmlLib = NvmlLibrary(boards, cuda=cuda)
    pynvml._nvmlGetFunctionPointer_cache.clear()
    try:
        yield pynvml
    finally:
        pynvml.nvmlLib = before
        pynvml._nvmlGetFunctionPointer_cache.clear()


def _put(out: Any, value: int | None) -> int:
    if value is None:
        return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
    out._obj.value = value
    return int(pynvml.NVML_SUCCESS)


def _write(text: Any, value: str) -> int:
    text.value = value.encode()
    return int(pynvml.NVML_SUCCESS)
