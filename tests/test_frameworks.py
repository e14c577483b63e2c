"""PyTorch and TensorFlow models beside ONNX ones in a real appliance: one file, one batcher, one log."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import models
import numpy as np
import pytest
from live import Live, up

from mdslite.cli import run

pytest.importorskip("torch")
pytest.importorskip("tensorflow")
import tensorflow_models as tfm
import torch
import torch_models as tm

# The libraries take seconds to import, in the appliance and in the process that tries models.
pytestmark = pytest.mark.timeout(180)

DEPLOYMENTS = """\
deployments:
- project: demo
  model: mlp
  versions:
  - {version: onnx, weight: 25, spec: {uri: ./mlp.onnx}}
  - {version: export, weight: 25, spec: {uri: ./mlp.pt2}}
  - version: script
    weight: 25
    spec:
      uri: ./mlp.pt
      batch: {batch_size: 8}
      container_parameter: {torch: {inputs: [{name: x, datatype: FP32, shape: [-1, 4]}], intra_op_threads: 1}}
  - {version: tensorflow, weight: 25, spec: {uri: ./mlp_tensorflow/}}
- project: demo
  model: gather
  versions:
  - {version: v1, spec: {uri: ./gather.pt2}}
- project: demo
  model: words
  versions:
  - {version: v1, spec: {uri: ./words/}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frameworks")
    models.mlp(folder / "mlp.onnx")
    tm.export(folder / "mlp.pt2", tm.Mlp(), torch.zeros(2, 4))
    tm.script(folder / "mlp.pt", tm.Mlp())
    tfm.mlp(folder / "mlp_tensorflow")
    tm.export(folder / "gather.pt2", tm.Gather(), torch.zeros(2, 1, dtype=torch.long))
    tfm.words(folder / "words")
    (folder / "deployments.yaml").write_text(DEPLOYMENTS)
    return folder


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[Live]:
    with up("deployments.yaml", cwd=folder) as live:
        yield live


def predict(live: Live, target: str, body: Any) -> tuple[int, Any, Any]:
    """The status, headers and body of one prediction."""
    project, model, *version = target.replace("@", "/").split("/")
    where = f"{live.url}/projects/{project}/models/{model}" + "".join(f"/versions/{one}" for one in version)
    request = urllib.request.Request(f"{where}:predict", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.headers, json.loads(reply.read())
    except urllib.error.HTTPError as exc:
        return exc.code, exc.headers, json.loads(exc.read())


@pytest.mark.parametrize("version", ["onnx", "export", "script", "tensorflow"])
def test_every_framework_answers_in_the_same_form(live: Live, version: str) -> None:
    status, headers, body = predict(live, f"demo/mlp@{version}", {"instances": [[1, 2, 3, 4], [0, 0, 0, 0]]})
    assert (status, headers["mdslite-version"]) == (200, version)
    np.testing.assert_allclose(np.sum(body["predictions"], axis=1), [1, 1], rtol=1e-5)
    name = "output" if version in ("export", "script") else "y"
    status, _, body = predict(live, f"demo/mlp@{version}", {"inputs": {"x": [[1, 2, 3, 4]]}})
    assert (status, list(body["outputs"])) == (200, [name])


def test_the_same_weights_give_the_same_answers(live: Live) -> None:
    given = {"instances": [[0.5, -1, 2, 0]]}
    exported = predict(live, "demo/mlp@export", given)[2]["predictions"]
    scripted = predict(live, "demo/mlp@script", given)[2]["predictions"]
    np.testing.assert_allclose(exported, scripted, rtol=1e-5)
    np.testing.assert_allclose(exported, tm.Mlp()(torch.tensor(given["instances"])).tolist(), rtol=1e-4)


def test_traffic_is_split_over_the_frameworks(live: Live) -> None:
    served = [
        predict(live, "demo/mlp", {"instances": [[1, 2, 3, 4]]})[1]["mdslite-version"] for _ in range(8)
    ]
    assert {served.count(version) for version in ("onnx", "export", "script", "tensorflow")} == {2}


@pytest.mark.parametrize("version", ["onnx", "export", "script", "tensorflow"])
def test_a_wrong_shape_is_the_caller_s_error_whatever_serves(live: Live, version: str) -> None:
    status, _, body = predict(live, f"demo/mlp@{version}", {"instances": [[1, 2, 3]]})
    assert (status, body["code"]) == (400, "invalid_tensor")
    assert body["error"] == 'instances[0]: input "x": an instance of shape [3], expected [4]'
    assert body["hint"] == "GET /v2/models/demo.mlp says what it takes and gives"
    with urllib.request.urlopen(f"{live.url}/v2/models/demo.mlp", timeout=10) as reply:
        assert json.load(reply)["inputs"][0]["shape"] == [-1, 4]


def test_a_poison_row_fails_alone(live: Live) -> None:
    indices = [99 if number == 13 else number % 8 for number in range(32)]
    with ThreadPoolExecutor(32) as pool:
        replies = list(
            pool.map(lambda index: predict(live, "demo/gather", {"instances": [[index]]}), indices)
        )
    for index, (status, _, body) in zip(indices, replies, strict=True):
        if index == 99:
            assert (status, body["code"]) == (500, "model_error")
            assert body["error"].endswith("index 99 is out of bounds for dimension 0 with size 8")
        else:
            assert (status, body["predictions"]) == (200, [[10.0 * index]])


def test_strings_and_bytes_reach_tensorflow(live: Live) -> None:
    status, _, body = predict(live, "demo/words", {"instances": ["ham", {"b64": "/wA="}]})
    assert (status, body["predictions"]) == (
        200,
        [{"length": 3, "upper": "HAM"}, {"length": 2, "upper": {"b64": "/wA="}}],
    )


def test_a_pickle_is_refused_and_the_rest_goes_on(
    live: Live, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MDSLITE_URL", live.url)
    torch.save(tm.Mlp(), folder / "pickle.pt")
    (folder / "next.yaml").write_text(DEPLOYMENTS.replace("./gather.pt2", "./pickle.pt"))
    assert run(["apply", "-f", "next.yaml", "--yes"]) == 1
    said = capsys.readouterr().err
    assert "demo/gather v1: pickle.pt is a pickle of torch.save" in said
    assert "torch.export.save" in said
    assert predict(live, "demo/gather", {"instances": [[2]]})[2] == {"predictions": [[20.0]]}


def test_a_type_that_contradicts_the_file_is_refused(
    live: Live, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MDSLITE_URL", live.url)
    wrong = DEPLOYMENTS.replace("{uri: ./gather.pt2}", "{uri: ./gather.pt2, package_type: ONNX}")
    (folder / "next.yaml").write_text(wrong)
    assert run(["apply", "-f", "next.yaml", "--yes"]) == 1
    assert "says package_type: ONNX, but gather.pt2 is of package type TORCH" in capsys.readouterr().err


def test_a_run_that_never_ends_is_answered_replaced_and_left_behind(tmp_path: Path) -> None:
    tm.script(tmp_path / "turns.pt", tm.Turns())
    (tmp_path / "deployments.yaml").write_text(
        "deployments: [{project: demo, model: turns, versions: [{version: v1, spec: {uri: ./turns.pt, "
        "batch: {prediction_time_ms: 300}, container_parameter: {torch: {inputs: "
        "[{name: turns, datatype: INT64, shape: [-1]}]}}}}]}]\n"
    )
    with up("deployments.yaml", cwd=tmp_path) as live:
        status, _, body = predict(live, "demo/turns", {"instances": [1 << 60]})
        assert (status, body["code"]) == (504, "deadline_exceeded")
        deadline = monotonic() + 90
        while predict(live, "demo/turns", {"instances": [3]})[0] != 200:
            assert monotonic() < deadline, "its replica was not replaced"
        code, said = live.stop()
    assert "a run did not stop when it was told to" in said
    assert code == 0
