"""A start with a file that was applied before: whether it is applied again, and what is said where not."""

from __future__ import annotations

from pathlib import Path

import models
import pytest
from applying import V1, V2
from box import Box, deployments, undo_order

from mdslite.deploy.orders import Order, WeightsSource, read_source
from mdslite.deploy.restarts import Restart

pytestmark = pytest.mark.anyio


def write(folder: Path, *versions: str) -> Path:
    path = folder / "deployments.yaml"
    path.write_text(deployments(*versions))
    return path


async def start(box: Box, path: Path) -> str | None:
    """What `mdslite up PATH` does and says: "applied", or the line on how what is served differs."""
    source = read_source(path)
    restart = Restart(box.intake, source)
    if not await restart.needs_apply():
        return await restart.note()
    await box.deployer.apply(Order(source, author="ann"))
    return "applied"


async def test_a_file_is_applied_once_and_nothing_is_said_where_it_is_served(box: Box, folder: Path) -> None:
    path = write(folder, V1, V2)
    assert await start(box, path) == "applied"
    assert await start(box, path) is None
    write(folder, V1)
    assert await start(box, path) == "applied"


async def test_a_model_of_a_file_that_was_overwritten_is_named_with_how_to_apply_it(
    box: Box, folder: Path
) -> None:
    path = write(folder, V1, V2)
    await start(box, path)
    models.mlp(folder / "v2.onnx", seed=9)
    said = f"! what is served differs from {path} (p/m v2 has other bytes); to apply it: "
    assert await start(box, path) == f"{said}mdslite apply -f {path}"
    assert len(await box.revisions()) == 1


async def test_what_was_undone_stays_undone_and_is_named(box: Box, folder: Path) -> None:
    path = write(folder, V1)
    await start(box, path)
    await start(box, write(folder, V2))
    await box.deployer.apply(undo_order())
    said = await start(box, path)
    assert said is not None
    assert "(p/m v2 is not deployed; p/m v1 is deployed and not in it)" in said


async def test_other_weights_than_the_files_are_named(box: Box, folder: Path) -> None:
    path = write(folder, V1, V2)
    await start(box, path)
    await box.deployer.apply(Order(WeightsSource("p", "m", {"v2": 40}), author="ann"))
    said = await start(box, path)
    assert said is not None
    assert "(p/m v2 has another weight)" in said


async def test_a_model_that_is_gone_or_elsewhere_makes_no_difference(box: Box, folder: Path) -> None:
    path = write(folder, V1)
    await start(box, path)
    (folder / "v1.onnx").unlink()
    assert await start(box, path) is None


async def test_a_model_that_was_overwritten_is_applied_and_one_that_was_undone_is_not(
    box: Box, folder: Path
) -> None:
    path = folder / "v1.onnx"
    assert await start(box, path) == "applied"
    path.touch()
    assert await start(box, path) is None
    models.mlp(path, seed=9)
    assert await start(box, path) == "applied"
    await box.deployer.apply(undo_order())
    said = f"! what is served is not {path} since an undo (default/v1 v1 has other bytes); back to it: "
    assert await start(box, path) == f"{said}mdslite undo 2"
    models.mlp(path, seed=10)
    assert await start(box, path) == "applied"


async def test_a_change_deep_in_a_folder_is_another_model(box: Box, folder: Path) -> None:
    package = folder / "package"
    (package / "deep").mkdir(parents=True)
    models.mlp(package / "model.onnx")
    (package / "deep" / "labels.txt").write_text("ham spam")
    assert await start(box, package) == "applied"
    assert await start(box, package) is None
    (package / "deep" / "labels.txt").write_text("spam ham")
    assert await start(box, package) == "applied"
