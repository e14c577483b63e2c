"""Sessions of PyTorch models, and what they are given; it may be imported without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mdslite.runtimes.protocol import LoadOptions
from mdslite.runtimes.pytorch import TorchRuntime, TorchSession


def open_model(path: Path, **settings: Any) -> TorchSession:
    return TorchRuntime().open(path, LoadOptions(settings=settings))


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
