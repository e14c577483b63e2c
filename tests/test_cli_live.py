"""The command line against a real appliance: the first five minutes, and every command once."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import models
import psutil  # type: ignore[import-untyped]
import pytest
from api_server import left_on_screen, on_a_terminal
from live import DEPLOYMENTS, STOP_WAIT_S, TWO_VERSIONS, Live, begin, fill, send, up
from waiting import hold_on

from mdslite.cli import run

CERTIFICATES = Path(__file__).parent / "data" / "tls"
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory to serve from."""
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path)


@pytest.fixture
def live(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """An appliance of the test's own, and its folder to work in."""
    with up("deployments.yaml", cwd=folder) as started:
        monkeypatch.setenv("MDSLITE_URL", started.url)
        yield started


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Live]]:
    folder = fill(tmp_path_factory.mktemp("shared"))
    with up("deployments.yaml", cwd=folder) as started:
        yield folder, started


@pytest.fixture
def shared(running: tuple[Path, Live], monkeypatch: pytest.MonkeyPatch) -> Live:
    """One appliance for the tests that change nothing, and its folder to work in."""
    folder, started = running
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MDSLITE_URL", started.url)
    return started


def test_up_says_where_it_serves_and_what_it_suggests_works(
    live: Live, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert re.fullmatch(r"serving on http://127\.0\.0\.1:\d+   docs /docs   metrics /metrics", live.lines[0])
    monkeypatch.delenv("MDSLITE_URL")
    suggested = live.lines[1].removeprefix("next: ").split("   |   ")
    assert suggested[0].startswith("mdslite predict demo/digits -d @sample.json")
    for command in suggested:
        assert run(shlex.split(command)[1:]) == 0
    out = capsys.readouterr().out
    assert '{"predictions": [[' in out
    code, err = live.stop()
    assert code == 0
    assert err.endswith("\nstopping: no request is under way; a second Ctrl-C or SIGTERM stops at once\n")
    assert re.search(r"^✓ demo/digits v1 ready \d+\.\ds$", err, re.MULTILINE)


def test_a_signal_while_a_model_is_tried_ends_that_and_says_so(tmp_path: Path) -> None:
    models.loop(tmp_path / "endless.onnx", endless=True)
    with begin("endless.onnx", "--store", "store", cwd=tmp_path) as process:
        family = psutil.Process(process.pid)
        tried = hold_on(lambda: [one for child in family.children() for one in child.children()])
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)  # a first run may take a minute
    assert process.returncode == 0
    said = "stopping: what is being loaded is given up; a second Ctrl-C or SIGTERM stops at once"
    assert err.endswith(f"\n{said}\n")
    hold_on(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in tried))


def test_a_model_that_is_unloaded_says_how_it_is_loaded_again(
    live: Live, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MDSLITE_URL")
    url = ["--url", live.url]
    assert run(["unload", "demo/digits", *url]) == 0
    found = capsys.readouterr()
    assert re.fullmatch(r"VERSION  STATE\nv1       unloaded\n", found.out)
    assert run(["predict", "demo/digits", "-d", "@sample.json", *url]) == 1
    hint = capsys.readouterr().err.splitlines()[-1].removeprefix("hint: ")
    for line in (hint, found.err.strip().removeprefix("bring it back: ")):
        assert line == f"mdslite load --url {live.url} demo/digits"
    assert run(["ls", *url]) == 0
    reason = f"demo/digits@v1: it was unloaded: mdslite load --url {live.url} demo/digits brings it back"
    assert reason in capsys.readouterr().err
    assert run([*shlex.split(hint)[1:], "--json"]) == 0
    assert [one["state"] for one in json.loads(capsys.readouterr().out)["versions"]] == ["ready"]
    assert run(["predict", "demo/digits", "-d", "@sample.json", *url]) == 0


def test_a_command_for_a_whole_model_takes_no_version(capsys: Captured) -> None:
    for command in ("load", "unload", "rollout", "compare", "label"):
        assert run([command, "demo/digits@v1"]) == 1
        assert "'demo/digits@v1' names a version: expected PROJECT/MODEL" in capsys.readouterr().err


def test_the_first_five_minutes_on_a_terminal(live: Live, folder: Path) -> None:
    file = folder / "deployments.yaml"
    file.write_text(DEPLOYMENTS.replace("100", "ten"))
    apply = ["apply", "-f", "deployments.yaml"]
    code, printed = on_a_terminal(apply)
    assert code == 1
    assert printed.startswith(
        'error: deployments.yaml:6:13: weight: expected a number, got "ten"\n  6 |     weight: ten\nhint: '
    )
    file.write_text(TWO_VERSIONS)
    code, printed = on_a_terminal(apply, b"y\n")
    assert code == 0
    lines = left_on_screen(printed).splitlines()
    assert lines[:2] == [
        "PROJECT: demo MODEL: digits",
        "= RETAIN (0)  + ADD (1)  ~ UPDATE (1)  x DELETE (0)",
    ]
    assert re.fullmatch(r"\| APPLY WILL \| VERSION \| DIFF +\|", lines[2])
    assert re.fullmatch(r"\| ADD        \| v2      \| Weight: 20, .+ \|", lines[3])
    assert re.fullmatch(r"\| UPDATE     \| v1      \| Weight: 100 -> 80 +\|", lines[4])
    assert lines[5:8] == ["Apply? [y/N] y", "(1/2) v2 ... DONE", "(2/2) v1 ... DONE"]
    assert re.fullmatch(r"revision 2 in \d+\.\d s   undo: mdslite undo", lines[8])
    assert len(lines) == 9
    code, printed = on_a_terminal(["undo"], b"y\n")
    assert code == 0
    assert "Weight: 80 -> 100" in printed


def test_apply_tells_nothing_from_something_to_do(live: Live, folder: Path, capsys: Captured) -> None:
    file = folder / "deployments.yaml"
    assert run(["apply", "-f", "deployments.yaml", "--dry-run"]) == 0
    file.write_text(TWO_VERSIONS)
    assert run(["apply", "-f", "deployments.yaml", "--dry-run"]) == 2
    capsys.readouterr()
    assert run(["apply", "-f", "deployments.yaml", "--yes", "--json", "--reason", "more"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["plan"]["changed"], found["result"]["state"], found["result"]["revision"]) == (
        True,
        "applied",
        2,
    )
    assert run(["history", "--json"]) == 0
    newest = json.loads(capsys.readouterr().out)[0]
    assert (newest["id"], newest["reason"], newest["summary"]["add"]) == (2, "more", 1)
    assert run(["history", "2"]) == 0
    told = capsys.readouterr().out
    assert "| APPLY DID | VERSION | DIFF" in told
    assert told.endswith(TWO_VERSIONS)


def test_a_version_that_does_not_load_changes_nothing_and_is_on_record(
    live: Live, folder: Path, capsys: Captured
) -> None:
    (folder / "v2.onnx").write_bytes(b"no model at all")
    (folder / "deployments.yaml").write_text(TWO_VERSIONS)
    assert run(["apply", "-f", "deployments.yaml", "--yes"]) == 1
    out, err = capsys.readouterr()
    assert "| APPLY WOULD | VERSION | DIFF" in out
    assert err.startswith("error: deployments.yaml:12:12: demo/digits v2: ")
    assert err.endswith("revision 2 failed, nothing was switched: what served before still serves\n")
    assert run(["history"]) == 0
    assert "failed" in capsys.readouterr().out.splitlines()[1]
    assert run(["predict", "demo/digits", "-d", "@sample.json"]) == 0


def test_predict_takes_data_as_people_write_it(shared: Live, capsys: Captured) -> None:
    row = "[0.1, 0.2, 0.3, 0.4]"
    answers = []
    for data in (row, f"[{row}]", f'{{"x": {row}}}', f'{{"instances": [{row}]}}', "@sample.json"):
        assert run(["predict", "demo/digits@v1", "-d", data]) == 0
        printed = capsys.readouterr()
        answers.append(printed.out)
        assert re.fullmatch(r"demo/digits@v1   \d+\.\d ms   request \S+\n", printed.err)
    assert len(set(answers)) == 1
    assert run(["predict", "demo/digits", "-d", "[1, 2]"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert run(["predict", "demo/digits@v9", "-d", row]) == 1
    assert run(["predict", "demo/digits@v1", "--curl"]) == 0
    assert len(send(capsys.readouterr().out)["predictions"]) == 1  # type: ignore[arg-type]


def test_ls_and_show_tell_what_is_deployed(shared: Live, capsys: Captured) -> None:
    assert run(["ls"]) == 0
    titles, line = capsys.readouterr().out.splitlines()
    assert dict(zip(titles.split()[:5], line.split()[:5], strict=True)) == {
        "MODEL": "demo/digits", "VERSION": "v1", "STATE": "ready", "WEIGHT": "100", "SHARE": "100%",
    }  # fmt: skip
    assert run(["show", "demo/digits@v1"]) == 0
    out = capsys.readouterr().out
    assert "input  x  FP32 [?,4]" in out
    hint = next(line for line in out.splitlines() if line.startswith("  try"))
    assert run(shlex.split(hint)[2:]) == 0
    capsys.readouterr()
    assert run(["show", "demo/digits", "--at", datetime.now().isoformat()]) == 0
    assert "(revision 1)" in capsys.readouterr().out
    assert run(["show", "demo/digits", "--at", "2001-01-01"]) == 0
    assert "did not serve" in capsys.readouterr().out
    assert run(["show", "demo/letters"]) == 1


def test_logs_finds_and_follows_requests(shared: Live, capsys: Captured) -> None:
    assert run(["predict", "demo/digits", "-d", "@sample.json", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["request_id"]
    command = [sys.executable, "-m", "mdslite", "logs", "status=200", "-f", "--limit", "1", "--json"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert any(json.loads(line)["request_id"] == first for line in process.stdout)
        assert run(["predict", "demo/digits", "-d", "@sample.json", "--json"]) == 0
        second = json.loads(capsys.readouterr().out)["request_id"]
        assert json.loads(process.stdout.readline())["request_id"] == second
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=STOP_WAIT_S)
    assert (process.returncode, err.strip()) == (130, "")
    assert run(["logs", f"request_id={second}", "--json"]) == 0
    assert [json.loads(line)["version"] for line in capsys.readouterr().out.splitlines()] == ["v1"]
    assert run(["logs", "status=599"]) == 0
    assert capsys.readouterr().err == "no logged request matches 'status=599'\n"
    assert run(["logs", "nonsense=1"]) == 1
    assert "position 1" in capsys.readouterr().err


def test_a_backup_restores_the_deployments(live: Live, folder: Path, capsys: Captured) -> None:
    assert run(["backup", "copy.tar"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(str(folder / "copy.tar"))
    assert run(["backup", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size_bytes"] > 0
    assert run(["restore", "copy.tar", "--store", ".mdslite", "--force"]) == 1
    assert str(live.process.pid) in capsys.readouterr().err
    assert live.stop()[0] == 0
    hint = printed.err.splitlines()[-1].removeprefix("restore it, with the appliance stopped: ")
    assert run(shlex.split(hint)[1:]) == 0
    assert capsys.readouterr().err.startswith("what was there is kept in ")
    shutil.rmtree(folder / ".mdslite")
    assert run(shlex.split(hint)[1:]) == 0
    assert capsys.readouterr().err == f"start it with: mdslite up --store {folder / '.mdslite'}\n"
    with up("--store", ".mdslite", cwd=folder) as again:
        assert run(["predict", "demo/digits", "-d", "@sample.json", "--url", again.url]) == 0


def test_backup_and_restore_work_on_a_store_that_nothing_serves(
    live: Live, folder: Path, capsys: Captured
) -> None:
    live.stop()
    assert run(["backup", "copy.tar", "--store", ".mdslite"]) == 0
    assert f"copy.tar --store {folder / '.mdslite'} --force" in capsys.readouterr().err
    assert run(["backup", "--store", "nowhere"]) == 1
    capsys.readouterr()
    assert run(["restore", "cpy.tar", "--store", ".mdslite"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: there is no cpy.tar: expected a backup's file"
    assert Path(hint.removeprefix("hint: the newest of the store's own is ")).is_file()
    assert run(["restore", "copy.tar", "--store", ".mdslite"]) == 1
    assert "--force" in capsys.readouterr().err
    assert run(["restore", "copy.tar", "--store", ".mdslite", "--force"]) == 0
    kept = capsys.readouterr().err.splitlines()[0].removeprefix("what was there is kept in ")
    assert Path(kept).is_dir()


def test_doctor_speaks_for_the_appliance_or_for_itself(live: Live, capsys: Captured) -> None:
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"✓ an appliance serves at {live.url}" in out
    assert f"served by pid {live.process.pid}" in out
    live.stop()
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"! no appliance answers at {live.url}\n  hint: start it with: mdslite up --port" in out
    assert "no appliance serves it" in out
    assert run(["doctor", "--store", ".mdslite", "--json"]) == 0
    assert {finding["level"] for finding in json.loads(capsys.readouterr().out)} <= {"ok", "warning"}


def test_who_has_the_store_and_since_when_is_told_in_the_time_of_this_machine(
    live: Live, folder: Path, capsys: Captured
) -> None:
    for command, stream in ((["doctor"], "out"), (["up", "--port", "0"], "err")):
        run(command)
        told = re.search(r"pid \d+ \(?since ([^\n)]+)", getattr(capsys.readouterr(), stream))
        assert told is not None
        since = datetime.strptime(told[1], "%Y-%m-%d %H:%M:%S")
        assert abs((datetime.now() - since).total_seconds()) < 600
    run(["doctor", "--json"])
    assert re.search(r'since \d{4}-\d\d-\d\dT[^"]+Z"', capsys.readouterr().out)


def test_doctor_ends_with_1_on_a_damaged_store(live: Live, folder: Path, capsys: Captured) -> None:
    live.stop()
    (stored,) = (folder / ".mdslite" / "artifacts").rglob("v1.onnx")
    stored.chmod(0o600)
    stored.write_bytes(b"other bytes")
    assert run(["doctor", "--store", ".mdslite"]) == 1
    assert "✖" in capsys.readouterr().out


def test_a_model_file_is_served_with_a_curl_line_that_works(folder: Path, capsys: Captured) -> None:
    models.mlp(folder / "my model.onnx")
    with up("my model.onnx", cwd=folder) as live:
        line = live.lines[1].removeprefix("next: ")
        assert line.startswith(f"curl -sS {live.url}/projects/default/models/my_model:predict ")
        assert len(send(line)["predictions"]) == 1  # type: ignore[arg-type]
        assert run(["ls", "--url", live.url, "--json"]) == 0
        (found,) = json.loads(capsys.readouterr().out)
        assert [version["version"] for version in found["versions"]] == ["v1"]


def test_by_the_socket_of_a_store_the_curl_line_works_from_any_folder(
    live: Live, tmp_path_factory: pytest.TempPathFactory, capsys: Captured
) -> None:
    assert run(["predict", "demo/digits", "--curl", "--url", "unix:.mdslite"]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith("curl -sS --unix-socket /")
    if shutil.which("curl") is not None:
        other = tmp_path_factory.mktemp("elsewhere")
        done = subprocess.run(["sh", "-c", line], cwd=other, capture_output=True, text=True, timeout=30)
        assert len(json.loads(done.stdout)["predictions"]) == 1


@pytest.mark.parametrize("file", ["v1.onnx", "deployments.yaml"])
def test_over_tls_what_it_suggests_works_too(folder: Path, file: str) -> None:
    for name in ("localhost.pem", "localhost.key"):
        shutil.copy(CERTIFICATES / name, folder)
    tls = ["--host", "localhost", "--tls-cert", "localhost.pem", "--tls-key", "localhost.key"]
    with up(file, *tls, cwd=folder) as live:
        line = live.lines[1].removeprefix("next: ").partition("   |   ")[0]
        assert ("--cacert localhost.pem" if file == "v1.onnx" else "SSL_CERT_FILE=localhost.pem") in line
        if line.startswith("curl") and shutil.which("curl") is None:
            return
        python = shlex.quote(sys.executable)
        command = line.replace(" mdslite ", f" {python} -m mdslite ", 1)
        done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=30)
        assert len(json.loads(done.stdout)["predictions"]) == 1


def _hint_on_the_port_of(live: Live, folder: Path) -> str:
    command = [sys.executable, "-m", "mdslite", "up", "--port", live.url.rpartition(":")[2], "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=folder)
    failure = json.loads(done.stdout)
    assert (done.returncode, failure["code"]) == (1, "address_in_use")
    return str(failure["hint"])


def test_up_on_a_port_that_another_appliance_has_says_which(shared: Live, tmp_path: Path) -> None:
    which = f"(process {shared.process.pid}): stop it first, or choose another with --port"
    assert which in _hint_on_the_port_of(shared, tmp_path)


def test_up_says_which_appliance_has_its_port_over_tls_and_with_tokens_too(
    folder: Path, tmp_path: Path
) -> None:
    with up("--tls-self-signed", "--store", "tls", cwd=folder) as live:
        assert f"{folder / 'tls'} (process {live.process.pid}): stop it" in _hint_on_the_port_of(
            live, tmp_path
        )
        command = [
            sys.executable,
            "-m",
            "mdslite",
            "token",
            "create",
            "anna",
            "--store",
            "tls",
            "--scope",
            "read",
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=30, cwd=folder)
        hint = _hint_on_the_port_of(live, tmp_path)
        assert hint.startswith("an appliance serves there already: stop it first, or choose another")


def test_a_second_up_on_the_same_store_says_who_holds_it(shared: Live) -> None:
    command = [sys.executable, "-m", "mdslite", "up", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert f"pid {shared.process.pid}" in done.stderr


def test_a_port_in_use_is_an_error_in_words(shared: Live) -> None:
    port = shared.url.rpartition(":")[2]
    command = [sys.executable, "-m", "mdslite", "up", "--port", port, "--store", "other"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert f"error: cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_this_machine_does_not_have_is_an_error_in_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mdslite", "up", "--host", "192.0.2.1", "--insecure", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert done.returncode == 1
    assert "error: cannot listen on 192.0.2.1:0: Cannot assign requested address" in done.stderr
    assert "hint: give an address of this machine with --host" in done.stderr


def test_a_mistake_in_the_file_ends_up_with_its_place(folder: Path) -> None:
    (folder / "deployments.yaml").write_text(DEPLOYMENTS.replace("100", "ten"))
    command = [sys.executable, "-m", "mdslite", "up", "deployments.yaml", "--port", "0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "error: deployments.yaml:6:13: weight" in done.stderr
    assert "  6 |     weight: ten\nhint: " in done.stderr


def test_the_appliance_outlives_the_reader_of_its_output(folder: Path, capsys: Captured) -> None:
    with up("deployments.yaml", cwd=folder) as live:
        assert live.process.stdout is not None and live.process.stderr is not None
        live.process.stdout.close()
        live.process.stderr.close()
        assert run(["predict", "demo/digits", "-d", "@sample.json", "--url", live.url]) == 0
        live.process.send_signal(signal.SIGINT)
        assert live.process.wait(STOP_WAIT_S) == 0


def test_up_as_json_prints_where_it_serves(folder: Path) -> None:
    command = [sys.executable, "-m", "mdslite", "up", "deployments.yaml", "--port", "0", "--json"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        process.terminate()
        process.communicate(timeout=STOP_WAIT_S)
    assert found["pid"] == process.pid
    assert found["metrics"] == f"{found['url']}/metrics"
