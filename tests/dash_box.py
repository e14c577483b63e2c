"""A dashboard on a real appliance: two versions of a model and the file that deploys them."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import models

from mdslite.client import Client

WAIT_S = 20.0
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
