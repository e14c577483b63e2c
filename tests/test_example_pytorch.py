"""The PyTorch example: what is committed reads digits, and stands beside the ONNX one of the same form."""

from __future__ import annotations

import json
import runpy
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from labelled import held_out_arrays
from live import up

from mdslite.runtimes.protocol import LoadOptions, Signature, TensorSpec
from mdslite.runtimes.pytorch import TorchRuntime

torch = pytest.importorskip("torch")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FILE = EXAMPLES / "pytorch" / "digits.pt2"


def test_the_exported_model_reads_the_held_out_digits() -> None:
    session = TorchRuntime().open(FILE, LoadOptions())
    assert session.bounded
    assert session.signature == Signature(
        (TensorSpec("pixels", "FP32", (None, 64)),),
        (TensorSpec("label", "INT64", (None,)), TensorSpec("probabilities", "FP32", (None, 10))),
        "free",
    )
    pixels, labels = held_out_arrays()
    label, probabilities = session.run({"pixels": pixels})
    assert np.mean(label == labels) > 0.99
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_the_committed_file_says_nothing_of_the_machine_that_made_it() -> None:
    with zipfile.ZipFile(FILE) as archive:
        for name in archive.namelist():
            assert b"stack_trace" not in archive.read(name)
    assert FILE.stat().st_size < 100_000


def test_the_script_trains_and_exports(tmp_path: Path) -> None:
    script = runpy.run_path(str(EXAMPLES / "pytorch" / "train.py"))
    model = script["Digits"]()
    pixels, labels = held_out_arrays()
    script["train"].__globals__["EPOCHS"] = 1
    script["train"](model, torch.from_numpy(pixels), torch.from_numpy(labels))
    script["export"](model, tmp_path / "m.pt2")
    assert TorchRuntime().open(tmp_path / "m.pt2", LoadOptions()).signature.rows == "free"


@pytest.mark.timeout(120)
def test_both_frameworks_share_the_traffic(tmp_path: Path) -> None:
    pixels, labels = held_out_arrays()
    right = {"onnx": 0, "torch": 0}
    with up(str(EXAMPLES / "pytorch" / "deployments.yaml"), cwd=tmp_path) as live:
        for number in range(20):
            body = json.dumps({"instances": [pixels[number].tolist()]}).encode()
            target = f"{live.url}/projects/demo/models/digits:predict"
            with urllib.request.urlopen(target, body, timeout=60) as reply:
                (prediction,) = json.loads(reply.read())["predictions"]
                right[reply.headers["mdslite-version"]] += prediction["label"] == labels[number]
    assert right == {"onnx": 10, "torch": 10}
