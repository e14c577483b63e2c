"""mdslite: a model-serving appliance for one GPU box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdslite.client import AsyncClient, Client, Prediction, Retries

__all__ = ["AsyncClient", "Client", "Prediction", "Retries", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The clients, imported when they are asked for: they bring an HTTP library, and most of mdslite none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mdslite import client

    return getattr(client, name)
