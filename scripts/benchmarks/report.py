"""What was measured, as a table for a reader and as an object for a program, with the targets beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from benchmarks.changes import Change
from benchmarks.contenders import MIB
from benchmarks.forms import FormCost
from benchmarks.journal import LogCost, LogCount
from benchmarks.limit import Limit
from benchmarks.models import TINY, WIDE, Workload
from benchmarks.overload import TIMES, Overload
from benchmarks.package_cost import LaneCost, Restart
from benchmarks.packages import Neighbour
from benchmarks.queries import QueryCost
from benchmarks.routing import RoutingCost, ShadowCost
from benchmarks.rpc_cost import RpcCost
from benchmarks.start import Start
from benchmarks.throughput import Cell
from benchmarks.written import WrittenCost
from mdslite.intervals import Estimate

WORKLOADS = (TINY, WIDE)
THROUGHPUT_HEAD = (
    *("model", "connections", "server"),
    *("requests/s", "p50 ms", "p99 ms", "cpu us", "MiB", "mdslite is"),
)


@dataclass(slots=True)
class Results:
    """Each part that was measured; the others stay empty."""

    machine: dict[str, Any]
    cells: list[Cell] = field(default_factory=list)
    limits: dict[str, Limit] = field(default_factory=dict)
    log_costs: list[LogCost] = field(default_factory=list)
    log_count: LogCount | None = None
    written: WrittenCost | None = None
    overloads: list[Overload] = field(default_factory=list)
    forms: list[FormCost] = field(default_factory=list)
    rpc: RpcCost | None = None
    routing: RoutingCost | None = None
    shadows: list[ShadowCost] = field(default_factory=list)
    start: Start | None = None
    changes: list[Change] = field(default_factory=list)
    lanes: list[LaneCost] = field(default_factory=list)
    restart: Restart | None = None
    neighbour: Neighbour | None = None
    queries: QueryCost | None = None
    spam: list[Cell] = field(default_factory=list)

    def find(self, workload: Workload, connections: int, contender: str) -> Cell | None:
        wanted = (workload.name, connections, contender)
        return next(
            (cell for cell in self.cells if (cell.workload, cell.connections, cell.contender) == wanted), None
        )


@dataclass(frozen=True, slots=True)
class Target:
    what: str
    wanted: str
    measured: str
    reached: bool

    @property
    def verdict(self) -> str:
        return "PASS" if self.reached else "short"


def find_targets(results: Results) -> list[Target]:
    """Every target whose part was measured."""
    return [
        *_throughput_targets(results),
        *_log_targets(results),
        *_written_targets(results),
        *_overload_targets(results),
        *_form_targets(results),
        *_rpc_targets(results),
        *_routing_targets(results),
        *_start_targets(results),
        *_change_targets(results),
        *_package_targets(results),
        *_query_targets(results),
        *_spam_targets(results),
    ]


def _throughput_targets(results: Results) -> Iterator[Target]:
    for workload in WORKLOADS:
        for connections in (32, 128):
            if mosec := results.find(workload, connections, "mosec"):
                yield _at_least(f"{workload.label}, {connections} connections, to Mosec", 1.2, mosec.ratio)
    for connections in (32, 128):
        if hypercorn := results.find(TINY, connections, "hypercorn"):
            what = f"{TINY.label}, {connections} connections, to Starlette on Hypercorn"
            yield _at_least(what, 7, hypercorn.ratio)
    if ours := results.find(TINY, 1, "mdslite"):
        measured = f"{ours.p50_ms:.2f} ms"
        yield Target(f"{TINY.label}, 1 connection, p50", "<= 0.25 ms", measured, ours.p50_ms <= 0.25)


def _at_least(what: str, wanted: float, ratio: float) -> Target:
    return Target(what, f">= {wanted:g} x", f"{ratio:.2f} x", ratio >= wanted)


def _log_targets(results: Results) -> Iterator[Target]:
    for cost in results.log_costs:
        lost = 1 - cost.ratio
        what = f"request log, {cost.connections} connections, costs of throughput"
        cpu = f"cpu {cost.without_cpu_us:.0f} to {cost.with_log_cpu_us:.0f} us a request"
        yield Target(what, "<= 10 %", f"{lost * 100:.1f} % ({cpu})", lost <= 0.10)
    if count := results.log_count:
        measured = f"{count.logged:,} rows of {count.sent:,} at {count.slowest_per_s:,.0f}/s"
        reached = count.logged >= count.sent and count.slowest_per_s >= 10_000
        yield Target("request log loses", "nothing at 10,000/s", measured, reached)


def _written_targets(results: Results) -> Iterator[Target]:
    if (cost := results.written) is None:
        return
    rate = f"request log at {cost.with_log_per_s:,.0f} rows/s"
    for what, found, cpu in (
        ("costs of throughput", cost.log, f"cpu {cost.without_cpu_us:.0f} to {cost.with_log_cpu_us:.0f} us"),
        (
            "a question a second costs of the rest",
            cost.asked,
            f"to {cost.asked_cpu_us:.0f} us, an answer takes {cost.asked_ms:.0f} ms",
        ),
    ):
        lost, least, most = (100 * (1 - one) for one in (found.value, found.high, found.low))
        measured = f"{lost:.1f} % ({least:.1f} to {most:.1f}; {cpu})"
        yield Target(f"{rate}, {what}", "<= 10 %", measured, lost <= 10)


def _overload_targets(results: Results) -> Iterator[Target]:
    for load in results.overloads:
        what = f"good answers at {TIMES} times the load" if load.who == "steady" else "good answers"
        speeds = (
            f"least {load.least_kept:.2f}; {load.peak_per_s:,.0f} at its peak, {load.offered_per_s:,.0f}/s"
        )
        broken = f", {load.broken} broken" if load.broken else ""
        target = _at_least(f"{what}, {load.who} clients", 0.9, load.kept)
        yield replace(target, measured=f"{target.measured} ({speeds} offered{broken})")
        what = f"a refusal then, p99 of {load.refusals:,}, {load.who} clients"
        yield Target(what, "<= 50 ms", f"{load.refusal_p99_ms:.1f} ms", load.refusal_p99_ms <= 50)


def _form_targets(results: Results) -> Iterator[Target]:
    wanted = {"tiny": 0.9, "image": 3.0}
    for cost in results.forms:
        what = f"binary infer to JSON predict, {cost.label} float32, 32 connections"
        target = _at_least(what, wanted[cost.name], cost.ratio)
        speeds = f"{cost.binary_per_s:,.0f} to {cost.json_per_s:,.0f} requests/s"
        failed = f", {cost.failed} failed" if cost.failed else ""
        yield replace(target, measured=f"{target.measured} ({speeds}{failed})")


def _rpc_targets(results: Results) -> Iterator[Target]:
    if cost := results.rpc:
        ours, bare = cost.ours, cost.bare
        target = _at_least("gRPC to a bare grpc.aio server, 32 callers", 1.0, cost.ratio)
        speeds = f"{ours.requests_per_s:,.0f} to {bare.requests_per_s:,.0f} requests/s"
        cpu = f"cpu {ours.cpu_us:.0f} to {bare.cpu_us:.0f} us a request"
        yield replace(target, measured=f"{target.measured} ({speeds}, {cpu})")


def _routing_targets(results: Results) -> Iterator[Target]:
    if cost := results.routing:
        what = f"choosing among {cost.versions} versions, a request more than with one"
        yield Target(what, "<= 3 us", f"{cost.pick_us:.2f} us", cost.pick_us <= 3.0)
        what = f"{cost.versions} versions deployed, a request more than with one"
        spread = f"{_interval(cost.spread)} us where all have traffic: they share no batch"
        measured = f"{_interval(cost.deployed)} us of {cost.one_us:.1f} us of processor time ({spread})"
        yield Target(what, "<= 3 us in the interval", measured, cost.deployed.low <= 3.0)
    for shadow in results.shadows:
        what = f"p99 beside a slow shadow of {shadow.percent} % of the traffic"
        measured = f"{_interval(shadow.ratio)} x, {shadow.failed} failed"
        yield Target(what, "1 x in the interval", measured, shadow.ratio.low <= 1.0 and not shadow.failed)


def _interval(one: Estimate) -> str:
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def _start_targets(results: Results) -> Iterator[Target]:
    if start := results.start:
        first_s, idle_mib = start.first_answer_s, start.idle_bytes / MIB
        yield Target("up to first answer", "<= 1.5 s", f"{first_s:.2f} s", first_s <= 1.5)
        yield Target("idle memory (PSS)", "<= 150 MiB", f"{idle_mib:.0f} MiB", idle_mib <= 150)


def _change_targets(results: Results) -> Iterator[Target]:
    for change in results.changes:
        failed = f"{change.failed} of {change.requests:,} in {change.applied} applies"
        yield Target(f"{change.kind} under load, failed", "0", failed, change.failed == 0)
        p99 = f"{change.ratio:.2f} x ({change.baseline_p99_ms:.2f} to {change.p99_ms:.2f} ms)"
        yield Target(f"{change.kind} under load, p99", "<= 2 x", p99, change.ratio <= 2)


def _package_targets(results: Results) -> Iterator[Target]:
    for lane in results.lanes:
        ways = (
            ("inline", 15, lane.inline_us, lane.inline_rows),
            ("isolated", 25, lane.isolated_us, lane.isolated_rows),
        )
        for name, most_us, took_us, rows in ways:
            added_us = took_us - lane.loop_us
            what = f"a lane adds to an {name} predict, a datum at batch 32, {lane.data}"
            measured = f"{added_us:.1f} us (batches of {rows:.0f})"
            yield Target(what, f"<= {most_us} us", measured, added_us <= most_us)
    if restart := results.restart:
        measured = f"{restart.serving_s:.2f} s (load {restart.load_s:.2f} s)"
        reached = restart.serving_s <= 2 + restart.load_s
        yield Target("a package that crashed serves again", "<= 2 s + load", measured, reached)
    if beside := results.neighbour:
        what = "ONNX beside a package that burns a core, to beside an unrelated process that does"
        speeds = f"{beside.unrelated_per_s:,.0f} to {beside.package_per_s:,.0f} requests/s"
        shares = f"{beside.unrelated_burnt:.2f} and {beside.package_burnt:.2f} of a core burnt"
        failed = f", {beside.failed} failed" if beside.failed else ""
        measured = f"{beside.ratio:.2f} x ({speeds}; {shares}{failed})"
        yield Target(what, ">= 0.8 x", measured, beside.ratio >= 0.8 and not beside.failed)


def _query_targets(results: Results) -> Iterator[Target]:
    if (found := results.queries) is None:
        return
    what = f"request log of {found.rows:,} rows"
    yield Target(what, "<= 150 bytes a row", f"{found.bytes_a_row:.0f}", found.bytes_a_row <= 150)
    for one in found.times:
        wanted = "" if one.wanted_ms is None else f"<= {one.wanted_ms:.0f} ms"
        reached = one.wanted_ms is None or one.median_ms <= one.wanted_ms
        yield Target(
            f"{what}, {one.what}", wanted, f"{one.median_ms:.1f} ms ({one.first_ms:.0f} at first)", reached
        )
    measured = f"{(1 - found.ratio) * 100:.1f} % (an answer takes {found.asked_ms:.0f} ms then)"
    yield Target(f"{what}, a question a second costs of throughput", "<= 10 %", measured, found.ratio >= 0.9)


def _spam_targets(results: Results) -> Iterator[Target]:
    for cell in results.spam:
        if cell.contender not in ("mdslite", "inline"):
            yield _at_least(
                f"{cell.workload}, {cell.connections} connections, to {cell.label}", 1, cell.ratio
            )


def to_plain(results: Results) -> dict[str, Any]:
    """The object that --json prints."""
    targets = [asdict(target) | {"verdict": target.verdict} for target in find_targets(results)]
    return asdict(results) | {"targets": targets}


def render(results: Results) -> str:
    """Markdown, so that it can be quoted as it is."""
    machine = results.machine
    parts = [f"{machine['cores']} cores ({machine['cpu']}), load generator included; {machine['versions']}"]
    if results.cells or results.limits or results.spam:
        parts.append(_table(THROUGHPUT_HEAD, list(_throughput_rows(results)), left=3))
    targets = find_targets(results)
    if targets:
        rows = [(target.what, target.wanted, target.measured, target.verdict) for target in targets]
        parts.append(_table(("what", "target", "measured", ""), rows, left=4))
    return "\n\n".join(parts)


def _throughput_rows(results: Results) -> Iterator[tuple[str, ...]]:
    for workload in WORKLOADS:
        for cell in results.cells:
            if cell.workload == workload.name:
                yield (workload.label, *_cell_columns(cell))
        if limit := results.limits.get(workload.name):
            threads = "1 thread" if limit.threads == 1 else f"{limit.threads} threads"
            label = f"bare onnxruntime, batches of {limit.best_batch_rows}, {threads}"
            yield (workload.label, "none", label, f"{limit.best_rows_per_s:,.0f}", "", "", "", "", "")
    for cell in results.spam:
        yield (cell.workload, *_cell_columns(cell))


def _cell_columns(cell: Cell) -> tuple[str, ...]:
    speed = f"{cell.requests_per_s:,.0f}" + (f" ({cell.failed} failed)" if cell.failed else "")
    ratio = "" if cell.contender == "mdslite" else f"{cell.ratio:.2f} x"
    costs = (f"{cell.p50_ms:.2f}", f"{cell.p99_ms:.2f}", f"{cell.cpu_us:.0f}")
    return (str(cell.connections), cell.label, speed, *costs, f"{cell.memory_bytes / MIB:.0f}", ratio)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """A Markdown table whose first `left` columns are aligned left, the others right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if column < left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, rows)])
