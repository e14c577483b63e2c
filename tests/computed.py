"""What a run of a model gave, told apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdslite.runtimes.protocol import Arrays, Outputs


def array_of(output: np.ndarray[Any, Any] | list[Any]) -> np.ndarray[Any, Any]:
    assert isinstance(output, np.ndarray)
    return output


def arrays_of(outputs: Outputs) -> Arrays:
    """Of a run whose outputs are all tensors."""
    return [array_of(output) for output in outputs]
