"""The tensors that a spec declares, as a signature."""

from __future__ import annotations

from mdslite.declarations import Tensor
from mdslite.errors import Unprocessable
from mdslite.runtimes.protocol import Signature, TensorSpec
from mdslite.spec import Spec


def declared_tensors(spec: Spec) -> Signature | None:
    """What clients of free data may send instead of `instances`, where the spec says so."""
    tensors = spec.tensors
    if tensors is None:
        return None
    inputs, outputs = (tuple(map(_spec, given)) for given in (tensors.inputs, tensors.outputs))
    return Signature(inputs, outputs, "free" if tensors.rows else "none")


def check_tensors(spec: Spec, runtime: str) -> None:
    """Pass a spec whose `tensors` a model of that runtime can have.

    :raises Unprocessable: its tensors are its own, or those named are named twice or have no rows
    """
    tensors = spec.tensors
    if tensors is None:
        return
    if runtime != "PYTHON":
        raise Unprocessable("tensors: such a model says itself which it has", hint="leave tensors out")
    for kind, given in (("inputs", tensors.inputs), ("outputs", tensors.outputs)):
        names = [one.name for one in given]
        if len(set(names)) != len(names):
            raise Unprocessable(f"tensors: two {kind} have one name")
        if tensors.rows and any(not one.shape or one.shape[0] != -1 for one in given):
            raise Unprocessable(
                f"tensors: the shape of each of the {kind} begins with -1, for the rows",
                hint="or say rows: false, where a request is one datum",
            )


def _spec(tensor: Tensor) -> TensorSpec:
    shape = tuple(None if size == -1 else size for size in tensor.shape)
    return TensorSpec(tensor.name, tensor.datatype, shape, tensor.optional)
