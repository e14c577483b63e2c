"""Small SavedModels for the tests. Each builder writes one folder and returns its path; the docstring gives
inputs → outputs, with `N` the free row dimension. Import it after `pytest.importorskip("tensorflow")`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf


def save(folder: Path, function: Callable[..., Any], **inputs: tf.TensorSpec) -> Path:
    """A function of named tensors, with the default signature."""
    module = tf.Module()
    specs = [tf.TensorSpec(one.shape, one.dtype, name=name) for name, one in inputs.items()]
    module.serve = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return folder


def spec(shape: list[int | None] | None, dtype: Any = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype)


def mlp(folder: Path, *, hidden: int = 8) -> Path:
    """x FP32 [N, 4] → y FP32 [N, 3], probabilities."""
    tf.random.set_seed(0)
    module = tf.Module()
    module.first = tf.Variable(tf.random.normal([4, hidden]))
    module.second = tf.Variable(tf.random.normal([hidden, 3]))

    def serve(x: Any) -> Any:
        return {"y": tf.nn.softmax(tf.nn.relu(x @ module.first) @ module.second)}

    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return folder


def identity(folder: Path, dtype: Any = tf.float32, shape: list[int | None] | None = None) -> Path:
    """x → y, the same."""
    return save(folder, lambda x: {"y": tf.identity(x)}, x=spec(shape or [None, 3], dtype))


def add(folder: Path) -> Path:
    """a FP32 [N, 2], b FP32 [N, 2] → difference, sum."""
    return save(
        folder, lambda b, a: {"sum": a + b, "difference": a - b}, b=spec([None, 2]), a=spec([None, 2])
    )


def gather(folder: Path) -> Path:
    """index INT64 [N, 1] → value FP32 [N, 1], ten times it. An index outside of the table of 8 fails all."""
    table = tf.range(8, dtype=tf.float32) * 10
    return save(folder, lambda index: {"value": tf.gather(table, index)}, index=spec([None, 1], tf.int64))


def loop(folder: Path) -> Path:
    """turns INT64 [N, 1] → done INT64 [N, 1], the same after as many turns as the greatest of them says; a
    negative one turns for ever."""

    def serve(turns: Any) -> Any:
        most = tf.reduce_max(turns)
        (turn,) = tf.while_loop(
            lambda turn: (turn < most) | (most < 0), lambda turn: (turn + 1,), (0 * most,)
        )
        return {"done": turns + 0 * turn}

    return save(folder, serve, turns=spec([None, 1], tf.int64))


def hungry(folder: Path) -> Path:
    """size INT64 [N, 1] → y FP32 [N, 1], by way of as many FP32 as the sum of `size`."""

    def serve(size: Any) -> Any:
        big = tf.random.uniform([tf.reduce_sum(size)])
        return {"y": tf.cast(size, tf.float32) + tf.floor(tf.reduce_max(big) / 2)}

    return save(folder, serve, size=spec([None, 1], tf.int64))


def words(folder: Path) -> Path:
    """word BYTES [N] → length INT32 [N], upper BYTES [N]."""

    def serve(word: Any) -> Any:
        return {"length": tf.strings.length(word), "upper": tf.strings.upper(word)}

    return save(folder, serve, word=spec([None], tf.string))


def two_signatures(folder: Path) -> Path:
    """x FP32 [N, 2] → by `double` y = 2x, by `square` y = x². Neither is the default."""
    module = tf.Module()
    inputs = [tf.TensorSpec([None, 2], tf.float32, name="x")]
    module.double = tf.function(lambda x: {"y": 2 * x}, input_signature=inputs)
    module.square = tf.function(lambda x: {"y": x * x}, input_signature=inputs)
    tf.saved_model.save(module, str(folder), signatures={"double": module.double, "square": module.square})
    return folder
