"""Who may call what over gRPC, TLS that is renewed, and an appliance that stops."""

from __future__ import annotations

import json
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import live
import models
import numpy as np
import pytest
from authority import Authority
from packages import class_text, write_package

grpc = pytest.importorskip("grpc")
grpcclient = pytest.importorskip("tritonclient.grpc")
pytest.importorskip("grpc_health")
pytest.importorskip("grpc_reflection")
from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402

X = np.array([[1, 2]], np.float32)
SLOW = """
    @mds.predict
    def answer(self, data):
        import pathlib, time
        pathlib.Path(data).with_suffix(".begun").touch()
        while not pathlib.Path(data).exists():
            time.sleep(0.01)
        return 1
"""


def deploy(folder: Path) -> None:
    """`p.m` and `p.slow`, which waits for a file."""
    models.identity(folder / "m.onnx", shape=("N", 2))
    write_package(folder / "slow", {"model.py": class_text(SLOW, name="Slow")})
    deployments = [
        {"project": "p", "model": name, "versions": [{"version": "v1", "spec": {"uri": uri}}]}
        for name, uri in (("m", "m.onnx"), ("slow", "./slow"))
    ]
    (folder / "deployments.json").write_text(json.dumps({"deployments": deployments}))


def place_of(running: live.Live) -> str:
    return running.lines[0].partition("gRPC ")[2]


def make_token(folder: Path, name: str, *options: str) -> str:
    command = [sys.executable, "-m", "mdslite", "token", "create", name, "--store", ".mdslite", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=True)
    return done.stdout.split()[0]


def given(array: Any = X, name: str = "x") -> Any:
    tensor = grpcclient.InferInput(name, list(array.shape), "FP32" if array.dtype != object else "BYTES")
    tensor.set_data_from_numpy(array)
    return tensor


def call(channel: Any, method: str, token: str = "", body: bytes = b"") -> bytes:
    metadata = [("authorization", f"Bearer {token}")] if token else []
    return bytes(channel.unary_unary(method)(body, timeout=20, metadata=metadata))


def refusal(channel: Any, method: str, token: str = "", body: bytes = b"") -> tuple[Any, dict[str, str]]:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, method, token, body)
    error: Any = caught.value
    return error.code(), dict(error.trailing_metadata())


# Tokens


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """Where an appliance with tokens is, and those by name."""
    folder = tmp_path_factory.mktemp("guarded")
    deploy(folder)
    tokens = {
        "root": make_token(folder, "root", "--scope", "admin"),
        "app": make_token(folder, "app", "--scope", "predict"),
        "other": make_token(folder, "other", "--scope", "predict", "--project", "q"),
        "seldom": make_token(folder, "seldom", "--scope", "predict", "--rate", "1/h"),
    }
    with live.up("deployments.json", "--grpc-port", "0", cwd=folder) as running:
        yield place_of(running), tokens


@pytest.mark.parametrize(
    ("token", "code"),
    [("", "UNAUTHENTICATED"), ("mdslite_no_such", "UNAUTHENTICATED"), ("other", "PERMISSION_DENIED")],
)
def test_only_who_shows_a_good_token_predicts(
    guarded: tuple[str, dict[str, str]], token: str, code: str
) -> None:
    place, tokens = guarded
    headers = {"authorization": f"Bearer {tokens.get(token, token)}"} if token else {}
    with grpcclient.InferenceServerClient(place) as client:
        with pytest.raises(grpcclient.InferenceServerException) as caught:
            client.infer("p.m", [given()], headers=headers)
        assert caught.value.status() == f"StatusCode.{code}"
        found = client.infer("p.m", [given()], headers={"authorization": f"Bearer {tokens['app']}"})
        assert found.as_numpy("y").tolist() == X.tolist()


def test_who_asks_too_often_is_told_when_to_come_again(guarded: tuple[str, dict[str, str]]) -> None:
    place, tokens = guarded
    with grpc.insecure_channel(place) as channel:
        method = "/inference.GRPCInferenceService/ModelMetadata"
        name = b"\x0a\x03p.m"
        call(channel, method, tokens["seldom"], name)
        code, trailing = refusal(channel, method, tokens["seldom"], name)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(trailing["retry-after"]) > 3000
    assert trailing["mdslite-code"] == "rate_limited"


def test_operations_ask_for_the_same_scopes_as_over_rest(guarded: tuple[str, dict[str, str]]) -> None:
    place, tokens = guarded
    with grpc.insecure_channel(place) as channel:
        assert refusal(channel, "/mdslite.v1.Admin/ListTokens")[0] is grpc.StatusCode.UNAUTHENTICATED
        code, _ = refusal(channel, "/mdslite.v1.Admin/ListTokens", tokens["app"])
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert b'"name":"app"' in call(channel, "/mdslite.v1.Admin/ListTokens", tokens["root"])
        unload = "/inference.GRPCInferenceService/RepositoryModelUnload"
        assert refusal(channel, unload, tokens["app"])[0] is grpc.StatusCode.PERMISSION_DENIED
        assert refusal(channel, "/mdslite.v1.Admin/PutVersion", tokens["root"])[0].name == "INVALID_ARGUMENT"
        acts = call(channel, "/mdslite.v1.Admin/ListActs", tokens["root"])
        assert b"/api/v1/projects/{project}/models/{model}/versions/{version}" in acts
        assert b"unload_repository_model" in acts


def test_open_to_all_is_what_says_nothing_of_models(guarded: tuple[str, dict[str, str]]) -> None:
    place, _ = guarded
    with grpc.insecure_channel(place) as channel:
        assert call(channel, "/inference.GRPCInferenceService/ServerReady") == b"\x08\x01"
        assert call(channel, "/grpc.health.v1.Health/Check") == b"\x08\x01"
        code, _ = refusal(channel, "/inference.GRPCInferenceService/RepositoryIndex")
        assert code is grpc.StatusCode.UNAUTHENTICATED


# TLS


def ready_with(place: str, credentials: Any, name: str) -> bool:
    options = [("grpc.ssl_target_name_override", name)]
    with grpc.secure_channel(place, credentials, options) as channel:
        try:
            return call(channel, "/inference.GRPCInferenceService/ServerReady") == b"\x08\x01"
        except grpc.RpcError:
            return False


def test_a_renewed_certificate_is_used_for_new_connections(tmp_path: Path) -> None:
    deploy(tmp_path)
    former, latter = Authority(tmp_path, "former"), Authority(tmp_path, "latter")
    pair = former.sign("first")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(pair.cert.read_bytes())
    key.write_bytes(pair.key.read_bytes())
    options = ("--tls-cert", "cert.pem", "--tls-key", "key.pem", "--tls-client-ca", str(former.cert))
    client = former.sign("client")
    shown = (client.key.read_bytes(), client.cert.read_bytes())
    with live.up("deployments.json", "--grpc-port", "0", *options, cwd=tmp_path) as running:
        place = place_of(running)

        def trusts(authority: Authority, *, shows: bool = True) -> bool:
            pair = shown if shows else (None, None)
            credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes(), *pair)
            return ready_with(place, credentials, "localhost")

        assert trusts(former)
        assert not trusts(former, shows=False)
        assert not trusts(latter)
        renewed = latter.sign("second")
        key.write_bytes(renewed.key.read_bytes())
        assert trusts(former)  # the pair does not fit yet
        cert.write_bytes(renewed.cert.read_bytes())
        until = time.monotonic() + 30
        while not trusts(latter):  # the files are looked at every other second
            assert time.monotonic() < until
        assert not trusts(former)


# Start and stop


def test_a_stop_waits_for_what_is_under_way_and_lets_watchers_go(tmp_path: Path) -> None:
    deploy(tmp_path)
    release = tmp_path / "release"
    with live.up("deployments.json", "--grpc-port", "0", cwd=tmp_path) as running:
        place = place_of(running)
        answers: queue.Queue[Any] = queue.Queue()

        def note(result: Any, error: Any) -> None:
            answers.put((result, error))

        with grpcclient.InferenceServerClient(place) as client, grpc.insecure_channel(place) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=40)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            client.start_stream(note)
            client.async_stream_infer("p.m", [given()])
            assert answers.get(timeout=20)[1] is None
            path = np.array([json.dumps(str(release)).encode()], object)
            client.async_infer("p.slow", [given(path, "instances")], note)
            while not release.with_suffix(".begun").exists():
                assert running.process.poll() is None
            running.process.terminate()
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            release.touch()
            found = [answers.get(timeout=20) for _ in range(2)]
            results = [result for result, _ in found if result is not None]
            assert [result.as_numpy("predictions").tolist() for result in results] == [[b"1"]]
            with pytest.raises(grpc.RpcError):
                next(watch)
            client.stop_stream()
        assert running.process.wait(20) == 0


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    deploy(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "mdslite", "up", "--port", "0", "--grpc-port", str(port)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--grpc-port" in done.stderr


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path) -> None:
    hide = "import sys; sys.modules['google.protobuf'] = None; from mdslite.cli import main; main()"
    command = [sys.executable, "-c", hide, "up", "--port", "0", "--grpc-port", "0", "--store", "st"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert "pip install 'mdslite[grpc]'" in done.stderr
