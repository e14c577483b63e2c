"""OpenMetrics as prometheus-client parses it, with types; it refuses what the format does not allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.openmetrics import parser

parse_open_metrics: Callable[[str], Iterable[Metric]] = parser.text_string_to_metric_families
