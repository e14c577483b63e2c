"""Whose fault it is when a request goes wrong: what every figure of errors and latencies goes by.

good      an answer (below 400): its latency and its confidence count
refused   4xx: the caller's mistake, a caller that left (499), more than was allowed or than there was room
          for (429). It says nothing of the version, and is neither an error nor a part of all of which
          errors are a share
error     5xx: the version, or the appliance, owed an answer and gave none
"""

from __future__ import annotations


def is_good(status: int) -> bool:
    return status < 400


def is_refused(status: int) -> bool:
    return 400 <= status < 500


def is_error(status: int) -> bool:
    return status >= 500


def error_rate(*, good: int, errors: int) -> float | None:
    """The share of errors, 0 to 1; None where there was nothing to answer."""
    return errors / (good + errors) if good + errors else None
