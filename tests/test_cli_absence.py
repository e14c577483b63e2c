"""What the log commands say when nothing was found: of what never was, and of what nobody asked."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import models
import pytest
from api_server import ApiServer
from live import Live, up
from waiting import hold_on

from mdslite.cli import run
from mdslite.cli.absence import find_absence
from mdslite.client import Client

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("filter", "better"),
    [
        ("model=digit", "model=digits"),
        ("project=dmo model=digits status>=400", "project=demo model=digits"),
        ("version=v12 model = 'digits'", "version=v2 model=digits"),
        ("model=resnet", None),
        ("project=mail model=digits", None),
    ],
)
def test_a_name_that_never_was_is_answered_with_one_that_is(
    api: ApiServer, filter: str, better: str | None
) -> None:
    with Client(api.url) as client:
        error = find_absence(client, filter)
    assert error is not None
    assert error.message.startswith("nothing is deployed as ")
    if better is None:
        assert error.hint == "mdslite ls"
    else:
        assert error.message.endswith(f": did you mean {better}?")
        assert error.hint == f"mdslite logs {shlex.quote(better)}"


@pytest.mark.parametrize(
    "filter",
    ["", "status=599", "model=digits", "project=demo version=v2", "model~resnet", "model=a model=b",
     "model!=resnet", 'text~"a model=resnet"', 'request.q="see model=resnet"'],
)  # fmt: skip
def test_a_filter_that_names_what_is_there_or_nothing_is_no_mistake(api: ApiServer, filter: str) -> None:
    with Client(api.url) as client:
        assert find_absence(client, filter) is None


@pytest.mark.parametrize(
    "view", ["", "--json", "--histogram", "--top code", "--percentiles", "--percentiles --json"]
)
def test_every_view_of_what_never_was_is_an_error(api: ApiServer, view: str, capsys: Captured) -> None:
    api.figures = {
        "/logs/histogram": {"series": []},
        "/logs/top": {"rows": 0, "values": []},
        "/logs/percentiles": {"groups": []},
    }
    assert run(["logs", "model=digit", *view.split()]) == 1
    printed = capsys.readouterr()
    assert bool(printed.out) == ("--json" in view)  # the error, told once more
    assert printed.err == (
        "error: nothing is deployed as model digit, and the log has no request of it: "
        "did you mean model=digits?\nhint: mdslite logs model=digits\n"
    )


def test_following_what_never_was_says_so_and_waits(api: ApiServer, capsys: Captured) -> None:
    assert run(["logs", "model=resnet", "-f"]) == 1  # as this appliance ends it
    printed = capsys.readouterr()
    assert printed.out.startswith("TIME ")
    assert printed.err == (
        "nothing is deployed as model resnet, and the log has no request of it\nhint: mdslite ls\n"
        "error: the appliance ended the log here\nhint: mdslite ls says whether it still serves\n"
    )


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    monkeypatch.chdir(tmp_path)
    models.identity(tmp_path / "old.onnx")
    with up("old.onnx", cwd=tmp_path) as started:
        monkeypatch.setenv("MDSLITE_URL", started.url)
        yield started


def test_a_model_that_was_deleted_keeps_its_log(live: Live, capsys: Captured) -> None:
    assert run(["predict", "default/old", "-d", "[1, 2, 3]"]) == 0
    with Client(live.url) as client:
        hold_on(lambda: client.logs("model=old")["rows"])
    Path("none.yaml").write_text("deployments: []\n")
    assert run(["apply", "-f", "none.yaml", "--prune", "--yes"]) == 0
    capsys.readouterr()
    assert run(["logs", "model=old"]) == 0
    assert "default/old" in capsys.readouterr().out
    assert run(["logs", "model=old status=599"]) == 0
    assert capsys.readouterr().err == "no logged request matches 'model=old status=599'\n"
    assert run(["logs", "model=odd", "--export", "rows.csv"]) == 1
    assert not Path("rows.csv").exists()


@pytest.mark.parametrize(
    "view",
    ["", "--json", "-f", "--histogram", "--top code", "--percentiles", "--percentiles --json", "--export -"],
)
@pytest.mark.parametrize("filter", ["", "model=resnet"])
def test_a_file_that_could_not_be_read_is_named_by_every_view(
    api: ApiServer, view: str, filter: str, capsys: Captured
) -> None:
    api.rows, api.skipped = [], ["2026-11-23T03.db"]
    api.figures = {
        "/logs/histogram": {"since": 0, "until": 0, "interval_s": 60, "by": "version", "series": []},
        "/logs/top": {"field": "code", "rows": 0, "missing": 0, "other": 0, "values": []},
        "/logs/percentiles": {"exact": True, "groups": []},
    }
    api.figures = {path: {**found, "skipped": api.skipped} for path, found in api.figures.items()}
    api.export_headers = {"mdslite-rows": "0", "mdslite-skipped": ", ".join(api.skipped)}
    format = ["--format", "jsonl"] if "--export" in view else []
    assert run(["logs", filter, *view.split(), *format]) == (1 if view == "-f" else 0)  # it has an end here
    said = capsys.readouterr()
    assert "2026-11-23T03.db could not be read" in said.err
    assert "hint: mdslite doctor" in said.err
    assert "no request was logged" not in said.err
    if "--json" in view:
        assert json.loads(said.out)["skipped"] == api.skipped
