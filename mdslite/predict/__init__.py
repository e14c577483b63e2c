"""The predict call, the same for every way in: from a request's bytes to its answer, copies and row."""
