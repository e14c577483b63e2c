"""The servers to compare with. Each runs as a process of its own; none imports mdslite."""
