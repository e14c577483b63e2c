"""`tensors:` of a version's spec: what a Python package or a pipeline takes and gives over the Open Inference
Protocol, under the names that its clients use.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip
Size = Annotated[int, Meta(ge=-1, le=2**31 - 1, description="a size, or -1 for any")]


class Tensor(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One tensor. `shape` has -1 for a size that is free."""

    name: Annotated[str, Meta(min_length=1, max_length=256, description="what clients call it")]
    datatype: Annotated[Datatype, Meta(description="such as FP32, INT64 or BYTES")]
    shape: Annotated[tuple[Size, ...], Meta(max_length=32, description="such as [-1, 3]")]
    optional: bool = False


class Tensors(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """With `rows`, the first dimension of each tensor counts rows, and each row is a datum of its own."""

    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1, description="a list of tensors")]
    outputs: Annotated[tuple[Tensor, ...], Meta(min_length=1, description="a list of tensors")]
    rows: bool = True
