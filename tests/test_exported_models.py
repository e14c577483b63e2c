"""Models as exporters write them, with the sizes that these work out: they stay on the event loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skl2onnx import to_onnx
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, PolynomialFeatures, StandardScaler

from mdslite.runtimes.onnx import OnnxRuntime

ROWS = 40


def rows() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Two measures and two categories, and a label of three."""
    numbers = np.random.default_rng(0)
    measures, categories = numbers.standard_normal((ROWS, 2)), numbers.integers(0, 3, (ROWS, 2))
    return np.hstack([measures, categories]).astype(np.float32), np.arange(ROWS) % 3


def mixed() -> Any:
    columns = make_column_transformer(
        (StandardScaler(), [0, 1]), (OneHotEncoder(handle_unknown="ignore"), [2, 3])
    )
    return make_pipeline(columns, LogisticRegression())


@pytest.mark.parametrize(
    "make",
    [
        LinearRegression,
        lambda: make_pipeline(StandardScaler(), LogisticRegression()),
        lambda: make_pipeline(PolynomialFeatures(), LinearRegression()),
        lambda: make_pipeline(OrdinalEncoder(), RandomForestClassifier(3)),
        lambda: GradientBoostingClassifier(n_estimators=3),
        lambda: MLPClassifier((4,), max_iter=500, tol=0.1),
        mixed,
    ],
)
def test_scikit_learn_s_models_are_timed_by_their_shapes(tmp_path: Path, make: Callable[[], Any]) -> None:
    x, labels = rows()
    model = make().fit(x, labels)
    path = tmp_path / "m.onnx"
    path.write_bytes(to_onnx(model, x[:1]).SerializeToString())
    assert OnnxRuntime().inspect(path)
    assert OnnxRuntime().find_hazards(path) == ((), None)


def test_pytorch_s_models_are_timed_by_their_shapes(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import torch
    from torch import nn
    from torch_models import Module

    class Convolutions(Module):
        """Shrinks and grows pictures of any size by what sizes they have."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3)

        def forward(self, x: Any) -> Any:
            grown = nn.functional.interpolate(self.first(nn.functional.pad(x, (1, 1))), size=x.shape[2:])
            return (grown + x[:, :1]).flatten(1).mean(1, keepdim=True)

    class Transformer(Module):
        """Words with a first token for all of them, their places, and a mask of the sentence's length."""

        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(50, 8), nn.Parameter(torch.zeros(1, 64, 8))
            self.first = nn.Parameter(torch.zeros(1, 1, 8))
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

        def forward(self, x: Any) -> Any:
            count, length = x.shape
            words = self.words(x) + self.places[:, :length] + torch.arange(length)[None, :, None]
            seen = torch.cat([self.first.expand(count, -1, -1), words], 1)
            mask = torch.triu(torch.full((length + 1, length + 1), float("-inf")), 1)
            return self.layers(seen, mask=mask)[:, 0]

    class Recurrent(Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(4, 8, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.layer(x)[0][:, -1]

    class Cut(Module):
        """The one that is told where to end."""

        def forward(self, x: Any) -> Any:
            return x[:, : x[0, 0].to(torch.int64)].sum(1, keepdim=True)

    for model, x, axes, timed in (
        (Convolutions(), torch.zeros(2, 3, 8, 8), {0: "N", 2: "height", 3: "width"}, True),
        (Transformer(), torch.zeros(2, 5, dtype=torch.int64), {0: "N", 1: "length"}, True),
        (Recurrent(), torch.zeros(2, 5, 4), {0: "N", 1: "length"}, True),
        (Cut(), torch.ones(2, 5), {0: "N"}, False),
    ):
        path = tmp_path / f"{type(model).__name__}.onnx"
        with warnings.catch_warnings(action="ignore"):  # that this exporter is the older one
            torch.onnx.export(
                model.eval(), (x,), path, dynamo=False, opset_version=17,
                input_names=["x"], output_names=["y"], dynamic_axes={"x": axes, "y": {0: "N"}},
            )  # fmt: skip
        assert OnnxRuntime().inspect(path) is timed, path.name
        assert OnnxRuntime().find_hazards(path)[0] == (), path.name
