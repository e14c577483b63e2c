"""The example dashboard and alert rules ask for metrics and labels that a real appliance tells."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import models
import msgspec
import pytest
import yaml  # type: ignore[import-untyped]
from doors import Deployed, open_site, run
from fake_nvml import FakeGpu, FakeNvml
from far_sites import GATEWAY, gateway, to
from h1_client import predict
from log_rows import counted, row, running
from open_metrics import parse_open_metrics

from mdslite.api.alarms import Alarms
from mdslite.api.bulletin import Bulletin
from mdslite.drift.watch import Signal
from mdslite.gauges import Gauges
from mdslite.metrics import Metrics
from mdslite.runtimes.devices import Devices
from mdslite.runtimes.nvidia import Nvml
from mdslite.store.drift import Key, Record, Watched
from mdslite.store.webhooks import Webhooks
from mdslite.tracing import Tracer

promql = pytest.importorskip("promql_parser")

FOLDER = Path(__file__).parent.parent / "examples" / "monitoring"
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text())
ALERTS = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
ADDED = {"job", "instance"}  # by Prometheus, to each sample
VARIABLES = {"$__rate_interval": "5m", "$project": "p", "$model": "m"}


def panels() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def rules() -> Iterator[tuple[str, str]]:
    for group in ALERTS:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


QUERIES = [*panels(), *rules()]


def selectors(query: str) -> list[tuple[str, set[str]]]:
    """Each metric that a query reads, and the labels by which it chooses or groups.

    :raises ValueError: it is no PromQL
    """
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    found: list[tuple[str, set[str]]] = []

    def visit(node: Any, grouped: frozenset[str]) -> None:
        if isinstance(node, promql.VectorSelector):
            found.append((node.name, {one.name for one in node.matchers.matchers} | grouped))
            return
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            grouped = frozenset(node.modifier.labels)
        for name in ("expr", "lhs", "rhs", "vector_selector"):
            if (inner := getattr(node, name, None)) is not None:
                visit(inner, grouped)
        for inner in getattr(node, "args", None) or ():
            visit(inner, grouped)

    visit(promql.parse(query), frozenset())
    return found


def drifted(folder: Path) -> Alarms:
    """As if one signal had drifted."""
    alarms = Alarms(folder / "drift", list, Bulletin(), Webhooks())
    record = Record(
        digest="sha256:00", began=0.0, known=[], vocabulary={}, note="",
        signals=[Signal(signal="latency", state="firing")],
    )  # fmt: skip
    alarms._watched = [Watched(Key("p", "m", "v1", shadow=False), record, None)]
    alarms._counts["p", "m", "v1", "firing"] = 1
    return alarms


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of every sample that an appliance with a GPU, a shadow and a remote version tells."""
    folder = tmp_path_factory.mktemp("told")
    samples: dict[str, set[str]] = {}

    async def test() -> None:
        path = models.identity(folder / "m.onnx")
        async with (
            open_site(folder, Deployed(path)) as there,
            gateway(folder / "here", to(there)) as (site, _),
        ):
            shadow = await site.load(Deployed(path))
            info = msgspec.structs.replace(shadow.spec.service_info, shadow=True)
            shadow.follow(msgspec.structs.replace(shadow.spec, service_info=info))
            site.fleet.switch(added=[shadow])
            assert (await site.ask(predict(target=GATEWAY))).status == 200
            devices = Devices.discover(
                open_nvml=lambda: Nvml.open({}, library=FakeNvml([FakeGpu()])), problem=lambda: None
            )
            metrics = Metrics()
            metrics.observe(counted(row()))
            metrics.add_source(drifted(folder).gauges)
            metrics.add_source(Tracer("http://nowhere", share=0.0).gauges)
            with running(folder / "log") as journal:
                metrics.add_source(
                    Gauges(
                        door=site.door,
                        bridge=site.bridge,
                        fleet=site.fleet,
                        journal=journal,
                        devices=devices,
                    )
                )
                text = await asyncio.to_thread(metrics.render, open_metrics=True)
            for family in parse_open_metrics(text.decode()):
                for sample in family.samples:
                    samples.setdefault(sample.name, set()).update(sample.labels)

    run(test())
    return samples


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_every_query_reads_metrics_and_labels_that_there_are(
    title: str, query: str, told: dict[str, set[str]]
) -> None:
    found = selectors(query)
    assert found
    for name, labels in found:
        known = told[name] if name != "up" else set()
        assert labels - ADDED <= known, name


def test_legends_and_texts_name_labels_that_there_are(told: dict[str, set[str]]) -> None:
    named = [
        (target["expr"], target["legendFormat"])
        for one in DASHBOARD["panels"]
        for target in one.get("targets", ())
    ]
    named += [(rule["expr"], str(rule["annotations"])) for group in ALERTS for rule in group["rules"]]
    for query, text in named:
        known = set.union(*(told.get(name, set()) for name, _ in selectors(query))) | ADDED
        assert set(re.findall(r"{{ *(?:\$labels\.)?(\w+) *}}", text)) <= known, text


def families(names: Iterable[str]) -> set[str]:
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names if name.startswith("mdslite_")}


def test_every_metric_has_a_panel_or_a_rule_or_is_a_detail(told: dict[str, set[str]]) -> None:
    shown = families(name for _, query in QUERIES for name, _ in selectors(query))
    assert families(told) - shown == {
        "mdslite_info", "mdslite_batches_total", "mdslite_inline_batches_total", "mdslite_reruns_total",
        "mdslite_unauthorized_total", "mdslite_gate_busy_slots", "mdslite_endpoint_open_requests",
        "mdslite_endpoint_requests_total", "mdslite_endpoint_failures_total",
        "mdslite_journal_malformed_total", "mdslite_journal_restarts_total",
        "mdslite_journal_bodiless_total", "mdslite_drift_signal_firing",
        "mdslite_drift_webhook_dropped_total", "mdslite_traces_total", "mdslite_traces_dropped_total",
    }  # fmt: skip


def test_every_metric_is_documented_with_its_labels(told: dict[str, set[str]]) -> None:
    page = (FOLDER.parent.parent / "docs" / "monitoring.md").read_text()
    documented: dict[str, str] = {}
    for names, labels in re.findall(r"^\| (`mdslite_[^|]*) \|([^|]*)\|", page, re.MULTILINE):
        documented |= dict.fromkeys(re.findall(r"`(mdslite_\w+)`", names), labels)
    # What only a pipeline, or a connection that was ended, has.
    rare = {name for name in documented if name.startswith("mdslite_node_")} | {"mdslite_http_closed_total"}
    assert documented.keys() - rare == families(told) - rare
    for name in families(told):
        for label in told.get(name, set()) - {"le"}:
            assert label in documented[name], name


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    assert {one["name"] for one in DASHBOARD["templating"]["list"]} == {"datasource", "project", "model"}
    places = [one["gridPos"] for one in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({one["id"] for one in DASHBOARD["panels"]}) == len(places)
    for one in DASHBOARD["panels"]:
        assert all(target["datasource"]["uid"] == "${datasource}" for target in one.get("targets", ()))


def test_alerts_say_what_prometheus_wants_of_a_rule() -> None:
    names = [rule["alert"] for group in ALERTS for rule in group["rules"]]
    assert len(set(names)) == len(names)
    for group in ALERTS:
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert rule["labels"]["severity"] in ("info", "warning", "critical")
            assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
            assert rule["annotations"]["summary"]


def test_the_example_of_a_scrape_loads_the_rules() -> None:
    found = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    assert found["rule_files"] == ["alerts.yaml"]
    assert found["scrape_configs"][0]["job_name"] == "mdslite"
