"""The Open Inference Protocol's tensors and messages. Knows no socket: HTTP and gRPC both stand on it."""
