"""An apply that fails keeps what it was to do, as far as that was known, and shows it."""

from __future__ import annotations

import json
from pathlib import Path

import live
import pytest
from applying import V1, V2, apply
from box import Box, deployments, file_order

from mdslite.cli import run
from mdslite.errors import ArtifactError, LoadFailed
from mdslite.planning import render_plan

BEFORE = (V1, V2)
AFTER = ("v2, uri: v2.onnx, weight: 50", "v1, uri: v1.onnx, weight: 50")


async def kept(box: Box) -> str:
    """The plan that the latest revision keeps, which failed."""
    revision = (await box.revisions())[-1]
    assert revision.state == "failed"
    return render_plan(revision.diff)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:60])


@pytest.mark.anyio
async def test_a_model_that_cannot_be_opened_is_kept_with_its_digest_and_all_other_changes(
    box: Box, folder: Path
) -> None:
    await apply(box, folder, *BEFORE)
    truncate(folder / "v2.onnx")
    with pytest.raises(LoadFailed, match="p/m v2"):
        await apply(box, folder, *AFTER)
    plan = await kept(box)
    assert "UPDATE (2)" in plan and "Weight: 80 -> 50" in plan
    assert "Artifact: " in plan and "Weight: 20 -> 50" in plan and "not read" not in plan


@pytest.mark.anyio
async def test_a_model_that_cannot_be_had_is_kept_without_a_size_and_a_digest(box: Box, folder: Path) -> None:
    await apply(box, folder, *BEFORE)
    with pytest.raises(ArtifactError, match="p/m v3"):
        await apply(box, folder, "v3, uri: gone.onnx", "v2, uri: moved.onnx", "v1, uri: v1.onnx, weight: 50")
    lines = [line.strip("| ") for line in (await kept(box)).splitlines()]
    assert "ADD        | v3      | Weight: 100, not read" in lines
    assert any(
        "v2" in line and "-> not read" in line and "URI: v2.onnx -> moved.onnx" in line for line in lines
    )
    assert "UPDATE     | v1      | Weight: 80 -> 50" in lines


@pytest.mark.anyio
async def test_a_version_that_has_no_place_here_is_kept_as_planned(box: Box, folder: Path) -> None:
    text = deployments(BEFORE[0]).replace("{uri: v1.onnx}", "{uri: v1.onnx, resource: {gpu: 1}}")
    with pytest.raises(LoadFailed, match="GPU"):
        await box.deployer.apply(file_order(text, folder))
    assert "ADD (1)" in await kept(box)


def test_the_command_shows_what_was_to_be_done_before_it_says_why_it_failed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "deployments.yaml"
    file.write_text(deployments(*BEFORE))
    with live.up("deployments.yaml", cwd=folder) as box:
        monkeypatch.setenv("MDSLITE_URL", box.url)
        truncate(folder / "v2.onnx")
        file.write_text(deployments(*AFTER))
        assert run(["apply", "-f", str(file), "--yes"]) == 1
        printed = capsys.readouterr()
        assert "PROJECT: p MODEL: m" in printed.out and "Weight: 80 -> 50" in printed.out
        assert "revision 2 failed" in printed.err
        assert run(["history", "2", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["diff"]["changed"] and found["summary"]["update"] == 2
