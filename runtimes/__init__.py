"""Adapters to the frameworks that run models, behind the protocol in `protocol.py`."""
