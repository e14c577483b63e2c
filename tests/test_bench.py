"""The benchmark counts fairly: same models, median ratios, and a target is reached or it is not."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from benchmarks.contenders import Bench, Contender, Running, contenders, mdslite
from benchmarks.estimate import estimate_ratio
from benchmarks.forms import IMAGE, FormCost, write_binary, write_image_model, write_json
from benchmarks.journal import LogCost, LogCount
from benchmarks.limit import measure_limit
from benchmarks.load import Load
from benchmarks.models import TINY, WIDE, Workload, make_body, write_model
from benchmarks.package_cost import LaneCost, Restart
from benchmarks.packages import UNRELATED, Neighbour
from benchmarks.report import Results, find_targets, render, to_plain
from benchmarks.routing import RoutingCost, ShadowCost, time_picks
from benchmarks.rpc_cost import RpcCost, RpcTurn
from benchmarks.spam import name_load, read_answers, spam_contenders, write_body
from benchmarks.start import Start
from benchmarks.throughput import Cell
from benchmarks.turns import Effort, Turns
from benchmarks.written import WrittenCost

from mdslite.intervals import Estimate

MDSLITE = Contender("mdslite", "mdslite", (), "/")
MACHINE = {"cores": 2, "cpu": "a processor", "versions": "Python 3"}


def load(requests_per_s: float) -> Load:
    return Load(1000, requests_per_s, 1.0, 2.0, failed=0, refused=0, seconds=1.0)


def cell(contender: str, *, ratio: float, connections: int = 32, p50_ms: float = 1.0) -> Cell:
    return Cell("tiny", connections, contender, contender, 1000.0, p50_ms, 2.0, 30.0, 0, ratio, 1 << 20)


def verdicts(results: Results) -> dict[str, str]:
    return {target.what: target.verdict for target in find_targets(results)}


@pytest.mark.parametrize("workload", [TINY, WIDE], ids=lambda workload: workload.name)
def test_the_models_answer_probabilities_for_the_request_that_is_sent(
    workload: Workload, tmp_path: Path
) -> None:
    write_model(workload, tmp_path / "model.onnx")
    rows = np.asarray(json.loads(make_body(workload))["instances"], np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": np.repeat(rows, 3, axis=0)})
    assert answer.shape == (3, workload.widths[-1])
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)


def test_the_same_seed_makes_the_same_model_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_model(TINY, tmp_path / name, seed=seed)
    first, same, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == same
    assert first != other


def test_a_ratio_is_the_median_of_the_turns_and_one_burst_changes_nothing() -> None:
    ours = Turns(MDSLITE, [load(300), load(10), load(330)], [0.1] * 3, 0)
    theirs = Turns(MDSLITE, [load(100), load(100), load(100)], [0.2, 0.3, 9.0], 0)
    assert ours.faster_than(theirs) == 3.0
    assert theirs.cpu_us == 300.0


def test_everybody_serves_the_same_model_with_batching_where_there_is_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Path("mdslite"))
    names = [each.name for each in contenders(bench, TINY)]
    assert names == ["mdslite", "mosec", "mosec-2", "uvicorn", "hypercorn"]
    model = str(bench.model(TINY))
    for each in contenders(bench, TINY)[1:]:
        assert model in (*each.command, *each.environment.values())
    assert model in (tmp_path / "tiny.yaml").read_text()


def test_the_log_is_off_only_where_its_cost_is_measured(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Path("mdslite"))
    assert "--no-log" not in contenders(bench, TINY)[0].command
    assert "--no-log" in mdslite(bench, TINY, log=False).command


def test_a_target_is_short_by_the_smallest_amount() -> None:
    reached = Results(MACHINE, cells=[cell("mosec", ratio=1.2)])
    missed = Results(MACHINE, cells=[cell("mosec", ratio=1.1999)])
    (what,) = verdicts(reached)
    assert verdicts(reached)[what] == "PASS"
    assert verdicts(missed)[what] == "short"


def test_ratios_are_averaged_as_ratios_and_one_of_them_says_nothing_of_the_interval() -> None:
    found = estimate_ratio([2.0, 0.5, 1.0])
    assert found.value == pytest.approx(1)
    assert found.low == pytest.approx(1 / found.high)
    alone = estimate_ratio([0.9])
    assert alone.value == pytest.approx(0.9)
    assert alone.low == 0.0
    assert alone.high > 1e300


def test_what_the_log_costs_is_told_with_how_far_it_may_be_off() -> None:
    def measured(log: float, asked: float) -> Results:
        one, other = (Estimate(ratio, ratio - 0.02, ratio + 0.01) for ratio in (log, asked))
        figures = (11_000.0, 10_400.0, 10_000.0, 150.0, 156.0, 160.0)
        return Results(MACHINE, written=WrittenCost(one, other, *figures, asked_ms=30.0))

    first, second = find_targets(measured(0.95, 0.92))
    assert (first.what, first.verdict) == (
        "request log at 10,400 rows/s, costs of throughput",
        "PASS",
    )
    assert first.measured == "5.0 % (4.0 to 7.0; cpu 150 to 156 us)"
    assert second.measured == "8.0 % (7.0 to 10.0; to 160 us, an answer takes 30 ms)"
    assert list(verdicts(measured(0.89, 0.88)).values()) == ["short", "short"]


def test_a_log_that_lost_one_row_is_short() -> None:
    whole, lossy = LogCount(100, 100, 20_000.0), LogCount(100, 99, 20_000.0)
    assert set(verdicts(Results(MACHINE, log_count=whole)).values()) == {"PASS"}
    assert set(verdicts(Results(MACHINE, log_count=lossy)).values()) == {"short"}


def test_only_what_was_measured_is_reported() -> None:
    results = Results(
        MACHINE, start=Start(0.5, 100 << 20), log_costs=[LogCost(32, 95.0, 100.0, 0.95, 21.0, 20.0)]
    )
    assert len(verdicts(results)) == 3
    shown = render(results)
    assert "5.0 %" in shown
    assert "Mosec" not in shown
    plain = json.loads(json.dumps(to_plain(results)))
    assert [target["verdict"] for target in plain["targets"]] == ["PASS", "PASS", "PASS"]


def test_the_table_says_who_is_faster_and_who_failed() -> None:
    failing = Cell("tiny", 32, "mosec", "Mosec", 900.0, 1.0, 2.0, 30.0, 3, 1.5, 2 << 20)
    lines = render(Results(MACHINE, cells=[cell("mdslite", ratio=1.0), failing])).splitlines()
    (row,) = [line for line in lines if "| Mosec" in line]
    assert "900 (3 failed)" in row
    assert row.endswith(" 1.50 x |")


def test_grpc_is_to_be_no_slower_than_a_bare_server() -> None:
    def measured(ratio: float) -> Results:
        return Results(MACHINE, rpc=RpcCost(RpcTurn(2.0, 1.0, 1.0), RpcTurn(1.0, 1.0, 1.0), ratio))

    assert list(verdicts(measured(1.0)).values()) == ["PASS"]
    assert list(verdicts(measured(0.99)).values()) == ["short"]


def test_both_forms_of_a_request_ask_the_same(tmp_path: Path) -> None:
    row = np.random.default_rng(1).random((1, 4), np.float32)
    plain, binary = write_json(tmp_path, "tiny", row), write_binary(tmp_path, "tiny", row)
    in_json = np.array(json.loads(plain.body.read_bytes())["instances"], np.float32)
    np.testing.assert_allclose(in_json, row, atol=1e-4)
    head_bytes = int(binary.headers["Inference-Header-Content-Length"])
    body = binary.body.read_bytes()
    assert json.loads(body[:head_bytes])["inputs"][0]["shape"] == [1, 4]
    np.testing.assert_array_equal(np.frombuffer(body[head_bytes:], np.float32), row[0])


def test_the_model_of_images_takes_images(tmp_path: Path) -> None:
    write_image_model(tmp_path / "image.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "image.onnx"), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": np.ones((2, *IMAGE), np.float32)})
    np.testing.assert_allclose(answer[:, :4], [[1, 1, 1, 0]] * 2)


def test_each_form_has_its_own_target() -> None:
    def forms(tiny: float, image: float) -> Results:
        found = zip(("tiny", "image"), (tiny, image), strict=True)
        return Results(MACHINE, forms=[FormCost(name, name, 10.0, 10.0, ratio, 0) for name, ratio in found])

    assert list(verdicts(forms(0.9, 3.0)).values()) == ["PASS", "PASS"]
    assert list(verdicts(forms(0.89, 2.99)).values()) == ["short", "short"]


def test_the_limit_is_the_best_batch_of_the_bare_runtime(tmp_path: Path) -> None:
    write_model(TINY, tmp_path / "tiny.onnx")
    limit = measure_limit(TINY, tmp_path / "tiny.onnx", seconds=0.003)
    assert limit.best_rows_per_s >= limit.single_rows_per_s > 0
    assert limit.best_batch_rows >= 1


def test_a_part_that_fails_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> Start:
        raise RuntimeError("nobody answers")

    program = importlib.import_module("benchmarks.__main__")
    monkeypatch.setattr(program, "measure_start", fail)
    results = Results(MACHINE)
    bench = Bench(tmp_path, Path("mdslite"))
    assert not program.measure(results, bench, Effort(seconds=0.02, rounds=1), ["start", "limit"], rows=1)
    assert "start could not be measured: nobody answers" in capsys.readouterr().err
    assert set(results.limits) == {"tiny", "wide"}
    assert results.start is None


def test_its_help_and_its_mistakes_need_nothing_installed() -> None:
    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-m", "benchmarks.options", *arguments]
        folder = Path(__file__).parent.parent / "scripts"
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=False)

    shown = ask("--help")
    assert shown.returncode == 0
    assert "--only" in shown.stdout
    wrong = ask("--only", "everything")
    assert wrong.returncode == 2
    assert "invalid choice: 'everything'" in wrong.stderr


def test_a_server_that_never_answers_is_shown_with_what_it_said(tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text("{}")
    broken = Contender("broken", "Broken", ["sh", "-c", "echo the reason; exit 3"], "/")
    with pytest.raises(RuntimeError, match="the reason"), Running(broken, body=body, folder=tmp_path / "run"):
        pass


def test_what_a_lane_adds_is_held_against_the_plain_loop() -> None:
    def lanes(inline_us: float, isolated_us: float) -> Results:
        return Results(MACHINE, lanes=[LaneCost("64 floats", 1.0, inline_us, 32.0, isolated_us, 32.0)])

    assert list(verdicts(lanes(16.0, 26.0)).values()) == ["PASS", "PASS"]
    assert list(verdicts(lanes(16.1, 26.1)).values()) == ["short", "short"]


def test_a_restart_may_take_two_seconds_more_than_a_load() -> None:
    assert set(verdicts(Results(MACHINE, restart=Restart(3.0, 1.0))).values()) == {"PASS"}
    assert set(verdicts(Results(MACHINE, restart=Restart(2.9, 0.8))).values()) == {"short"}


def test_a_neighbour_that_lost_a_request_is_short() -> None:
    def neighbour(ratio: float, failed: int) -> Results:
        return Results(MACHINE, neighbour=Neighbour(900.0, 500.0, 450.0, ratio, 0.9, 0.9, failed))

    assert set(verdicts(neighbour(0.8, 0)).values()) == {"PASS"}
    assert set(verdicts(neighbour(0.79, 0)).values()) == {"short"}
    assert set(verdicts(neighbour(0.9, 1)).values()) == {"short"}


def test_what_burns_says_how_much_of_a_core_it_had() -> None:
    command = [sys.executable, "-c", UNRELATED, "0.05"]
    burnt = float(subprocess.run(command, capture_output=True, check=True).stdout)
    assert 0 < burnt < 1.5


def test_the_spam_filter_has_batches_of_as_many_requests_everywhere(tmp_path: Path) -> None:
    for texts in (1, 8):
        folder = tmp_path / str(texts)
        folder.mkdir()
        found = spam_contenders(Bench(folder, Path("mdslite"), Path("python")), folder, texts)
        assert [each.name for each in found] == ["mdslite", "inline", "mosec", "litserve", "bentoml"]
        assert found[2].environment["BATCH_REQUESTS"] == found[3].environment["BATCH_REQUESTS"] == "32"
        assert found[4].environment["BATCH_TEXTS"] == str(32 * texts)
        for isolation in ("process", "inline"):
            (deployment,) = json.loads((folder / f"{isolation}.yaml").read_text())["deployments"]
            spec = deployment["versions"][0]["spec"]
            assert (spec["isolation"], spec["batch"]) == (isolation, {"batch_size": 32 * texts})
        assert len(json.loads(write_body(folder, texts).read_bytes())["instances"]) == texts


def test_the_spam_filter_is_measured_without_those_who_are_not_installed(tmp_path: Path) -> None:
    found = spam_contenders(Bench(tmp_path, Path("mdslite")), tmp_path, 1)
    assert [each.name for each in found] == ["mdslite", "inline", "mosec"]


def test_the_class_of_the_example_answers_the_same_under_the_others(tmp_path: Path) -> None:
    environment = spam_contenders(Bench(tmp_path, Path("mdslite")), tmp_path, 1)[2].environment
    texts = json.loads(write_body(tmp_path, 3).read_bytes())["instances"]
    code = (
        "import json, sys; from benchmarks.servers.spam_filter import SpamFilter; "
        "print(json.dumps(SpamFilter().answer_requests(json.loads(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, json.dumps([texts[:1], texts[1:]])]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, env=dict(environment)).stdout)
    assert [len(answers) for answers in found] == [1, 2]
    assert all(answer["label"] in ("spam", "ham") for answers in found for answer in answers)


def test_an_answer_is_read_with_and_without_its_object() -> None:
    assert read_answers(b'{"predictions": [1, 2]}') == read_answers(b"[1, 2]") == [1, 2]


def test_the_spam_filter_stands_in_the_table_and_among_the_targets() -> None:
    spam = [
        Cell(name_load(1), 32, name, label, 900.0, 1.0, 2.0, 30.0, 0, ratio, 2 << 20)
        for name, label, ratio in (
            ("mdslite", "mdslite", 1.0),
            ("inline", "mdslite, inline", 0.7),
            ("mosec", "Mosec", 0.9),
        )
    ]
    results = Results(MACHINE, spam=spam)
    assert list(verdicts(results).values()) == ["short"]
    assert "| spam filter, 1 text | 32          | mdslite, inline" in render(results)


def test_routing_is_judged_by_the_choice_and_by_versions_that_only_stand_there() -> None:
    deployed, spread = Estimate(4.0, 2.0, 6.0), Estimate(80.0, 70.0, 90.0)
    told = verdicts(Results(MACHINE, routing=RoutingCost(100, 0.1, 40.0, deployed, spread)))
    assert list(told.values()) == ["PASS", "PASS"]
    slow = Estimate(6.0, 4.0, 8.0)
    told = verdicts(Results(MACHINE, routing=RoutingCost(100, 0.1, 40.0, slow, spread)))
    assert list(told.values()) == ["PASS", "short"]
    assert time_picks(3, picks=10) > 0


def test_a_shadow_may_cost_nothing_that_could_be_measured() -> None:
    def told(ratio: Estimate) -> list[str]:
        return list(verdicts(Results(MACHINE, shadows=[ShadowCost(100, 2.0, 2.1, ratio, 0)])).values())

    assert told(Estimate(1.05, 0.9, 1.2)) == ["PASS"]
    assert told(Estimate(1.3, 1.1, 1.5)) == ["short"]
