"""What `mdslite init` writes: a package for each runtime that works as it stands, to be changed bit by bit.

A template's `CLASS` and `NAME` are replaced. The sample is a request that the package answers.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_ROWS = {"instances": [[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]]}

_PYTHON = '''\
"""What each decorator may stand on, and what the methods get and return: docs/authoring.md of mdslite."""

import mds


@mds.model("NAME", "v1")
@mds.context({"long": 4})
class CLASS:
    def __init__(self):
        # Runs once a replica. Load your model here; self.context.folder / "FILE" is a file beside this one.
        self.long = self.context["long"]

    @mds.warmup
    def warm_up(self):
        self.predict([self.prepare({"text": "a few words"})])

    @mds.health_check
    def check(self):
        return {"status": "OK"}

    @mds.pre
    def prepare(self, data):
        """One instance of a request."""
        return data["text"].split()

    @mds.predict
    @mds.batch(batch_size=32)
    def predict(self, data):
        """A list of what prepare returned; returns as many answers, in the same order."""
        return [len(words) for words in data]

    @mds.post
    def finish(self, count):
        """One answer of predict; returns what the caller gets."""
        return {"words": count, "long": count > self.long}
'''

_TENSORS = '''\
"""What each decorator may stand on, and what the methods get and return: docs/authoring.md of mdslite."""

import mds
import numpy as np
IMPORT


@mds.model("NAME", "v1")
@mds.runtime("RUNTIME")
@mds.context({"labels": ["first", "second"]})
class CLASS:
    def __init__(self):
LOAD

    @mds.warmup
    def warm_up(self):
        self.predict([self.prepare([0.0] * 4)])

    @mds.pre
    def prepare(self, data):
        """One instance of a request: here four numbers."""
        return np.asarray(data, np.float32).reshape(4)

    @mds.predict
    @mds.batch(batch_size=32)
    def predict(self, data):
        """A list of what prepare returned; returns as many answers, in the same order."""
RUN

    @mds.post
    def finish(self, probabilities):
        """One answer of predict; returns what the caller gets."""
        label = self.context["labels"][int(probabilities.argmax())]
        return {"label": label, "probabilities": probabilities}
'''

_ONNX_LOAD = """\
        # Runs once a replica. model.onnx stands in for yours: put it in its place.
        self.session = onnxruntime.InferenceSession(self.context.folder / "model.onnx")
        self.input = self.session.get_inputs()[0].name\
"""
_ONNX_RUN = """\
        return self.session.run(None, {self.input: np.stack(data)})[0]\
"""
_PYTORCH_LOAD = """\
        # Runs once a replica. Load yours here: torch.jit.load(self.context.folder / "model.pt")
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Softmax(dim=1)).eval()\
"""
_PYTORCH_RUN = """\
        with torch.inference_mode():
            return self.model(torch.from_numpy(np.stack(data))).numpy()\
"""
_TENSORFLOW_LOAD = """\
        # Runs once a replica. Load yours here: tf.saved_model.load(str(self.context.folder / "model"))
        tf.random.set_seed(0)
        weights = tf.Variable(tf.random.normal([4, 2]))
        self.model = tf.function(lambda rows: tf.nn.softmax(rows @ weights), reduce_retracing=True)\
"""
_TENSORFLOW_RUN = """\
        return self.model(tf.constant(np.stack(data))).numpy()\
"""

# A linear classifier of four numbers, two classes and free rows, in ONNX; 205 bytes.
_ONNX_MODEL = base64.b64decode(
    "CAgSB21kc2xpdGU6uQEKEgoBeAoBdwoBYhIBcyIER2VtbQooCgFzEg1wcm9iYWJpbGl0aWVzIgdTb2Z0bWF4KgsKBGF4aXMYAaAB"
    "AhIBZyorCAQIAhABQgF3SiCamRk/mpkZv83MzD7NzMy+zczMvs3MzD6amRm/mpkZPyoRCAIQAUIBYkoIzczMPc3MzL1aFAoBeBIP"
    "Cg0IARIJCgMSAW4KAggEYiAKDXByb2JhYmlsaXRpZXMSDwoNCAESCQoDEgFuCgIIAkIECgAQDQ=="
)


@dataclass(frozen=True, slots=True)
class Template:
    """A module, a request that it answers, and the files that it needs beside it."""

    module: str
    sample: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)

    def fill(self, name: str) -> dict[str, bytes]:
        """The package's files, for a model of this name."""
        words = {"NAME": name, "CLASS": class_name(name)}
        text = re.sub("NAME|CLASS", lambda found: words[found[0]], self.module)
        return {"model.py": text.encode(), **self.files}

    def sample_text(self) -> str:
        return json.dumps(self.sample) + "\n"


def class_name(name: str) -> str:
    """`spam-filter` as a class is called: SpamFilter."""
    words = [word for word in name.replace("_", "-").split("-") if word]
    text = "".join(word[:1].upper() + word[1:] for word in words)
    return text if text[:1].isalpha() else f"Model{text}"


def _tensors(runtime: str, module: str, load: str, run: str) -> str:
    text = _TENSORS.replace("RUNTIME", runtime).replace("IMPORT", f"import {module}")
    return text.replace("LOAD", load).replace("RUN", run)


TEMPLATES: Mapping[str, Template] = {
    "python": Template(_PYTHON, {"instances": [{"text": "write me a short note"}, {"text": "hello"}]}),
    "onnx": Template(
        _tensors("onnx", "onnxruntime", _ONNX_LOAD, _ONNX_RUN), _ROWS, {"model.onnx": _ONNX_MODEL}
    ),
    "pytorch": Template(_tensors("pytorch", "torch", _PYTORCH_LOAD, _PYTORCH_RUN), _ROWS),
    "tensorflow": Template(
        _tensors("tensorflow", "tensorflow as tf", _TENSORFLOW_LOAD, _TENSORFLOW_RUN), _ROWS
    ),
}
