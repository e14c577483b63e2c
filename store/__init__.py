"""What mdslite keeps on disk: the registry, the artifacts and the request log."""
