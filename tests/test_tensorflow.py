"""SavedModels through TensorFlow: signatures, values, errors, stopping and what is refused."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from models import NUMBERS

from mdslite.errors import DeadlineExceeded, LoadFailed, ModelError, OutOfMemory, Unavailable
from mdslite.packing import to_bfloat16
from mdslite.runtimes.kinds import SAVED_MODEL, detect
from mdslite.runtimes.machine import cores
from mdslite.runtimes.prober import Prober
from mdslite.runtimes.protocol import NUMPY_DTYPES, Device, LoadOptions, Signature, TensorSpec
from mdslite.runtimes.signature import settle_rows
from mdslite.runtimes.tensorflow import TensorflowRuntime, TensorflowSession
from mdslite.runtimes.tensorflow_engine import run_error
from mdslite.runtimes.warmup import warm

pytest.importorskip("tensorflow")
import tensorflow as tf
import tensorflow_models as tfm

DEADLINE_S = 30.0


def open_model(path: Path, **settings: Any) -> TensorflowSession:
    return TensorflowRuntime().open(path, LoadOptions(settings=settings))


# Signatures


def test_a_saved_model_says_its_signature(tmp_path: Path) -> None:
    path = tfm.mlp(tmp_path / "m")
    assert detect(path) == SAVED_MODEL
    signature = open_model(path).signature
    assert signature == Signature(
        (TensorSpec("x", "FP32", (None, 4)),), (TensorSpec("y", "FP32", (None, 3)),), "free"
    )


@pytest.mark.parametrize(("shape", "rows"), [([1, 3], "one"), ([2, 3], "none"), ([None, 3], "free")])
def test_the_first_dimension_counts_rows_where_it_can(
    tmp_path: Path, shape: list[int | None], rows: str
) -> None:
    assert open_model(tfm.identity(tmp_path / "m", shape=shape)).signature.rows == rows


def test_several_inputs_and_outputs_keep_their_names(tmp_path: Path) -> None:
    session = open_model(tfm.add(tmp_path / "m"))
    assert [one.name for one in session.signature.inputs] == ["a", "b"]
    assert [one.name for one in session.signature.outputs] == ["difference", "sum"]
    a, b = np.array([[5, 6]], np.float32), np.array([[1, 2]], np.float32)
    difference, total = session.run({"b": b, "a": a})
    np.testing.assert_array_equal(difference, a - b)
    np.testing.assert_array_equal(total, a + b)


def test_an_output_of_unknown_shape_is_found_out_by_runs(tmp_path: Path) -> None:
    def serve(x: Any) -> Any:
        size = tf.shape(x)
        return {"y": tf.reshape(x, tf.boolean_mask(size, size >= 0))}

    session = open_model(tfm.save(tmp_path / "m", serve, x=tfm.spec([None, None])))
    assert settle_rows(session.signature, warm(session).outputs).rows == "free"


def test_the_spec_names_a_signature(tmp_path: Path) -> None:
    path = tfm.two_signatures(tmp_path / "m")
    given = np.array([[3, 4]], np.float32)
    np.testing.assert_array_equal(open_model(path, signature="double").run({"x": given})[0], 2 * given)
    np.testing.assert_array_equal(open_model(path, signature="square").run({"x": given})[0], given * given)
    with pytest.raises(LoadFailed, match='no signature "serving_default": it has double, square') as caught:
        open_model(path)
    assert "container_parameter: {tensorflow: {signature: NAME}}" in str(caught.value.hint)
    with pytest.raises(LoadFailed, match="unknown tensorflow setting 'signatures'"):
        open_model(path, signatures="double")


def test_a_model_without_a_signature_is_refused_with_what_to_do(tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path / "m"))
    with pytest.raises(LoadFailed, match="no signature that could be called") as caught:
        open_model(tmp_path / "m")
    assert "signatures=model.serve" in str(caught.value.hint)


def test_an_input_of_unknown_rank_is_refused(tmp_path: Path) -> None:
    path = tfm.save(tmp_path / "m", lambda x: {"y": tf.identity(x)}, x=tfm.spec(None))
    with pytest.raises(LoadFailed, match='input "x" is of unknown rank'):
        open_model(path)


def test_a_type_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match='input "x" is of type complex64, which cannot be sent'):
        open_model(tfm.identity(tmp_path / "m", tf.complex64))


# Values


def test_a_saved_model_computes_what_the_function_does(tmp_path: Path) -> None:
    path = tfm.mlp(tmp_path / "m")
    session = open_model(path)
    function = tf.saved_model.load(str(path)).signatures["serving_default"]
    for rows in (1, 2, 3, 32):
        given = np.linspace(-1, 1, rows * 4, dtype=np.float32).reshape(rows, 4)
        expected = function(x=tf.constant(given))["y"].numpy()
        np.testing.assert_allclose(session.run({"x": given})[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "datatype",
    NUMBERS,
)
def test_every_datatype_goes_in_and_comes_out(tmp_path: Path, datatype: str) -> None:
    given = np.arange(6).reshape(2, 3).astype(NUMPY_DTYPES[datatype])
    session = open_model(tfm.identity(tmp_path / "m", tf.as_dtype(given.dtype)))
    assert session.signature.inputs[0].datatype == session.signature.outputs[0].datatype == datatype
    (answer,) = session.run({"x": given})
    assert answer.dtype == given.dtype
    np.testing.assert_array_equal(answer, given)


def test_bfloat16_travels_as_bit_patterns(tmp_path: Path) -> None:
    path = tfm.save(tmp_path / "m", lambda x: {"y": x + x}, x=tfm.spec([None, 2], tf.bfloat16))
    (answer,) = open_model(path).run({"x": to_bfloat16(np.array([[1, 2]], np.float32))})
    np.testing.assert_array_equal(answer, to_bfloat16(np.array([[2, 4]], np.float32)))


def test_strings_go_in_as_text_or_bytes_and_come_out_as_bytes(tmp_path: Path) -> None:
    session = open_model(tfm.words(tmp_path / "m"))
    assert session.signature.inputs[0] == TensorSpec("word", "BYTES", (None,), any_bytes=True)
    length, upper = session.run({"word": np.array(["ham", "é", b"\xff\x00"], object)})
    np.testing.assert_array_equal(length, [3, 2, 2])
    assert upper.tolist() == [b"HAM", "é".encode(), b"\xff\x00"]


def test_nan_and_infinity_are_computed(tmp_path: Path) -> None:
    given = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    np.testing.assert_array_equal(open_model(tfm.identity(tmp_path / "m")).run({"x": given})[0], given)


def test_runs_from_several_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    session = open_model(tfm.identity(tmp_path / "m"))
    with ThreadPoolExecutor(4) as pool:
        for number, (answer,) in enumerate(
            pool.map(lambda n: session.run({"x": np.full((2, 3), n, np.float32)}), range(64))
        ):
            np.testing.assert_array_equal(answer, np.full((2, 3), number))


# Errors


def test_an_index_out_of_range_is_the_model_s_error(tmp_path: Path) -> None:
    session = open_model(tfm.gather(tmp_path / "m"))
    with pytest.raises(ModelError) as caught:
        session.run({"index": np.array([[1], [99]])})
    assert caught.value.message == "the model failed on this input: indices[1,0] = 99 is not in [0, 8)"
    np.testing.assert_array_equal(session.run({"index": np.array([[2]])})[0], [[20]])


def test_too_little_memory_is_told_apart_and_the_session_recovers(tmp_path: Path) -> None:
    session = open_model(tfm.hungry(tmp_path / "m"))
    with pytest.raises(OutOfMemory):
        session.run({"size": np.array([[1 << 45]])})
    np.testing.assert_array_equal(session.run({"size": np.array([[2]])})[0], [[2]])


def test_a_gpu_s_lost_context_is_told_apart() -> None:
    error = tf.errors.InternalError(None, None, "failed to synchronize: CUDA_ERROR_ILLEGAL_ADDRESS")
    assert type(run_error(tf, error)) is Unavailable


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="CUDA works here")
def test_a_gpu_that_tensorflow_cannot_use_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"cuda:0 was asked for, but tensorflow .* cannot compute there"):
        TensorflowRuntime().open(tfm.identity(tmp_path / "m"), LoadOptions(device=Device("cuda")))


# Stopping, threads and the end


def test_an_endless_loop_stops_when_it_is_told_to_and_the_session_goes_on(tmp_path: Path) -> None:
    session = open_model(tfm.loop(tmp_path / "m"))
    handle = session.handle()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            session.run({"turns": np.array([[-1]])}, handle)
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    while handle.opened is None:
        thread.join(0.01)
    handle.terminate()
    thread.join(DEADLINE_S)
    assert [type(one) for one in raised] == [DeadlineExceeded]
    np.testing.assert_array_equal(session.run({"turns": np.array([[3]])})[0], [[3]])


def test_a_stop_that_comes_late_costs_the_next_run_nothing_but_time(tmp_path: Path) -> None:
    session = open_model(tfm.identity(tmp_path / "m"))
    handle = session.handle()
    given = np.ones((1, 3), np.float32)
    session.run({"x": given}, handle)
    assert session._opened is not None
    session._opened.close()
    np.testing.assert_array_equal(session.run({"x": given})[0], given)


def test_a_closed_session_answers_nothing(tmp_path: Path) -> None:
    session = open_model(tfm.identity(tmp_path / "m"))
    session.close()
    with pytest.raises(Unavailable, match="taken down"):
        session.run({"x": np.ones((1, 3), np.float32)})


def test_a_small_model_takes_one_thread_and_a_large_one_all_cores(tmp_path: Path) -> None:
    assert open_model(tfm.mlp(tmp_path / "s")).threads == 1
    large = tfm.mlp(tmp_path / "l", hidden=50_000)
    assert open_model(large).threads == cores()
    assert TensorflowRuntime().open(large, LoadOptions(threads=5)).threads == 5


# What is refused, and the child


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    path = tfm.mlp(tmp_path / "m")
    whole = (path / "saved_model.pb").read_bytes()
    (path / "saved_model.pb").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LoadFailed, match=r"saved_model\.pb is damaged"):
        TensorflowRuntime().inspect(path)
    (path / "saved_model.pb").write_bytes(whole)
    (path / "variables" / "variables.index").unlink()
    with pytest.raises(LoadFailed, match="tensorflow refused the model") as caught:
        open_model(path)
    assert str(tmp_path) not in caught.value.message


def test_a_model_that_handles_files_or_runs_python_is_refused(tmp_path: Path) -> None:
    path = tfm.save(tmp_path / "r", lambda x: {"y": tf.io.read_file(x)}, x=tfm.spec([], tf.string))
    with pytest.raises(LoadFailed, match="the model uses ReadFile"):
        TensorflowRuntime().inspect(path)
    path = tfm.save(
        tmp_path / "p", lambda x: {"y": tf.py_function(lambda y: y, [x], tf.float32)}, x=tfm.spec([None])
    )
    with pytest.raises(LoadFailed, match="the model uses EagerPyFunc"):
        TensorflowRuntime().inspect(path)


def test_a_model_is_timed_by_its_shapes_only_where_no_value_says_how_much_there_is(tmp_path: Path) -> None:
    def is_timed(name: str, function: Any, **inputs: Any) -> bool:
        return TensorflowRuntime().inspect(tfm.save(tmp_path / name, function, **inputs))

    x, size = tfm.spec([None, None, 4]), tfm.spec([], tf.int32)
    assert is_timed("flat", lambda x: {"y": tf.reshape(x, [tf.shape(x)[0], -1])}, x=x)
    assert is_timed("row", lambda x: {"y": x[:, 0] + tf.cast(tf.range(tf.size(x[0, 0])), tf.float32)}, x=x)
    assert is_timed("best", lambda x: {"y": tf.math.top_k(x, 2).values}, x=x)
    assert not is_timed("cut", lambda x, n: {"y": x[:, :n]}, x=x, n=size)
    assert not is_timed("most", lambda x, n: {"y": tf.math.top_k(x, n).values}, x=x, n=size)
    assert not is_timed("wide", lambda x, n: {"y": tf.fill([n], 1.0) + tf.reduce_sum(x)}, x=x, n=size)
    assert not is_timed("odd", lambda x: {"y": tf.linalg.det(x @ tf.transpose(x, [0, 2, 1]))}, x=x)
    assert not is_timed("pick", lambda x: {"y": tf.boolean_mask(x, x[:, 0, 0] > 0)}, x=x)


def test_a_child_reports_what_a_model_is(tmp_path: Path) -> None:
    def probe(path: Path, timeout_s: float = DEADLINE_S) -> Any:
        return prober.probe("TENSORFLOW", path, LoadOptions(), timeout_s=timeout_s)

    with contextlib.closing(Prober()) as prober:
        report = probe(tfm.mlp(tmp_path / "m"))
        assert (report.signature.rows, report.bounded) == ("free", True)
        assert 0 <= report.memory_bytes < 100_000_000
        assert not probe(tfm.loop(tmp_path / "l")).bounded
        assert prober.pid is not None
        assert psutil.Process(prober.pid).num_threads() == 1  # it forks


def test_the_library_s_chatter_is_kept_off_stderr() -> None:
    code = (
        "import os\n"
        "from mdslite.runtimes import tensorflow_engine as engine\n"
        "with engine._hushed():\n"
        "    os.write(2, b'I0000 00:00 port.cc] oneDNN is on\\nsomething else\\n')\n"
        "engine.load()\n"
    )
    ran = subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60, capture_output=True)
    assert ran.stderr == b"something else\n"
