"""What of a version's `container_parameter` means something here: variables for a child, what a container is
started with, and each runtime's own settings."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field


class _Settings(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


_Threads = Annotated[int, Meta(ge=1, le=1024, description="threads inside one operator")]


class OnnxSettings(_Settings, frozen=True):
    """`container_parameter.onnxruntime`; None leaves the choice to the runtime."""

    intra_op_threads: _Threads | None = None
    inter_op_threads: Annotated[int, Meta(ge=1, le=1024, description="operators at a time")] | None = None
    cpu_mem_arena: bool | None = None
    mem_pattern: bool | None = None
    graph_optimization: Literal["disabled", "basic", "extended", "all"] | None = None
    gpu_mem_limit_mb: Annotated[int, Meta(ge=1, le=1 << 30, description="megabytes of GPU memory")] | None = (
        None
    )
    # TensorRT builds an engine for minutes at each load, so it is never tried unasked.
    tensorrt: bool | None = None


class Tensor(_Settings, frozen=True):
    """An input or output that a TorchScript file says too little of."""

    name: Annotated[str, Meta(min_length=1, description="what forward calls it, such as x")]
    datatype: Literal[
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
        "FP16", "BF16", "FP32", "FP64",
    ]  # fmt: skip
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=-1, le=1 << 40)], ...],
        Meta(max_length=32, description="its sizes, -1 where free, such as [-1, 3, 224, 224]"),
    ]


class TorchSettings(_Settings, frozen=True):
    """`container_parameter.torch`; None leaves the choice to the runtime."""

    inputs: Annotated[tuple[Tensor, ...], Meta(description="a list of {name, datatype, shape}")] | None = None
    outputs: Annotated[tuple[Tensor, ...], Meta(description="a list of {name, datatype, shape}")] | None = (
        None
    )
    intra_op_threads: _Threads | None = None


class TensorflowSettings(_Settings, frozen=True):
    """`container_parameter.tensorflow`; None leaves the choice to the runtime."""

    signature: (
        Annotated[
            str, Meta(min_length=1, description="a signature of the SavedModel, by default serving_default")
        ]
        | None
    ) = None


class ContainerParameter(Struct, frozen=True):
    """The keys of the free map `container_parameter` that mean something here; it may hold others."""

    env: Annotated[dict[str, str], Meta(description="variables and their texts, such as {LEVEL: debug}")] = (
        field(default_factory=dict)
    )
    image: str | None = None
    command: str | tuple[str, ...] | None = None
    args: str | tuple[str, ...] | None = None
    onnxruntime: OnnxSettings = OnnxSettings()
    torch: TorchSettings = TorchSettings()
    tensorflow: TensorflowSettings = TensorflowSettings()
