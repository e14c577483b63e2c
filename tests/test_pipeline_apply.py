"""Pipelines in a deployments file: what they call has to be there, and stays for as long as they call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
import pytest
from box import Box, file_order, open_box, undo_order

from mdslite.deploy.orders import Outcome
from mdslite.deploy.pipelines import check_calls
from mdslite.errors import LoadFailed, MdsliteError, SpecError
from mdslite.runtimes.prober import Prober

pytestmark = pytest.mark.anyio

PIPE = "- {project: p, model: pipe, versions: [{version: v1, spec: {uri: ./pipe}}]}\n"
MODEL = "- {project: p, model: m, versions: [{version: v1, spec: {uri: v1.onnx}}]}\n"
OTHER = "- {project: p, model: other, versions: [{version: v1, spec: {uri: v1.onnx}}]}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the deployments file would be, with a model and a pipeline of its versions beside it."""
    models.mlp(tmp_path / "v1.onnx", (4, 8, 4))
    (tmp_path / "pipe").mkdir()
    write_pipeline(tmp_path, "p/m", "p/m@v1")
    return tmp_path


def write_pipeline(folder: Path, *names: str) -> None:
    nodes = [{"name": f"n{at}", "model": name} for at, name in enumerate(names)]
    text = json.dumps({"pipeline": {"name": "pipe", "nodes": nodes}}, indent=1)
    (folder / "pipe" / "pipeline.yaml").write_text(text)


async def apply(box: Box, folder: Path, *entries: str, prune: bool = False) -> Outcome:
    return await box.deployer.apply(file_order(f"deployments:\n{''.join(entries)}", folder, prune=prune))


async def refused(box: Box, folder: Path, *entries: str, prune: bool = False) -> MdsliteError:
    before = box.versions()
    with pytest.raises(MdsliteError) as caught:
        await apply(box, folder, *entries, prune=prune)
    assert box.versions() == before
    return caught.value


async def ask(box: Box) -> Any:
    reply = await box.predictor.respond(
        target=b"/projects/p/models/pipe:predict",
        headers=[(b"content-type", b"application/json")],
        body=b'{"instances": [[1, 2, 3, 4], [0, 0, 0, 0]]}',
    )
    assert reply.status == 200, reply.body
    return json.loads(reply.body)["predictions"]


async def test_a_pipeline_and_the_models_that_it_calls_may_stand_in_one_file(box: Box, folder: Path) -> None:
    await apply(box, folder, PIPE, MODEL)
    assert box.versions() == {"p/pipe v1": "ready", "p/m v1": "ready"}
    first, second = await ask(box)
    assert len(first) == len(second) == 4


async def test_the_models_that_it_calls_may_be_there_already(box: Box, folder: Path) -> None:
    await apply(box, folder, MODEL)
    await apply(box, folder, PIPE)
    assert len(await ask(box)) == 2


async def test_a_pipeline_without_what_it_calls_is_refused_with_its_place(box: Box, folder: Path) -> None:
    error = await refused(box, folder, OTHER, PIPE)
    assert isinstance(error, LoadFailed)
    assert error.message == "p/pipe v1: it calls p/m, which is neither deployed nor in this file"
    assert error.hint == "deploy p/m first, or together with it in one file"
    assert error.place is not None and error.place.line == 3


async def test_a_version_that_is_not_there_is_missed_too(box: Box, folder: Path) -> None:
    write_pipeline(folder, "p/m@v2")
    assert "it calls p/m@v2, which is neither" in (await refused(box, folder, PIPE, MODEL)).message


async def test_what_a_pipeline_calls_is_not_deleted_under_it(box: Box, folder: Path) -> None:
    await apply(box, folder, PIPE, MODEL)
    error = await refused(box, folder, PIPE, prune=True)
    assert error.message == "p/pipe v1: it calls p/m, which would be deleted"
    assert error.hint == "keep p/m, or delete p/pipe as well"
    outcome = await apply(box, folder, OTHER, prune=True)
    assert outcome.state == "applied"
    assert box.versions() == {"p/other v1": "ready"}


async def test_an_undo_cannot_take_away_what_is_called_either(box: Box, folder: Path) -> None:
    await apply(box, folder, MODEL)
    await apply(box, folder, PIPE)
    await box.deployer.apply(undo_order())
    assert box.versions() == {"p/m v1": "ready"}
    await box.deployer.apply(undo_order(2))
    assert len(await ask(box)) == 2


async def test_a_mistake_in_its_yaml_says_which_version_and_where(box: Box, folder: Path) -> None:
    (folder / "pipe" / "pipeline.yaml").write_text("pipeline:\n  name: p\n  nodes:\n  - {name: a, next: b}\n")
    error = await refused(box, folder, PIPE)
    assert isinstance(error, SpecError)
    assert error.message == "p/pipe v1: pipeline.yaml:4:5: nodes[0]: a has nothing to run"
    assert (error.file, error.line, error.excerpt) == ("pipeline.yaml", 4, "  - {name: a, next: b}")


async def test_a_pipeline_serves_again_after_a_restart(tmp_path: Path, folder: Path, prober: Prober) -> None:
    async with open_box(tmp_path / "store", prober) as box:
        await apply(box, folder, PIPE, MODEL)
        before = await ask(box)
    async with open_box(tmp_path / "store", prober) as box:
        assert await ask(box) == before


def test_names_without_a_version_stand_for_any() -> None:
    target = {("p", "m"): {"v1": object()}, ("p", "gone"): {}}
    check_calls({("p", "pipe", "v1"): ("p/m", "p/m@v1")}, current={}, target=target)  # type: ignore[arg-type]
    for missing in ("p/m@v2", "p/gone", "x/m"):
        with pytest.raises(LoadFailed, match=f"it calls {missing}, which is neither"):
            check_calls({("p", "pipe", "v1"): (missing,)}, current={}, target=target)  # type: ignore[arg-type]
