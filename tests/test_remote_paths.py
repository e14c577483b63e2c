"""Where the path of an endpoint's certificates starts: it is kept absolute, and an old store's is refused."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import pytest
from box import Box, Caller, file_order, open_box

from mdslite.deploy.orders import wanted_of
from mdslite.errors import LoadFailed
from mdslite.runtimes.prober import Prober
from mdslite.serving.remote.wire import read_trust

CERTIFICATE = Path(__file__).parent / "data" / "tls" / "localhost.pem"
REFUSED = "option ca: expected an absolute path, got 'box.pem'"
FILE = """\
deployments:
- project: p
  model: m
  versions:
  - version: v1
    spec:
      uri: elsewhere
      service_info:
        endpoints_infos: [{url: 'https://127.0.0.1:1', options: {ca: box.pem}}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(CERTIFICATE, tmp_path / "box.pem")
    return tmp_path


async def kept(box: Box) -> Any:
    """The path that is deployed."""
    (row,) = await box.worker.call(box.registry.current)
    return wanted_of(row).spec.service_info.endpoints_infos[0].options["ca"]


async def age(box: Box) -> None:
    """Have the store say what one of an old release does."""
    (row,) = await box.worker.call(box.registry.current)
    spec: Any = dict(row.spec)
    spec["service_info"]["endpoints_infos"][0]["options"]["ca"] = "box.pem"
    old = replace(row, spec=spec)
    diff: dict[str, Any] = {"changed": True, "models": []}
    await box.worker.call(
        box.registry.commit, author="ann", reason="", source=FILE, diff=diff, versions=[old]
    )


@pytest.mark.anyio
async def test_a_path_that_an_old_store_has_as_it_was_written_waits_for_its_file(
    folder: Path, prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)  # where such a file is: which is no reason to take it
    async with open_box(folder / "store", prober) as box:
        await box.deployer.apply(file_order(FILE, folder))
        assert await kept(box) == str(folder / "box.pem")
        await age(box)
    async with open_box(folder / "store", prober) as box:
        (served,) = box.fleet.all()
        assert served.state == "failed" and served.reason is not None
        assert f"{REFUSED}; apply its deployments file again" in served.reason
        spec = {"uri": str(models.mlp(folder / "v2.onnx")), "service_info": {"weight": 0}}
        put = await Caller(box.app).ask("PUT", "/api/v1/projects/p/models/m/versions/v2", {"spec": spec})
        assert put.status == 422 and "p/m v1: " in put.json["error"] and REFUSED in put.json["error"]
        outcome = await box.deployer.apply(file_order(FILE, folder))
        assert outcome.state == "applied" and box.versions() == {"p/m v1": "ready"}
        assert await kept(box) == str(folder / "box.pem")


def test_a_path_that_starts_nowhere_is_not_looked_for_in_the_folder_of_the_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert os.path.exists("box.pem")
    with pytest.raises(LoadFailed, match=REFUSED) as caught:
        read_trust({"ca": "box.pem"})
    assert caught.value.hint is not None and "deployments file" in caught.value.hint
