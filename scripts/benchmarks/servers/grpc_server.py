"""Hand-written serving over gRPC: a bare grpc.aio server that runs each request on its own.

    python grpc_server.py MODEL PORT THREADS

One process, uvloop, no batching, the Open Inference Protocol's messages: what somebody writes on the first
day.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc.aio
import numpy as np
import onnxruntime
import uvloop
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)


class Service(GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, model: str, *, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        tensor = request.inputs[0]
        rows = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(tensor.shape)
        (answer,) = self._session.run(None, {tensor.name: rows})
        reply = messages.ModelInferResponse(
            model_name=request.model_name, raw_output_contents=[answer.tobytes()]
        )
        reply.outputs.add(name="y", datatype="FP32", shape=answer.shape)
        return reply


async def serve(model: str, port: int, *, threads: int) -> None:
    server = grpc.aio.server()
    add_GRPCInferenceServiceServicer_to_server(Service(model, threads=threads), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    model, port, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(model, port, threads=threads))


if __name__ == "__main__":
    main()
