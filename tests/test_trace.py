"""Traces of the callers: read, logged with the request, handed on to endpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import pytest
from doors import Deployed, open_site, run
from far_sites import GATEWAY, gateway, to
from h1_client import predict
from log_rows import row, running, wanted
from traces import PARENT, SPAN_ID, TRACE_ID
from waiting import until

from mdslite.serving.trace import Trace, read_trace
from mdslite.store.requests import RequestLog
from mdslite.store.rows import Labels, Run


def read(parent: str, state: str = "") -> Trace | None:
    fields = {b"traceparent": parent.encode()} | ({b"tracestate": state.encode()} if state else {})
    return read_trace(fields)


def test_a_callers_trace_is_handed_on_as_it_came() -> None:
    trace = read(PARENT, "vendor=1")
    assert trace is not None
    assert trace.trace_id.hex() == TRACE_ID
    assert trace.sampled
    assert trace.headers() == [(b"traceparent", PARENT.encode()), (b"tracestate", b"vendor=1")]


def test_a_span_of_ours_stands_in_for_the_callers() -> None:
    trace = read(PARENT)
    assert trace is not None
    trace.span_id = bytes.fromhex("00000000000000ff")
    assert trace.headers() == [(b"traceparent", f"00-{TRACE_ID}-00000000000000ff-01".encode())]


@pytest.mark.parametrize(
    "parent",
    [
        "", "nonsense", f"ff-{TRACE_ID}-{SPAN_ID}-01", f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01", f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more", f"00-{TRACE_ID[1:]}-{SPAN_ID}-01", f"00-{TRACE_ID}-{SPAN_ID}-1",
    ],
)  # fmt: skip
def test_what_is_no_traceparent_names_no_trace(parent: str) -> None:
    assert read(parent) is None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    trace = read(f"cc-{TRACE_ID}-{SPAN_ID}-ff-what-comes")
    assert trace is not None
    assert trace.headers() == [(b"traceparent", PARENT.encode())]
    assert read(PARENT, "x" * 2000).headers() == [(b"traceparent", PARENT.encode())]  # type: ignore[union-attr]


def test_rows_and_runs_carry_their_traces_to_the_log(tmp_path: Path) -> None:
    labels = Labels("mail", "spam", "v1", False, "local/0", 200, None)
    batch = Run(labels, "/x", started=9.0, compute_ms=1.0, batch_rows=2, clock_to_unix=row()[0] - 9.0)
    batch.calls += [
        ("b", 9.0, 9.0, 9.1, None, 1, bytes.fromhex(TRACE_ID)),
        ("c", 9.0, 9.0, 9.1, None, 1, None),
    ]
    with running(tmp_path) as journal:
        journal.append(row(request_id="a", trace_id=bytes(15) + b"\x01"))
        journal.append_run(batch)
        journal.append(row(request_id="d"))
        journal.append(row(request_id="e", trace_id=b"short"))
        assert journal.flush()
        assert journal.statistics().malformed == 1
    found = {one.request_id: one.trace_id for one in RequestLog(tmp_path).query(wanted()).rows}
    assert found == {"a": "0" * 30 + "01", "b": TRACE_ID, "c": None, "d": None}


def test_a_prediction_is_logged_with_its_trace_and_a_broken_one_without(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.identity(tmp_path / "m.onnx"))) as site:
            for parent in (PARENT, "nonsense"):
                assert (await site.ask(predict(headers=[("traceparent", parent)]))).status == 200
            assert (await site.ask(predict())).status == 200
            assert [one["trace_id"] for one in site.logged] == [bytes.fromhex(TRACE_ID), None, None]

    run(test())


def test_an_endpoint_is_told_the_trace(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx")
        async with (
            open_site(tmp_path, Deployed(path)) as there,
            gateway(tmp_path / "here", to(there)) as (here, _),
        ):
            headers: Any = [("traceparent", PARENT), ("tracestate", "vendor=1")]
            assert (await here.ask(predict(target=GATEWAY, headers=headers))).status == 200
            await until(lambda: there.rows and here.rows)
            assert there.logged[0]["trace_id"] == here.logged[0]["trace_id"] == bytes.fromhex(TRACE_ID)

    run(test())
