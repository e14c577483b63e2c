"""What `mdslite ls` and `mdslite show` say of a version that is served elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import models
import pytest
from live import up
from waiting import hold_on

from mdslite.cli import run
from mdslite.client import Client

NEAR = """
deployments:
- project: p
  model: far
  versions:
  - version: v1
    spec:
      uri: elsewhere
      service_info:
        endpoints_infos:
        - {{url: "{url}", options: {{project: default, model: m}}}}
        - {{url: "http://127.0.0.1:1"}}
"""


def test_the_endpoints_of_a_version_are_listed_with_how_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models.identity(tmp_path / "m.onnx")
    with up("m.onnx", cwd=tmp_path) as far:
        (tmp_path / "near").mkdir()
        (tmp_path / "near" / "near.yaml").write_text(NEAR.format(url=far.url))
        with up("near.yaml", cwd=tmp_path / "near") as near, Client(near.url) as client:
            client.predict("p", "far", [[1.0, 2.0, 3.0]])

            def left_out() -> str | None:
                assert run(["show", "p/far@v1", "--url", near.url]) == 0
                said = capsys.readouterr().out
                return said if "left out" in said else None

            told = hold_on(left_out) or ""
            assert run(["ls", "--url", near.url]) == 0
            listed = capsys.readouterr().err
    assert re.search(rf"^{re.escape(far.url)} +in turn +0 +[12] +0 +-$", told, re.MULTILINE)
    assert re.search(
        r"^http://127.0.0.1:1 +left out +0 +\d+ +\d+ +it cannot be connected to$", told, re.MULTILINE
    )
    assert "digest" not in told
    assert "p/far@v1 leaves out http://127.0.0.1:1: it cannot be connected to" in listed
