"""ONNX models through ONNX Runtime: signatures, values and options."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import models
import numpy as np
import odd_models
import onnx
import pytest
from computed import array_of, arrays_of

from mdslite.errors import LoadFailed, ModelError
from mdslite.runtimes import engine
from mdslite.runtimes.machine import cores
from mdslite.runtimes.onnx import OnnxRuntime, OnnxSession
from mdslite.runtimes.protocol import NUMPY_DTYPES, Device, LoadOptions, TensorSpec

DEADLINE_S = 30.0


def open_model(path: Path, **settings: Any) -> OnnxSession:
    return OnnxRuntime().open(path, LoadOptions(settings=settings))


# Signatures


def test_a_free_first_dimension_counts_rows(tmp_path: Path) -> None:
    signature = open_model(models.mlp(tmp_path / "m.onnx", (4, 8, 3))).signature
    assert signature.rows == "free"
    assert signature.inputs == (TensorSpec("x", "FP32", (None, 4)),)
    assert signature.outputs == (TensorSpec("y", "FP32", (None, 3)),)


def test_a_first_dimension_fixed_at_one_is_one_row(tmp_path: Path) -> None:
    assert open_model(models.identity(tmp_path / "m.onnx", shape=(1, 3))).signature.rows == "one"


@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (2, None)])
def test_any_other_first_dimension_counts_no_rows(tmp_path: Path, shape: tuple[int | None, ...]) -> None:
    signature = open_model(models.identity(tmp_path / "m.onnx", shape=shape)).signature
    assert signature.rows == "none"
    assert signature.inputs[0].shape == shape


def test_an_output_without_rows_leaves_a_model_without_them(tmp_path: Path) -> None:
    assert open_model(models.total(tmp_path / "m.onnx", shape=("N", 3))).signature.rows == "none"


def test_an_optional_tensor_may_be_left_out(tmp_path: Path) -> None:
    session = open_model(odd_models.optional(tmp_path / "m.onnx"))
    assert [one.optional for one in session.signature.inputs] == [False, True]
    assert session.signature.rows == "free"
    x = np.ones((2, 2), np.float32)
    np.testing.assert_array_equal(session.run({"x": x})[0], x)
    np.testing.assert_array_equal(session.run({"x": x, "extra": x})[0], 2 * x)


def test_an_initializer_among_the_inputs_may_be_left_out(tmp_path: Path) -> None:
    session = open_model(odd_models.overridable(tmp_path / "m.onnx"))
    assert session.signature.inputs[1] == TensorSpec("factor", "FP32", (None, 1), optional=True)
    x = np.ones((2, 2), np.float32)
    np.testing.assert_array_equal(session.run({"x": x})[0], 3 * x)
    factor = np.array([[1], [2]], np.float32)
    np.testing.assert_array_equal(session.run({"x": x, "factor": factor})[0], [[1, 1], [2, 2]])


def test_an_optional_input_that_all_rows_share_stands_by_itself(tmp_path: Path) -> None:
    signature = open_model(odd_models.overridable(tmp_path / "m.onnx", shared=True)).signature
    assert [one.name for one in signature.inputs] == ["x"]
    assert signature.shared == (TensorSpec("factor", "FP32", (1,), optional=True),)
    assert signature.rows == "free"


def test_weights_that_are_listed_as_inputs_are_not_offered(tmp_path: Path) -> None:
    path = models.mlp(tmp_path / "m.onnx", (4, 3))
    model = onnx.load(path)
    for weight in model.graph.initializer:
        model.graph.input.append(models.tensor(weight.name, "FP32", list(weight.dims)))
    onnx.save(model, path)
    signature = open_model(path).signature
    assert [one.name for one in signature.inputs] == ["x"]
    assert signature.shared == ()


@pytest.mark.parametrize("datatype", models.ONNX_TYPES)
def test_every_datatype_goes_in_and_comes_out(tmp_path: Path, datatype: str) -> None:
    session = open_model(models.identity(tmp_path / "m.onnx", datatype))
    assert session.signature.inputs[0].datatype == session.signature.outputs[0].datatype == datatype
    given = {
        "BYTES": np.array([["a", "é", ""], ["b\0c", "語", " "]], object),
        "BOOL": np.array([[True, False, True], [False, False, True]]),
    }.get(datatype, np.arange(6).reshape(2, 3).astype(NUMPY_DTYPES[datatype]))
    (answer,) = arrays_of(session.run({"x": given}))
    assert answer.dtype == NUMPY_DTYPES[datatype]
    np.testing.assert_array_equal(answer, given)


def test_an_input_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    path = odd_models.sequence_input(tmp_path / "m.onnx")
    with pytest.raises(LoadFailed, match=r'input "parts" is of type seq\(tensor\(float\)\)'):
        open_model(path)


def test_an_output_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    path = odd_models.optional_output(tmp_path / "m.onnx")
    with pytest.raises(LoadFailed, match='output "y" is of type optional'):
        open_model(path)


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "FLOAT8E5M2", "INT4", "UINT4"])
def test_numbers_that_are_too_narrow_to_be_sent_are_refused(tmp_path: Path, kind: str) -> None:
    code = onnx.TensorProto.DataType.Value(kind)
    for role, name, build in (("input", "x", odd_models.cast_from), ("output", "y", odd_models.cast_to)):
        said = rf'{role} "{name}" is of type tensor\({kind.lower()}\)'
        with pytest.raises(LoadFailed, match=said) as caught:
            open_model(build(tmp_path / "m.onnx", code))
        assert caught.value.hint is not None
        assert f'cast "{name}" in the model' in caught.value.hint


def test_an_input_that_is_a_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r'input "words" is of type map\(string') as caught:
        open_model(odd_models.map_input(tmp_path / "m.onnx"))
    assert caught.value.hint == 'export the model with a tensor in place of "words"'


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (odd_models.mixed, 'input "other" takes strings and output "y" is bfloat16'),
        (odd_models.maps_beside_bfloat, 'output "maps" is no tensor and output "y" is bfloat16'),
    ],
)
def test_what_cannot_be_handed_over_beside_bfloat16_is_refused(tmp_path: Path, build: Any, said: str) -> None:
    with pytest.raises(LoadFailed, match=said) as caught:
        open_model(build(tmp_path / "m.onnx"))
    assert caught.value.hint == 'cast "y" to float32 in the model, with a Cast node behind it'


# Values


@pytest.mark.parametrize("datatype", [*models.NUMBERS, "BF16"])
def test_any_number_goes_in_beside_a_bfloat16_that_comes_out(tmp_path: Path, datatype: str) -> None:
    session = open_model(odd_models.mixed(tmp_path / "m.onnx", datatype))
    other = np.array([[1], [0]]).astype(NUMPY_DTYPES[datatype])
    y, same = arrays_of(session.run({"x": np.ones((2, 2), np.float32), "other": other}))
    np.testing.assert_array_equal(y, np.full((2, 2), 0x3F80, np.uint16))
    np.testing.assert_array_equal(same, other)


def test_strings_come_out_beside_bfloat16(tmp_path: Path) -> None:
    session = open_model(odd_models.texts_beside_bfloat(tmp_path / "m.onnx"))
    y, label = arrays_of(session.run({"x": np.array([[0, 1], [1, 0]], np.float32)}))
    assert y.dtype == np.uint16
    assert label.tolist() == ["spam", "ham"]


@pytest.mark.parametrize("shared", [False, True])
def test_an_initializer_may_be_given_where_bfloat16_comes_out(tmp_path: Path, shared: bool) -> None:
    session = open_model(odd_models.overridable(tmp_path / "m.onnx", shared=shared, narrow=True))
    x = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(session.run({"x": x})[0], [[0x4040, 0x4040]])  # 3.0
    factor = np.array([2] if shared else [[2]], np.float32)
    np.testing.assert_array_equal(session.run({"x": x, "factor": factor})[0], [[0x4000, 0x4000]])


def test_an_optional_tensor_may_be_given_where_bfloat16_comes_out(tmp_path: Path) -> None:
    session = open_model(odd_models.optional(tmp_path / "m.onnx", narrow=True))
    x = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(session.run({"x": x})[0], [[0x3F80, 0x3F80]])
    np.testing.assert_array_equal(session.run({"x": x, "extra": x})[0], [[0x4000, 0x4000]])


def test_a_read_only_array_is_taken(tmp_path: Path) -> None:
    session = open_model(models.identity(tmp_path / "m.onnx"))
    given = np.frombuffer(np.arange(6, dtype=np.float32).tobytes(), np.float32).reshape(2, 3)
    np.testing.assert_array_equal(session.run({"x": given})[0], given)


@pytest.mark.parametrize("datatype", ["FP32", "BF16", "BYTES"])
def test_a_strided_array_is_read_rightly(tmp_path: Path, datatype: str) -> None:
    session = open_model(models.identity(tmp_path / "m.onnx", datatype))
    wide = np.arange(12).reshape(2, 6)
    given = (wide.astype(str).astype(object) if datatype == "BYTES" else wide.astype(NUMPY_DTYPES[datatype]))[
        :, ::2
    ]
    np.testing.assert_array_equal(session.run({"x": given})[0], given)


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64", "INT32", "INT64", "UINT16"])
def test_a_big_endian_array_is_converted(tmp_path: Path, datatype: str) -> None:
    session = open_model(models.identity(tmp_path / "m.onnx", datatype))
    native = np.arange(6).reshape(2, 3).astype(NUMPY_DTYPES[datatype])
    given = native.astype(native.dtype.newbyteorder(">"))
    np.testing.assert_array_equal(session.run({"x": given})[0], native)


@pytest.mark.parametrize("datatype", ["FP32", "BF16", "BYTES"])
def test_no_rows_give_no_rows(tmp_path: Path, datatype: str) -> None:
    session = open_model(models.identity(tmp_path / "m.onnx", datatype))
    (answer,) = arrays_of(session.run({"x": np.zeros((0, 3), NUMPY_DTYPES[datatype])}))
    assert answer.shape == (0, 3)


def test_bfloat16_is_computed_as_bit_patterns(tmp_path: Path) -> None:
    session = open_model(models.bfloat(tmp_path / "m.onnx"))
    one, two, four = 0x3F80, 0x4000, 0x4080
    narrow, wide = arrays_of(session.run({"x": np.array([[one, two]], np.uint16)}))
    assert narrow.dtype == np.uint16
    np.testing.assert_array_equal(narrow, [[two, four]])
    np.testing.assert_array_equal(wide, np.array([[2, 4]], np.float32))


def test_strings_are_computed(tmp_path: Path) -> None:
    session = open_model(models.words(tmp_path / "m.onnx"))
    given = np.array([["spam"], ["ham"], ["eggs"]], object)
    np.testing.assert_array_equal(session.run({"word": given})[0], [[1], [0], [-1]])


@pytest.mark.parametrize("labels", [("ham", "spam"), (3, 7)])
def test_maps_become_one_object_a_row(tmp_path: Path, labels: tuple[Any, ...]) -> None:
    session = open_model(models.classifier(tmp_path / "m.onnx", labels=labels))
    assert session.signature.rows == "free"
    assert session.signature.outputs[1] == TensorSpec("probabilities", "OBJECT", (None,))
    names, probabilities = session.run({"x": np.array([[0, 9], [9, 0]], np.float32)})
    assert array_of(names).tolist() == [labels[1], labels[0]]
    assert [set(row) for row in probabilities] == [{str(label) for label in labels}] * 2
    assert probabilities[0][str(labels[1])] > 0.99
    assert isinstance(probabilities[0][str(labels[1])], float)


def test_a_model_of_scikit_learn_is_served(tmp_path: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    data = rng.standard_normal((60, 3)).astype(np.float32)
    fitted = LogisticRegression().fit(data, np.where(data[:, 0] > 0, "yes", "no"))
    path = tmp_path / "m.onnx"
    path.write_bytes(to_onnx(fitted, data[:1]).SerializeToString())
    labels, probabilities = open_model(path).run({"X": data[:5]})
    assert array_of(labels).tolist() == fitted.predict(data[:5]).tolist()
    for row, expected in zip(probabilities, fitted.predict_proba(data[:5]), strict=True):
        assert [row["no"], row["yes"]] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_sequence_of_tensors_becomes_nested_lists(tmp_path: Path) -> None:
    session = open_model(odd_models.sequence(tmp_path / "m.onnx"))
    assert session.signature.rows == "none"
    assert session.run({"x": np.array([[1, 2], [3, 4]], np.float32)})[0] == [[1.0, 2.0], [3.0, 4.0]]


def test_several_threads_may_run_one_session(tmp_path: Path) -> None:
    session = open_model(models.identity(tmp_path / "m.onnx"))
    given = [np.full((2, 3), number, np.float32) for number in range(50)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda one: session.run({"x": one})[0], given))
    np.testing.assert_array_equal(answers, given)


# Options


def test_small_models_get_one_thread_and_others_all_cores(tmp_path: Path) -> None:
    small = models.mlp(tmp_path / "small.onnx")
    large = models.mlp(tmp_path / "large.onnx", (512, 600, 10))
    assert open_model(small).threads == 1
    assert OnnxRuntime().open(small, LoadOptions(threads=2)).threads == 2
    assert open_model(large).threads == cores()
    assert open_model(large, intra_op_threads=1).threads == 1


@pytest.mark.parametrize(("version", "spins"), [("1.26.0", "0"), ("1.31.1", "1"), ("1.40.0.dev1", "1")])
def test_threads_spin_for_a_moment_where_it_can_be_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, spins: str
) -> None:
    opened = []
    monkeypatch.setattr(engine.load(), "__version__", version)
    open_session = engine.open_session

    def noting(model: str | bytes, made: Any, providers: list[engine.Provider]) -> Any:
        opened.append(made)
        return open_session(model, made, providers)

    monkeypatch.setattr(engine, "open_session", noting)
    OnnxRuntime().open(models.mlp(tmp_path / "m.onnx"), LoadOptions(threads=2))
    (made,) = opened
    assert made.get_session_config_entry("session.intra_op.allow_spinning") == spins
    assert made.get_session_config_entry("session.intra_op.spin_duration_us") == (
        "100" if spins == "1" else "0"
    )


def test_every_setting_is_taken(tmp_path: Path) -> None:
    settings = {
        "intra_op_threads": 2, "inter_op_threads": 2, "cpu_mem_arena": False, "mem_pattern": True,
        "graph_optimization": "basic", "gpu_mem_limit_mb": None,
    }  # fmt: skip
    session = open_model(models.mlp(tmp_path / "m.onnx"), **settings)
    assert session.provider == engine.CPU_PROVIDER
    assert array_of(session.run({"x": np.zeros((1, 4), np.float32)})[0]).shape == (1, 3)


@pytest.mark.parametrize("settings", [{"intra_threads": 2}, {"graph_optimization": "most"}])
def test_a_wrong_setting_is_named(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(LoadFailed, match=r"intra_threads|graph_optimization 'most'"):
        open_model(models.mlp(tmp_path / "m.onnx"), **settings)


def test_cuda_is_asked_for_by_its_index_with_a_frugal_arena() -> None:
    first, last = engine.providers_for(Device("cuda", 1), {"gpu_mem_limit_mb": 2})
    assert isinstance(first, tuple)
    name, options = first
    assert (name, last) == (engine.CUDA_PROVIDER, engine.CPU_PROVIDER)
    assert options["device_id"] == "1"
    assert options["gpu_mem_limit"] == str(2 << 20)
    assert options["arena_extend_strategy"] == "kSameAsRequested"


def test_tensorrt_is_asked_for_only_when_it_is_wanted() -> None:
    names = [
        one[0] for one in engine.providers_for(Device("cuda"), {"tensorrt": True}) if isinstance(one, tuple)
    ]
    assert names == [engine.TENSORRT_PROVIDER, engine.CUDA_PROVIDER]


@pytest.mark.skipif(engine.cuda_problem() is None, reason="CUDA works here")
@pytest.mark.parametrize("settings", [{}, {"tensorrt": True}])
def test_a_gpu_that_is_not_there_is_never_replaced_by_the_cpu(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    path = models.mlp(tmp_path / "m.onnx")
    with pytest.raises(LoadFailed):
        OnnxRuntime().open(path, LoadOptions(device=Device("cuda"), settings=settings))


def test_the_library_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    session = open_model(models.gather(tmp_path / "m.onnx"))
    with pytest.raises(ModelError):
        session.run({"index": np.array([[99]])})
    engine.cuda_problem()
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_importing_the_library_starts_no_thread_and_sends_nothing() -> None:
    code = (
        "import os; os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        "from mdslite.runtimes import engine\n"
        "engine.load()\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'], len(os.listdir('/proc/self/task')))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stdout.split() == ["1", "1"]
