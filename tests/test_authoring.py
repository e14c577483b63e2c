"""What docs/authoring.md shows is so: its classes load and answer, its files parse, its names are there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from user_modules import LISTING

import mds
from mdslite import pipelines
from mdslite.cli import COMMANDS
from mdslite.runtimes.executor import Executor, build
from mdslite.runtimes.packages import find_package, load_class, unload_class

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "authoring.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def block(word: str) -> str:
    (found,) = [one for one in blocks("python") if word in one]
    return found


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Executor]:
    """What runs the class of the listing in which a word stands."""
    (tmp_path / "model.py").write_text(block(request.param))
    cls = load_class(find_package(tmp_path))
    executor = build(mds.describe(cls))
    yield executor
    executor.close()
    unload_class(cls)


def run(executor: Executor, *data: Any) -> list[Any]:
    answers = executor.run([json.dumps(one).encode() for one in data])
    return [json.loads(one) if isinstance(one, bytes) else str(one) for one in answers]


def test_its_first_listing_is_the_one_that_runs_unchanged() -> None:
    assert block("SpamFilter") == LISTING


@pytest.mark.parametrize("served", ["Similarity"], indirect=True)
def test_its_batched_class_refuses_one_caller_and_answers_the_others(served: Executor) -> None:
    first, wrong, last = run(served, [1, 2, 3], [1], [0, 0, 0])
    assert len(first) == 2
    assert wrong == "ValueError: expected three numbers"
    assert last == [0, 0]


@pytest.mark.parametrize("served", ["Counter"], indirect=True)
def test_its_stream_streams(served: Executor) -> None:
    items: list[bytes] = []
    served.stream(b'{"to": 2}', items.append)
    assert [json.loads(one) for one in items] == [{"number": 0}, {"number": 1}]


def test_the_class_in_the_readme_answers(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (text,) = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "model.py").write_text(text)
    cls = load_class(find_package(tmp_path))
    assert run(build(mds.describe(cls)), "a few words", "one") == [{"words": 3}, {"words": 1}]
    unload_class(cls)


def test_its_pipeline_parses(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(blocks("yaml")[0])
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "clean.py").write_text(block("Counter"))
    pipeline = pipelines.read(tmp_path)
    assert [node.name for node in pipeline.order] == ["clean", "classify"]


def test_its_commands_and_decorators_are_there() -> None:
    assert set(re.findall(r"\bmdslite ([a-z]+)\b", "\n".join(blocks("sh")))) <= set(COMMANDS)
    named = set(re.findall(r"@?mds\.(\w+)", TEXT))
    assert named <= {*mds.__all__}
    assert {"model", "runtime", "context", "requirements", "batch", "Body", "Context"} <= named
