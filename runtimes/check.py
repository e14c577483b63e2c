"""What `mdslite doctor` says of this machine: packages, ONNX Runtime, GPUs and their driver, memory."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from mdslite.findings import Finding
from mdslite.runtimes import engine
from mdslite.runtimes.machine import cores
from mdslite.runtimes.nvidia import Nvml, NvmlError
from mdslite.sizes import size_text

_GIB = 1 << 30
_LITTLE_MEMORY_BYTES = 512 << 20
_LITTLE_GPU_MEMORY = 0.05  # of all of it
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "nvidia-ml-py", "pynvml")
_DRIVER_HINTS = {
    "unloaded": "run: sudo modprobe nvidia; if that fails, install the driver again for this kernel",
    "mismatched": "restart the machine",
    "forbidden": "give this user access to /dev/nvidia*, or start the container with its GPUs (--gpus all)",
    "failing": "run nvidia-smi to see what the driver says",
}


def check_machine(
    *,
    installed: Callable[[], Mapping[str, str]] | None = None,
    open_nvml: Callable[[], Nvml] = Nvml.open,
    problem: Callable[[], str | None] = engine.cuda_problem,
    pci: Path = Path("/sys/bus/pci/devices"),
) -> list[Finding]:
    """Look at the machine; blocks, for seconds where there is a GPU to open."""
    packages = (installed or _installed)()
    return [
        *_check_packages(packages),
        *_check_engine(),
        *_check_gpus(packages, open_nvml=open_nvml, problem=problem, pci=pci),
        *_check_memory(),
    ]


def _installed() -> dict[str, str]:
    """Version by name of those packages of interest that are there."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _check_packages(packages: Mapping[str, str]) -> Iterator[Finding]:
    if "onnxruntime" in packages and "onnxruntime-gpu" in packages:
        yield Finding(
            "error",
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        )
    if "pynvml" in packages:
        yield Finding(
            "warning",
            "the package pynvml, a deprecated stand-in for nvidia-ml-py, is installed beside it",
            "pip uninstall -y pynvml && pip install --force-reinstall nvidia-ml-py",
        )


def _check_engine() -> Iterator[Finding]:
    try:
        engine.open_session(engine.IDENTITY, engine.session_options(), [engine.CPU_PROVIDER])
    except (ImportError, OSError) as exc:
        yield Finding(
            "error", f"onnxruntime cannot be imported: {exc}", "pip install --force-reinstall mdslite"
        )
    except engine.exceptions() as exc:
        yield Finding("error", f"onnxruntime does not compute on the CPU: {exc}")
    else:
        count = cores()
        yield Finding("ok", f"{engine.version()} computes on the CPU ({count} core{'s' * (count > 1)})")


def _check_gpus(
    packages: Mapping[str, str],
    *,
    open_nvml: Callable[[], Nvml],
    problem: Callable[[], str | None],
    pci: Path,
) -> Iterator[Finding]:
    try:
        nvml = open_nvml()
    except NvmlError as exc:
        if exc.trouble != "absent":
            yield Finding("error", f"no GPU can be used: {exc}", _DRIVER_HINTS[exc.trouble])
        elif _has_gpu(pci):
            hint = "install NVIDIA's driver for this kernel; in a container, start it with --gpus all"
            yield Finding("error", "this machine has an NVIDIA GPU, but no driver for it", hint)
        else:
            yield Finding("ok", "no NVIDIA GPU: models are served on the CPU")
        return
    try:
        yield from _check_driver(nvml)
        if nvml.gpus:
            yield from _check_cuda(packages, problem())
        for gpu in nvml.gpus:
            reading = nvml.read(gpu)
            used, total = reading.memory_used_bytes, reading.memory_total_bytes
            if used is not None and total and total - used < _LITTLE_GPU_MEMORY * total:
                free = f"{(total - used) / _GIB:.1f} of {total / _GIB:.1f} GiB"
                yield Finding(
                    "warning", f"{reading.label} ({gpu.name}) has only {free} free", "see nvidia-smi"
                )
            else:
                yield Finding("ok", f"{reading.label}: {gpu.name}, {gpu.memory_bytes / _GIB:.0f} GiB")
    finally:
        nvml.close()


def _check_driver(nvml: Nvml) -> Iterator[Finding]:
    if not nvml.gpus:
        yield Finding(
            "warning",
            "the NVIDIA driver works, but shows this process no GPU",
            "look at CUDA_VISIBLE_DEVICES; in a container, start it with --gpus all",
        )
    needed = getattr(engine.load(), "cuda_version", "") or ""
    if needed and nvml.cuda_version and _major(nvml.cuda_version) < _major(needed):
        yield Finding(
            "error",
            f"the NVIDIA driver runs CUDA up to {nvml.cuda_version}, {engine.version()} needs {needed}",
            "install a newer NVIDIA driver, or: pip install 'onnxruntime-gpu<1.27' (the last for CUDA 12)",
        )


def _check_cuda(packages: Mapping[str, str], why_not: str | None) -> Iterator[Finding]:
    if why_not is None:
        yield Finding("ok", f"{engine.version()} computes on CUDA")
    elif "onnxruntime-gpu" not in packages:
        hint = "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
        yield Finding("error", f"onnxruntime cannot use the GPU: {why_not}", hint)
    else:
        hint = "pip install 'mdslite[cuda]' brings CUDA and cuDNN as Python packages"
        yield Finding("error", f"onnxruntime cannot use the GPU: {why_not}", hint)


def _check_memory() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    if memory.available < _LITTLE_MEMORY_BYTES:
        yield Finding(
            "warning", f"only {size_text(memory.available)} of memory are free", "stop other programs"
        )


def _has_gpu(pci: Path) -> bool:
    """Is a display or 3D controller of NVIDIA's on the PCI bus?"""
    for device in pci.glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
        except OSError:
            continue
        if vendor.strip() == "0x10de" and kind.startswith("0x03"):
            return True
    return False


def _major(version: str) -> int:
    return int(version.split(".")[0])
