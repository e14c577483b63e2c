"""The second port: the Open Inference Protocol and the admin API over gRPC."""
