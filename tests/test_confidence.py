from __future__ import annotations

import numpy as np
import pytest

from mdslite.errors import LoadFailed
from mdslite.runtimes.protocol import Signature, TensorSpec
from mdslite.serving.confidence import confidence_reader
from mdslite.spec import Confidence

X = (TensorSpec("x", "FP32", (None, 2)),)


def signature(*outputs: TensorSpec) -> Signature:
    return Signature(X, outputs, "free")


SCORES = TensorSpec("y", "FP32", (None, 3))
SURE = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], dtype=np.float32)
LOGITS = np.array([[7.0, -2.0, 0.1], [1.0, 3.0, 2.0]], dtype=np.float32)


def test_a_single_output_whose_rows_sum_to_one_holds_probabilities() -> None:
    read = confidence_reader(signature(SCORES), None, [SURE])
    assert read([SURE]) == pytest.approx([0.7, 0.8])


def test_logits_are_no_confidence() -> None:
    assert confidence_reader(signature(SCORES), None, [LOGITS])([LOGITS]) is None


def test_an_output_that_is_named_so_holds_probabilities_even_as_maps() -> None:
    label, maps = TensorSpec("output_label", "INT64", (None,)), TensorSpec("output_probability", "OBJECT", ())
    read = confidence_reader(signature(label, maps), None, None)
    assert read([np.array([1]), [{"spam": 0.9, "ham": 0.1}]]) == [0.9]


def test_the_spec_chooses_the_output_and_a_field_of_it() -> None:
    label, maps = TensorSpec("label", "INT64", (None,)), TensorSpec("scores", "OBJECT", ())
    read = confidence_reader(signature(label, maps), Confidence(output="scores", field="ham"), None)
    assert read([np.array([1]), [{"spam": 0.9, "ham": 0.1}, {"spam": 1.0}]]) == [0.1, None]
    column = confidence_reader(signature(SCORES), Confidence(output="y", field=2), None)
    assert column([SURE]) == pytest.approx([0.1, 0.8])


def test_an_output_that_the_model_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(LoadFailed, match='no output "z"') as caught:
        confidence_reader(signature(SCORES), Confidence(output="z"), None)
    assert "y" in (caught.value.hint or "")


def test_nan_is_no_confidence() -> None:
    broken = np.array([[np.nan, 0.2, 0.1]], dtype=np.float32)
    assert confidence_reader(signature(SCORES), None, [SURE])([broken]) == [None]
