"""ONNX models that fail: in a run, at their load, or by what their file says."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import models
import numpy as np
import odd_models
import onnx
import pytest
from computed import array_of

from mdslite.errors import DeadlineExceeded, LoadFailed, MdsliteError, ModelError, OutOfMemory, Unavailable
from mdslite.runtimes import engine
from mdslite.runtimes.failures import load_error, reason, run_error
from mdslite.runtimes.graph import read_graph
from mdslite.runtimes.onnx import OnnxRuntime, OnnxSession
from mdslite.runtimes.protocol import LoadOptions

DEADLINE_S = 30.0


def open_model(path: Path, **settings: Any) -> OnnxSession:
    return OnnxRuntime().open(path, LoadOptions(settings=settings))


# Models that are refused


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"op": "Frobnicate"}, "export it with operators that ONNX has"),
        ({"domain": "com.acme"}, "export it with operators that ONNX has"),
        ({"opset": 99}, "export it for an older one (opset_version=17"),
        ({"ir_version": 99}, "export it for an older one (a lower ir_version)"),
    ],
)
def test_what_a_refused_model_lacks_is_told_with_what_mends_it(
    tmp_path: Path, change: dict[str, Any], hint: str
) -> None:
    asked: dict[str, Any] = {"op": "Relu", "domain": "", "opset": 17, "ir_version": 8, **change}
    helper = onnx.helper
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 3]) for name in "xy")
    node = helper.make_node(asked["op"], ["x"], ["y"], domain=asked["domain"])
    opsets = [helper.make_opsetid("", asked["opset"])]
    if asked["domain"]:
        opsets.append(helper.make_opsetid(asked["domain"], 1))
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets)
    model.ir_version = asked["ir_version"]
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(LoadFailed) as refused:
        open_model(tmp_path / "m.onnx")
    assert (refused.value.hint or "").startswith(hint)


def test_a_model_that_is_cut_off_is_to_be_exported_again(tmp_path: Path) -> None:
    whole = models.identity(tmp_path / "m.onnx").read_bytes()
    (tmp_path / "m.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LoadFailed) as refused:
        open_model(tmp_path / "m.onnx")
    assert "exporting it again" in (refused.value.hint or "")


# Runs that fail


def test_an_index_out_of_range_is_the_model_s_error(tmp_path: Path) -> None:
    session = open_model(models.gather(tmp_path / "m.onnx", size=8))
    with pytest.raises(ModelError) as caught:
        session.run({"index": np.array([[1], [99]])})
    assert caught.value.message == (
        "the model failed on this input: Gather node: indices element out of data bounds, "
        "idx=99 must be within the inclusive range [-8,7]"
    )
    np.testing.assert_array_equal(session.run({"index": np.array([[2]])})[0], [[20]])


def test_inputs_that_do_not_fit_are_the_model_s_error(tmp_path: Path) -> None:
    session = open_model(models.identity(tmp_path / "m.onnx"))
    for feeds in (
        {},
        {"x": np.zeros((1, 4), np.float32)},
        {"x": np.zeros((1, 3))},
        {"y": np.zeros((1, 3), np.float32)},
    ):
        with pytest.raises(ModelError):
            session.run(feeds)


def test_an_endless_loop_stops_when_it_is_told_to(tmp_path: Path) -> None:
    session = open_model(models.loop(tmp_path / "m.onnx"))
    handle = session.handle()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            session.run({"turns": np.array([[-1]])}, handle)
        except MdsliteError as exc:
            raised.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    handle.terminate()
    thread.join(DEADLINE_S)
    assert [type(exc) for exc in raised] == [DeadlineExceeded]
    np.testing.assert_array_equal(session.run({"turns": np.array([[3]])}, session.handle())[0], [[3]])


@pytest.mark.parametrize("arena", [True, False])
def test_a_batch_that_memory_cannot_hold_is_told_apart(tmp_path: Path, arena: bool) -> None:
    session = open_model(models.hungry(tmp_path / "m.onnx"), cpu_mem_arena=arena)
    with pytest.raises(OutOfMemory):
        session.run({"size": np.array([[1 << 50]])})
    np.testing.assert_array_equal(session.run({"size": np.array([[5]])})[0], [[5]])


def test_a_closed_session_runs_no_more(tmp_path: Path) -> None:
    session = open_model(models.identity(tmp_path / "m.onnx"))
    session.close()
    with pytest.raises(Unavailable):
        session.run({"x": np.zeros((1, 3), np.float32)})


MESSAGES = Path(__file__).parent / "data" / "onnxruntime_messages.jsonl"


@pytest.mark.parametrize("line", MESSAGES.read_text().splitlines())
def test_a_message_from_a_gpu_is_understood(line: str) -> None:
    message = json.loads(line)
    error = run_error(RuntimeError(message["text"]), terminated=False)
    assert type(error).__name__ == message["error"]
    assert error.message.endswith(f": {message['said']}")


def test_no_exception_of_the_library_is_left_untranslated() -> None:
    for kind in engine.exceptions():
        assert isinstance(run_error(kind("x"), terminated=False), ModelError | OutOfMemory | Unavailable)
        assert isinstance(load_error(kind("x"), model="m.onnx"), LoadFailed | OutOfMemory)


def test_a_device_that_was_reset_is_lost() -> None:
    (reset,) = [kind for kind in engine.exceptions() if kind.__name__ == "DeviceReset"]
    assert type(run_error(reset("device removed"), terminated=False)) is Unavailable


def test_an_exception_without_words_has_its_class_for_a_reason() -> None:
    assert reason(RuntimeError()) == "RuntimeError"


# Loads that fail


@pytest.mark.parametrize(("build", "said"), odd_models.BROKEN)
def test_a_broken_model_is_refused_with_the_reason_and_no_path(tmp_path: Path, build: Any, said: str) -> None:
    path = build(tmp_path / "m.onnx")
    with pytest.raises(LoadFailed, match=said) as caught:
        open_model(path)
    assert caught.value.message.startswith("m.onnx: ")
    assert "/" not in caught.value.message


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x0b" * 100])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert not OnnxRuntime().inspect(path)
    with pytest.raises(LoadFailed):
        open_model(path)


def test_a_folder_with_one_model_is_opened(tmp_path: Path) -> None:
    models.external(tmp_path / "any.onnx")
    assert array_of(open_model(tmp_path).run({"x": np.ones((1, 2), np.float32)})[0]).tolist() == [[4, 6]]


def test_a_folder_with_several_models_needs_a_main_one(tmp_path: Path) -> None:
    models.mlp(tmp_path / "a.onnx")
    models.mlp(tmp_path / "b.onnx")
    with pytest.raises(LoadFailed, match=r"holds a\.onnx, b\.onnx: expected one"):
        open_model(tmp_path)
    models.mlp(tmp_path / "model.onnx")
    assert open_model(tmp_path).signature.rows == "free"


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"no model file m\.onnx"):
        open_model(tmp_path / "m.onnx")
    with pytest.raises(LoadFailed, match=r"no \.onnx file"):
        open_model(tmp_path)


# What a file says of itself


def test_operators_in_subgraphs_and_functions_are_found(tmp_path: Path) -> None:
    loop = read_graph(models.loop(tmp_path / "a.onnx"))
    chain = read_graph(odd_models.crashing(tmp_path / "b.onnx", depth=3))
    assert {"Loop", "Less", "Or"} <= {node.operator for node in loop.nodes}
    assert {"f0", "f1", "Identity"} <= {node.operator for node in chain.nodes}


@pytest.mark.parametrize(
    "location", ["../w.bin", "sub/../../w.bin", "/etc/hostname", "C:\\w.bin", "..\\w.bin", ""]
)
def test_weights_outside_of_the_model_s_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    (tmp_path / "m").mkdir()
    path = models.external(tmp_path / "m" / "m.onnx", location=location or " ", write=False)
    with pytest.raises(LoadFailed, match="the model keeps weights in"):
        OnnxRuntime().inspect(path)


def test_weights_behind_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own.bin").write_bytes(bytes(16))
    (tmp_path / "soft.bin").symlink_to("own.bin")
    (tmp_path / "folder").symlink_to(tmp_path)
    for location in ("soft.bin", "folder/own.bin"):
        path = models.external(tmp_path / "m.onnx", location=location, write=False)
        with pytest.raises(LoadFailed, match="a link"):
            OnnxRuntime().inspect(path)
    os.link(tmp_path / "own.bin", tmp_path / "hard.bin")
    with pytest.raises(LoadFailed, match="a hard link"):
        OnnxRuntime().inspect(models.external(tmp_path / "m.onnx", location="hard.bin", write=False))


def test_weights_that_a_pointer_stands_for_are_told(tmp_path: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4700000\n"
    (tmp_path / "w.bin").write_text(text)
    path = models.external(tmp_path / "m.onnx", location="w.bin", write=False)
    with pytest.raises(LoadFailed, match=r"which is a Git LFS pointer, .* of 4\.7 MB: expected the weights"):
        OnnxRuntime().inspect(path)
