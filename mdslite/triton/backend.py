"""Runs a model written for Triton's Python backend inside a package of ours: the class that a generated
package extends, and the module `triton_python_backend_utils` as far as such models use it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mdslite.errors import ModelError

UTILS = "triton_python_backend_utils"
DTYPES: Mapping[str, Any] = {
    "TYPE_BOOL": np.bool_, "TYPE_UINT8": np.uint8, "TYPE_UINT16": np.uint16, "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64, "TYPE_INT8": np.int8, "TYPE_INT16": np.int16, "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64, "TYPE_FP16": np.float16, "TYPE_FP32": np.float32, "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}  # fmt: skip


class Tensor:
    """A named array."""

    def __init__(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self._name = name
        self._array = array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self._array

    def is_cpu(self) -> bool:
        return True

    def shape(self) -> list[int]:
        return list(self._array.shape)


class TritonError(Exception):
    """What a model says of a request that it cannot answer."""

    def __init__(self, message: str = "", code: Any = None) -> None:
        super().__init__(message)

    def message(self) -> str:
        return str(self)


class InferenceRequest:
    """One request, with its inputs."""

    def __init__(self, inputs: Sequence[Tensor], wanted: Sequence[str], number: int) -> None:
        self._inputs = list(inputs)
        self._wanted = list(wanted)
        self._number = number

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def requested_output_names(self) -> list[str]:
        return self._wanted

    def request_id(self) -> str:
        return str(self._number)

    def correlation_id(self) -> int:
        return 0

    def parameters(self) -> str:
        return "{}"


class InferenceResponse:
    """The answer to one request, or the error that it met."""

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self._outputs = list(output_tensors)
        self._error = error

    def output_tensors(self) -> list[Tensor]:
        return self._outputs

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


def make_utils() -> ModuleType:
    """The module that such models import."""
    utils: Any = ModuleType(UTILS)
    utils.Tensor = Tensor
    utils.TritonError = utils.TritonModelException = TritonError
    utils.InferenceRequest = InferenceRequest
    utils.InferenceResponse = InferenceResponse
    utils.get_input_tensor_by_name = _find_input
    utils.get_output_tensor_by_name = _find_output
    utils.get_input_config_by_name = lambda config, name: _find_config(config, "input", name)
    utils.get_output_config_by_name = lambda config, name: _find_config(config, "output", name)
    utils.triton_string_to_numpy = lambda name: DTYPES[name]
    utils.Logger = _Logger
    return utils  # type: ignore[no-any-return]


class Backend:
    """The base of a generated package's class. `folder` holds `config.json` and Triton's files in `model`."""

    folder: Path

    def open(self) -> None:
        """Import the model, make one, and initialize it as Triton does."""
        self._config: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        sys.modules.setdefault(UTILS, make_utils())
        place = self.folder / "model"
        sys.path.insert(0, str(place))
        spec = importlib.util.spec_from_file_location("triton_model", place / "model.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._model = module.TritonPythonModel()
        if hasattr(self._model, "initialize"):
            self._model.initialize(
                {
                    "model_config": json.dumps(self._config),
                    "model_instance_kind": "CPU",
                    "model_instance_device_id": "0",
                    "model_instance_name": self._config["name"],
                    "model_repository": str(place),
                    "model_version": str(self._config["version"]),
                    "model_name": self._config["name"],
                }
            )

    def answer(self, data: Sequence[Any]) -> list[Any]:
        """One answer a datum: its outputs by name, or the only one's value; or the error that it met."""
        outputs = [one["name"] for one in self._config["output"]]
        requests = [
            InferenceRequest(self._tensors(datum), outputs, number) for number, datum in enumerate(data)
        ]
        responses = self._model.execute(requests)
        if responses is None or len(responses) != len(requests):
            raise ModelError(f"execute gave {len(responses or ())} responses for {len(requests)} requests")
        return [self._value(response) for response in responses]

    def _tensors(self, datum: Any) -> list[Tensor]:
        inputs = self._config["input"]
        if not isinstance(datum, dict):
            if len(inputs) != 1:
                names = ", ".join(one["name"] for one in inputs)
                raise ValueError(f"expected an object with the inputs {names}")
            datum = {inputs[0]["name"]: datum}
        found = []
        for one in inputs:
            if one["name"] not in datum:
                if one.get("optional"):
                    continue
                raise ValueError(f"missing input {one['name']}")
            value = datum[one["name"]]
            if one["data_type"] == "TYPE_STRING":
                array = np.array(value, dtype=np.object_)
                array = np.vectorize(lambda text: str(text).encode(), otypes=[np.object_])(array)
            else:
                array = np.array(value, dtype=DTYPES[one["data_type"]])
            found.append(Tensor(one["name"], array[np.newaxis] if self._batched else array))
        return found

    def _value(self, response: InferenceResponse) -> Any:
        if response.has_error():
            return ModelError(str(response.error()))
        values = {one.name(): self._plain(one.as_numpy()) for one in response.output_tensors()}
        return next(iter(values.values())) if len(values) == 1 else values

    def _plain(self, array: np.ndarray[Any, Any]) -> Any:
        if self._batched and array.ndim:
            array = array[0]
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "OSU":
            return array
        decode = np.vectorize(
            lambda one: one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one),
            otypes=[np.object_],
        )
        return decode(array).tolist()

    @property
    def _batched(self) -> bool:
        return bool(self._config.get("max_batch_size", 0))


class _Logger:
    """Writes where the package's output goes."""

    @staticmethod
    def log(message: str, level: Any = None) -> None:
        print(message, file=sys.stderr)

    log_info = log_warn = log_error = log_verbose = log


def _find_input(request: InferenceRequest, name: str) -> Tensor | None:
    return next((one for one in request.inputs() if one.name() == name), None)


def _find_output(response: InferenceResponse, name: str) -> Tensor | None:
    return next((one for one in response.output_tensors() if one.name() == name), None)


def _find_config(config: Mapping[str, Any], kind: str, name: str) -> dict[str, Any] | None:
    return next((one for one in config.get(kind, ()) if one["name"] == name), None)
