"""A dashboard on a real appliance: two versions of a model and the file that deploys them."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import models
from piloting import piloted
from textual.pilot import Pilot

from mdslite.client import AsyncClient, Client, Retries
from mdslite.tui.app import DashApp
from mdslite.tui.feed import LiveFeed
from mdslite.tui.snapshot import View

ROW = b'{"instances": [[1, 2, 3, 4]]}'


def fill(folder: Path) -> Path:
    """Two versions of p/m and the file that deploys them."""
    for seed, name in enumerate(("v1", "v2")):
        models.mlp(folder / f"{name}.onnx", seed=seed)
    write_file(folder, 80, 20)
    return folder


def write_file(folder: Path, first: float, second: float) -> None:
    versions = [
        {"version": name, "spec": {"uri": f"./{name}.onnx", "service_info": {"weight": weight}}}
        for name, weight in (("v1", first), ("v2", second))
    ]
    text = json.dumps({"deployments": [{"project": "p", "model": "m", "versions": versions}]})
    (folder / "deployments.yaml").write_text(text)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def send(url: str, count: int) -> None:
    with Client(url) as client:
        for _ in range(count):
            client.predict("p", "m", ROW)


@asynccontextmanager
async def watching(
    url: str, token: str | None = None, *, pane: str = "deploy", read_only: bool = False
) -> AsyncIterator[tuple[DashApp, Pilot[None]]]:
    """A dashboard on the appliance."""
    async with AsyncClient(url, token, retries=Retries(count=0)) as client:
        app = DashApp(LiveFeed(client, view=View(pane=pane)), read_only=read_only)
        async with piloted(app, (120, 36)) as pilot:
            yield app, pilot
