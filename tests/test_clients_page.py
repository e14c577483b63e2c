"""What docs/clients.md shows runs as it stands, against the example that it names."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import live
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "clients.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("clients")
    shutil.copytree(ROOT / "examples", folder / "examples")
    with live.up("examples/deployments.yaml", cwd=folder) as running:
        yield running.url.removeprefix("http://"), folder


@pytest.mark.parametrize(("language", "text"), BLOCKS)
def test_each_example_runs(address: tuple[str, Path], language: str, text: str) -> None:
    if "tritonclient" in text and find_spec("tritonclient") is None:
        pytest.skip("tritonclient is not installed")
    host, folder = address
    text = text.replace("127.0.0.1:8500", host).replace("localhost:8500", host)
    command = [sys.executable, "-W", "error", "-c", text] if language == "python" else ["sh", "-ec", text]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert '"error"' not in done.stdout


def test_there_are_examples() -> None:
    assert [language for language, _ in BLOCKS] == ["python", "python", "sh", "python", "python"]


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)", PAGE))
def test_links_lead_somewhere(link: str) -> None:
    assert link.startswith("http") or (ROOT / "docs" / link).is_file()


def test_the_log_has_what_the_examples_read_of_it() -> None:
    fields = (ROOT / "docs" / "request-log.md").read_text()
    read = re.findall(r'row\["(\w+)"\]', PAGE)
    assert read
    assert [name for name in read if f"`{name}`" not in fields] == []
