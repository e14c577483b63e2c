"""What is applied after a plan are the bytes that the plan showed, or nothing."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import live
import models
import pytest
from applying import apply_body
from box import Box, Caller, deployments, open_box
from file_server import FileServer

from mdslite.cli import output, run
from mdslite.planning import as_planned
from mdslite.runtimes.prober import Prober

HALVED = "v1, uri: v1.onnx, weight: 50"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models.mlp(tmp_path / "v1.onnx", seed=1)
    models.mlp(tmp_path / "other.onnx", seed=2)
    return tmp_path


@pytest.fixture
async def box(tmp_path: Path, prober: Prober, web: FileServer) -> AsyncIterator[Box]:
    async with open_box(tmp_path / "store", prober, allow_internal=(web.host,)) as box:
        yield box


async def plan(caller: Caller, wish: dict[str, Any]) -> dict[str, Any]:
    """The body of the apply that follows a plan of `wish`."""
    heard = await caller.post("/api/v1/plan", wish)
    assert heard.status == 200, heard.body
    return as_planned(wish, heard.json)


def digest_of(planned: dict[str, Any]) -> str:
    return str(planned["expect_digests"]["p/m@v1"])


@pytest.mark.anyio
@pytest.mark.parametrize("before", ["v1, uri: v1.onnx, weight: 100", None])
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_a_model_that_was_replaced_after_the_plan_is_refused_with_both_digests(
    box: Box, folder: Path, before: str | None, accept: str
) -> None:
    caller = Caller(box.app)
    if before is not None:
        assert (await caller.post("/api/v1/apply", apply_body(folder, before))).status == 200
    served, revisions = box.versions(), len(await box.revisions())
    planned = await plan(caller, apply_body(folder, HALVED))
    shutil.copy(folder / "other.onnx", folder / "v1.onnx")
    heard = await caller.post("/api/v1/apply", planned, accept=accept)
    said = heard.lines[-1] if accept.endswith("ndjson") else {"status": heard.status, **heard.json}
    assert (said["status"], said["code"]) == (409, "conflict")
    now = digest_of(await plan(caller, apply_body(folder, HALVED)))
    assert now != digest_of(planned)
    assert said["error"].startswith("p/m@v1: ") and digest_of(planned) in said["error"]
    assert now in said["error"] and "plan again" in said["hint"]
    assert box.versions() == served and len(await box.revisions()) == revisions
    again = await caller.post("/api/v1/apply", await plan(caller, apply_body(folder, HALVED)))
    assert again.status == 200
    assert {one.digest for one in box.fleet.all()} == {now}


@pytest.mark.anyio
async def test_a_version_that_is_no_part_of_the_apply_was_not_planned_with_it(box: Box, folder: Path) -> None:
    caller = Caller(box.app)
    planned = await plan(caller, apply_body(folder, HALVED))
    heard = await caller.post("/api/v1/apply", {**planned, **apply_body(folder, "v2, uri: v1.onnx")})
    assert heard.status == 409 and "p/m@v1" in heard.json["error"]


@pytest.mark.anyio
async def test_what_a_plan_downloaded_is_not_downloaded_again_by_its_apply(
    box: Box, folder: Path, web: FileServer
) -> None:
    caller = Caller(box.app)
    web.say("/m.onnx", (folder / "v1.onnx").read_bytes())
    planned = await plan(caller, apply_body(folder, f"v1, uri: '{web.url}/m.onnx'"))
    web.say("/m.onnx", (folder / "other.onnx").read_bytes())  # what was shown is what is applied
    assert (await caller.post("/api/v1/apply", planned)).status == 200
    assert len(web.requests) == 1
    assert {one.digest for one in box.fleet.all()} == {digest_of(planned)}


@pytest.mark.anyio
async def test_a_download_that_is_another_one_by_now_is_refused(
    box: Box, folder: Path, web: FileServer
) -> None:
    caller = Caller(box.app)
    web.say("/m.onnx", (folder / "v1.onnx").read_bytes())
    planned = await plan(caller, apply_body(folder, f"v1, uri: '{web.url}/m.onnx'"))
    web.say("/m.onnx", (folder / "other.onnx").read_bytes())
    box.deployer._intake.artifacts.remove_unreferenced(())  # as a restart between the two does
    heard = await caller.post("/api/v1/apply", planned)
    assert heard.status == 409 and digest_of(planned) in heard.json["error"]
    assert not box.versions()


@pytest.mark.anyio
async def test_a_digest_does_not_stand_in_for_a_download_that_never_had_it(
    box: Box, folder: Path, web: FileServer
) -> None:
    caller = Caller(box.app)
    assert (await caller.post("/api/v1/apply", apply_body(folder, "v1, uri: other.onnx"))).status == 200
    web.say("/m.onnx", (folder / "v1.onnx").read_bytes())
    stored = box.fleet.all()[0].digest
    wish = {**apply_body(folder, f"v1, uri: '{web.url}/m.onnx'"), "expect_digests": {"p/m@v1": stored}}
    assert (await caller.post("/api/v1/apply", wish)).status == 409


def test_a_model_that_is_replaced_while_the_command_asks_is_not_deployed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "deployments.yaml"
    file.write_text(deployments("v1, uri: v1.onnx, weight: 100"))

    def confirm(question: str, *, otherwise: str) -> bool:
        shutil.copy(folder / "other.onnx", folder / "v1.onnx")
        return True

    monkeypatch.setattr(output, "confirm", confirm)
    with live.up("deployments.yaml", cwd=folder) as box:
        monkeypatch.setenv("MDSLITE_URL", box.url)
        file.write_text(deployments(HALVED))
        assert run(["apply", "-f", str(file)]) == 1
    printed = capsys.readouterr()
    assert "Weight: 100 -> 50" in printed.out and "revision" not in printed.out
    assert "p/m@v1: its artifact is sha256:" in printed.err
    assert "plan again" in printed.err
    assert "what served before still serves" in printed.err
