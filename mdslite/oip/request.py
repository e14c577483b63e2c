"""The JSON of an infer request, checked and typed. Knows no model: names and shapes are compared later."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mdslite.errors import InvalidRequest, InvalidTensor, clip
from mdslite.media import parse_json
from mdslite.packing import kind_of

_SHARED = "shared_memory_region"
_LEAVE_OUT = "leave it out, or write it as the Open Inference Protocol has it"


class Place(NamedTuple):
    """A tensor of a message: what the place of each of its keys begins with, and a message about one."""

    head: str
    words: str

    def parameter(self, name: str) -> str:
        return f"{self.head}parameters.{name}"


def input_place(number: int, name: str) -> Place:
    return Place(f"inputs[{number}].", f'input "{clip(name)}": ')


@dataclass(frozen=True, slots=True)
class Given:
    """One input: its elements are JSON values, or `size_bytes` bytes that follow the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """How an output is to be answered; with `classes`, by the names of so many likeliest ones."""

    binary: bool
    classes: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """`outputs` None stands for all of them, `binary` says how those go that are not listed."""

    id: str | None
    inputs: tuple[Given, ...]
    outputs: Mapping[str, Wanted] | None
    binary: bool
    timeout_s: float


def parse_request(text: bytes) -> InferRequest:
    """Read the JSON of an infer request. Parameters that are not known are not looked at.

    :raises InvalidJson: it is no JSON
    :raises InvalidRequest, InvalidTensor: it is no infer request; says what came and what was expected
    """
    message = parse_json(text)
    if not isinstance(message, dict):
        raise InvalidRequest(f'expected an object with "inputs", got {kind_of(message)}')
    identity = message.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InvalidRequest(f"expected a text, got {kind_of(identity)}", field="id", hint=_LEAVE_OUT)
    top = Place("", "")
    parameters = _parameters(message, top)
    binary = _flag(parameters, "binary_data_output", top, default=False)
    inputs = message.get("inputs")
    if not isinstance(inputs, list):
        raise InvalidRequest(f"expected a list of tensors, got {_came(message, 'inputs')}", field="inputs")
    return InferRequest(
        identity,
        tuple(_input(one, number) for number, one in enumerate(inputs)),
        read_outputs(message.get("outputs"), binary=binary),
        binary,
        read_timeout(parameters.get("timeout")),
    )


def read_timeout(value: Any) -> float:
    """The `timeout` parameter, microseconds, in seconds; none is infinitely long.

    :raises InvalidRequest: it is no such number
    """
    if value is None or value is False or value == 0:
        return math.inf
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequest(
            f"expected whole microseconds, got {kind_of(value)}",
            field="parameters.timeout",
            hint=_LEAVE_OUT,
        )
    return value / 1e6


def _input(tensor: Any, number: int) -> Given:
    field = f"inputs[{number}]"
    if not isinstance(tensor, dict):
        wrong = f"expected an object with name, shape and datatype, got {kind_of(tensor)}"
        raise InvalidTensor(wrong, field=field)
    name = tensor.get("name")
    if not isinstance(name, str):
        wrong = f"expected a text as its name, got {_came(tensor, 'name')}"
        raise InvalidTensor(wrong, field=f"{field}.name")
    where = input_place(number, name)
    datatype, shape, data = tensor.get("datatype"), tensor.get("shape"), tensor.get("data")
    if not isinstance(datatype, str):
        wrong = f"{where.words}expected a datatype such as FP32, got {_came(tensor, 'datatype')}"
        raise InvalidTensor(wrong, field=f"{field}.datatype")
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        wrong = f"{where.words}expected its shape as a list of integers, got {_came(tensor, 'shape')}"
        raise InvalidTensor(wrong, field=f"{field}.shape")
    parameters = _parameters(tensor, where)
    check_place(parameters, where)
    size_bytes = _count(parameters, "binary_data_size", where)
    if ("data" in tensor) == (size_bytes is not None):
        raise InvalidTensor(
            f'{where.words}expected either "data" or the parameter "binary_data_size", got '
            f"{'both' if 'data' in tensor else 'none'}",
            field=field,
        )
    if "data" in tensor and not isinstance(data, list):
        raise InvalidTensor(f"{where.words}expected a list, got {kind_of(data)}", field=f"{field}.data")
    return Given(name, datatype, tuple(shape), data, size_bytes)


def read_outputs(outputs: Any, *, binary: bool) -> dict[str, Wanted] | None:
    """Which outputs are asked for, None for all of them; `binary` says how those go that do not say it.

    :raises InvalidRequest: one of them is asked for twice, or in a way that there is not
    """
    if outputs is None or outputs == []:
        return None
    if not isinstance(outputs, list):
        raise InvalidRequest(f"expected a list of outputs, got {kind_of(outputs)}", field="outputs")
    found: dict[str, Wanted] = {}
    for number, output in enumerate(outputs):
        field = f"outputs[{number}]"
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str):
            raise InvalidRequest("expected an object with a text as its name", field=field)
        where = Place(f"{field}.", f'output "{clip(name)}": ')
        if name in found:
            wrong = f"{where.words}asked for twice, expected once"
            raise InvalidRequest(wrong, field=field, hint=_LEAVE_OUT)
        parameters = _parameters(output, where)
        check_place(parameters, where)
        found[name] = Wanted(
            _flag(parameters, "binary_data", where, default=binary),
            _count(parameters, "classification", where) or 0,
        )
    return found


def _came(of: dict[str, Any], key: str) -> str:
    """What there is of a key that has to be there."""
    return kind_of(of[key]) if key in of else f'no key "{key}"'


def _parameters(of: dict[str, Any], where: Place) -> dict[str, Any]:
    parameters = of.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidRequest(
            f"{where.words}expected an object, got {kind_of(parameters)}",
            field=f"{where.head}parameters",
            hint=_LEAVE_OUT,
        )
    return parameters


def _flag(parameters: dict[str, Any], name: str, where: Place, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(
            f"{where.words}expected true or false, got {kind_of(value)}",
            field=where.parameter(name),
            hint=_LEAVE_OUT,
        )
    return value


def _count(parameters: dict[str, Any], name: str, where: Place) -> int | None:
    value = parameters.get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise InvalidRequest(
            f"{where.words}expected a whole number from 0 on, got {kind_of(value)}",
            field=where.parameter(name),
            hint=_LEAVE_OUT,
        )
    return value


def check_place(parameters: Mapping[str, Any], where: Place) -> None:
    """Pass a tensor that stands in the message itself.

    :raises InvalidRequest: it is in shared memory
    """
    if _SHARED in parameters:
        raise InvalidRequest(
            f"{where.words}shared memory is not served: expected the tensor in the message",
            field=where.parameter(_SHARED),
            hint="its raw bytes are the fastest way in",
        )
