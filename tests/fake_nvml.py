"""A stand-in for the `pynvml` module: GPUs that exist on paper, with the library's own error classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

GIB = 1 << 30


@dataclass
class FakeGpu:
    name: str = "NVIDIA H200"
    uuid: str = "GPU-aaaa"
    total_bytes: int = 140 * GIB
    used_bytes: int = 0
    lacks: frozenset[str] = field(default_factory=frozenset)  # readings that it does not offer
    is_part: bool = False  # of a divided GPU
    parts: list[FakeGpu | None] | None = None  # of one that is divided: None for an empty place


class FakeNvml:
    """`failure` is the class name of the error that `nvmlInit` raises."""

    class NVMLError(Exception):
        pass

    class NVMLError_LibraryNotFound(NVMLError):
        pass

    class NVMLError_DriverNotLoaded(NVMLError):
        pass

    class NVMLError_LibRmVersionMismatch(NVMLError):
        pass

    class NVMLError_NoPermission(NVMLError):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    class NVMLError_NotFound(NVMLError):
        pass

    class NVMLError_Unknown(NVMLError):
        pass

    def __init__(
        self,
        gpus: Sequence[FakeGpu] = (),
        *,
        failure: str | None = None,
        cuda: int = 13000,
        mig: Mapping[str, FakeGpu] | None = None,
    ) -> None:
        self.gpus = list(gpus)
        self.failure = failure
        self.cuda = cuda
        self.mig = dict(mig or {})
        self.open = False

    def nvmlInit(self) -> None:
        if self.failure:
            raise getattr(self, self.failure)("it failed")
        self.open = True

    def nvmlShutdown(self) -> None:
        self.open = False

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> FakeGpu:
        try:
            return self.mig[uuid.decode()]
        except KeyError:
            raise self.NVMLError_NotSupported("no such device") from None

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:
        if gpu.is_part or gpu.parts is None:
            raise self.NVMLError_NotSupported("not supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> int:
        return len(gpu.parts or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, index: int) -> FakeGpu:
        part = (gpu.parts or [])[index]
        if part is None:
            raise self.NVMLError_NotFound("not found")
        return part

    def nvmlDeviceIsMigDeviceHandle(self, gpu: FakeGpu) -> int:
        return int(gpu.is_part)

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:
        return gpu.name

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> Any:
        self._check(gpu, "memory")
        return SimpleNamespace(total=gpu.total_bytes, used=gpu.used_bytes)

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu) -> Any:
        self._check(gpu, "utilization")
        return SimpleNamespace(gpu=37)

    def nvmlDeviceGetTemperature(self, gpu: FakeGpu, sensor: int) -> int:
        self._check(gpu, "temperature")
        return 51

    def nvmlDeviceGetPowerUsage(self, gpu: FakeGpu) -> int:
        self._check(gpu, "power")
        return 123_000

    def _check(self, gpu: FakeGpu, reading: str) -> None:
        if reading in gpu.lacks:
            raise self.NVMLError_NotSupported("not supported")
