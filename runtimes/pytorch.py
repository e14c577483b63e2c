"""PyTorch models, exported programs and TorchScript, computed by PyTorch on the CPU or a GPU. Owns the
session: arrays in, arrays out, threads, streams and errors.

What PyTorch 2.13 was seen to do, which `TorchSession.run` rests on:

* `torch.set_num_threads` is the calling thread's own and takes 80 ns: every run sets its own number, so that
  a small model on the event loop and a large one in its replica's thread do not disturb each other;
* a tensor over the bytes of a request is taken without a copy; a graph that writes to its inputs gets one;
* a run cannot be stopped: `terminate` only marks it, and the lane gives up a replica that does not return.
"""

from __future__ import annotations

import importlib
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mdslite.errors import LoadFailed, ModelError, OutOfMemory, Unavailable, quoted
from mdslite.runtimes import pytorch_engine as engine
from mdslite.runtimes.machine import cores
from mdslite.runtimes.protocol import Arrays, Device, LoadOptions, RunHandle
from mdslite.runtimes.pytorch_archive import check_file, find_model
from mdslite.runtimes.pytorch_export import Program, Size, read_exported
from mdslite.runtimes.pytorch_script import read_script

# Two threads for less work than a megabyte of weights cost more than they save.
_SMALL_BYTES = 1 << 20
# Less than this goes to a GPU faster as it is than through pinned memory.
_PINNED_BYTES = 1 << 16
# What torch.export.load imports: 4 s and 100 MB that no probe shall count as a model's.
_LATE_IMPORTS = ("torch._inductor.cpp_builder", "torch._functorch.aot_autograd", "torch.export._trace")
_SETTINGS = frozenset({"inputs", "intra_op_threads", "outputs"})


class TorchRuntime:
    """Opens PyTorch models: a file, or a folder that holds one."""

    name = engine.RUNTIME

    def __init__(self) -> None:
        self._lock = threading.Lock()  # reading a program sets up tracing and symbols: one at a time

    def open(self, path: Path, options: LoadOptions) -> TorchSession:
        """Open the model at `path` on the options' device.

        :raises LoadFailed: PyTorch is missing, or refuses it, or it is a pickle
        :raises OutOfMemory: the device has no room for it
        """
        torch = engine.load()
        model = find_model(path)
        unknown = sorted(options.settings.keys() - _SETTINGS)
        if unknown:
            raise LoadFailed(
                f"unknown torch setting {quoted(unknown[0])}: expected {', '.join(sorted(_SETTINGS))}"
            )
        device = _place(torch, options.device)
        try:
            with self._lock:
                program = _open_program(torch, model, options.settings, device)
        except LoadFailed as exc:
            named = exc.message.startswith(model.name)
            message = exc.message if named else f"{model.name}: {exc.message}"
            raise LoadFailed(message, hint=exc.hint) from exc
        except engine.exceptions(torch) as exc:
            raise engine.load_error(exc, model=model.name) from exc
        default = 1 if model.stat().st_size < _SMALL_BYTES else cores()
        threads = options.settings.get("intra_op_threads") or options.threads or default
        return TorchSession(torch, program, device=options.device, threads=threads)

    def prepare(self) -> None:
        """Import PyTorch, and what it would import at the first exported program.

        :raises LoadFailed: it is not installed
        """
        engine.load()
        for module in _LATE_IMPORTS:
            with suppress(ImportError):
                importlib.import_module(module)

    def inspect(self, path: Path) -> bool:
        """Refuse what may not be loaded, without loading it.

        :raises LoadFailed: a pickle, damaged, or with code of its own
        """
        torch = engine.load()
        check_file(find_model(path), load_plain=_plain_loader(torch))
        return True

    def find_hazards(self, path: Path) -> tuple[tuple[str, ...], str | None]:
        return (), None  # the open session knows its own


class TorchHandle:
    """Marks one run: PyTorch cannot stop it."""

    __slots__ = ("terminated",)

    def __init__(self) -> None:
        self.terminated = False

    def terminate(self) -> None:
        self.terminated = True


class TorchSession:
    """An open model. See `protocol.Session` for the contract."""

    def __init__(self, torch: Any, program: Program, *, device: Device, threads: int) -> None:
        self.signature = program.signature
        self.device = device
        self.provider = "PyTorch CPU" if device.kind == "cpu" else "PyTorch CUDA"
        self.threads = threads
        self._torch = torch
        self._failures = engine.exceptions(torch)
        self._compute: Callable[[Mapping[str, Any]], Sequence[Any]] = program.compute
        self._is_bounded = program.is_bounded
        self._find_hazards = program.find_hazards
        self._datatypes = {one.name: one.datatype for one in program.signature.inputs}
        self._copies = program.writes
        self._sizes = program.sizes
        self._rows_most = program.rows_most
        self._gpu = _Gpu(torch, device) if device.kind == "cuda" else None

    @property
    def bounded(self) -> bool:
        """Is a run's time a function of its inputs' sizes?"""
        return self._is_bounded()

    @property
    def hazards(self) -> tuple[str, ...]:
        """Operators by which a request could end the process."""
        return self._find_hazards()

    def handle(self) -> TorchHandle:
        return TorchHandle()

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], handle: RunHandle | None = None) -> Arrays:
        if self._sizes:
            check_sizes(self._sizes, feeds)
        most = self._rows_most
        if most is not None and feeds and next(iter(feeds.values())).shape[0] > most:
            return self._run_parts(feeds, most, handle)
        torch = self._torch
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                outputs = self._run_cpu(feeds) if self._gpu is None else self._gpu.run(self._run_gpu, feeds)
        except self._failures as exc:
            raise self._run_error(exc) from exc
        if isinstance(handle, TorchHandle) and handle.terminated:
            raise engine.stopped()
        return outputs

    def close(self) -> None:
        """Free the model's memory, once the runs under way are over."""
        self._compute = _closed
        self._is_bounded = bool
        self._find_hazards = tuple
        if self._gpu is not None:
            self._gpu.release()

    def _run_cpu(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        torch, datatypes = self._torch, self._datatypes
        tensors = {name: engine.to_tensor(torch, array, datatypes[name]) for name, array in feeds.items()}
        if self._copies:
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        return [engine.to_array(torch, one) for one in self._compute(tensors)]

    def _run_gpu(self, feeds: Mapping[str, np.ndarray[Any, Any]], device: Any) -> Arrays:
        tensors = {}
        for name, array in feeds.items():
            tensor = engine.to_tensor(self._torch, array, self._datatypes[name])
            if array.nbytes >= _PINNED_BYTES:
                tensor = tensor.pin_memory()
            tensors[name] = tensor.to(device, non_blocking=True)
        return [engine.to_array(self._torch, one) for one in self._compute(tensors)]

    def _run_parts(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], most: int, handle: RunHandle | None
    ) -> Arrays:
        """Run no more rows at a time than the model was exported for."""
        rows = next(iter(feeds.values())).shape[0]
        parts = [
            self.run({name: array[start : start + most] for name, array in feeds.items()}, handle)
            for start in range(0, rows, most)
        ]
        return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]

    def _run_error(self, exc: Exception) -> Exception:
        error = engine.run_error(exc)
        if isinstance(error, OutOfMemory) and self._gpu is not None:
            self._gpu.release()  # what other batches left cached may be what the next one needs
        return error


class _Gpu:
    """One session's stream on a GPU."""

    def __init__(self, torch: Any, device: Device) -> None:
        self._torch = torch
        self._device = torch.device(device.label)
        self._stream = torch.cuda.Stream(self._device)

    def run(self, work: Callable[..., Arrays], feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Do `work` on the stream. Its results are copied back before it returns, which waits for them."""
        with ExitStack() as stack:
            stack.enter_context(self._torch.cuda.device(self._device))
            stack.enter_context(self._torch.cuda.stream(self._stream))
            return work(feeds, self._device)

    def release(self) -> None:
        """Give cached memory back to the device."""
        with self._torch.cuda.device(self._device):
            self._torch.cuda.empty_cache()


def check_sizes(sizes: Sequence[Size], feeds: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Compare free dimensions with the bounds that they were exported with, and with each other.

    :raises ModelError: one is out of its bounds, or differs from one that it was exported to equal
    """
    seen: dict[str, tuple[Size, int]] = {}
    for one in sizes:
        size = feeds[one.name].shape[one.axis]
        wrong = one.check(size)
        first, expected = seen.setdefault(one.symbol, (one, size))
        if wrong is None and size != expected:
            wrong = (
                f'input "{one.name}": dimension {one.axis} is {size}, but dimension {first.axis} of '
                f'"{first.name}" is {expected}: the model was exported for equal ones'
            )
        if wrong is not None:
            raise ModelError(wrong)


def _open_program(torch: Any, model: Path, settings: Mapping[str, Any], device: Any) -> Program:
    form = check_file(model, load_plain=_plain_loader(torch))
    if form == "script":
        module = torch.jit.load(str(model), map_location=device).eval()
        return read_script(torch, module, model, settings, device)
    if settings.get("inputs") or settings.get("outputs"):
        raise LoadFailed(
            "container_parameter.torch lists inputs or outputs, but an exported program says them itself",
            hint="leave them out",
        )
    if model.suffix == ".pt2":
        return read_exported(torch, torch.export.load(model), device)
    with model.open("rb") as file:  # by its name it would be loaded all the same, with a warning
        return read_exported(torch, torch.export.load(file), device)


def _plain_loader(torch: Any) -> Callable[[io.BytesIO], Any]:
    def load_plain(content: io.BytesIO) -> Any:
        return torch.load(content, map_location="cpu", weights_only=True)

    return load_plain


def _place(torch: Any, device: Device) -> Any:
    """PyTorch's name for a device.

    :raises LoadFailed: this build of PyTorch cannot compute there
    """
    if device.kind == "cuda" and (not torch.cuda.is_available() or device.index >= torch.cuda.device_count()):
        raise LoadFailed(
            f"{device.label} was asked for, but torch {torch.__version__} cannot compute there",
            hint="install a PyTorch build for CUDA, or write resource: {gpu: 0} to serve it on the CPU",
        )
    return torch.device(device.label)


def _closed(_: Mapping[str, Any]) -> Any:
    raise Unavailable("the model was taken down while this was waiting", retry_after_s=1)
