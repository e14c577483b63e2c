"""mdslite: a model-serving appliance for one GPU box."""

__version__ = "0.1.0"
