"""Coming from Triton: its repositories read and turned into a deployments file, its Python models run."""
