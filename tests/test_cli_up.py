"""`up` before it serves: what it refuses, and what it suggests to type next."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest
from api_server import NAMED, ApiServer, version

from mdslite.cli import run
from mdslite.cli.suggestions import find_sample, suggest
from mdslite.cli.up import read_size, up


class TestUp:
    def test_refuses_to_serve_beyond_this_machine_and_says_what_would(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = tmp_path / "store"
        assert run(["up", "--host", "0.0.0.0", "--port", "0", "--store", str(store)]) == 1
        err = capsys.readouterr().err
        assert err.startswith("error: not serving on 0.0.0.0: there are no tokens")
        assert f"mdslite token create --scope admin --store {store}" in err
        assert "--insecure" in err

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (["nowhere.onnx"], "there is no nowhere.onnx"),
            (["--tls-cert", "cert.pem"], "--tls-cert needs --tls-key"),
            (["--tls-key", "key.pem"], "--tls-key needs --tls-cert"),
            (["--tls-client-ca", "ca.pem"], "--tls-client-ca needs --tls-cert and --tls-key"),
            (
                ["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--tls-self-signed"],
                "--tls-self-signed makes a certificate",
            ),
        ],
    )
    def test_refuses_what_cannot_work(
        self, args: list[str], words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["up", *args]) == 1
        assert words in capsys.readouterr().err

    def test_a_store_that_cannot_be_a_folder_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        taken = tmp_path / "file"
        taken.touch()
        for store in (taken, taken / "store"):
            assert run(["up", "--store", str(store), "--port", "0"]) == 1
            assert capsys.readouterr().err.startswith(f"error: the store {store} cannot be opened")

    def test_suggests_a_curl_line_for_a_model_file(self, api: ApiServer) -> None:
        api.models.append({"project": "default", "model": "my_model", "versions": [version("v1")]})
        line = suggest(api.url, file="/tmp/my model.onnx", tls_cert=None)
        assert f"{api.url}/projects/default/models/my_model:predict" in shlex.split(line)
        assert '{"instances": [[0.0, 0.0, 0.0, 0.0]]}' in shlex.split(line)

    def test_suggests_predict_with_a_sample_that_fits(
        self, api: ApiServer, deployments: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (deployments.parent / "a.json").write_text('{"instances": [[1, 2]]}')
        (deployments.parent / "b.json").write_text("{")
        (deployments.parent / "row.json").write_text('{"instances": [[1, 2, 3, 4]]}')
        line = suggest(api.url, file="deployments.yaml", tls_cert=None)
        predict, dash = line.split("   |   ")
        assert predict == f"mdslite predict demo/digits -d @row.json --url {api.url}"
        assert dash == f"mdslite dash --url {api.url}"
        assert run(shlex.split(predict)[1:]) == 0

    def test_suggests_only_what_needs_no_knowledge_of_an_appliance_it_cannot_ask(self) -> None:
        assert suggest("https://127.0.0.1:1", file="m.onnx", tls_cert="cert.pem") == (
            "SSL_CERT_FILE=cert.pem mdslite ls --url https://127.0.0.1:1"
        )

    def test_a_sample_of_named_inputs_has_all_their_names(self, tmp_path: Path) -> None:
        (tmp_path / "1.json").write_text('{"age": 1}')
        assert find_sample(tmp_path, NAMED) is None
        (tmp_path / "2.json").write_text('{"age": 1, "text": ["a"], "bias": 0.5}')
        assert find_sample(tmp_path, NAMED) == tmp_path / "2.json"

    @pytest.mark.parametrize("text", ["4Q", "-1", "many"])
    def test_a_size_that_is_none_is_refused(self, text: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["up", "--log-size", text]) == 1
        assert "'--log-size': expected an amount of memory such as 512Mi" in capsys.readouterr().err

    def test_sizes_take_units(self) -> None:
        context = click.Context(up)
        (size,) = (option for option in up.params if "--log-sample-size" in option.opts)
        assert [read_size(context, size, text) for text in ("2Gi", "0", "100", None)] == [
            2 << 30,
            0,
            100,
            None,
        ]
