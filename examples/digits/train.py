"""Trains the two versions of the digits example and writes what the example serves and sends.

    python examples/digits/train.py [FOLDER]

Needs scikit-learn, skl2onnx and onnxruntime. The data is scikit-learn's `load_digits`: 1,797 handwritten
digits of 8x8 pixels with values from 0 to 16, the test part of UCI's "Optical Recognition of Handwritten
Digits". A quarter is held out of the training and written to `held_out.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

SEED = 20
SAMPLE = 1  # the held-out digit that examples/digit.json sends: a plain 4
SOURCE = (
    "scikit-learn's load_digits (UCI, Optical Recognition of Handwritten Digits): a quarter, not trained on"
)


def train(pixels: Any, labels: Any) -> dict[str, Any]:
    """Fit each version: v1 is linear; v2 bends, and has also seen every digit moved by a pixel each way."""
    linear = LogisticRegression(max_iter=2000)
    network = MLPClassifier(hidden_layer_sizes=(256,), alpha=0.1, max_iter=600, random_state=SEED)
    moved = [move(pixels, axis=axis, by=by) for axis in (1, 2) for by in (1, -1)]
    more_pixels, more_labels = np.concatenate([pixels, *moved]), np.tile(labels, 1 + len(moved))
    return {
        "v1": make_pipeline(MinMaxScaler(), linear).fit(pixels, labels),
        "v2": make_pipeline(MinMaxScaler(), network).fit(more_pixels, more_labels),
    }


def move(pixels: Any, *, axis: int, by: int) -> Any:
    return np.roll(pixels.reshape(-1, 8, 8), by, axis).reshape(-1, 64)


def export(model: Any, file: Path) -> None:
    """Write ONNX with the outputs `label` [rows] and `probabilities` [rows, 10].

    Without `zipmap` off, skl2onnx returns the probabilities as one map a row: slower, and no tensor.
    """
    inputs = [("pixels", FloatTensorType([None, 64]))]
    exported = convert_sklearn(model, "digits", inputs, target_opset=17, options={"zipmap": False})
    exported.opset_import.sort(key=lambda opset: opset.domain)  # skl2onnx lists them in the order of a set
    file.write_bytes(exported.SerializeToString())


def measure_accuracy(file: Path, pixels: Any, labels: Any) -> float:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(["label"], {"pixels": pixels})
    return float(np.mean(found == labels))


def write_json(value: Any, file: Path) -> None:
    file.write_text(json.dumps(value, separators=(",", ":")).replace("],[", "],\n[") + "\n")


def main(folder: Path) -> None:
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.astype(np.float32)
    split = train_test_split(pixels, labels, test_size=0.25, random_state=SEED, stratify=labels)
    train_pixels, test_pixels, train_labels, test_labels = split
    for version, model in train(train_pixels, train_labels).items():
        file = folder / f"{version}.onnx"
        export(model, file)
        accuracy = measure_accuracy(file, test_pixels, test_labels)
        size_bytes = file.stat().st_size
        print(f"{file.name}: {accuracy:.1%} right of {len(test_labels)} held out, {size_bytes:,} bytes")
    instances = test_pixels.astype(int).tolist()
    held_out = {"source": SOURCE, "labels": test_labels.tolist(), "instances": instances}
    write_json(held_out, folder / "held_out.json")
    write_json({"instances": [instances[SAMPLE]]}, folder.parent / "digit.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
