"""What an installation says, on its way to who watches the plan or apply that needs it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from box import deployments, open_box
from obedient import write_package
from wheels import only_index, write_wheel

from mdslite.cli.progress import Progress
from mdslite.deploy.events import Feed, FetchEvent, InstallEvent
from mdslite.deploy.orders import FileSource
from mdslite.runtimes.prober import Prober
from mdslite.runtimes.python import PythonRuntime
from mdslite.runtimes.venvs import Environments


@pytest.mark.skipif(sys.platform != "linux", reason="processes of their own are for Linux")
def test_a_plan_tells_what_is_installed_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_index(tmp_path / "wheels", monkeypatch)
    write_wheel(tmp_path / "wheels", "frobnicator")
    write_package(tmp_path / "package", requirements="['frobnicator']")
    told: list[Any] = []

    async def plan() -> None:
        runtime = PythonRuntime(
            Environments(tmp_path / "environments"),
            announce=lambda label, line: box.intake.installs.announce(label, line),
        )
        async with open_box(tmp_path / "store", Prober({runtime.name: runtime})) as box:
            text = deployments("v1, uri: ./package")
            source = FileSource(text, "deployments.yaml", tmp_path)
            draft = await box.deployer.plan(source, progress=told.append)
            assert draft.plan.changed
            box.intake.installs.announce("p/m v1", "heard by the log alone")
            await asyncio.sleep(0)

    asyncio.run(plan())
    lines = [event.line for event in told if isinstance(event, InstallEvent)]
    assert lines[0] == "making an environment with frobnicator"
    assert "heard by the log alone" not in lines


def test_a_reader_gets_the_last_line_of_an_installation_only() -> None:
    async def read() -> list[Any]:
        feed = Feed()
        feed.post(FetchEvent(uri="a", done_bytes=1, total_bytes=None))
        for line in ("one", "two", "three"):
            feed.post(InstallEvent(line=line))
        feed.end()
        return [event async for event in feed]

    fetched, installed = asyncio.run(read())
    assert isinstance(fetched, FetchEvent)
    assert installed == InstallEvent(line="three")


def test_an_installation_shows_on_a_terminal_until_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    step = {"event": "step", "index": 1, "count": 1, "version": "v1", "state": "START"}
    for live in (True, False):
        progress = Progress(several=False, live=live)
        progress.show({"event": "install", "line": "Downloading \x1b[31mhuge.whl"})
        progress.show(step)
        progress.show(step | {"state": "DONE"})
    live_text, plain_text = capsys.readouterr().err.split("DONE\n")[:2]
    assert live_text == "\rinstalling: Downloading \\x1b[31mhuge.whl\x1b[K\r\x1b[K(1/1) v1 ... "
    assert plain_text == "(1/1) v1 ... "
