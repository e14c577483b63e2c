"""`mdslite init`: packages that work as they were written, deployments of models, and nothing overwritten."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from packages import class_text, write_package

import mds
from mdslite import deployments
from mdslite.cli import run
from mdslite.cli.templates import TEMPLATES, class_name
from mdslite.errors import MdsliteError
from mdslite.runtimes.executor import build
from mdslite.runtimes.packages import find_package, load_class, unload_class

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MODULES = {"pytorch": "torch", "tensorflow": "tensorflow", "onnx": "onnxruntime", "python": "mds"}

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_deployments(file: Path) -> Any:
    (deployment,) = deployments.load(file.read_text(), file=str(file), base=file.parent).deployments
    return deployment


class TestANewPackage:
    @pytest.mark.parametrize("runtime", TEMPLATES)
    def test_answers_its_own_sample(self, folder: Path, runtime: str) -> None:
        pytest.importorskip(MODULES[runtime])
        assert run(["init", "my-model", "--runtime", runtime]) == 0
        source = find_package(folder / "my-model" / "package")
        cls = load_class(source)
        executor = build(mds.describe(cls))
        executor.warm()
        executor.check()
        sample = json.loads((folder / "my-model" / "sample.json").read_text())
        answers = executor.run([json.dumps(one).encode() for one in sample["instances"]])
        assert len(answers) == 2
        assert not any(isinstance(one, MdsliteError) for one in answers)
        assert executor.description.name == "my-model"
        assert cls.__name__ == "MyModel"
        executor.close()
        unload_class(cls)

    def test_is_read_by_people_and_says_what_comes_next(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["init", "spam"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "wrote  spam/package/model.py",
            "wrote  spam/sample.json",
            "wrote  spam/deployments.yaml",
            "next:  mdslite verify spam/package",
            "next:  mdslite up spam/deployments.yaml",
            "next:  mdslite predict default/spam -d @spam/sample.json",
        ]

    def test_has_a_deployments_file_that_leads_to_it(self, folder: Path) -> None:
        assert run(["init", "spam", "--runtime", "onnx"]) == 0
        deployment = read_deployments(folder / "spam" / "deployments.yaml")
        assert (deployment.project, deployment.model) == ("default", "spam")
        (version,) = deployment.versions
        assert Path(version.spec.uri) == folder / "spam" / "package"

    def test_fills_an_empty_folder_wherever_it_is(self, folder: Path) -> None:
        (folder / "models" / "spam").mkdir(parents=True)
        assert run(["init", "models/spam"]) == 0
        assert find_package(folder / "models" / "spam" / "package").class_name == "Spam"

    def test_as_json_names_what_it_wrote(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["init", "spam", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["written"][0] == "spam/package/model.py"
        assert found["next"][0] == "mdslite verify spam/package"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["_spam"], "'_spam' is no name: expected 1 to 63 letters, digits, _ or -"),
            (["spam filter"], "hint: mdslite init spam_filter"),
            (
                ["spam", "--file", "x.yaml"],
                "--file is for a model; a package gets a deployments.yaml of its own",
            ),
            (
                ["spam", "--runtime", "keras"],
                "'keras' is not one of 'python', 'onnx', 'pytorch', 'tensorflow'",
            ),
            (["model.onnx"], "there is no model.onnx"),
        ],
    )
    def test_is_refused(
        self, folder: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["init", *arguments]) == 1
        assert said in capsys.readouterr().err
        assert list(folder.iterdir()) == []

    def test_never_replaces_what_is_there(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["init", "spam"]) == 0
        before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        assert run(["init", "spam"]) == 1
        assert capsys.readouterr().err == (
            "error: spam is there already\nhint: mdslite up spam/deployments.yaml\n"
        )
        assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_says_why_it_cannot_write(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder.chmod(0o500)
        assert run(["init", "spam"]) == 1
        assert "cannot write" in capsys.readouterr().err

    def test_is_not_written_at_all_where_a_file_stands_in_the_way(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "spam").write_text("")
        assert run(["init", "spam/filter"]) == 1
        assert "cannot write spam/filter/package/model.py: Not a directory" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("spam-filter", "SpamFilter"),
            ("spam_v2", "SpamV2"),
            ("2nd", "Model2nd"),
            ("NAME-CLASS", "NAMECLASS"),
        ],
    )
    def test_names_its_class_after_itself(self, folder: Path, name: str, expected: str) -> None:
        assert class_name(name) == expected
        assert run(["init", name]) == 0
        assert f'@mds.model("{name}", "v1")' in (folder / name / "package" / "model.py").read_text()
        assert find_package(folder / name / "package").class_name == expected


class TestAModel:
    def test_gets_a_deployments_file_with_its_signature(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copy(EXAMPLES / "digits" / "v1.onnx", folder / "my digits.onnx")
        assert run(["init", "my digits.onnx"]) == 0
        text = (folder / "deployments.yaml").read_text()
        assert "# input pixels: FP32 [?, 64]" in text
        assert "# output label: INT64 [?]" in text
        assert "# requests may share batches" in text
        deployment = read_deployments(folder / "deployments.yaml")
        assert deployment.model == "my_digits"
        assert Path(deployment.versions[0].spec.uri) == folder / "my digits.onnx"
        assert "next:  mdslite up deployments.yaml" in capsys.readouterr().out

    def test_may_lie_elsewhere_than_its_file(self, folder: Path) -> None:
        (folder / "deploy").mkdir()
        shutil.copy(EXAMPLES / "digits" / "v1.onnx", folder / "model.onnx")
        assert run(["init", "model.onnx", "--file", "deploy/digits.yaml"]) == 0
        deployment = read_deployments(folder / "deploy" / "digits.yaml")
        assert Path(deployment.versions[0].spec.uri).resolve() == folder / "model.onnx"

    def test_may_be_a_package(self, folder: Path) -> None:
        write_package(folder / "spam", {"model.py": class_text()})
        assert run(["init", "spam"]) == 0
        assert "# class Model (model.py:5)" in (folder / "deployments.yaml").read_text()

    @pytest.mark.parametrize(
        ("file", "content", "said"),
        [
            ("model.onnx", b"nonsense", "model.onnx"),
            ("model.pkl", b"", "model.pkl is a pickle"),
            ("notes.txt", b"x", "notes.txt is a text: expected a model"),
        ],
    )
    def test_that_cannot_be_served_is_refused(
        self, folder: Path, file: str, content: bytes, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / file).write_bytes(content)
        assert run(["init", file]) == 1
        assert said in capsys.readouterr().err
        assert not (folder / "deployments.yaml").exists()

    def test_never_replaces_a_deployments_file(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copy(EXAMPLES / "digits" / "v1.onnx", folder / "model.onnx")
        (folder / "deployments.yaml").write_text("deployments: []\n")
        assert run(["init", "model.onnx"]) == 1
        assert "deployments.yaml is there already, and nothing was written" in capsys.readouterr().err
        assert (folder / "deployments.yaml").read_text() == "deployments: []\n"

    def test_has_the_runtime_that_it_has(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "model.onnx").write_bytes(b"x")
        assert run(["init", "model.onnx", "--runtime", "onnx"]) == 1
        assert "--runtime is for a new package" in capsys.readouterr().err
