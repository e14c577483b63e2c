"""Measures the appliance beside hand-written servers, Mosec and bare onnxruntime (`scripts/bench`)."""
