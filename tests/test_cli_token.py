"""`mdslite token` and `mdslite audit` against a real appliance, and against a store that nobody serves."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import models
import pytest
from authority import Authority
from live import Live, up

from mdslite.cli import run

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MDSLITE_URL", "MDSLITE_TOKEN", "MDSLITE_CLIENT_CERT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models.mlp(tmp_path / "m.onnx", seed=1)
    return tmp_path


@pytest.fixture
def live(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    with up("m.onnx", cwd=folder) as live:
        monkeypatch.setenv("MDSLITE_URL", live.url)
        yield live


def said(capsys: Captured, *args: str, code: int = 0) -> Any:
    """What a command prints as JSON."""
    assert run([*args, "--json"]) == code
    return json.loads(capsys.readouterr().out)


class TestAStoreThatNobodyServes:
    def test_tokens_are_made_listed_and_ended(self, tmp_path: Path, capsys: Captured) -> None:
        store = str(tmp_path / "store")
        assert run(["token", "create", "ci", "--scope", "predict", "--project", "mail", "--rate", "100/s",
                    "--expires", "30d", "--store", store]) == 0  # fmt: skip
        out, err = capsys.readouterr()
        assert out.startswith("mdslite_") and out.count("\n") == 1
        assert out.strip().split("_", 2)[2] not in err  # which may hold a _ itself
        assert "ci (" in err and "predict, mail, at most 100/s, until 20" in err
        assert "from now on every request needs a token" in err
        assert f"mdslite token create --scope admin --store {store}" in err
        made = said(capsys, "token", "create", "root", "--scope", "admin", "--store", store)
        assert made["token"].startswith(f"mdslite_{made['id']}_")
        assert run(["token", "list", "--store", store]) == 0
        out = capsys.readouterr().out
        assert "ci" in out and "root" in out and "100/s" in out and made["token"] not in out
        assert run(["token", "revoke", "ci", made["id"], "--store", store]) == 0
        assert capsys.readouterr().out.splitlines()[0].startswith("revoked ci (")
        assert said(capsys, "token", "list", "--store", store) == []
        ended = said(capsys, "token", "list", "--all", "--store", store)
        assert [one["state"] for one in ended] == ["revoked", "revoked"]
        assert run(["token", "list", "--store", store]) == 0
        assert "no token is live" in capsys.readouterr().err

    def test_limits_are_set_listed_and_lifted(self, tmp_path: Path, capsys: Captured) -> None:
        store = str(tmp_path / "store")
        assert run(["token", "limit", "--store", store]) == 0
        assert "no model is limited" in capsys.readouterr().err
        limited = said(capsys, "token", "limit", "mail/spam", "5/m", "--store", store)
        assert limited == {"project": "mail", "model": "spam", "rate": "5/m"}
        assert run(["token", "limit", "--store", store]) == 0
        assert "mail/spam" in capsys.readouterr().out
        assert run(["token", "limit", "mail/spam", "off", "--store", store]) == 0
        assert "unlimited" in capsys.readouterr().out
        assert said(capsys, "token", "limit", "--store", store) == []

    def test_what_the_owner_did_is_written_down(self, tmp_path: Path, capsys: Captured) -> None:
        store = str(tmp_path / "store")
        assert run(["audit", "--store", store]) == 0
        assert "nobody has changed anything yet" in capsys.readouterr().err
        said(capsys, "token", "create", "ci", "--scope", "read", "--store", store)
        said(capsys, "token", "revoke", "ci", "--store", store)
        said(capsys, "token", "limit", "a/b", "1/s", "--store", store)
        said(capsys, "token", "limit", "a/b", "off", "--store", store)
        assert run(["audit", "--store", store]) == 0
        out = capsys.readouterr().out
        for words in ("create token", "revoke token", "set limit", "lift limit", "local user"):
            assert words in out
        lines = said(capsys, "audit", "--limit", "2", "--store", store)
        assert [line["what"] for line in lines] == ["lift_limit", "set_limit"]

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (["create", "--scope", "read", "--rate", "fast"], "expected such as 100/s"),
            (["create", "--scope", "read", "--expires", "soon"], "expected such as 12h"),
            (["create", "--scope", "read", "--model", "m"], "names its project"),
            (["create", "../x", "--scope", "read"], "'[NAME]': expected"),
            (["create", "--scope", "root"], "'root' is not one of"),
            (["create"], "--scope"),
            (["revoke", "nobody"], "there is no live token 'nobody'"),
            (["limit", "mail/spam"], "expected a model and its rate"),
            (["limit", "mail/spam@v1", "1/s"], "expected a model and its rate"),
            (["limit", "mail", "1/s"], "names a project and no model"),
            (["limit", "mail/spam", "often"], "expected such as 100/s"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, tmp_path: Path, capsys: Captured, args: list[str], words: str
    ) -> None:
        command, *rest = args
        assert run(["token", command, *rest, "--store", str(tmp_path / "store")]) == 1
        assert words in capsys.readouterr().err


class TestALiveAppliance:
    def test_the_life_of_a_token(
        self, live: Live, folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The first one, over the network, as nobody is asked for any yet.
        assert run(["token", "create", "ci", "--scope", "predict", "--project", "default"]) == 0
        out, err = capsys.readouterr()
        token = out.strip()
        assert "nothing is deployed" not in err
        assert "from now on every request needs a token, those from this machine too" in err
        row = ["predict", "default/m", "-d", "[1, 2, 3, 4]"]
        assert run(row) == 1
        assert "hint: export MDSLITE_TOKEN=TOKEN" in capsys.readouterr().err
        monkeypatch.setenv("MDSLITE_TOKEN", token)
        assert run(row) == 0
        assert run(["ls"]) == 1
        assert "this needs the scope read; the token ci has predict" in capsys.readouterr().err
        assert run(["token", "create", "mine", "--scope", "admin"]) == 1

        # Whoever owns the store needs none.
        monkeypatch.delenv("MDSLITE_TOKEN")
        store = str(folder / ".mdslite")
        root = said(capsys, "token", "create", "root", "--scope", "admin", "--store", store)["token"]
        assert run(["ls", "--url", f"unix:{store}"]) == 0
        assert run([*row, "--url", f"unix:{store}"]) == 0
        assert run(["ls"]) == 1

        # Ended, and at once.
        monkeypatch.setenv("MDSLITE_TOKEN", root)
        assert run(["token", "revoke", "ci"]) == 0
        monkeypatch.setenv("MDSLITE_TOKEN", token)
        capsys.readouterr()
        assert run(row) == 1
        assert "the token ci was revoked" in capsys.readouterr().err

        # And written down.
        monkeypatch.setenv("MDSLITE_TOKEN", root)
        lines = said(capsys, "audit")
        whats = [(line["who"].split()[0], line["what"], line["status"]) for line in lines]
        assert whats[0] == ("nobody", "get_model", 401)
        assert lines[0]["remark"] == "the token ci was revoked"
        assert whats[1] == ("the", "revoke_token", 200)
        assert ("local", "create_token", 200) in whats
        assert ("the", "list_models", 403) in whats
        assert whats[-1] == ("anybody", "create_token", 200)

        code, err = live.stop()
        assert code == 0
        for secret in (token, root):
            assert secret not in err
            told = secret.split("_", 2)[2].encode()  # that may hold a "_" itself
            for file in (folder / ".mdslite").rglob("*"):
                assert file.is_dir() or told not in file.read_bytes()

    def test_a_name_that_nothing_is_deployed_as_is_remarked_on(self, live: Live, capsys: Captured) -> None:
        remark = "note: nothing is deployed as {} so far; there is default/m"
        assert run(["token", "limit", "default/mm", "2/h"]) == 0
        assert remark.format("default/mm") in capsys.readouterr().err
        for lifted in (["default/mm", "off"], ["default/m", "1/s"], ["default/m", "off"]):
            assert run(["token", "limit", *lifted]) == 0
            assert capsys.readouterr().err == ""
        assert run(["token", "create", "--scope", "read", "--project", "default", "--model", "x"]) == 0
        assert remark.format("default/x") in capsys.readouterr().err

    def test_a_limit_holds_and_says_when_to_come_back(self, live: Live, capsys: Captured) -> None:
        assert run(["token", "limit", "default/m", "2/h"]) == 0
        url = f"{live.url}/projects/default/models/m:predict"
        replies = [httpx2.post(url, json={"instances": [[1, 2, 3, 4]]}) for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        assert int(replies[-1].headers["retry-after"]) > 1000
        capsys.readouterr()
        assert run(["predict", "default/m", "-d", "[1, 2, 3, 4]"]) == 1
        assert "may be asked 2/h" in capsys.readouterr().err

    def test_a_curl_line_shows_the_token_without_spelling_it(
        self, live: Live, folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token = said(capsys, "token", "create", "root", "--scope", "admin")["token"]
        monkeypatch.setenv("MDSLITE_TOKEN", token)
        assert run(["predict", "default/m", "--curl"]) == 0
        line = capsys.readouterr().out
        assert token not in line
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        assert "predictions" in done.stdout


class TestBeyondThisMachine:
    def test_it_serves_with_a_token_and_tls_of_its_own_making(
        self, folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = str(folder / ".mdslite")
        token = said(capsys, "token", "create", "root", "--scope", "admin", "--store", store)["token"]
        with up("m.onnx", "--host", "0.0.0.0", "--tls-self-signed", cwd=folder) as live:
            port = httpx2.URL(live.url).port
            assert live.url.startswith("https://0.0.0.0:")
            suggested = live.lines[1].removeprefix("next: ")
            assert "--cacert .mdslite/tls/cert.pem" in suggested
            env = {**os.environ, "MDSLITE_TOKEN": token}
            done = subprocess.run(
                ["sh", "-c", suggested], cwd=folder, env=env, capture_output=True, text=True, check=False
            )
            assert "predictions" in done.stdout, done
            monkeypatch.setenv("MDSLITE_URL", f"https://localhost:{port}")
            capsys.readouterr()
            assert run(["ls"]) == 1
            hint = capsys.readouterr().err.splitlines()[-1]
            assert "export SSL_CERT_FILE=CERT.pem: " in hint and ".mdslite/tls/cert.pem" in hint
            monkeypatch.setenv("SSL_CERT_FILE", str(folder / ".mdslite" / "tls" / "cert.pem"))
            assert run(["ls"]) == 1
            monkeypatch.setenv("MDSLITE_TOKEN", token)
            assert run(["ls"]) == 0
            _, err = live.stop()
            assert "curl --cacert .mdslite/tls/cert.pem" in err
            assert "without TLS" not in err

    def test_without_tls_it_warns(self, folder: Path, capsys: Captured) -> None:
        said(capsys, "token", "create", "root", "--scope", "admin", "--store", str(folder / ".mdslite"))
        with up("--host", "0.0.0.0", cwd=folder) as live:
            _, err = live.stop()
        assert "0.0.0.0 is reached without TLS" in err

    def test_without_tokens_it_says_who_may_do_what(self, folder: Path) -> None:
        with up("--host", "0.0.0.0", "--insecure", cwd=folder) as live:
            _, err = live.stop()
        assert "whoever can reach 0.0.0.0 can use the models" in err
        assert "mdslite token create --scope admin --store .mdslite" in err

    def test_a_client_shows_its_certificate(
        self, folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authority = Authority(folder)
        server, ann = authority.sign("server"), authority.sign("ann")
        tls = ["--tls-cert", str(server.cert), "--tls-key", str(server.key)]
        tls += ["--tls-client-ca", str(authority.cert)]
        with up("m.onnx", *tls, cwd=folder) as live:
            monkeypatch.setenv("MDSLITE_URL", live.url)
            monkeypatch.setenv("SSL_CERT_FILE", str(authority.cert))
            assert run(["ls"]) == 1
            monkeypatch.setenv("MDSLITE_CLIENT_CERT", str(ann.both))
            assert run(["ls"]) == 0
            assert run(["token", "limit", "a/b", "1/s"]) == 0
            capsys.readouterr()
            (line,) = said(capsys, "audit")
            assert line["origin"] == "127.0.0.1 (ann)"


def test_the_token_is_all_that_goes_to_stdout(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mdslite", "token", "create", "--scope", "admin", "--store", "s"]
    line = f'T=$({shlex.join(command)} 2>/dev/null); echo "[$T]"'
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[mdslite_") and done.stdout.endswith("]\n")
