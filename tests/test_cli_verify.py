"""`mdslite verify`: a package is loaded, checked and really asked over HTTP, and what fails is shown."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import pytest
from packages import class_text, write_package
from user_modules import LISTING

from mdslite.cli import run

ROOT = Path(__file__).resolve().parent.parent
ECHO = "@mds.predict\ndef answer(self, data):\n    return data\n"

Verify = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def verify(folder: Path, capfd: pytest.CaptureFixture[str]) -> Verify:
    """Verify a package made of these methods, or one that is there; the exit code, and what was printed."""

    def call(methods: str | Path = ECHO, *options: str, above: str = "") -> tuple[int, str, str]:
        package = methods
        if isinstance(methods, str):
            package = write_package(folder / "package", {"model.py": class_text(methods, above=above)})
        code = run(["verify", str(package), *options])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return call


def steps(out: str) -> list[str]:
    """The marks and names of the steps of a report."""
    return re.findall(r"^[✓✖] .{18}", out, re.MULTILINE)


@pytest.mark.parametrize("options", [[], ["--inline"]])
def test_a_good_package_is_loaded_checked_and_asked(verify: Verify, options: list[str]) -> None:
    code, out, err = verify(ROOT / "examples" / "spam" / "spamfilter", *options)
    assert (code, err) == (0, "")
    assert [one.strip() for one in steps(out)] == [
        "✓ find",
        "✓ import",
        "✓ build and warm up",
        "✓ health check",
        "✓ POST /predict",
        "✓ a full batch",
    ]
    assert "SpamFilter (model.py:14)" in out
    assert "spamfilter v1, batches of up to 32" in out
    assert re.search(r"http://127\.0\.0\.1:\d+/predict answered 2 predictions; queue [\d.]+ ms, compute", out)
    assert "32 predictions" in out
    assert json.loads(out.splitlines()[-1])["predictions"][1]["label"] == "spam"


@pytest.mark.parametrize("runtime", ["python", "onnx"])
def test_what_init_writes_passes(verify: Verify, folder: Path, runtime: str) -> None:
    assert run(["init", "fresh", "--runtime", runtime]) == 0
    code, out, _ = verify(folder / "fresh" / "package")
    assert code == 0, out
    assert "data: fresh/sample.json" in out


def test_the_report_as_json(verify: Verify) -> None:
    code, out, _ = verify(ECHO, "--json", "--inline", "--data", '{"instances": [1, 2]}')
    found = json.loads(out)
    assert code == 0
    assert found["fine"] is True
    assert found["error"] is None
    assert json.loads(found["reply"]) == {"predictions": [1, 2]}
    assert [step["name"] for step in found["steps"]] == [
        "find",
        "import",
        "build and warm up",
        "health check",
        "POST /predict",
    ]
    assert all(step["ms"] >= 0 and step["fine"] for step in found["steps"])


class TestData:
    def test_may_be_any_json(self, verify: Verify) -> None:
        _, out, _ = verify(ECHO, "--inline", "-d", '{"text": "hello"}')
        assert out.endswith('{"text":"hello"}\n')
        assert "answered one dict" in out

    def test_may_be_a_file_of_json(self, verify: Verify, folder: Path) -> None:
        (folder / "many.json").write_text('{"instances": [1, 2, 3]}')
        _, out, _ = verify(ECHO, "--inline", "-d", "@many.json")
        assert "answered 3 predictions" in out

    def test_may_be_a_file_of_another_type(self, verify: Verify, folder: Path) -> None:
        (folder / "photo.png").write_bytes(b"\x89PNG")
        methods = "@mds.predict\ndef answer(self, data):\n    return [data.content_type, len(data)]\n"
        _, out, _ = verify(methods, "-d", "@photo.png")
        assert out.endswith('["image/png",4]\n')

    def test_that_is_not_there(self, verify: Verify) -> None:
        code, _, err = verify(ECHO, "-d", "@nothing.json")
        assert code == 1
        assert "cannot read nothing.json: No such file or directory" in err

    def test_is_made_up_without_a_sample(self, verify: Verify) -> None:
        _, out, _ = verify(ECHO, "--inline")
        assert "data: made up, for want of a sample.json" in out
        assert out.endswith('{"predictions":["example"]}\n')

    def test_is_the_sample_beside_a_single_file(self, verify: Verify, folder: Path) -> None:
        write_package(folder, {"one.py": class_text(), "sample.json": '{"instances": [7]}'})
        _, out, _ = verify(folder / "one.py", "--inline")
        assert out.endswith('{"predictions":[7]}\n')


def test_the_listing_passes_or_says_what_to_install(verify: Verify, folder: Path) -> None:
    (folder / "model.py").write_text(LISTING)
    code, out, err = verify(folder / "model.py")
    if importlib.util.find_spec("tensorflow") is None:
        assert code == 1
        assert "SpamFilter needs @mds.runtime('tensorflow'): tensorflow is not installed" in err
        assert "pip install 'mdslite[tensorflow]'" in err
    else:
        assert code == 0
        assert out.endswith('{"predictions":[[{"answer":42}]]}\n')


class TestPackages:
    def test_may_be_packed(self, verify: Verify, folder: Path) -> None:
        write_package(folder / "spam", {"model.py": class_text(), "sample.json": '{"instances": [3]}'})
        with tarfile.open(folder / "spam.tar.gz", "w:gz") as archive:
            archive.add(folder / "spam", "spam")
        shutil.rmtree(folder / "spam")
        code, out, _ = verify(folder / "spam.tar.gz")
        assert code == 0
        assert out.endswith('{"predictions":[3]}\n')

    def test_may_stream(self, verify: Verify) -> None:
        methods = "@mds.predict\ndef answer(self, data):\n    yield 1\n    yield 2\n"
        code, out, _ = verify(methods)
        assert code == 0
        assert "answered a stream of 2 items" in out

    def test_may_be_pipelines(self, verify: Verify, folder: Path) -> None:
        double = "@mds.predict\ndef answer(self, data):\n    return data * 2\n"
        nodes = "".join(
            f"  - name: {name}\n    model_load_meta: {{handler_module: {name}}}\n" for name in ("one", "two")
        )
        text = f"pipeline:\n  name: twice\n  start_node_name: one\n  nodes:\n{nodes}"
        files = {"one.py": class_text(double), "two.py": class_text(double), "pipeline.yaml": text}
        code, out, _ = verify(write_package(folder / "twice", files), "-d", '{"instances": [1, 2]}')
        assert code == 0, out
        assert "a pipeline of 2 nodes" in out
        assert "  ●  one  one  → two" in out
        assert out.endswith('{"predictions":[4,8]}\n')

    def test_may_be_pipelines_that_call_what_is_deployed(self, verify: Verify) -> None:
        (pipeline,) = (ROOT / "examples").glob("*/**/pipeline.yaml")
        code, out, _ = verify(pipeline.parent, "--inline")
        assert code == 0, out
        assert "left out: it calls demo/digits@v1, demo/digits@v2, which an appliance has" in out

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("nothing", "there is no nothing: expected a package's folder"),
            ("model.onnx", "model.onnx is a model of package type ONNX; expected a Python package"),
            ("empty", "the folder holds nothing"),
        ],
    )
    def test_that_are_none(self, verify: Verify, folder: Path, path: str, said: str) -> None:
        models.mlp(folder / "model.onnx")
        (folder / "empty").mkdir()
        code, _, err = verify(Path(path))
        assert code == 1
        assert said in err


FAILS = {
    "build": (
        "def __init__(self):\n    raise ValueError('no weights')\n" + ECHO,
        "✖ build and warm up",
        "error: Model.__init__: ValueError: no weights",
        "    raise ValueError('no weights')",
    ),
    "warm-up": (
        "@mds.warmup\ndef warm(self):\n    1 / 0\n" + ECHO,
        "✖ build and warm up",
        "error: the warm-up failed: ZeroDivisionError: division by zero",
        "    1 / 0",
    ),
    "health": (
        "@mds.health_check\ndef check(self):\n    raise ValueError('no disk')\n" + ECHO,
        "✖ health check",
        "error: the health check failed: ValueError: no disk",
        "    raise ValueError('no disk')",
    ),
    "pre": (
        "@mds.pre\ndef pre(self, data):\n    return data['text']\n" + ECHO,
        "✖ POST /predict",
        "error: POST /predict answered 500: TypeError: string indices must be integers",
        "    return data['text']",
    ),
    "predict": (
        "@mds.predict\ndef answer(self, data):\n    import sys; sys.exit('enough')\n",
        "✖ POST /predict",
        "error: POST /predict answered 500: SystemExit: enough",
        "    import sys; sys.exit('enough')",
    ),
    "post": (
        "@mds.post\ndef post(self, data):\n    raise KeyError('label')\n" + ECHO,
        "✖ POST /predict",
        "error: POST /predict answered 500: KeyError: 'label'",
        "    raise KeyError('label')",
    ),
    "stream": (
        "@mds.predict\ndef answer(self, data):\n    yield 1\n    raise ValueError('half way')\n",
        "✖ POST /predict",
        "error: the stream broke off: ValueError: half way",
        "    raise ValueError('half way')",
    ),
}


class TestWhatFails:
    @pytest.mark.parametrize("stage", FAILS)
    @pytest.mark.parametrize("options", [[], ["--inline"]])
    def test_is_shown_with_the_traceback_of_the_package(
        self, verify: Verify, stage: str, options: list[str]
    ) -> None:
        methods, step, error, line = FAILS[stage]
        code, out, err = verify(methods, *options)
        assert code == 1
        assert steps(out)[-1].strip() == step
        assert "Traceback (most recent call last):" in err
        assert line in err
        assert error in err
        assert "mdslite/" not in err

    def test_is_shown_for_an_import(self, verify: Verify, folder: Path) -> None:
        write_package(folder / "package", {"model.py": class_text() + "\n1 / 0\n"})
        code, out, err = verify(folder / "package")
        assert code == 1
        assert steps(out)[-1].strip() == "✖ import"
        assert "error: model.py:9: ZeroDivisionError: division by zero" in err
        assert "Traceback (most recent call last):" in err

    def test_is_shown_for_a_module_that_is_missing(self, verify: Verify, folder: Path) -> None:
        write_package(folder / "package", {"model.py": "import nothing_like_it\n" + class_text()})
        code, _, err = verify(folder / "package")
        assert code == 1
        assert '@mds.requirements(["nothing_like_it"])' in err
        assert "Traceback (most recent call last):" in err

    def test_is_a_wrong_number_of_answers(self, verify: Verify) -> None:
        methods = "@mds.predict\n@mds.batch(batch_size=8)\ndef answer(self, data):\n    return [1]\n"
        code, out, err = verify(methods)
        assert code == 1
        assert steps(out)[-1].strip() == "✖ a full batch"
        assert "predict returned 1 answer; expected a list of 8, one for each datum" in err

    def test_is_a_prediction_that_does_not_end(self, verify: Verify) -> None:
        methods = "@mds.predict\n@mds.batch(batch_size=1, prediction_time_ms=300)\ndef answer(self, data):\n"
        code, _, err = verify(methods + "    while True:\n        pass\n")
        assert code == 1
        assert "answered 504: the prediction was not answered in time: 300 ms were allowed" in err

    def test_is_a_process_that_ended(self, verify: Verify) -> None:
        code, _, err = verify("@mds.predict\ndef answer(self, data):\n    import os; os._exit(3)\n")
        assert code == 1
        assert "answered 503" in err
        assert "its process exited with status 3" in err

    def test_is_told_as_json_too(self, verify: Verify) -> None:
        code, out, _ = verify(FAILS["predict"][0], "--json")
        found = json.loads(out)
        assert code == 1
        assert found["fine"] is False
        assert found["error"]["error"] == "POST /predict answered 500: SystemExit: enough"
        assert "Traceback" in found["output"]

    def test_says_how_to_send_data_that_fits(self, verify: Verify) -> None:
        _, _, err = verify(FAILS["pre"][0], "--inline")
        assert "hint: send data of yours with --data @FILE, or keep some in sample.json" in err


def test_the_process_is_as_it_was(verify: Verify, folder: Path) -> None:
    before: Any = sorted(folder.rglob("*"))
    verify(ECHO)
    verify(ECHO, "--inline")
    left = [one.name for one in sorted(folder.rglob("*")) if one not in before]
    assert left == ["package", "model.py"]
