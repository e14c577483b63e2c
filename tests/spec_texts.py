"""Texts of deployments.yaml, what they are read as, and the mistakes that are found in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mdslite import deployments
from mdslite.deployments import Deployments
from mdslite.errors import SpecError
from mdslite.spec import Spec

BASE = Path("/srv/models")

EXAMPLE = """\
deployments:
- project: mail
  model: spamfilter
  versions:
  - version: v1
    spec:
      uri: ./spam-v1.onnx
      batch: {batch_size: 32, batch_timeout_ms: 2, prediction_time_ms: 5000}   # optional
      service_info: {weight: 80}
  - version: v2
    spec:
      uri: ./spam_v2/            # a package folder
      service_info: {weight: 20}
"""

# One version beside another, with a line of its own in two places.
TEMPLATE = """\
deployments:
- project: demo
  model: digits
  versions:
  - version: v1
    spec: {{uri: a.onnx, service_info: {{weight: 90}}}}
  - version: v2
    {beside}
    spec:
      uri: b.onnx
      {inside}
"""


def read(text: str, *, base: Path = BASE) -> Deployments:
    return deployments.load(text, file="deployments.yaml", base=base)


def mistake(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        read(text)
    return caught.value


def with_lines(*, beside: str = "# nothing", inside: str = "# nothing") -> str:
    return TEMPLATE.format(beside=beside, inside=inside)


def second(*, beside: str = "# nothing", inside: str = "# nothing") -> Spec:
    """The spec of the version under test."""
    return read(with_lines(beside=beside, inside=inside)).deployments[0].versions[1].spec


def flow(**spec: Any) -> str:
    """A file of one version, written as JSON."""
    version = {"version": "v1", "spec": {"uri": "a.onnx", **spec}}
    return json.dumps({"deployments": [{"project": "p", "model": "m", "versions": [version]}]})
