"""Messages for models with typed tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mdslite.errors import InvalidRequest
from mdslite.oip.inputs import InputTensor, infer_shape, take_inputs
from mdslite.oip.message import Messages, Places, Span
from mdslite.oip.outputs import OutputTensor, give_outputs
from mdslite.oip.wire import Buffer
from mdslite.runtimes.protocol import Outputs
from mdslite.tensors import Codec, Columns


class TensorMessages(Messages):
    """Inputs and outputs are those of the model's signature."""

    def __init__(self, codec: Codec, *, model: str, version: str) -> None:
        super().__init__(codec.signature, model=model, version=version)
        self._codec = codec

    def take(self, tensors: Sequence[InputTensor]) -> Columns:
        return take_inputs(self._codec, tensors)

    def give(self, outputs: Outputs) -> list[OutputTensor]:
        return give_outputs(self._codec.signature, outputs)

    def bare(self, body: Buffer) -> InputTensor:
        inputs = self._codec.signature.inputs
        if len(inputs) != 1:
            raise InvalidRequest(f"a request without JSON holds one input, but this model has {len(inputs)}")
        spec = inputs[0]
        return InputTensor(spec.name, spec.datatype, infer_shape(self._codec, spec, len(body)), raw=body)

    def places(self, tensors: Sequence[InputTensor], stops: Sequence[int]) -> Places | None:
        shared = {spec.name for spec in self.signature.shared}
        if any(tensor.name in shared for tensor in tensors):
            return None  # its bytes say with whom a request shares a batch
        found: dict[str, Any] = {}
        for tensor, stop in zip(tensors, stops, strict=True):
            spec = self._codec.input(tensor.name)
            start = stop - len(tensor.raw or b"")
            found[tensor.name] = Span(spec, start, stop, math.prod(tensor.shape)), tensor.shape
        columns = self._codec.assemble(found)
        spans: Any = columns.columns
        return Places(spans, columns.rows, columns.key, stops[-1])
