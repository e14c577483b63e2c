"""Which kind of messages a version speaks."""

from __future__ import annotations

from mdslite.data import DataCodec
from mdslite.oip.free import FreeMessages
from mdslite.oip.message import Messages
from mdslite.oip.typed import TensorMessages
from mdslite.tensors import Codec


def make_messages(codec: Codec | DataCodec, *, model: str, version: str) -> Messages:
    """The messages of one version, whatever its kind."""
    if isinstance(codec, DataCodec):
        return FreeMessages(codec, model=model, version=version)
    return TensorMessages(codec, model=model, version=version)
