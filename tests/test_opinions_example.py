"""The example of a pipeline reads real digits: two handlers around both versions of the digits classifier."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import onnxruntime
import pytest
from handlers import CONFIDENCE, Serving, request_for, serving
from labelled import held_out_arrays
from live import up

from mdslite import deployments, pipelines, spec
from mdslite.client import Client
from mdslite.drawing import draw
from mdslite.runtimes.prober import Prober
from mdslite.runtimes.protocol import LoadOptions
from mdslite.serving.loader import LoadRequest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
OPINIONS = EXAMPLES / "opinions"
NODES = ("prepare", "linear", "network", "compare", "doubt")
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Which pixels of a square of 4x4 are drawn first, so that any count of them is spread over it.
ORDER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])


def draw_digit(squares: Any) -> list[str]:
    """A classifier's 64 counts of ink as a drawing of 32x32 pixels that has them."""
    ink = np.kron(np.reshape(squares, (8, 8)), np.ones((4, 4))) > np.tile(ORDER, (8, 8))
    return ["".join("#" if pixel else "." for pixel in row) for row in ink]


def classify(version: str, squares: Any) -> tuple[Any, Any]:
    """What a version answers without any pipeline: labels and probabilities."""
    session = onnxruntime.InferenceSession(
        str(EXAMPLES / "digits" / f"{version}.onnx"), providers=["CPUExecutionProvider"]
    )
    label, probabilities = session.run(None, {"pixels": squares})
    return label, probabilities


@contextmanager
def prober() -> Iterator[Prober]:
    prober = Prober()
    try:
        yield prober
    finally:
        prober.close()


def digits(prober: Prober, version: str) -> LoadRequest:
    path = EXAMPLES / "digits" / f"{version}.onnx"
    return LoadRequest(
        *("demo", "digits", version),
        spec=spec.Spec(uri=str(path)),
        digest="",
        path=path,
        report=prober.probe("ONNXRUNTIME", path, LoadOptions(), timeout_s=60),
    )


def run(test: Any) -> None:
    async def with_models() -> None:
        with prober() as trying:
            models = await asyncio.to_thread(lambda: [digits(trying, one) for one in ("v1", "v2")])
        reader = await asyncio.to_thread(request_for, OPINIONS / "reader", "demo/opinions")
        async with serving(reader, *models) as here:
            await test(here)

    asyncio.run(with_models())


def test_the_file_deploys_the_pipeline_beside_the_models_that_it_calls() -> None:
    file = OPINIONS / "deployments.yaml"
    found = deployments.load(file.read_text(), file=str(file), base=OPINIONS).deployments
    uris = {f"{one.project}/{one.model}": Path(one.versions[0].spec.uri) for one in found}
    assert uris == {"demo/opinions": OPINIONS / "reader", "demo/digits": EXAMPLES / "digits" / "v1.onnx"}
    called = {str(name) for name in pipelines.read(OPINIONS / "reader").models}
    assert called == {"demo/digits@v1", "demo/digits@v2"}


def test_its_graph() -> None:
    assert draw(pipelines.read(OPINIONS / "reader")).splitlines()[2:] == [
        "●    prepare  nodes.prepare   → linear, network",
        "├─╮",
        "● │  linear   demo/digits@v1  → compare",
        "│ ●  network  demo/digits@v2  → compare",
        "├─╯",
        "◆    compare  nodes.compare   by agreed: true → end · otherwise → doubt  merges linear, network",
        "●    doubt    nodes.doubt     → end",
    ]


def test_the_page_on_pipelines_shows_it_as_it_is() -> None:
    page = (EXAMPLES.parent / "docs" / "pipelines.md").read_text()
    _, text, _ = re.split(r"```yaml\n|```\n\n`mdslite verify", page)
    shown = pipelines.load(text, folder=OPINIONS / "reader")
    assert shown == pipelines.read(OPINIONS / "reader")
    assert "\n".join(["```", *draw(shown).splitlines()[2:], "```"]) in page


def test_served_by_the_appliance_it_is_drawn_and_its_nodes_are_logged(tmp_path: Path) -> None:
    with up(str(OPINIONS / "deployments.yaml"), cwd=tmp_path) as live:
        request = Request(
            f"{live.url}/projects/demo/models/opinions:predict",
            data=(OPINIONS / "drawing.pbm").read_bytes(),
            headers={"content-type": "image/x-portable-bitmap"},
        )
        with urlopen(request, timeout=20) as reply:
            assert json.load(reply)["digit"] == "seven"
        with Client(live.url) as client:
            version = client.version("demo", "opinions", "v1")
            assert [node["node"] for node in version["pipeline"]["nodes"]] == list(NODES)
            shown = mdslite("show", "demo/opinions", "--url", live.url)
            assert "  ◆    compare  nodes.compare   by agreed:" in shown
            assert re.search(r"(?m)^prepare +1 +0 +32 +2 +-$", shown)
            row = json.loads(logged(live.url))
        with urlopen(f"{live.url}/metrics", timeout=20) as reply:
            metrics = reply.read().decode()
        assert re.search(r'(?m)^mdslite_node_batches_total\{.*model="opinions".*node="prepare"\} 1', metrics)
        assert re.search(r'(?m)^mdslite_node_queue_rows\{.*node="doubt"\} 0', metrics)
    spans = {span["node"]: span for span in row["spans"]}
    assert list(spans) == ["prepare", "linear", "network", "compare"]
    assert [span["version"] for span in spans.values()] == ["v1", "v1", "v2", "v1"]
    assert row["confidence"] == pytest.approx(0.9888)
    assert row["compute_ms"] == pytest.approx(sum(span["compute_ms"] for span in spans.values()), abs=0.01)


def mdslite(*args: str) -> str:
    command = [sys.executable, "-m", "mdslite", *args]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def logged(url: str) -> str:
    """The row of the request, once the log has it."""
    until = monotonic() + 20
    while not (found := mdslite("logs", "model=opinions", "--json", "--url", url)):
        assert monotonic() < until
    return found


def test_drawings_of_real_digits_get_the_opinions_of_both_versions() -> None:
    squares, _ = held_out_arrays()
    linear, linear_says = classify("v1", squares)
    network, network_says = classify("v2", squares)
    together = (linear_says + network_says) / 2

    async def test(here: Serving) -> None:
        found = await here.ask({"instances": [draw_digit(one) for one in squares]})
        doubted = 0
        for at, answer in enumerate(found["predictions"]):
            assert answer["digit"] == NAMES[together[at].argmax()]
            assert answer["confidence"] == pytest.approx(together[at].max(), abs=1e-3)
            assert answer["opinions"] == {"linear": NAMES[linear[at]], "network": NAMES[network[at]]}
            assert ("ask" in answer) == (linear[at] != network[at]) == (not answer["agreed"])
            doubted += "ask" in answer
        assert 0 < doubted < len(squares) / 10

    run(test)


def test_a_bitmap_is_read_and_named_with_its_confidence() -> None:
    async def test(here: Serving) -> None:
        body = (OPINIONS / "drawing.pbm").read_bytes()
        answer = await here.ask(body, kind="image/x-portable-bitmap")
        assert (answer["digit"], answer["agreed"]) == ("seven", True)
        assert answer["confidence"] > 0.9
        assert here.rows[-1][CONFIDENCE] == pytest.approx(answer["confidence"])

    run(test)


def test_a_drawing_of_another_size_is_fitted_in_and_a_wrong_one_is_refused() -> None:
    async def test(here: Serving) -> None:
        small = [row[::2] for row in draw_digit(np.kron([[0, 1], [0, 1]], np.full((4, 4), 16)))[::2]]
        answer = await here.ask({"instances": [small]})
        assert answer["predictions"][0]["digit"] in NAMES
        for wrong, said in (
            (["..", "."], "expected rows of the same length"),
            (["...."], "the drawing is empty"),
            ("text", "expected a drawing: a list of rows of text"),
        ):
            refused = await here.ask({"instances": [wrong]}, status=500)
            assert refused["error"].startswith("node prepare: ValueError: ")
            assert said in refused["error"]
        for body in (b"P5 2 2", b"P1 2 2 1 0 1", b""):
            refused = await here.ask(body, kind="image/x-portable-bitmap", status=500)
            assert "expected" in refused["error"]

    run(test)


def test_nothing_but_what_is_needed_lies_in_the_package() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "reader"], cwd=OPINIONS, capture_output=True, text=True, check=True
    )
    assert sorted(listed.stdout.split()) == [
        "reader/nodes/__init__.py",
        "reader/nodes/compare.py",
        "reader/nodes/doubt.py",
        "reader/nodes/prepare.py",
        "reader/pipeline.yaml",
    ]
