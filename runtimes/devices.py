"""Where models may compute: the CPU, and the GPUs that both the driver and ONNX Runtime can use. Places
replicas on them and reads their gauges. Opens no model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

import psutil  # type: ignore[import-untyped]

from mdslite.errors import LoadFailed, OutOfMemory
from mdslite.runtimes import engine
from mdslite.runtimes.nvidia import Gpu, Nvml, NvmlError, Reading
from mdslite.runtimes.protocol import CPU, Device

_GIB = 1 << 30


class Wish(Protocol):
    """What a replica wants of a device. `gpu` None takes a GPU where there is one, 0 none, 1 insists."""

    @property
    def gpu(self) -> int | None: ...
    @property
    def gpu_names(self) -> str | None: ...


class Devices:
    """The devices of this machine. `reason` says why there is no usable GPU, None where there is one;
    `unusable` that there are GPUs all the same."""

    def __init__(
        self,
        *,
        gpus: Sequence[Gpu] = (),
        nvml: Nvml | None = None,
        reason: str | None = None,
        unusable: bool = False,
    ) -> None:
        self.gpus = tuple(Device("cuda", gpu.index, gpu.name, gpu.memory_bytes) for gpu in gpus)
        self.reason = reason
        self.unusable = unusable
        self._handles = dict(zip(self.gpus, gpus, strict=True))
        self._nvml = nvml

    @classmethod
    def discover(
        cls,
        *,
        open_nvml: Callable[[], Nvml] = Nvml.open,
        problem: Callable[[], str | None] = engine.cuda_problem,
    ) -> Devices:
        """Find what there is. Without an NVIDIA driver this takes a millisecond; with a GPU, ONNX Runtime is
        asked to compute on it, which opens a CUDA context that the models then share."""
        try:
            nvml = open_nvml()
        except NvmlError as exc:
            return cls(reason=str(exc))
        if not nvml.gpus:
            nvml.close()
            return cls(
                reason="the NVIDIA driver shows this process no GPU (CUDA_VISIBLE_DEVICES, or a container?)"
            )
        reason = problem()
        if reason is not None:
            nvml.close()
            count = len(nvml.gpus)
            found = f"{count} GPU{'s' * (count > 1)} found"
            return cls(reason=f"{found}, but onnxruntime cannot compute there: {reason}", unusable=True)
        return cls(gpus=nvml.gpus, nvml=nvml)

    def place(
        self, wish: Wish, replicas: int, *, needs_bytes: int = 0, cpu_only: str | None = None
    ) -> list[Device]:
        """Choose a device for each replica: the GPU with the most memory free each time, or the CPU.

        `needs_bytes` is what one replica was measured to take, 0 when nobody knows; `cpu_only` is why the
        model's library computes on the CPU only, None when it does not.

        :raises LoadFailed: a GPU is insisted on and there is none, or none of that name
        :raises OutOfMemory: no such GPU has that much memory free
        """
        asks = "resource.gpu" if wish.gpu else "resource.gpu_names"
        insists = bool(wish.gpu) or (wish.gpu_names is not None and wish.gpu != 0)
        if wish.gpu == 0 or not (insists or (self.gpus and cpu_only is None)):
            return [CPU] * replicas
        if self.gpus and cpu_only is not None:
            raise LoadFailed(
                f"the spec asks for a GPU, but {cpu_only}",
                hint=f"install its build for CUDA; or leave out {asks} to serve on the CPU",
            )
        if wish.gpu is not None and wish.gpu > 1:
            raise LoadFailed(
                f"resource.gpu: {wish.gpu}: a replica computes on one GPU",
                hint="write gpu: 1, and replicas: N to use several GPUs",
            )
        if not self.gpus:
            raise LoadFailed(
                f"the spec asks for a GPU, but {self.reason or 'there is none'}",
                hint=f"run: mdslite doctor; or leave out {asks} to serve on the CPU",
            )
        free = {gpu: self._free_bytes(gpu) for gpu in self._named(wish.gpu_names)}
        chosen = []
        for _ in range(replicas):
            best = max(free, key=lambda gpu: free[gpu])
            if needs_bytes and free[best] < needs_bytes:
                raise OutOfMemory(
                    f"{best.label} has {free[best] / _GIB:.1f} GiB free, "
                    f"but a replica needs {needs_bytes / _GIB:.1f} GiB",
                    hint="take down another version first, or use fewer replicas",
                )
            # Where no need is known, a token keeps the replicas of one version from piling up on one GPU.
            free[best] -= needs_bytes or _GIB // 2
            chosen.append(best)
        return chosen

    def readings(self) -> list[Reading]:
        """Read all devices, the CPU (whose memory is the machine's) first."""
        memory = psutil.virtual_memory()
        host = Reading(
            "cpu",
            CPU.name,
            utilization_percent=psutil.cpu_percent(),
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
        )
        if self._nvml is None:
            return [host]
        return [host, *(self._nvml.read(gpu) for gpu in self._handles.values())]

    def describe(self) -> list[str]:
        """Say in plain words what models will compute on, one line a device."""
        if not self.gpus:
            if self.unusable:
                return [f"serving on CPU: {self.reason} (mdslite doctor says more)"]
            return ["no GPU found: serving on CPU (mdslite doctor says why)"]
        return [f"{gpu.label}: {gpu.name}, {gpu.memory_bytes / _GIB:.0f} GiB" for gpu in self.gpus]

    def close(self) -> None:
        if self._nvml is not None:
            self._nvml.close()
            self._nvml = None

    def _named(self, names: str | None) -> list[Device]:
        patterns = [part.strip() for part in (names or "").split(",") if part.strip()]
        found = [gpu for gpu in self.gpus if not patterns or any(matches(gpu.name, one) for one in patterns)]
        if not found:
            there = ", ".join(sorted({gpu.name for gpu in self.gpus}))
            raise LoadFailed(f'no GPU is named "{names}": there is {there}')
        return found

    def _free_bytes(self, gpu: Device) -> int:
        reading = self._nvml.read(self._handles[gpu]) if self._nvml is not None else None
        if reading is None or reading.memory_used_bytes is None:
            return gpu.memory_bytes
        return gpu.memory_bytes - reading.memory_used_bytes


def matches(name: str, pattern: str) -> bool:
    """Does a GPU's name hold the pattern as whole words? `A10` is not in `NVIDIA A100-SXM4`, `A100*` is."""
    words = re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", ".")
    return re.search(rf"(?<![a-z0-9]){words}(?![a-z0-9])", name.lower()) is not None
