"""Turns a decorated class into a served model: `import mds`, decorate, and point a deployment at the folder.

Owns the decorators, what they leave on a class, and nothing of the serving. It installs beside mdslite as a
top-level module of its own and imports nothing but the standard library, so that a class can be imported and
tested wherever its own requirements are met.
"""

from mds.body import Body
from mds.decorators import (
    batch,
    context,
    health_check,
    model,
    post,
    pre,
    predict,
    requirements,
    runtime,
    warmup,
)
from mds.description import Description, describe
from mds.marks import Batch, DecorationError
from mds.parameters import Context

__all__ = [
    "Batch",
    "Body",
    "Context",
    "DecorationError",
    "Description",
    "batch",
    "context",
    "describe",
    "health_check",
    "model",
    "post",
    "pre",
    "predict",
    "requirements",
    "runtime",
    "warmup",
]
