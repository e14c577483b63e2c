"""Pipelines of real handlers, and a small appliance around one: a fleet, its routes and a predictor."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

from mdslite.deploy.pipelines import examine_pipeline
from mdslite.predict.books import Books
from mdslite.predict.predictor import Predictor
from mdslite.runtimes.devices import Devices
from mdslite.runtimes.onnx import OnnxRuntime
from mdslite.runtimes.protocol import LoadOptions, ProbeReport
from mdslite.runtimes.python import PythonRuntime
from mdslite.serving.fleet import Fleet, Served
from mdslite.serving.loader import LoadRequest
from mdslite.serving.router import predict_url
from mdslite.spec import Spec
from mdslite.store.rows import ROW_FIELDS, Row

PYTHON = PythonRuntime()
CONFIDENCE = ROW_FIELDS.index("confidence")

COUNT = """
import mds

@mds.model('count', 'v3')
class Count:
    @mds.predict
    @mds.batch(batch_size=8, prediction_time_ms=20000)
    def predict(self, data):
        return [{"words": len(one.split()), "text": one} for one in data]
"""
SHOUT = """
import os
import mds

@mds.model('shout', 'v1')
class Shout:
    healthy = True

    @mds.health_check
    def check(self):
        return {"status": "OK" if os.path.exists(os.environ["HEALTH"]) else "sick"}

    @mds.predict
    def predict(self, data):
        if data["text"] == "die":
            os._exit(3)
        if data["text"] == "fail":
            raise ValueError("nothing to shout")
        return {"shouted": data["text"].upper(), "confidence": 1 / data["words"]}
"""
PIPELINE = """
pipeline:
  name: shouting
  nodes:
  - name: count
    model_load_meta: {handler_module: parts.count}
  - name: shout
    model_load_meta: {handler_module: parts.shout}
"""


def write_pipeline(folder: Path, text: str = PIPELINE, **modules: str) -> Path:
    (folder / "parts").mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(text)
    for name, code in ({"count": COUNT, "shout": SHOUT} | modules).items():
        (folder / "parts" / f"{name}.py").write_text(dedent(code))
    return folder


def examine(folder: Path) -> ProbeReport:
    return examine_pipeline(
        folder, lambda handler: PYTHON.probe(folder, LoadOptions(handler=handler), timeout_s=30)
    )


def request_for(folder: Path, name: str = "p/pipe", **spec: Any) -> LoadRequest:
    """How to load a pipeline as v1 of a model."""
    container = {"env": {"HEALTH": str(folder)}}
    project, model = name.split("/")
    return LoadRequest(
        project,
        model,
        "v1",
        spec=Spec(uri=str(folder), container_parameter=container, **spec),
        digest="",
        path=folder,
        report=examine(folder),
        runtime="PYTHON",
        package_type="PIPELINE",
    )


class Serving:
    """A fleet with a pipeline in it, and a way to ask it."""

    def __init__(self, fleet: Fleet, served: Served) -> None:
        self.fleet = fleet
        self.served = served
        self.rows: list[Row] = []
        self._predictor = Predictor(fleet.router, books=Books(self.rows.append))

    async def ask(self, body: Any, *, kind: str = "application/json", status: int = 200) -> Any:
        """The reply to a body, JSON or bytes, of the model that was loaded first."""
        names = self.served.project, self.served.model
        reply = await self._predictor.respond(
            target=predict_url(*names).encode(),
            headers=[(b"content-type", kind.encode())],
            body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        )
        assert reply.status == status, reply.body
        return json.loads(reply.body)


@asynccontextmanager
async def serving(request: LoadRequest, *others: LoadRequest, **options: Any) -> AsyncIterator[Serving]:
    fleet = Fleet(
        runtimes={"PYTHON": PYTHON, "ONNXRUNTIME": OnnxRuntime()},
        devices=Devices(reason="tests compute on the CPU"),
        cores=2,
        **options,
    )
    try:
        served = [await fleet.load(one) for one in (request, *others)]
        fleet.switch(added=served)
        yield Serving(fleet, served[0])
    finally:
        await fleet.close(grace_s=10)
