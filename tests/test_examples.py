"""The digits example is what it says: two versions, one shape of answer, samples that were not trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from labelled import held_out_arrays

from mdslite import deployments

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
DIGITS = EXAMPLES / "digits"


def open_version(version: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(DIGITS / f"{version}.onnx"), providers=["CPUExecutionProvider"])


def measure_accuracy(version: str) -> float:
    pixels, labels = held_out_arrays()
    (found,) = open_version(version).run(["label"], {"pixels": pixels})
    return float(np.mean(found == labels))


def test_the_linear_version_reads_most_held_out_digits() -> None:
    assert 0.95 <= measure_accuracy("v1") < 0.98


def test_the_second_version_reads_more_of_them() -> None:
    assert measure_accuracy("v2") > 0.985


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_both_versions_take_and_answer_the_same_tensors(version: str) -> None:
    session = open_version(version)
    assert [(given.name, given.type, given.shape[1:]) for given in session.get_inputs()] == [
        ("pixels", "tensor(float)", [64])
    ]
    assert [(given.name, given.type) for given in session.get_outputs()] == [
        ("label", "tensor(int64)"),
        ("probabilities", "tensor(float)"),
    ]
    pixels, _ = held_out_arrays()
    label, probabilities = session.run(None, {"pixels": pixels[:7]})
    assert label.shape == (7,)
    assert probabilities.shape == (7, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), label)


def test_the_held_out_samples_say_where_they_come_from() -> None:
    held_out = json.loads((DIGITS / "held_out.json").read_text())
    assert "load_digits" in held_out["source"]
    assert len(held_out["instances"]) == len(held_out["labels"]) == 450
    assert {len(instance) for instance in held_out["instances"]} == {64}
    assert set(held_out["labels"]) == set(range(10))


def test_the_deployments_file_splits_eighty_to_twenty() -> None:
    file = EXAMPLES / "deployments.yaml"
    (deployment,) = deployments.load(file.read_text(), file=str(file), base=EXAMPLES).deployments
    assert (deployment.project, deployment.model) == ("demo", "digits")
    assert {
        version.version: (Path(version.spec.uri), version.spec.service_info.weight)
        for version in deployment.versions
    } == {"v1": (DIGITS / "v1.onnx", 80), "v2": (DIGITS / "v2.onnx", 20)}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_example_request_is_a_plain_four(version: str) -> None:
    body = json.loads((EXAMPLES / "digit.json").read_text())
    pixels = np.asarray(body["instances"], np.float32)
    label, probabilities = open_version(version).run(None, {"pixels": pixels})
    assert label.tolist() == [4]
    assert probabilities.max() > 0.9
