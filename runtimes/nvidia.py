"""NVIDIA's management library (NVML), read through `pynvml`: which GPUs CUDA will show this process, and
their readings. Opens no CUDA context. A reading that a GPU does not offer is None, which is ordinary."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Reading:
    """One device now. `label` is `cpu` or `cuda:0`; None where it is not known."""

    label: str
    name: str
    utilization_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, `index` in the order in which CUDA counts them; `handle` is NVML's."""

    index: int
    name: str
    memory_bytes: int
    handle: Any


Trouble = Literal["absent", "unloaded", "mismatched", "forbidden", "failing"]

_TROUBLES: dict[str, tuple[Trouble, str]] = {
    "NVMLError_LibraryNotFound": ("absent", "there is no NVIDIA driver on this machine"),
    "NVMLError_DriverNotLoaded": ("unloaded", "NVIDIA's driver is installed but not loaded"),
    "NVMLError_LibRmVersionMismatch": (
        "mismatched",
        "NVIDIA's driver was updated without a restart: its library and its kernel module differ",
    ),
    "NVMLError_NoPermission": ("forbidden", "this user may not open the NVIDIA devices"),
}


class NvmlError(Exception):
    """NVML does not answer; `trouble` is the kind of reason, the message the reason."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble


class Nvml:
    """The open library. `gpus` are those that this process may use."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.gpus: tuple[Gpu, ...] = ()
        self.cuda_version: str | None = None

    @classmethod
    def open(cls, environ: MutableMapping[str, str] = os.environ, *, library: Any = None) -> Nvml:
        """Open NVML and find the GPUs.

        Sets `CUDA_DEVICE_ORDER`, unless it is set, so that CUDA counts GPUs as NVML does and not by speed.

        :raises NvmlError: there is no driver, or it does not answer
        """
        if library is None:
            try:
                library = importlib.import_module("pynvml")
            except ImportError as exc:
                raise NvmlError("absent", "NVIDIA's drivers are not supported on this system") from exc
        self = cls(library)
        try:
            library.nvmlInit()
            self.gpus = tuple(self._find_gpus(environ.get("CUDA_VISIBLE_DEVICES")))
        except library.NVMLError as exc:
            otherwise: tuple[Trouble, str] = "failing", f"NVIDIA's driver does not answer: {exc}"
            raise NvmlError(*_TROUBLES.get(type(exc).__name__, otherwise)) from exc
        environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        number = self._ask("nvmlSystemGetCudaDriverVersion")
        self.cuda_version = None if number is None else f"{number // 1000}.{number % 1000 // 10}"
        return self

    def read(self, gpu: Gpu) -> Reading:
        memory = self._ask("nvmlDeviceGetMemoryInfo", gpu.handle)
        use = self._ask("nvmlDeviceGetUtilizationRates", gpu.handle)
        milliwatts = self._ask("nvmlDeviceGetPowerUsage", gpu.handle)
        return Reading(
            label=f"cuda:{gpu.index}",
            name=gpu.name,
            utilization_percent=None if use is None else float(use.gpu),
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_total_bytes=None if memory is None else int(memory.total),
            temperature_c=self._ask("nvmlDeviceGetTemperature", gpu.handle, 0),  # 0: the GPU's own sensor
            power_w=None if milliwatts is None else milliwatts / 1000,
        )

    def close(self) -> None:
        self._ask("nvmlShutdown")

    def _find_gpus(self, visible: str | None) -> list[Gpu]:
        found = []
        for index, handle in enumerate(self._handles(visible)):
            name = self._ask("nvmlDeviceGetName", handle) or "NVIDIA GPU"
            memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
            found.append(Gpu(index, name, int(memory.total) if memory else 0, handle))
        return found

    def _handles(self, visible: str | None) -> list[Any]:
        """NVML's handles in CUDA's order: `CUDA_VISIBLE_DEVICES` lists indices or beginnings of UUIDs, and
        ends at the first that does not exist. Where one is a part of a divided GPU (MIG), CUDA shows a
        process the first such part and nothing else."""
        count = self._library.nvmlDeviceGetCount()
        everything = [self._library.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        chosen = everything if visible is None else self._named(visible, everything)
        handles = [one for one in map(self._undivided, chosen) if one is not None]
        parts = [one for one in handles if self._ask("nvmlDeviceIsMigDeviceHandle", one)]
        return parts[:1] or handles

    def _undivided(self, handle: Any) -> Any:
        """The GPU, or the first part of one that is divided; None where it has no part."""
        mode = self._ask("nvmlDeviceGetMigMode", handle)  # [now, after the next reset]
        if not mode or not mode[0]:
            return handle
        for index in range(self._ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            part = self._ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
            if part is not None:
                return part
        return None

    def _named(self, visible: str, everything: list[Any]) -> list[Any]:
        handles: list[Any] = []
        for part in (one.strip() for one in visible.split(",")):
            if re.fullmatch(r"\d+", part):
                chosen = everything[int(part)] if int(part) < len(everything) else None
            elif part.startswith("MIG-"):
                chosen = self._ask("nvmlDeviceGetHandleByUUID", part.encode())
            else:
                uuids = [str(self._ask("nvmlDeviceGetUUID", one)) for one in everything]
                named = [one for one, uuid in zip(everything, uuids, strict=True) if uuid.startswith(part)]
                chosen = named[0] if part and len(named) == 1 else None
            if chosen is None or any(chosen is one for one in handles):
                break
            handles.append(chosen)
        return handles

    def _ask(self, function: str, *arguments: Any) -> Any:
        """A reading, or None where this GPU or driver does not offer it."""
        try:
            return getattr(self._library, function)(*arguments)
        except self._library.NVMLError:
            return None
