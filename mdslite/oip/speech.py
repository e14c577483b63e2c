"""Which kind of messages a version speaks."""

from __future__ import annotations

from mdslite.data import DataCodec
from mdslite.oip.declared import DeclaredMessages
from mdslite.oip.free import FreeMessages
from mdslite.oip.message import Messages
from mdslite.oip.typed import TensorMessages
from mdslite.runtimes.protocol import Signature
from mdslite.tensors import Codec


def make_messages(
    codec: Codec | DataCodec, *, model: str, version: str, declared: Signature | None = None
) -> Messages:
    """The messages of one version, whatever its kind; `declared` are the tensors that one of free data says
    it takes and gives."""
    if isinstance(codec, DataCodec):
        if declared is not None:
            return DeclaredMessages(codec, declared, model=model, version=version)
        return FreeMessages(codec, model=model, version=version)
    return TensorMessages(codec, model=model, version=version)
