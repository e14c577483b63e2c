"""tritonclient, unchanged, against a running appliance: its HTTP client, many of them in threads, and its
asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import live
import models
import numpy as np
import pytest
from box import deployments

httpclient = pytest.importorskip("tritonclient.http")
import tritonclient.http.aio as aioclient  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

DATATYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "UINT16": np.uint16,
    "INT16": np.int16,
    "UINT32": np.uint32,
    "INT32": np.int32,
    "UINT64": np.uint64,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT that serves `p.NAME` for each datatype's identity, `p.add`, `p.wide` with rows of any length,
    and `p.two` with v1 and v2."""
    folder = tmp_path_factory.mktemp("appliance")
    names = [datatype.lower() for datatype in (*DATATYPES, "BYTES", "BF16")]
    for datatype in (*DATATYPES, "BYTES"):
        models.identity(folder / f"{datatype.lower()}.onnx", datatype, shape=("N", 2))
    models.bfloat(folder / "bf16.onnx")
    models.add(folder / "add.onnx")
    models.identity(folder / "wide.onnx", shape=("N", "L"))
    text = "".join(
        deployments(f"v1, uri: {name}.onnx", model=name).removeprefix("deployments:\n")
        for name in (*names, "add", "wide")
    )
    versions = ("v1, uri: fp32.onnx, weight: 50", "v2, uri: fp32.onnx, weight: 50")
    text += deployments(*versions, model="two").removeprefix("deployments:\n")
    (folder / "deployments.yaml").write_text(f"deployments:\n{text}")
    with live.up("deployments.yaml", cwd=folder) as running:
        yield running.url.removeprefix("http://")


@pytest.fixture
def client(appliance: str) -> Iterator[Any]:
    with httpclient.InferenceServerClient(appliance) as client:
        yield client


def given(
    array: np.ndarray[Any, Any], name: str = "x", *, datatype: str = "FP32", binary: bool = True
) -> Any:
    tensor = httpclient.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def wanted(name: str = "y", **options: Any) -> Any:
    return httpclient.InferRequestedOutput(name, **options)


X = np.array([[1, 2], [3, 4]], np.float32)

# Tensors


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_goes_both_ways(client: Any, datatype: str, binary_in: bool, binary_out: bool) -> None:
    array: np.ndarray[Any, Any] = np.array([[0, 1], [1, 0]]).astype(DATATYPES[datatype])
    if array.dtype.kind in "iu":
        array[0] = np.iinfo(array.dtype).min, np.iinfo(array.dtype).max
    result = client.infer(
        f"p.{datatype.lower()}",
        [given(array, datatype=datatype, binary=binary_in)],
        outputs=[wanted(binary_data=binary_out)],
    )
    found = result.as_numpy("y")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_strings_go_both_ways(client: Any, binary_in: bool, binary_out: bool) -> None:
    array = np.array([["ham", "sp\u00e4m"], ["", "\u2603"]], dtype=object)
    result = client.infer(
        "p.bytes",
        [given(array, datatype="BYTES", binary=binary_in)],
        outputs=[wanted(binary_data=binary_out)],
    )
    found = [value.decode() if isinstance(value, bytes) else value for value in result.as_numpy("y").flat]
    assert found == array.ravel().tolist()


def test_bfloat16_goes_both_ways(client: Any) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    array = np.array([[1.5, -2], [0, 3]], dtype=bfloat16)
    result = client.infer("p.bf16", [given(array, datatype="BF16")])
    assert result.as_numpy("y").dtype == bfloat16
    np.testing.assert_array_equal(result.as_numpy("y").astype(np.float32), array.astype(np.float32) * 2)
    np.testing.assert_array_equal(result.as_numpy("wide"), array.astype(np.float32) * 2)


def test_what_is_no_number_comes_back_as_what_it_was(client: Any) -> None:
    array = np.array([[np.nan, np.inf], [-np.inf, 0]], np.float32)
    for binary in (True, False):
        result = client.infer("p.fp32", [given(array, binary=binary)])
        np.testing.assert_array_equal(result.as_numpy("y"), array)
    in_json = client.infer("p.fp32", [given(array)], outputs=[wanted(binary_data=False)])
    assert np.isnan(in_json.as_numpy("y")).tolist() == [[True, True], [True, False]]


def test_no_rows_are_answered_with_none(client: Any) -> None:
    for binary in (True, False):
        result = client.infer("p.fp32", [given(np.empty((0, 2), np.float32), binary=binary)])
        assert result.as_numpy("y").shape == (0, 2)


def test_several_inputs_and_outputs(client: Any) -> None:
    result = client.infer("p.add", [given(X, "b"), given(X * 2, "a", binary=False)])
    np.testing.assert_array_equal(result.as_numpy("sum"), X * 3)
    np.testing.assert_array_equal(result.as_numpy("difference"), X)
    one = client.infer("p.add", [given(X, "a"), given(X, "b")], outputs=[wanted("sum")])
    assert one.as_numpy("difference") is None


def test_a_large_tensor_goes_both_ways(client: Any) -> None:
    array = np.random.default_rng(1).random((3, 1_000_000), np.float32)
    np.testing.assert_array_equal(client.infer("p.wide", [given(array)]).as_numpy("y"), array)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_bodies_may_be_compressed(client: Any, coding: str) -> None:
    array = np.arange(4000, dtype=np.float32).reshape(2, -1)
    result = client.infer(
        "p.wide",
        [given(array)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    np.testing.assert_array_equal(result.as_numpy("y"), array)


def test_classes_are_told_by_value_and_place(client: Any) -> None:
    result = client.infer("p.fp32", [given(X)], outputs=[wanted(class_count=1)])
    assert result.as_numpy("y").tolist() == [[b"2.000000:1"], [b"4.000000:1"]]


def test_a_request_keeps_its_id_and_its_parameters_do_no_harm(client: Any) -> None:
    result = client.infer(
        "p.fp32",
        [given(X)],
        request_id="seven",
        priority=1,
        timeout=5_000_000,
        sequence_id=3,
        sequence_start=True,
        parameters={"mine": "x"},
    )
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("seven", "p.fp32", "v1")


def test_a_version_is_asked_by_its_name_or_chosen_by_weight(client: Any) -> None:
    def version(**options: Any) -> str:
        answered: str = client.infer("p.two", [given(X)], **options).get_response()["model_version"]
        return answered

    assert version(model_version="v2") == "v2"
    assert sorted(version() for _ in range(10)) == ["v1"] * 5 + ["v2"] * 5


def test_a_body_may_be_made_and_read_apart_from_the_client(appliance: str) -> None:
    import http.client

    body, head_bytes = httpclient.InferenceServerClient.generate_request_body([given(X)])
    connection = http.client.HTTPConnection(appliance)
    headers = {"Inference-Header-Content-Length": str(head_bytes)}
    connection.request("POST", "/v2/models/p.fp32/infer", body, headers)
    reply = connection.getresponse()
    result = httpclient.InferenceServerClient.parse_response_body(
        reply.read(), header_length=int(reply.headers["Inference-Header-Content-Length"])
    )
    connection.close()
    np.testing.assert_array_equal(result.as_numpy("y"), X)


# What is wrong


@pytest.mark.parametrize(
    ("model", "array", "says"),
    [
        ("p.nobody", X, r"\[404\] no model p/nobody is deployed"),
        ("nobody", X, r"\[404\].*PROJECT.MODEL"),
        ("p.fp64", X, r'\[400\] inputs\[0\].datatype: input "x": datatype FP32, expected FP64'),
        ("p.fp32", X[:, :1], r'\[400\] inputs\[0\].shape: input "x": shape \[2,1\], expected \[\?,2\]'),
        ("p.add", X, r'\[400\] inputs\[0\].name: unknown input "x": expected "a", "b"'),
    ],
)
def test_what_is_wrong_is_said(client: Any, model: str, array: Any, says: str) -> None:
    with pytest.raises(InferenceServerException, match=says):
        client.infer(model, [given(array)])


def test_shared_memory_is_refused(client: Any) -> None:
    tensor = httpclient.InferInput("x", [1, 2], "FP32")
    tensor.set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException, match="shared memory is not served"):
        client.infer("p.fp32", [tensor])
    for ask in (client.get_system_shared_memory_status, client.get_cuda_shared_memory_status):
        with pytest.raises(InferenceServerException, match="shared memory is not served"):
            ask()


# What servers and models say


def test_the_server_tells_of_itself(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]


def test_models_tell_of_themselves(client: Any) -> None:
    assert client.is_model_ready("p.two")
    assert client.is_model_ready("p.two", "v2")
    assert not client.is_model_ready("p.two", "v9")
    assert client.get_model_metadata("p.two")["versions"] == ["v1", "v2"]
    assert client.get_model_metadata("p.two", "v1")["inputs"][0]["shape"] == [-1, 2]
    assert client.get_model_config("p.two", "v1")["max_batch_size"] == 32


def test_statistics_are_counted(client: Any) -> None:
    client.infer("p.add", [given(X, "a"), given(X, "b")])
    (found,) = client.get_inference_statistics("p.add", "v1")["model_stats"]
    assert found["execution_count"] >= 1
    assert found["inference_stats"]["success"]["count"] >= 1
    everything = client.get_inference_statistics()["model_stats"]
    assert {"p.add", "p.two"} <= {one["name"] for one in everything}


def test_models_are_listed_unloaded_and_loaded(client: Any) -> None:
    def states() -> set[str]:
        return {one["state"] for one in client.get_model_repository_index() if one["name"] == "p.int16"}

    assert states() == {"READY"}
    client.unload_model("p.int16")
    assert states() == {"UNAVAILABLE"}
    assert not client.is_model_ready("p.int16")
    client.load_model("p.int16")
    assert states() == {"READY"}
    with pytest.raises(InferenceServerException, match="config"):
        client.load_model("p.int16", config="{}")


# Concurrency


def test_asynchronous_requests_of_one_client(appliance: str) -> None:
    with httpclient.InferenceServerClient(appliance, concurrency=4) as client:
        arrays = [np.full((1, 2), number, np.float32) for number in range(20)]
        waiting = [client.async_infer("p.fp32", [given(array)]) for array in arrays]
        for array, one in zip(arrays, waiting, strict=True):
            np.testing.assert_array_equal(one.get_result().as_numpy("y"), array)


def test_many_threads_each_with_a_client(appliance: str) -> None:
    def ask(number: int) -> None:
        with httpclient.InferenceServerClient(appliance) as client:
            for turn in range(20):
                array = np.array([[number, turn]], np.float32)
                np.testing.assert_array_equal(client.infer("p.fp32", [given(array)]).as_numpy("y"), array)

    with ThreadPoolExecutor(16) as threads:
        assert len(list(threads.map(ask, range(16)))) == 16


def test_the_asyncio_client(appliance: str) -> None:
    async def test() -> None:
        async with aioclient.InferenceServerClient(appliance) as client:
            assert await client.is_server_ready()
            assert await client.is_model_ready("p.fp32")
            assert (await client.get_model_metadata("p.fp32"))["platform"] == "onnxruntime_onnx"
            assert (await client.get_model_config("p.fp32"))["backend"] == "onnxruntime"
            assert (await client.get_inference_statistics("p.fp32"))["model_stats"]
            assert await client.get_model_repository_index()

            async def ask(number: int) -> None:
                array = np.array([[number, 1]], np.float32)
                result = await client.infer("p.fp32", [given(array)], request_id=str(number))
                np.testing.assert_array_equal(result.as_numpy("y"), array)
                assert result.get_response()["id"] == str(number)

            await asyncio.gather(*(ask(number) for number in range(64)))
            array = np.zeros((1, 4000), np.float32)
            for coding in (None, "gzip", "deflate"):
                result = await client.infer(
                    "p.wide",
                    [given(array)],
                    request_compression_algorithm=coding,
                    response_compression_algorithm=coding,
                )
                np.testing.assert_array_equal(result.as_numpy("y"), array)
            with pytest.raises(InferenceServerException, match=r"expected PROJECT\.MODEL"):
                await client.infer("nobody", [given(X)])
            await client.unload_model("p.uint8")
            assert not await client.is_model_ready("p.uint8")
            await client.load_model("p.uint8")

    asyncio.run(test())
