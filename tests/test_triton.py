"""Coming from Triton: its configurations read, its repositories turned into what serves."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import models
import numpy as np
import pytest
from live import up
from tritonclient.grpc import model_config_pb2

from mdslite import deployments
from mdslite.cli import run
from mdslite.errors import InvalidRequest
from mdslite.triton.backend import UTILS, Backend, make_utils
from mdslite.triton.conversion import convert
from mdslite.triton.enums import ENUMS
from mdslite.triton.pbtxt import parse
from mdslite.triton.repository import read_repository

# The text format


def test_fields_are_lists_however_they_were_written() -> None:
    text = """
    # a comment
    name: "spam" 'mer'   max_batch_size: 8, backend: 'python';
    dims: [ -1, 3 ] dims: 4
    input [ { name: "x" data_type: TYPE_FP32 }, { name: "y" } ]
    input { name: "z\\n" optional: true }
    deep < a { b: 1.5e-3 } >
    """
    assert parse(text, file="c") == {
        "name": ["spammer"],
        "max_batch_size": [8],
        "backend": ["python"],
        "dims": [-1, 3, 4],
        "input": [
            {"name": ["x"], "data_type": ["TYPE_FP32"]},
            {"name": ["y"]},
            {"name": ["z\n"], "optional": [True]},
        ],
        "deep": [{"a": [{"b": [0.0015]}]}],
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb", "c:2:1: expected a colon"),
        ("a {\n b: 1", "c:2:5: it ends where a field's name"),
        ("a: 1\n]", "c:2:1: expected a field's name"),
        ("a: [1 2]", "c:1:5: expected a comma"),
        ("a: }", "c:1:4: expected a value"),
        ("a: 1\n\n %", "c:3:2: '%' is not understood"),
        ("a {" * 100, "nested too deep"),
    ],
)
def test_mistakes_have_their_line_and_column(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        parse(text, file="c")


# A repository

CONFIG = """
name: "double"
platform: "onnxruntime_onnx"
max_batch_size: 16
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 500
  default_queue_policy { default_timeout_microseconds: 2000000 max_queue_size: 10 }
}
version_policy: { all { } }
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
parameters { key: "other" value: { string_value: "1" } }
model_warmup [ { name: "w" batch_size: 1 } ]
"""
PYTHON = """
name: "scale"
backend: "python"
max_batch_size: 8
input [ { name: "VALUES" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "SCALED" data_type: TYPE_FP32 dims: [ -1 ] } ]
output { name: "WORD" data_type: TYPE_STRING dims: [ 1 ] }
parameters { key: "factor" value: { string_value: "10" } }
"""
MODEL = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.factor = float(config["parameters"]["factor"]["string_value"])
        output = pb_utils.get_output_config_by_name(config, "SCALED")
        self.dtype = pb_utils.triton_string_to_numpy(output["data_type"])

    def execute(self, requests):
        responses = []
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "VALUES").as_numpy()
            if (values < 0).any():
                error = pb_utils.TritonError("below zero")
                responses.append(pb_utils.InferenceResponse(output_tensors=[], error=error))
                continue
            scaled = pb_utils.Tensor("SCALED", (values * self.factor).astype(self.dtype))
            word = pb_utils.Tensor("WORD", np.array([[b"ok"]], dtype=np.object_))
            responses.append(pb_utils.InferenceResponse(output_tensors=[scaled, word]))
        return responses
"""
ENSEMBLE = """
name: "chain"
platform: "ensemble"
max_batch_size: 8
input [ { name: "RAW" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "END" data_type: TYPE_FP32 dims: [ 3 ] } ]
ensemble_scheduling {
  step [
    { model_name: "scale" model_version: -1
      input_map { key: "VALUES" value: "SAME" } output_map { key: "SCALED" value: "END" } },
    { model_name: "double" model_version: -1
      input_map { key: "x" value: "RAW" } output_map { key: "y" value: "SAME" } }
  ]
}
"""


def make_repository(folder: Path) -> Path:
    for name, config in (("double", CONFIG), ("scale", PYTHON), ("chain", ENSEMBLE)):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config)
    (folder / "double" / "2").mkdir()
    models.identity(folder / "double" / "1" / "model.onnx")
    models.identity(folder / "double" / "2" / "model.onnx")
    (folder / "scale" / "1" / "model.py").write_text(MODEL)
    (folder / "bare" / "3").mkdir(parents=True)
    models.identity(folder / "bare" / "3" / "model.onnx")
    (folder / "odd" / "1").mkdir(parents=True)
    (folder / "odd" / "config.pbtxt").write_text('backend: "dali"')
    return folder


def test_a_repository_becomes_versions_and_notes(tmp_path: Path) -> None:
    done = convert(read_repository(make_repository(tmp_path / "r")), project="shop", target=tmp_path / "o")
    found = {model["model"]: model["versions"] for model in done.models}
    assert list(found) == ["bare", "chain", "double", "scale"]
    [first, second] = found["double"]
    assert (first["version"], second["version"]) == ("1", "2")
    assert second["spec"] == {
        "uri": str(tmp_path / "r" / "double" / "2" / "model.onnx"),
        "batch": {"batch_size": 16, "batch_timeout_ms": 0.5, "prediction_time_ms": 2000.0},
        "resource": {"gpu": 0},
        "service_info": {"replicas": 2, "weight": 100},
        "container_parameter": {"onnxruntime": {"intra_op_threads": 1}},
    }
    assert first["spec"]["service_info"]["weight"] == 0
    assert found["bare"][0]["version"] == "3"
    notes = "\n".join(f"{name}: {what}" for name, what in done.notes)
    for words in (
        "double: preferred_batch_size",
        "double: max_queue_size",
        "double: the parameter other has no meaning",
        "double: model_warmup",
        "odd: the backend dali does not exist here",
    ):
        assert words in notes
    assert found["scale"][0]["spec"]["tensors"]["outputs"][1] == {
        "name": "WORD",
        "datatype": "BYTES",
        "shape": [-1, 1],
    }
    text = json.dumps({"deployments": done.models})
    assert deployments.load(text, file="d.yaml", base=tmp_path)


def test_by_default_the_latest_version_alone_is_served(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    for number in (1, 2, 10):
        (folder / str(number)).mkdir(parents=True)
        models.identity(folder / str(number) / "model.onnx")
    [model] = read_repository(tmp_path)
    assert (list(model.files), model.skipped) == ([10], (1, 2))
    (folder / "config.pbtxt").write_text("version_policy: { specific: { versions: [1, 2] } }")
    [model] = read_repository(tmp_path)
    assert list(model.files) == [1, 2]
    (folder / "config.pbtxt").write_text("version_policy: { latest { num_versions: 2 } }")
    [model] = read_repository(tmp_path)
    assert list(model.files) == [2, 10]


@pytest.mark.parametrize("name", ["none", "empty"])
def test_what_is_no_repository_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidRequest, match=r"there is no folder|holds no models"):
        read_repository(tmp_path / name)


def test_every_enum_of_the_protocol_s_description_is_known() -> None:
    def walk(message: Any, above: str, seen: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
        for one in message.fields:
            place = f"{above}{one.name}"
            if one.enum_type is not None:
                assert [value.number for value in one.enum_type.values] == list(
                    range(len(one.enum_type.values))
                )
                yield place, tuple(value.name for value in one.enum_type.values)
            elif one.message_type is not None and one.message_type.full_name not in seen:
                yield from walk(one.message_type, f"{place}.", (*seen, one.message_type.full_name))

    assert dict(walk(model_config_pb2.ModelConfig.DESCRIPTOR, "", ())) == ENUMS


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        (
            "instance_group [\n  { count: 2 kind: KIND_GPUX } ]",
            "double/config.pbtxt:2:20: kind: expected KIND_AUTO, KIND_GPU, KIND_CPU or KIND_MODEL, "
            "got KIND_GPUX",
            "did you mean KIND_GPU?",
        ),
        ("input { name: 'x' data_type: FP32 }", ":1:30: data_type: expected TYPE_INVALID, ", "TYPE_FP32"),
        (
            "input { format: [ 7 ] }",
            ":1:19: format: expected FORMAT_NONE, FORMAT_NHWC or FORMAT_NCHW, got 7",
            "",
        ),
        ('instance_group { kind: "KIND_GPU" }', ":1:24: kind: ", "did you mean KIND_GPU?"),
        ("batch_output { kind: X }", ":1:22: kind: expected BATCH_SCATTER_WITH_INPUT_SHAPE, got X", ""),
    ],
)
def test_a_name_that_an_enum_does_not_have_is_refused(
    tmp_path: Path, text: str, words: str, hint: str
) -> None:
    (tmp_path / "double").mkdir()
    (tmp_path / "double" / "config.pbtxt").write_text(text)
    with pytest.raises(InvalidRequest, match=re.escape(words)) as told:
        read_repository(tmp_path)
    assert hint in (told.value.hint or "")


def test_an_enum_may_be_written_as_a_number(tmp_path: Path) -> None:
    (tmp_path / "double" / "1").mkdir(parents=True)
    (tmp_path / "double" / "1" / "model.onnx").touch()
    (tmp_path / "double" / "config.pbtxt").write_text("instance_group { kind: 2 }")
    done = convert(read_repository(tmp_path), project="p", target=tmp_path / "o")
    assert done.models[0]["versions"][0]["spec"]["resource"] == {"gpu": 0}


def test_a_python_model_s_tensor_without_a_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scale" / "1").mkdir(parents=True)
    (tmp_path / "scale" / "1" / "model.py").touch()
    (tmp_path / "scale" / "config.pbtxt").write_text("backend: 'python' input { name: 'x' dims: 3 }")
    with pytest.raises(InvalidRequest, match=r"scale/config.pbtxt: input: x has no data_type"):
        convert(read_repository(tmp_path), project="p", target=tmp_path / "o")


def test_an_ensemble_that_cannot_be_made_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "loop"
    folder.mkdir()
    steps = (
        'step { model_name: "a" input_map { key: "x" value: "B" } output_map { key: "y" value: "A" } }'
        'step { model_name: "a" input_map { key: "x" value: "A" } output_map { key: "y" value: "B" } }'
    )
    (folder / "config.pbtxt").write_text(f'platform: "ensemble" ensemble_scheduling {{ {steps} }}')
    done = convert(read_repository(tmp_path), project="p", target=tmp_path / "o")
    assert done.models == []
    assert done.notes == [("loop", "its steps wait for each other: it is left out")]


# Python models


def test_a_python_model_runs_as_it_does_in_triton(tmp_path: Path) -> None:
    convert(read_repository(make_repository(tmp_path / "r")), project="p", target=tmp_path / "o")

    class Model(Backend):
        folder = tmp_path / "o" / "packages" / "scale-1"

    model = Model()
    model.open()
    try:
        good, bad, named = model.answer([[1.0, 2.0], [-1.0], {"VALUES": [3.0]}])
        assert good["SCALED"].tolist() == [10.0, 20.0]
        assert good["WORD"] == ["ok"]
        assert named["SCALED"].tolist() == [30.0]
        assert str(bad) == "below zero"
        with pytest.raises(ValueError, match="missing input VALUES"):
            model.answer([{"OTHER": 1}])
    finally:
        sys.path.remove(str(Model.folder / "model"))
        sys.modules.pop(UTILS, None)


def test_the_utilities_know_triton_s_types() -> None:
    utils: Any = make_utils()
    assert utils.triton_string_to_numpy("TYPE_INT64") is np.int64
    assert utils.get_input_config_by_name({"input": [{"name": "a"}]}, "b") is None


# Served


def test_all_of_a_repository_serves(tmp_path: Path) -> None:
    out = tmp_path / "out"
    repository = make_repository(tmp_path / "r")
    assert run(["import", "triton", str(repository), "--project", "p", "-o", str(out)]) == 0
    with up(str(out / "deployments.yaml"), cwd=tmp_path) as appliance:

        def ask(model: str, instances: Any) -> Any:
            body = json.dumps({"instances": instances}).encode()
            return httpx2.post(f"{appliance.url}/projects/p/models/{model}:predict", content=body).json()

        assert ask("double", [[1, 2, 3]]) == {"predictions": [[1.0, 2.0, 3.0]]}
        assert ask("scale", [[1, 2], [3]]) == {
            "predictions": [{"SCALED": [10.0, 20.0], "WORD": ["ok"]}, {"SCALED": [30.0], "WORD": ["ok"]}]
        }
        assert ask("scale", [[-1]])["error"] == "below zero"
        assert ask("chain", [[1, 2, 3]]) == {"predictions": [[10.0, 20.0, 30.0]]}


def test_the_command_says_what_did_not_carry_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = make_repository(tmp_path / "r")
    out = tmp_path / "out"
    assert run(["import", "triton", str(repository), "-o", str(out)]) == 0
    told = capsys.readouterr()
    assert "✓ triton/double  1, 2" in told.out
    assert "! odd: the backend dali does not exist here" in told.out
    assert f"next: mdslite up {out / 'deployments.yaml'}" in told.err
    assert run(["import", "triton", str(repository), "-o", str(out)]) == 1
    assert "holds something already" in capsys.readouterr().err
    assert run(["import", "triton", str(repository), "-o", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["deployments"][0]["project"] == "triton"
