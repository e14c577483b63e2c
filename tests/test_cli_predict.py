"""`predict`, `--curl` and the requests that are made up from a signature."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest
from api_server import NAMED, ApiServer

from mdslite.cli import output, run
from mdslite.cli.examples import example_body, example_curl


class TestPredict:
    @pytest.mark.parametrize(
        ("data", "body"),
        [
            ("[1, 2.50, 3, 4]", '{"instances": [[1, 2.50, 3, 4]]}'),
            ("[[1,2,3,4],[5,6,7,8]]", '{"instances": [[1,2,3,4],[5,6,7,8]]}'),
            ('{"instances": [[1,2,3,4]]}', '{"instances": [[1,2,3,4]]}'),
            ('{"inputs": {"x": [[1,2,3,4]]}}', '{"inputs": {"x": [[1,2,3,4]]}}'),
            ('{"x": [1,2,3,4]}', '{"instances": [{"x": [1,2,3,4]}]}'),
            ('[{"x": [1,2,3,4]}]', '{"instances": [{"x": [1,2,3,4]}]}'),
            ("[]", '{"instances": []}'),
            ('"a text"', '{"instances": ["a text"]}'),
            ("7", '{"instances": [7]}'),
            ("[NaN, 1, 2, 3]", '{"instances": [[NaN, 1, 2, 3]]}'),
        ],
    )
    def test_takes_an_instance_a_list_of_them_or_a_whole_body(
        self, api: ApiServer, data: str, body: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["predict", "demo/digits", "-d", data]) == 0
        assert api.requests[-1][2].decode() == body

    def test_prints_the_reply_on_stdout_and_who_answered_on_stderr(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["predict", "demo/digits@v2", "-d", "[1,2,3,4]"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out) == {"predictions": [[0.5, 0.25, 0.25]]}
        assert printed.err == "demo/digits@v2   1.5 ms   request r-1\n"

    def test_as_json_adds_version_and_request_id(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["predict", "demo/digits", "-d", "[1,2,3,4]", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["version"], found["request_id"], len(found["predictions"])) == ("v2", "r-1", 1)

    @pytest.mark.parametrize("value", [None, 5, [1, 2], {"answer": 42, "version": "of its own"}])
    def test_as_json_names_an_answer_that_is_a_bare_value(
        self, api: ApiServer, value: object, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.prediction = json.dumps(value).encode()
        assert run(["predict", "demo/digits", "-d", '{"inputs": 1}', "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found == {"answer": value, "version": "v2", "request_id": "r-1"}

    @pytest.mark.parametrize("items", [[], [1, "data: two\u2028"]])
    def test_the_items_of_a_stream_are_a_list(
        self, api: ApiServer, items: list[object], capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.prediction = b"".join(b"data: %b\n\n" % orjson.dumps(item) for item in items)
        api.prediction_type = "text/event-stream"
        assert run(["predict", "demo/digits", "-d", "1"]) == 0
        assert json.loads(capsys.readouterr().out) == items
        assert run(["predict", "demo/digits", "-d", "1", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["answer"] == items

    @pytest.mark.parametrize(
        ("kind", "body", "says"),
        [
            (
                "text/event-stream",
                b'data: 1\n\nevent: error\ndata: {"error":"it fell","code":"model_error"}\n\n',
                "it fell",
            ),
            ("text/event-stream", b"data: <html>\n\n", "does not answer like an appliance"),
            ("text/html", b"<html>", "no appliance"),
        ],
    )
    def test_a_stream_that_broke_off_and_a_stranger_s_page_are_errors(
        self, api: ApiServer, kind: str, body: bytes, says: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.prediction, api.prediction_type = body, kind
        assert run(["predict", "demo/digits", "-d", "1", "--json"]) == 1
        assert says in json.loads(capsys.readouterr().out)["error"]

    def test_reads_a_file(self, api: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "digit.json"
        file.write_text("[1, 2, 3, 4]\n")
        assert run(["predict", "demo/digits", "-d", f"@{file}"]) == 0
        assert api.requests[-1][2] == b'{"instances": [[1, 2, 3, 4]]}'

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ("[1, 2", "no JSON"),
            ("hello", "no JSON"),
            ("@nowhere.json", "cannot read"),
            ("[" * 99999, "no JSON"),
        ],
    )
    def test_refuses_what_is_no_json_before_asking(
        self, api: ApiServer, data: str, words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["predict", "demo/digits", "-d", data]) == 1
        assert words in capsys.readouterr().err
        assert api.requests == []

    def test_without_data_points_to_a_request_to_start_from(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["predict", "demo/digits"]) == 1
        hint = capsys.readouterr().err.splitlines()[1].removeprefix("hint: ").split(" prints")[0]
        assert run(shlex.split(hint)[1:]) == 0

    def test_curl_prints_a_line_that_a_shell_can_run(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["predict", "demo/digits@v1", "--curl"]) == 0
        line = capsys.readouterr().out
        assert shlex.split(line) == [
            "curl",
            "-sS",
            f"{api.url}/projects/demo/models/digits/versions/v1:predict",
            "-H",
            "content-type: application/json",
            "-d",
            '{"instances": [[0.0, 0.0, 0.0, 0.0]]}',
        ]

    def test_curl_quotes_the_data_and_leaves_the_token_to_the_shell(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MDSLITE_TOKEN", "s3cret")
        assert run(["predict", "demo/digits", "--curl", "-d", '"it\'s"']) == 0
        line = capsys.readouterr().out
        assert "s3cret" not in line
        assert '--oauth2-bearer "$MDSLITE_TOKEN"' in line
        assert shlex.split(line)[-1] == '{"instances": ["it\'s"]}'

    def test_a_reply_holding_terminal_controls_is_printed_as_equal_json_without_them(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.prediction = '{"predictions":["\u009b2J \u202e caf\u00e9"]}'.encode()
        assert run(["predict", "demo/digits", "-d", '"x"']) == 0
        out = capsys.readouterr().out
        assert json.loads(out) == {"predictions": ["\u009b2J \u202e caf\u00e9"]}
        assert "\u009b" not in out
        assert "café" in out


class TestExamples:
    @pytest.mark.parametrize(
        ("signature", "body"),
        [
            ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [None, 3]}], "rows": "free"}, [0.0] * 3),
            (
                {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 2, -1]}], "rows": "one"},
                [[0], [0]],
            ),
            ({"inputs": [{"name": "x", "datatype": "BOOL", "shape": [2]}], "rows": "none"}, [False, False]),
            ({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [None]}], "rows": "free"}, "text"),
            (NAMED, {"age": 0, "text": ["text"]}),
            ({"inputs": [], "rows": "none"}, {}),
        ],
    )
    def test_an_example_has_the_shape_and_types_of_the_signature(
        self, signature: dict[str, Any], body: Any
    ) -> None:
        assert example_body(signature) == {"instances": [body]}

    @pytest.mark.parametrize("signature", [None, NAMED])
    def test_a_large_example_is_written_as_an_expression_that_gives_the_same(
        self, signature: dict[str, Any] | None
    ) -> None:
        image = {"name": "im'age", "datatype": "FP32", "shape": [None, 3, 32, 32]}
        inputs = [image] if signature is None else [*signature["inputs"], image]
        signature = {"inputs": inputs, "rows": "free"}
        line = example_curl("http://127.0.0.1:8500", "/x", signature)
        assert len(line) < 400
        script, _, rest = line.partition(" | ")
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=30)
        assert json.loads(done.stdout) == example_body(signature)
        assert shlex.split(rest)[-2:] == ["--data-binary", "@-"]


def test_a_server_that_does_not_answer_is_waited_for_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = threading.Event()

    def note(text: str) -> None:
        printed(text)
        said.set()

    def hold(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            said.wait(30)

    printed = output.note
    monkeypatch.setattr("mdslite.cli.predict._PATIENCE_S", 0.01)
    monkeypatch.setattr("mdslite.cli.output.note", note)
    with socket.create_server(("127.0.0.1", 0)) as server:
        holding = threading.Thread(target=hold, args=(server,))
        holding.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert run(["predict", "p/m", "-d", '{"instances": [1]}', "--url", url]) == 1
        holding.join()
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == "no answer yet: waiting for it, up to 10 minutes; Ctrl-C stops"
