"""Clients of an appliance, `Client` and `AsyncClient`: the calls that `calls` describes, sent and read. JSON
in and out, arrays where arrays came, every failure an `MdsliteError`.

They own the connections, the retries, and the translation of HTTP's and the network's failures. They know
nothing of terminals; the command line and the dashboard talk to the appliance through them and nothing else.
"""

from __future__ import annotations

from mdslite.client.awaited import AsyncClient
from mdslite.client.blocking import Client
from mdslite.client.transfers import Download
from mdslite.payloads import Prediction
from mdslite.retries import Retries

__all__ = ["AsyncClient", "Client", "Download", "Prediction", "Retries"]
