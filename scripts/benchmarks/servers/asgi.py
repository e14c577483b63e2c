"""Hand-written serving: a Starlette app that runs each request on its own, behind Hypercorn or uvicorn.

    python asgi.py hypercorn|uvicorn MODEL PORT THREADS

One process, uvloop, no access log, no batching: what somebody writes on the first day.
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np
import onnxruntime
import orjson
import uvicorn
import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def build(model: str, *, threads: int) -> Starlette:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    async def predict(request: Request) -> Response:
        rows = np.asarray(orjson.loads(await request.body())["instances"], np.float32)
        (answer,) = session.run(None, {"x": rows})
        reply = orjson.dumps({"predictions": answer}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(reply, media_type="application/json")

    return Starlette(routes=[Route("/predict", predict, methods=["POST"])])


def main() -> None:
    server, model, port, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    app = build(model, threads=threads)
    if server == "uvicorn":
        uvicorn.run(app, port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning")
        return
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.keep_alive_max_requests = 10**9  # the default of 1,000 would measure reconnecting
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(app, config))  # type: ignore[arg-type]  # Starlette's own type for the same callable


if __name__ == "__main__":
    main()
