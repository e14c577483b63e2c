"""The options of `scripts/bench`. As a program it only looks at them: before anything is installed, so it
needs no more than Python."""

from __future__ import annotations

import argparse
from pathlib import Path

PARTS = (
    *("throughput", "limit", "log", "overload", "forms", "rpc", "routing", "start", "changes", "packages"),
    *("queries", "spam"),
)
ROWS = 10_000_000  # of the request log that is asked


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="mdslite beside others, measured.")
    parser.add_argument("--mdslite", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--frameworks", type=lambda given: Path(given).absolute(), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; repeatable")
    parser.add_argument("--quick", action="store_true", help="one turn of 2 s each")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"of the log that queries asks ({ROWS:,})")
    parser.add_argument("--seconds", type=int, help="how long a turn lasts, whole seconds (4)")
    parser.add_argument("--rounds", type=int, help="how many turns each server gets (5)")
    options = parser.parse_args()
    options.seconds = options.seconds or (2 if options.quick else 4)
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


if __name__ == "__main__":
    parse()
