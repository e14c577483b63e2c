"""Imported Python models and ensembles keep their tensors: tritonclient, unchanged, over HTTP and gRPC."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import live
import models
import numpy as np
import pytest
from box import deployments
from packages import class_text, write_package

from mdslite.cli import run

grpcclient = pytest.importorskip("tritonclient.grpc")
httpclient = pytest.importorskip("tritonclient.http")
from tritonclient.utils import InferenceServerException  # noqa: E402

MIX = """
name: "mix"
backend: "python"
max_batch_size: 8
input [ { name: "VALUES" data_type: TYPE_FP32 dims: [ 2 ] } ]
input [ { name: "WORD" data_type: TYPE_STRING dims: [ 1 ] } ]
input [ { name: "SHIFT" data_type: TYPE_INT64 dims: [ 1 ] optional: true } ]
output [ { name: "HALVES" data_type: TYPE_FP16 dims: [ 2 ] } ]
output [ { name: "WORDS" data_type: TYPE_STRING dims: [ -1 ] } ]
output [ { name: "COUNT" data_type: TYPE_INT64 dims: [ 1 ] } ]
"""
MIX_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            find = lambda name: pb_utils.get_input_tensor_by_name(request, name)
            values, word, shift = find("VALUES").as_numpy(), find("WORD").as_numpy(), find("SHIFT")
            if word[0, 0] == b"bad":
                responses.append(pb_utils.InferenceResponse([], pb_utils.TritonError("a bad word")))
                continue
            assert values.dtype == np.float32 and word.dtype == object, (values.dtype, word.dtype)
            more = 0 if shift is None else int(shift.as_numpy()[0, 0])
            count = np.array([[2**60 + more]], np.int64)
            words = np.array([[word[0, 0], b"end"]], object)
            tensors = [("HALVES", (values / 2).astype(np.float16)), ("WORDS", words), ("COUNT", count)]
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(*one) for one in tensors]))
        return responses
"""
WHOLE = """
name: "whole"
backend: "python"
input [ { name: "GRID" data_type: TYPE_INT32 dims: [ -1, 2 ] } ]
output [ { name: "SUM" data_type: TYPE_INT32 dims: [ 2 ] } ]
"""
WHOLE_MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        grids = [pb_utils.get_input_tensor_by_name(one, "GRID").as_numpy() for one in requests]
        sums = [pb_utils.Tensor("SUM", grid.sum(axis=0, dtype="i4")) for grid in grids]
        return [pb_utils.InferenceResponse([one]) for one in sums]
"""
IDENTITY = """
name: "same"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
CHAIN = """
name: "chain"
platform: "ensemble"
max_batch_size: 8
input [ { name: "RAW" data_type: TYPE_FP32 dims: [ 2 ] } ]
input [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "END" data_type: TYPE_FP16 dims: [ 2 ] }, { name: "N" data_type: TYPE_INT64 dims: [ 1 ] } ]
ensemble_scheduling {
  step [
    { model_name: "same" model_version: -1
      input_map { key: "x" value: "RAW" } output_map { key: "y" value: "SAME" } },
    { model_name: "mix" model_version: -1
      input_map { key: "VALUES" value: "SAME" } input_map { key: "WORD" value: "TEXT" }
      output_map { key: "HALVES" value: "END" } output_map { key: "COUNT" value: "N" } }
  ]
}
"""
X = np.array([[1, 2], [3, 5]], np.float32)
WORDS = np.array([["a"], ["bé"]], object)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Live]:
    folder = tmp_path_factory.mktemp("triton")
    for name, config in (("mix", MIX), ("whole", WHOLE), ("same", IDENTITY), ("chain", CHAIN)):
        (folder / "r" / name / "1").mkdir(parents=True)
        (folder / "r" / name / "config.pbtxt").write_text(config)
    (folder / "r" / "mix" / "1" / "model.py").write_text(MIX_MODEL)
    (folder / "r" / "whole" / "1" / "model.py").write_text(WHOLE_MODEL)
    models.identity(folder / "r" / "same" / "1" / "model.onnx", shape=("N", 2))
    out = folder / "out"
    assert run(["import", "triton", str(folder / "r"), "--project", "p", "-o", str(out)]) == 0
    with live.up(str(out / "deployments.yaml"), "--grpc-port", "0", cwd=folder) as found:
        yield found


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, running: live.Live) -> Iterator[Any]:
    """A client, and the module that it is of."""
    place = {"http": running.url.removeprefix("http://"), "grpc": running.lines[0].partition("gRPC ")[2]}
    module = {"http": httpclient, "grpc": grpcclient}[request.param]
    with module.InferenceServerClient(place[request.param]) as found:
        found.module = module
        yield found


def given(client: Any, name: str, array: np.ndarray[Any, Any], datatype: str) -> Any:
    tensor = client.module.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def texts(array: np.ndarray[Any, Any]) -> list[Any]:
    return [[one.decode() for one in row] for row in array]


def test_a_python_model_takes_and_gives_the_tensors_of_its_configuration(client: Any) -> None:
    inputs = [given(client, "VALUES", X, "FP32"), given(client, "WORD", WORDS, "BYTES")]
    for more in ([], [given(client, "SHIFT", np.array([[1], [2]]), "INT64")]):
        reply = client.infer("p.mix", [*inputs, *more])
        assert reply.as_numpy("HALVES").dtype == np.float16
        assert reply.as_numpy("HALVES").tolist() == (X / 2).tolist()
        assert texts(reply.as_numpy("WORDS")) == [["a", "end"], ["bé", "end"]]
        shifts = [1, 2] if more else [0, 0]
        assert reply.as_numpy("COUNT").tolist() == [[2**60 + shift] for shift in shifts]
    wanted = [client.module.InferRequestedOutput("COUNT")]
    reply = client.infer("p.mix", inputs, outputs=wanted)
    assert reply.as_numpy("COUNT").tolist() == [[2**60], [2**60]]
    assert reply.as_numpy("HALVES") is None


def test_numbers_that_are_none_and_empty_batches_pass(client: Any) -> None:
    odd = np.array([[np.nan, 1]], np.float32)
    found = client.infer(
        "p.mix", [given(client, "VALUES", odd, "FP32"), given(client, "WORD", WORDS[:1], "BYTES")]
    )
    assert np.isnan(found.as_numpy("HALVES")[0, 0])
    nothing = [given(client, "VALUES", X[:0], "FP32"), given(client, "WORD", WORDS[:0], "BYTES")]
    assert client.infer("p.mix", nothing).as_numpy("HALVES").shape == (0, 2)


def test_a_model_without_batches_takes_the_whole_tensor(client: Any) -> None:
    grid = np.array([[1, 2], [3, 4], [5, 6]], np.int32)
    for _ in range(2):
        found = client.infer("p.whole", [given(client, "GRID", grid, "INT32")]).as_numpy("SUM")
        assert (found.dtype, found.tolist()) == (np.int32, [9, 12])


def test_an_ensemble_takes_and_gives_its_own(client: Any) -> None:
    inputs = [given(client, "RAW", X, "FP32"), given(client, "TEXT", WORDS, "BYTES")]
    reply = client.infer("p.chain", inputs)
    assert reply.as_numpy("END").tolist() == (X / 2).tolist()
    assert reply.as_numpy("N").tolist() == [[2**60], [2**60]]


def test_clients_learn_the_tensors(client: Any) -> None:
    options = {} if client.module is httpclient else {"as_json": True}
    for name, rows in (("mix", True), ("whole", False)):
        metadata = client.get_model_metadata(f"p.{name}", **options)
        shapes = {one["name"]: [int(size) for size in one["shape"]] for one in metadata["inputs"]}
        assert shapes == (
            {"VALUES": [-1, 2], "WORD": [-1, 1], "SHIFT": [-1, 1]} if rows else {"GRID": [-1, 2]}
        )
        config = client.get_model_config(f"p.{name}", **options)
        config = config.get("config", config)
        assert config.get("max_batch_size", 0) == (8 if rows else 0)
        first = config["output"][0]
        assert (first["name"], first["data_type"]) == (
            ("HALVES", "TYPE_FP16") if rows else ("SUM", "TYPE_INT32")
        )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"VALUES": (X.astype(np.float64), "FP64")}, "datatype FP64, expected FP32"),
        ({"VALUES": (X[:, :1], "FP32")}, "expected"),
        ({"VALUES": (X[:1], "FP32")}, "different numbers of rows"),
        ({"OTHER": (X, "FP32")}, 'unknown input "OTHER"'),
        ({"WORD": None}, 'missing input "WORD"'),
        ({"WORD": (np.array([["bad"], ["a"]], object), "BYTES")}, "a bad word"),
    ],
)
def test_tensors_that_do_not_fit_are_named(client: Any, change: dict[str, Any], says: str) -> None:
    tensors: dict[str, Any] = {"VALUES": (X, "FP32"), "WORD": (WORDS, "BYTES")} | change
    inputs = [given(client, name, *one) for name, one in tensors.items() if one is not None]
    with pytest.raises(InferenceServerException, match=says):
        client.infer("p.mix", inputs)


def test_any_package_may_declare_its_tensors(tmp_path: Path) -> None:
    code = """
    @mds.predict
    def predict(self, data):
        return {"TWICE": data * 2} if data[0] >= 0 else {"OTHER": 1}
"""
    write_package(tmp_path / "pack", {"model.py": class_text(code)})
    (tmp_path / "d.yaml").write_text(declaring("./pack", "[-1, 2]"))
    with live.up("d.yaml", cwd=tmp_path) as running, ExitStack() as stack:
        place = running.url.removeprefix("http://")
        client = stack.enter_context(httpclient.InferenceServerClient(place))
        client.module = httpclient
        found = client.infer("p.m", [given(client, "X", X, "FP32")]).as_numpy("TWICE")
        assert found.tolist() == (X * 2).tolist()
        with pytest.raises(InferenceServerException, match="without the outputs TWICE"):
            client.infer("p.m", [given(client, "X", -X, "FP32")])


def declaring(uri: str, shape: str) -> str:
    tensor = "{name: %s, datatype: FP32, shape: %s}"
    tensors = f"inputs: [{tensor % ('X', shape)}], outputs: [{tensor % ('TWICE', shape)}]"
    return deployments(f"v1, uri: {uri}").replace("}", f", tensors: {{{tensors}}}}}")


@pytest.mark.parametrize(
    ("uri", "shape", "says"),
    [("m.onnx", "[-1, 2]", "says itself which it has"), ("./pack", "[2]", "begins with -1, for the rows")],
)
def test_tensors_that_cannot_be_declared_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], uri: str, shape: str, says: str
) -> None:
    models.identity(tmp_path / "m.onnx", shape=("N", 2))
    write_package(tmp_path / "pack", {"model.py": class_text()})
    (tmp_path / "d.yaml").write_text(declaring(uri, shape))
    store = ("--store", str(tmp_path / "store"), "--port", "0")
    assert run(["up", str(tmp_path / "d.yaml"), *store]) == 1
    told = capsys.readouterr().err
    assert says in told
    assert re.search(r"d\.yaml:\d+:\d+: p/m v1: tensors", told)
