"""gRPC in a running appliance: tritonclient, unchanged, health checks, reflection and the admin service."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import live
import numpy as np
import pytest
from grpc_models import DATATYPES, fill

grpc = pytest.importorskip("grpc")
grpcclient = pytest.importorskip("tritonclient.grpc")
pytest.importorskip("grpc_health")
pytest.importorskip("grpc_reflection")
import tritonclient.grpc.aio as aioclient  # noqa: E402
from google.protobuf import descriptor_pool, message_factory  # noqa: E402
from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # noqa: E402
    ProtoReflectionDescriptorDatabase,
)
from tritonclient.grpc import service_pb2  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

TYPED: dict[str, tuple[str, list[Any]]] = {
    "BOOL": ("bool_contents", [True, False]),
    "INT8": ("int_contents", [-3, 7]),
    "UINT16": ("uint_contents", [3, 7]),
    "INT32": ("int_contents", [-3, 7]),
    "UINT64": ("uint64_contents", [3, 2**63]),
    "FP32": ("fp32_contents", [0.5, -2.0]),
    "FP64": ("fp64_contents", [0.5, -2.0]),
    "BYTES": ("bytes_contents", [b"a", b"\xc3\xa9"]),
}
X = np.array([[1, 2], [3, 4]], np.float32)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Live]:
    """Serves `p.NAME` for each datatype's identity, `p.stream`, which counts, and `p.hang`."""
    folder = tmp_path_factory.mktemp("appliance")
    fill(folder)
    with live.up("deployments.json", "--grpc-port", "0", cwd=folder) as found:
        yield found


@pytest.fixture(scope="module")
def place(running: live.Live) -> str:
    return running.lines[0].partition("gRPC ")[2]


@pytest.fixture
def client(place: str) -> Iterator[Any]:
    with grpcclient.InferenceServerClient(place) as client:
        yield client


@pytest.fixture
def channel(place: str) -> Iterator[Any]:
    with grpc.insecure_channel(place) as channel:
        yield channel


def given(array: Any, name: str = "x", *, datatype: str = "FP32") -> Any:
    tensor = grpcclient.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def texts(*values: Any, name: str = "instances") -> Any:
    array = np.array([json.dumps(value).encode() for value in values], object)
    return given(array, name, datatype="BYTES")


def typed_request(model: str, datatype: str, field: str, values: list[Any]) -> Any:
    request = service_pb2.ModelInferRequest(model_name=f"p.{model}")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[1, len(values)])
    getattr(tensor.contents, field).extend(values)
    return request


def infer(channel: Any, request: Any, **options: Any) -> Any:
    method = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        service_pb2.ModelInferRequest.SerializeToString,
        service_pb2.ModelInferResponse.FromString,
    )
    return method.with_call(request, timeout=20, **options)


def refusal(channel: Any, request: Any, **options: Any) -> tuple[Any, str, dict[str, str]]:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, request, **options)
    error: Any = caught.value
    return error.code(), error.details(), dict(error.trailing_metadata())


# Infer


@pytest.mark.parametrize("datatype", DATATYPES)
def test_each_datatype_comes_back_as_it_was_sent(client: Any, datatype: str) -> None:
    array: np.ndarray[Any, Any] = np.array([[0, 1], [1, 0]]).astype(DATATYPES[datatype])
    for _ in range(3):  # the first is parsed, later ones fit what is remembered of it
        reply = client.infer(f"p.{datatype.lower()}", [given(array, datatype=datatype)])
        found = reply.as_numpy("y")
        assert found.dtype == array.dtype
        assert found.tolist() == array.tolist()


@pytest.mark.parametrize("columns", [10_000, 50_001, 700_000])
def test_large_tensors_come_back_as_they_were_sent(client: Any, columns: int) -> None:
    for number in range(3):
        array = np.random.default_rng(number).random((3, columns), np.float32)
        assert (client.infer("p.wide", [given(array)]).as_numpy("y") == array).all()
        squeezed = client.infer("p.wide", [given(array[:1])], compression_algorithm="gzip")
        assert (squeezed.as_numpy("y") == array[:1]).all()


def test_strings_and_bfloats_come_back_as_they_were_sent(client: Any, channel: Any) -> None:
    words = np.array([["a", "bé"], ["", "x" * 300]], object)
    found = client.infer("p.bytes", [given(words, datatype="BYTES")]).as_numpy("y")
    assert [[word.decode() for word in row] for row in found] == words.tolist()
    request = service_pb2.ModelInferRequest(model_name="p.bf16")
    request.inputs.add(name="x", datatype="BF16", shape=[1, 2])
    request.raw_input_contents.append(b"\xc0\x3f\x00\xc0")  # 1.5 and -2
    reply, _ = infer(channel, request)
    assert reply.raw_output_contents[0] == b"\x40\x40\x80\xc0"  # twice that


@pytest.mark.parametrize("datatype", TYPED)
def test_tensors_that_are_spelled_out_are_answered_as_bytes(channel: Any, datatype: str) -> None:
    field, values = TYPED[datatype]
    reply, _ = infer(channel, typed_request(datatype.lower(), datatype, field, values))
    found = grpcclient.InferResult(reply).as_numpy("y")
    assert not reply.outputs[0].HasField("contents")
    assert found.tolist() == [values]


def test_the_reply_names_version_request_and_id(channel: Any) -> None:
    request = typed_request("fp32", "FP32", "fp32_contents", [1, 2])
    request.id = "mine"
    reply, call = infer(channel, request, metadata=[("x-request-id", "abc")])
    assert (reply.model_name, reply.model_version, reply.id) == ("p.fp32", "v1", "mine")
    trailing = dict(call.trailing_metadata())
    assert (trailing["mdslite-request-id"], trailing["mdslite-version"]) == ("abc", "v1")


def test_outputs_and_classes_can_be_asked_for(client: Any) -> None:
    wanted = grpcclient.InferRequestedOutput("y", class_count=1)
    found = client.infer("p.fp32", [given(X)], outputs=[wanted]).as_numpy("y")
    assert found.tolist() == [[b"2.000000:1"], [b"4.000000:1"]]
    assert client.infer("p.fp32", [given(X[:0])]).as_numpy("y").shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"model_name": "p.none"}, "NOT_FOUND", "no model p/none"),
        ({"model_name": "p/x"}, "NOT_FOUND", "expected PROJECT.MODEL"),
        ({"model_name": "p.a/../b"}, "INVALID_ARGUMENT", "is no name"),
        ({"model_version": "v9"}, "NOT_FOUND", "no version v9"),
        (
            {"inputs": [{"name": "z", "datatype": "FP32", "shape": [1, 1]}]},
            "INVALID_ARGUMENT",
            "(ModelMetadata of p.fp32 says what it takes and gives)",
        ),
        ({"raw_input_contents": [b"12345678"]}, "INVALID_ARGUMENT", "got both (leave one out)"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(
    channel: Any, change: dict[str, Any], code: str, says: str
) -> None:
    request = typed_request("fp32", "FP32", "fp32_contents", [1, 2])
    request.MergeFrom(service_pb2.ModelInferRequest(**change))
    found, details, trailing = refusal(channel, request)
    assert found.name == code
    assert says in details
    assert trailing["mdslite-request-id"]


def test_tensors_that_do_not_fit_are_refused(channel: Any) -> None:
    short = typed_request("fp32", "FP32", "fp32_contents", [1, 2])
    short.inputs[0].shape[1] = 3
    code, details, _ = refusal(channel, short)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith('inputs[0].shape: input "x": shape [1,3]')
    two = typed_request("fp32", "FP32", "fp32_contents", [])
    two.inputs[0].ClearField("contents")
    two.raw_input_contents.extend([b"1", b"2"])
    assert refusal(channel, two)[1].startswith("raw_input_contents: 2 of them, expected one for each")
    half = typed_request("fp16", "FP16", "fp32_contents", [1, 2])
    said = refusal(channel, half)[1]
    assert (said.startswith("inputs[0].datatype: "), "expected it in raw_input_contents" in said) == (
        True,
        True,
    )
    shared = typed_request("fp32", "FP32", "fp32_contents", [1, 2])
    shared.inputs[0].parameters["shared_memory_region"].string_param = "region"
    assert "shared memory is not served" in refusal(channel, shared)[1]


def test_bytes_that_are_no_message_are_refused(channel: Any) -> None:
    method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        method(b"\xff\xff", timeout=20)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_shared_memory_is_unimplemented(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        client.get_system_shared_memory_status()


def test_many_threads_and_callbacks_are_answered_each_with_its_own(client: Any) -> None:
    def ask(number: int) -> bool:
        array = np.full((1, 2), number, np.float32)
        return bool((client.infer("p.fp32", [given(array)]).as_numpy("y") == array).all())

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(200)))
    answers: queue.Queue[Any] = queue.Queue()
    for number in range(50):
        array = np.full((1, 2), number, np.float32)
        client.async_infer("p.fp32", [given(array)], lambda result, error: answers.put((result, error)))
    found = [answers.get(timeout=20) for _ in range(50)]
    assert sorted(result.as_numpy("y")[0, 0] for result, _ in found) == list(range(50))


def test_asyncio_clients_are_answered(place: str) -> None:
    async def ask() -> list[Any]:
        async with aioclient.InferenceServerClient(place) as client:
            return await asyncio.gather(*(client.infer("p.fp32", [given(X)]) for _ in range(20)))

    assert all((reply.as_numpy("y") == X).all() for reply in asyncio.run(ask()))


# Deadlines and limits


def test_a_deadline_of_the_client_frees_the_model(channel: Any, client: Any) -> None:
    request = service_pb2.ModelInferRequest(model_name="p.hang")
    request.inputs.add(name="instances", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(b"\x01\x00\x00\x001")
    method = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer", service_pb2.ModelInferRequest.SerializeToString
    )
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=0.5)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    waiting = method.future(request, timeout=20)
    assert waiting.cancel()
    assert client.infer("p.fp32", [given(X)]).as_numpy("y").tolist() == X.tolist()


def test_a_message_that_is_too_long_is_refused(place: str) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(place, options) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            method(bytes(256 * 1024 * 1024 + 1), timeout=40)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# Streams


@pytest.fixture
def stream(client: Any) -> Iterator[tuple[Any, queue.Queue[Any]]]:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    yield client, answers
    client.stop_stream()


def test_a_stream_is_answered_in_order_and_outlives_mistakes(stream: tuple[Any, queue.Queue[Any]]) -> None:
    client, answers = stream
    for number in range(60):
        model = "p.none" if number % 10 == 5 else "p.fp32"
        client.async_stream_infer(model, [given(np.full((1, 2), number, np.float32))], request_id=str(number))
    for number in range(60):
        result, error = answers.get(timeout=20)
        if number % 10 == 5:
            assert "no model p/none" in str(error)
        else:
            assert (result.get_response().id, result.as_numpy("y")[0, 0]) == (str(number), number)


def test_a_model_that_streams_gives_an_answer_a_piece(stream: tuple[Any, queue.Queue[Any]]) -> None:
    client, answers = stream
    client.async_stream_infer("p.stream", [texts(2)], request_id="a")
    client.async_stream_infer("p.stream", [texts(3)])
    client.async_stream_infer("p.fp32", [given(X)])
    pieces = [answers.get(timeout=20) for _ in range(7)]
    assert [result.as_numpy("predictions")[0] for result, _ in pieces[:5]] == [b"0", b"1", b"0", b"1", b"2"]
    assert pieces[0][0].get_response().id == "a"
    assert "three is too many" in str(pieces[5][1])
    assert pieces[6][0].as_numpy("y").tolist() == X.tolist()


def test_a_model_that_streams_is_for_streams(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="ModelStreamInfer"):
        client.infer("p.stream", [texts(2)])


# The protocol's other calls


def test_clients_learn_what_is_served(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("p.fp32", "v1")
    assert not client.is_model_ready("p.none")
    assert client.get_server_metadata().name == "mdslite"
    metadata = client.get_model_metadata("p.fp32")
    assert (metadata.inputs[0].datatype, list(metadata.inputs[0].shape)) == ("FP32", [-1, 2])
    config = client.get_model_config("p.fp32").config
    assert (config.backend, list(config.output[0].dims)) == ("onnxruntime", [2])
    client.infer("p.fp64", [given(X.astype(np.float64), datatype="FP64")])
    statistics = client.get_inference_statistics("p.fp64").model_stats
    assert statistics[0].inference_count >= 2
    assert len(client.get_inference_statistics().model_stats) > 5
    with pytest.raises(InferenceServerException, match="NOT_FOUND"):
        client.get_model_metadata("p.none")


def test_models_are_unloaded_and_loaded(client: Any) -> None:
    client.unload_model("p.int8")
    states = {one.name: one.state for one in client.get_model_repository_index().models}
    assert (states["p.int8"], states["p.fp32"]) == ("UNAVAILABLE", "READY")
    with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
        client.infer("p.int8", [given(X.astype(np.int8), datatype="INT8")])
    client.load_model("p.int8")
    assert client.is_model_ready("p.int8")


# Health, reflection, admin


def test_health_checks_are_answered(channel: Any) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "inference.GRPCInferenceService", "mdslite.v1.Admin"):
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_tells_enough_to_call_an_operation(channel: Any) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"inference.GRPCInferenceService", "mdslite.v1.Admin", "grpc.health.v1.Health"} <= set(
        database.get_services()
    )
    pool = descriptor_pool.DescriptorPool(database)
    method = pool.FindServiceByName("mdslite.v1.Admin").FindMethodByName("GetVersion")
    request = message_factory.GetMessageClass(method.input_type)
    reply = message_factory.GetMessageClass(method.output_type)
    call = channel.unary_unary(
        "/mdslite.v1.Admin/GetVersion", request.SerializeToString, reply.FromString
    ).with_call
    path = {"project": "p", "model": "fp32", "version": "v1"}
    found, done = call(request(path=path), timeout=20)
    assert (found.status, json.loads(found.body)["state"]) == (200, "ready")
    etag = dict(done.trailing_metadata())["etag"]
    same, _ = call(request(path=path), timeout=20, metadata=[("if-none-match", etag)])
    assert same.status == 304
    with pytest.raises(grpc.RpcError) as caught:
        call(request(path=path | {"version": "v9"}), timeout=20)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.NOT_FOUND
