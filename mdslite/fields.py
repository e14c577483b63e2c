"""The words that a version spec is made of: names, quantities, enums, their bounds and their defaults.

The annotations carry what a mistake is answered with; see `mistakes.py`.
"""

from __future__ import annotations

import enum
import re
from typing import Annotated

from msgspec import Meta

DEFAULT_WEIGHT = 100
DEFAULT_REPLICAS = 1
DEFAULT_SHADOW_PERCENT = 100
DEFAULT_BATCH_SIZE = 32  # where the model's rows are free, else 1
DEFAULT_BATCH_TIMEOUT_MS = 2
DEFAULT_PREDICTION_TIME_MS = 30_000
QUEUE_ROWS = 1024
UNKNOWN_DIGEST = "unknown"  # of an artifact that could not be had
NAME_PATTERN = r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z"

_DAY_MS = 86_400_000
_MEMORY_PATTERN = r"\A(?=.*[1-9])([0-9]{1,15}(?:\.[0-9]{1,9}(?=[KMGTk]))?)([KMGT]i?|k|B)?\Z"
_MEMORY_UNITS = {
    "": 1, "B": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
}  # fmt: skip

Name = Annotated[
    str,
    Meta(
        pattern=NAME_PATTERN,
        description="letters, digits, - and _, at most 63 in all, a letter or a digit first",
        extra={"word": "a name"},
    ),
]
Weight = Annotated[
    Annotated[int, Meta(ge=0, le=1_000_000)] | Annotated[float, Meta(ge=0, le=1_000_000)],
    Meta(description="relative weight, 0 or more"),
]
Percent = Annotated[
    Annotated[int, Meta(ge=0, le=100)] | Annotated[float, Meta(ge=0, le=100)],
    Meta(description="how much of the traffic the shadow copies, 0 to 100"),
]
Replicas = Annotated[int, Meta(ge=1, le=1000, description="how many copies serve, 1 or more")]
Milliseconds = Annotated[int, Meta(ge=0, le=_DAY_MS)] | Annotated[float, Meta(ge=0, le=_DAY_MS)]
PositiveMilliseconds = Annotated[int, Meta(ge=1, le=_DAY_MS)] | Annotated[float, Meta(gt=0, le=_DAY_MS)]
Memory = Annotated[
    Annotated[int, Meta(ge=1)] | Annotated[str, Meta(pattern=_MEMORY_PATTERN)],
    Meta(description="bytes, or a unit after the number: 512Mi, 2Gi", extra={"word": "an amount of memory"}),
]
Cores = Annotated[
    Annotated[int, Meta(ge=1, le=4096)] | Annotated[float, Meta(gt=0, le=4096)],
    Meta(description="CPU cores, such as 2"),
]


class SourceType(enum.StrEnum):
    UNSET_SOURCETYPE = "UNSET_SOURCETYPE"
    FILE = "FILE"
    HTTP = "HTTP"
    OBJECT_STORAGE = "OBJECT_STORAGE"
    DOCKER_REGISTRY = "DOCKER_REGISTRY"


class PackageType(enum.StrEnum):
    UNSET_PACKAGETYPE = "UNSET_PACKAGETYPE"
    ONNX = "ONNX"
    MDS = "MDS"
    PIPELINE = "PIPELINE"
    TORCH = "TORCH"
    SAVED_MODEL = "SAVED_MODEL"
    DOCKER_IMAGE = "DOCKER_IMAGE"


class RuntimeType(enum.StrEnum):
    UNSET_RUNTIME = "UNSET_RUNTIME"
    ONNXRUNTIME = "ONNXRUNTIME"
    PYTHON = "PYTHON"
    PYTORCH = "PYTORCH"
    TENSORFLOW = "TENSORFLOW"


class Operator(enum.StrEnum):
    UNSET_OPERATOR = "UNSET_OPERATOR"
    LOCAL = "LOCAL"
    NCC = "NCC"
    C3DLS = "C3DLS"
    CUSTOM = "CUSTOM"


def parse_memory(quantity: str | int) -> int:
    """Bytes of a quantity: `2Gi` is binary, `2G` decimal, a bare number bytes.

    :raises ValueError: when it is no quantity
    """
    found = re.match(_MEMORY_PATTERN, str(quantity))
    if found is None:
        raise ValueError(f"expected an amount of memory such as 512Mi or 2Gi, got {quantity!r}")
    return int(float(found[1]) * _MEMORY_UNITS[found[2] or ""])


def version_name(project: str, model: str, version: str) -> str:
    """What a version is called where one word has to name it."""
    return f"{project}/{model}@{version}"


def make_name(text: str) -> str:
    """The nearest name to a text, as of a file: `spam v1.onnx` makes `spam_v1_onnx`."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[:63]
    return name or "model"
