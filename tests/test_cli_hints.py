"""What a command says of what was typed wrong: what it was, what was expected, and what to type instead."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from api_server import ApiServer

from mdslite import cli, deploy, errors
from mdslite.cli import run
from mdslite.cli.options import placed_in

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a few things to name wrongly."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "deployments.yaml").write_text("deployments: []\n")
    (tmp_path / "empty").mkdir()
    for name, files in (("mixed", ("site.yml",)), ("unclear", ("a.yaml", "b.yaml"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "alias.yaml").write_text("a: &a b\nc: *a\n")
        for file in files:
            (tmp_path / name / file).write_text("# ours\ndeployments:\n- project: p\n")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "b.tar").touch()
    (tmp_path / "spam.json").write_text("[1]")
    (tmp_path / "odd.json").write_bytes(b"\xff")
    (tmp_path / "package").mkdir()
    return tmp_path


def told(line: str, capsys: Captured) -> tuple[str, str]:
    """A failing command's error and hint."""
    assert run(shlex.split(line)) == 1
    printed = capsys.readouterr()
    said, hint = printed.err.splitlines()
    assert printed.out == ""
    return said.removeprefix("error: "), hint.removeprefix("hint: ")


@pytest.mark.parametrize(
    ("line", "said", "hint"),
    [
        (
            "apply -f site",
            "site is a folder: expected",
            "mdslite apply -f site/deployments.yaml",
        ),
        (
            "apply -f empty",
            "empty is a folder: expected",
            "mdslite init MODEL writes one for a",
        ),
        ("apply -f mixed", "mixed is a folder: expected", "mdslite apply -f mixed/site.yml"),
        ("apply -f unclear", "unclear is a folder: expected", "mdslite init MODEL writes one for a"),
        ("apply -f site/deployment.yaml", "cannot read ", "did you mean site/deployments.yaml?"),
        (
            "apply -f nothing/like",
            "cannot read nothing/like: No such",
            "mdslite init MODEL writes one for a",
        ),
        (
            "predict a/b -d @nothing",
            "cannot read nothing: No such file",
            "mdslite predict a/b --curl prints",
        ),
        ("predict a/b -d @spam.jsn", "cannot read spam.jsn: No such file", "did you mean spam.json?"),
        ("predict a/b -d @odd.json", "odd.json is no UTF-8 text", "arrays and raw bodies are sent by"),
        ("predict a/b -d ''", "the data is empty: expected JSON", "mdslite predict a/b --curl prints"),
        ("ls --url localhost:8500", "'localhost:8500' is not the URL", "did you mean http://localhost:8500?"),
        ("ls --url '[::1]:8500/'", "'[::1]:8500' is not the URL", "did you mean http://[::1]:8500?"),
        (
            "ls --url 'a b'",
            "'a b' is not the URL of an appliance",
            "export MDSLITE_URL=http://127.0.0.1:8500",
        ),
        ("history --model x", "No such option '--model'.", "mdslite history --help"),
        ("history --hepl", "No such option '--hepl'. Did you mean '--help'?", "mdslite history --help"),
        ("verify nothing", "there is no nothing: expected a package's", "mdslite init NAME writes one"),
        ("verify pakage", "there is no pakage: expected a package's", "mdslite verify package"),
        ("verify package -d @no", "cannot read no: No such file", "leave -d out to send the package's"),
        (
            "restore nofile --store s",
            "there is no nofile: expected a backup's file",
            "mdslite backup makes one",
        ),
        ("restore site --store s", "site is a folder: expected a backup's file", "mdslite backup makes one"),
        ("restore kept --store s", "kept is a folder: expected a", "mdslite restore kept/b.tar --store s"),
        ("restore spam.json --store s", "spam.json is no backup that can be", "mdslite backup makes one"),
    ],
)
def test_a_file_that_is_not_what_was_meant(
    folder: Path, api: ApiServer, line: str, said: str, hint: str, capsys: Captured
) -> None:
    error, way = told(line, capsys)
    assert error.startswith(said)
    assert way.startswith(hint)


@pytest.mark.parametrize(
    ("line", "said", "hint"),
    [
        ("apply -f", "Option '-f' requires an argument.", "mdslite apply --help"),
        ("logs --limit", "Option '--limit' requires an argument.", "mdslite logs --help"),
        ("--nothing", "No such option '--nothing'.", "mdslite --help"),
        ("apply --yes", "Missing option '-f' / '--file'.", "mdslite apply --help"),
        (
            "apply site/deployments.yaml --yes",
            "Missing option '-f' / '--file'.",
            "mdslite apply -f site/deployments.yaml",
        ),
        ("history abc", "expected a whole number of 1 or more, got abc", "mdslite history --help"),
        ("up --port 70000", "expected a whole number from 0 to 65,535, got 70000", "mdslite up --help"),
        ("up --log-days 0", "expected a number above 0, got 0.0", "mdslite up --help"),
        ("up --trace-share many", "expected a number from 0 to 1, got many", "mdslite up --help"),
        ("token create", "Choose from: predict, read, admin", "mdslite token create --help"),
        (
            "predict a/b -d 1 -d 2",
            "'-d' / '--data': expected it once, got it 2 times",
            "mdslite predict --help",
        ),
        ("apply -f a -f b", "'-f' / '--file': expected it once, got it 2 times", "mdslite apply --help"),
        ("verify p -d 1 -d 2", "'-d' / '--data': expected it once", "mdslite verify --help"),
        (
            "logs model=spam status=200",
            "unexpected extra argument",
            "a filter is one argument: mdslite logs 'model=spam status=200'",
        ),
        ("logs --limit 0 --export rows.csv", "--limit 0 leaves --export nothing", "give it 1 or more, or"),
    ],
)
def test_what_was_typed_is_told_in_one_line_with_what_was_expected(
    folder: Path, line: str, said: str, hint: str, capsys: Captured
) -> None:
    error, way = told(line, capsys)
    assert error.endswith(said) or said in error
    assert "\\x" not in error
    assert way.startswith(hint)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("logs --interval 1m", "--interval would be ignored without --histogram"),
        ("logs --by code --interval 1m", "--interval and --by would be ignored without --histogram"),
        ("logs --format csv", "--format would be ignored without --export"),
        ("logs --force --limit 1", "--force would be ignored without --export"),
        ("logs --limit 3 --percentiles", "--limit would be ignored beside --percentiles"),
        ("logs --top code --histogram", "--top would be ignored beside --histogram"),
        ("logs -f --export rows.csv", "--follow would be ignored beside --export"),
        ("history 1 --limit 3", "--limit would be ignored beside REV"),
        ("label a/b --note why", "--note would be ignored without LABEL"),
        ("label a/b 1 --note why", "--note would be ignored beside ID"),
        ("label a/b 1 x --undo", "LABEL would be ignored beside --undo"),
        ("label a/b --accuracy --rule random", "--rule would be ignored beside --accuracy"),
        ("label a/b --share 1% --export set.csv", "--export would be ignored beside --share"),
        ("label a/b --yes", "--yes would be ignored without --forget"),
        ("replay --list --to a/b@v1", "--to would be ignored beside --list"),
        ("replay --show 7 since=1h", "FILTER would be ignored beside --show"),
        ("drift a/b --until 1h --of v1", "--until and --of would be ignored without --baseline"),
        ("drift a/b --baseline 24h --no-baseline", "--no-baseline would be ignored beside --baseline"),
        ("drift a/b@v1 --baseline 24h", "a baseline is for all versions of a model: expected a/b"),
        ("alerts a --webhook http://x", "PROJECT[/MODEL] would be ignored beside --webhook"),
        ("rollout a/b --gate 'p99<2x'", "--gate would be ignored without a VERSION"),
        ("rollout a/b pause --reason slow", "--reason would be ignored beside pause"),
        ("up --trace-share 0.5", "--trace-share would be ignored without --traces"),
        ("up --no-log --log-days 3", "--log-days would be ignored beside --no-log"),
        ("doctor --store s --url http://x", "--url would be ignored beside --store"),
        ("audit --store s --url http://x", "--url would be ignored beside --store"),
        ("backup --store s --url http://x", "--url would be ignored beside --store"),
        ("dash --demo --url http://x", "--url would be ignored beside --demo"),
    ],
)
def test_what_would_be_ignored_is_refused(line: str, said: str, capsys: Captured) -> None:
    assert told(line, capsys) == (said, f"mdslite {line.split()[0]} --help")


def test_a_file_is_written_once_without_a_word_of_replacing_it(
    folder: Path, api: ApiServer, capsys: Captured
) -> None:
    assert run(["logs", "--export", "rows.csv"]) == 0
    capsys.readouterr()
    (folder / "rows.csv").write_text("mine")
    assert told("logs --export rows.csv", capsys) == (
        "rows.csv is there already",
        "add --force to replace it, or name another file",
    )
    assert (folder / "rows.csv").read_text() == "mine"
    assert run(["logs", "--export", "rows.csv", "--force"]) == 0
    assert (folder / "rows.csv").read_bytes() == api.exported
    capsys.readouterr()
    assert told("logs --export /dev/null --format csv --force", capsys)[0] == "/dev/null is no file"
    assert Path("/dev/null").is_char_device()


def test_data_with_a_key_twice_is_refused(api: ApiServer, capsys: Captured) -> None:
    line = 'predict demo/digits -d \'{"instances": [[1]], "instances": [[2]]}\''
    assert told(line, capsys) == ('the data has "instances" twice in an object', "keep one of them")


@pytest.mark.parametrize("code", ["invalid_tensor", "invalid_json", "invalid_request"])
def test_a_body_that_the_model_refuses_is_told_where_one_is_that_it_takes(
    api: ApiServer, code: str, capsys: Captured
) -> None:
    looked_up = "GET /v2/models/demo.digits says what it takes and gives"
    api.error = (400, {"error": "no", "code": code, "request_id": "r", "hint": looked_up})
    line = "predict demo/digits@v1 -d '{\"instances\": [[1]]}'"
    hint = "mdslite predict demo/digits@v1 --curl prints a request that it takes"
    assert told(line, capsys) == ("no", hint)
    api.error = None
    assert run(["predict", "demo/digits@v1", "--curl"]) == 0


@pytest.mark.parametrize("token", ["two words", "wörd", "key\n"])
@pytest.mark.parametrize("line", ["ls", "dash --once"])
def test_a_token_that_can_be_none_is_told_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, token: str, line: str, capsys: Captured
) -> None:
    monkeypatch.setenv("MDSLITE_TOKEN", token)
    error, hint = told(line, capsys)
    assert error.startswith("MDSLITE_TOKEN holds a blank, a line's end or another character")
    assert "unset MDSLITE_TOKEN" in hint
    assert token.strip() not in error


def test_a_token_that_is_refused_is_told_by_the_name_of_its_variable(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    api.error = (401, {"error": "there is no such token", "code": "unauthorized", "request_id": "r"})
    assert told("ls", capsys)[0] == "there is no such token"
    monkeypatch.setenv("MDSLITE_TOKEN", "mdslite_other")
    assert told("ls", capsys)[0] == "the token of MDSLITE_TOKEN is refused: there is no such token"


@pytest.mark.parametrize("room", [cli, deploy])
def test_every_error_of_a_command_or_an_apply_ends_with_a_hint(room: ModuleType) -> None:
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.MdsliteError)
    }
    silent = [
        f"{file.name}:{call.lineno}"
        for file in sorted(Path(room.__file__ or "").parent.glob("*.py"))
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call)
        and (call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", ""))
        in kinds
        and "hint" not in {keyword.arg for keyword in call.keywords}
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("make one with: mdslite backup", "make one with: mdslite backup --store s"),
        ("mdslite up makes it", "mdslite up --store s makes it"),
        ("mdslite up d.yaml; or: mdslite ls", "mdslite up --store s d.yaml; or: mdslite ls --url unix:s"),
        ("mdslite audit, then mdslite doctor", "mdslite audit --store s, then mdslite doctor --store s"),
        ("mdslite restore FILE --store /s --force", "mdslite restore FILE --store /s --force"),
        ("mdslite up --store other; mdslite logs --help", "mdslite up --store other; mdslite logs --help"),
        ("an update of mdslite upgrades it", "an update of mdslite upgrades it"),
    ],
)  # fmt: skip
def test_commands_of_a_hint_are_about_the_store_that_was_named(text: str, placed: str) -> None:
    assert placed_in("s", text) == placed
    assert placed_in("my store", text) == placed.replace("--store s", "--store 'my store'").replace(
        "unix:s", "'unix:my store'"
    )


def test_the_default_store_is_named_where_a_command_would_ask_an_appliance() -> None:
    assert placed_in(".mdslite", "mdslite backup") == "mdslite backup --store .mdslite"
    assert placed_in("./.mdslite", "mdslite up makes it") == "mdslite up makes it"


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("up site/deployment.yaml --store s", "mdslite up --store s site/deployments.yaml"),
        ("up --host 0.0.0.0 --port 0 --store t", "mdslite token create --scope admin --store t, then start"),
        ("token revoke nobody --store s", "mdslite token list --store s"),
    ],
)
def test_a_command_that_failed_on_a_store_names_it_in_its_hint(
    folder: Path, line: str, hint: str, capsys: Captured
) -> None:
    assert run(["token", "create", "ann", "--scope", "predict", "--store", "s"]) == 0
    assert run(["token", "revoke", "ann", "--store", "s"]) == 0
    capsys.readouterr()
    assert run(shlex.split(line)) == 1
    assert f"hint: {hint}" in capsys.readouterr().err


def test_doctor_names_the_store_in_its_hints(folder: Path, capsys: Captured) -> None:
    for store in ("s", ".mdslite"):
        (folder / store / "log").mkdir(parents=True)
    for command, store in (
        (["doctor", "--store", "s"], "s"),
        (["doctor", "--url", "http://127.0.0.1:9"], "./.mdslite"),
        (["doctor", "--url", "unix:s"], "s"),
    ):
        run(command)
        assert f"  hint: make one with: mdslite backup --store {store}\n" in capsys.readouterr().out
