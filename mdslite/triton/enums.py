"""The fields of `config.pbtxt` that hold one of a few names: where they stand, and the names by number."""

from __future__ import annotations

from collections.abc import Mapping

_TYPES = (
    "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64",
    "TYPE_INT8", "TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64",
    "TYPE_STRING", "TYPE_BF16",
)  # fmt: skip
_TIMEOUT_ACTIONS = ("REJECT", "DELAY")

ENUMS: Mapping[str, tuple[str, ...]] = {
    "input.data_type": _TYPES,
    "input.format": ("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"),
    "output.data_type": _TYPES,
    "batch_input.kind": (
        "BATCH_ELEMENT_COUNT",
        "BATCH_ACCUMULATED_ELEMENT_COUNT",
        "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
        "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE",
        "BATCH_ITEM_SHAPE",
        "BATCH_ITEM_SHAPE_FLATTEN",
    ),
    "batch_input.data_type": _TYPES,
    "batch_output.kind": ("BATCH_SCATTER_WITH_INPUT_SHAPE",),
    "optimization.priority": ("PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN"),
    "dynamic_batching.default_queue_policy.timeout_action": _TIMEOUT_ACTIONS,
    "dynamic_batching.priority_queue_policy.value.timeout_action": _TIMEOUT_ACTIONS,
    "sequence_batching.control_input.control.kind": (
        "CONTROL_SEQUENCE_START",
        "CONTROL_SEQUENCE_READY",
        "CONTROL_SEQUENCE_END",
        "CONTROL_SEQUENCE_CORRID",
    ),
    "sequence_batching.control_input.control.data_type": _TYPES,
    "sequence_batching.state.data_type": _TYPES,
    "sequence_batching.state.initial_state.data_type": _TYPES,
    "instance_group.kind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"),
    "instance_group.secondary_devices.kind": ("KIND_NVDLA",),
    "model_warmup.inputs.value.data_type": _TYPES,
}
