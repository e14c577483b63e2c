"""Finding the class of a package without running it; importing it so that nobody else sees its modules."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packages import ECHO, class_text, write_package

import mds
from mdslite.errors import LoadFailed
from mdslite.runtimes.packages import find_package, load_class, unload_class


@pytest.fixture(autouse=True)
def unchanged_process() -> Iterator[None]:
    """Whatever a test loads, the process is afterwards as it was."""
    finders, names = list(sys.meta_path), set(sys.modules)
    yield
    for finder in [one for one in sys.meta_path if one not in finders]:
        getattr(finder, "remove", lambda: None)()
    sys.meta_path[:] = finders
    assert [name for name in set(sys.modules) - names if name.startswith("mds_package")] == []


def load(path: Path, **options: Any) -> type:
    return load_class(find_package(path), **options)


def refusal(path: Path, handler: str | None = None) -> LoadFailed:
    with pytest.raises(LoadFailed) as caught:
        load_class(find_package(path, handler))
    return caught.value


class TestWhereTheClassIs:
    def test_a_module_of_any_name_in_the_folder(self, tmp_path: Path) -> None:
        write_package(tmp_path, {"served.py": class_text(), "other.py": "import mds\nclass B: ...\n"})
        found = find_package(tmp_path)
        assert (found.module, found.class_name, found.line) == ("served", "Model", 5)
        assert found.place == "served.py:5"

    def test_a_module_below_it(self, tmp_path: Path) -> None:
        write_package(tmp_path, {"spam/served.py": class_text(), "spam/__init__.py": "", "setup.py": ""})
        assert find_package(tmp_path).module == "spam.served"

    def test_the_folder_itself_goes_before_what_is_below(self, tmp_path: Path) -> None:
        write_package(tmp_path, {"model.py": class_text(), "old/model.py": class_text(name="Old")})
        assert find_package(tmp_path).class_name == "Model"

    def test_the_folder_s_own_init(self, tmp_path: Path) -> None:
        write_package(
            tmp_path, {"__init__.py": class_text() + "\nfrom .helper import x\n", "helper.py": "x = 1"}
        )
        assert find_package(tmp_path).module == ""
        assert mds.describe(load(tmp_path)).name == "model"

    def test_a_single_file(self, tmp_path: Path) -> None:
        write_package(tmp_path, {"one.py": class_text(), "two.py": class_text(name="Other")})
        assert find_package(tmp_path / "two.py").class_name == "Other"

    def test_tests_hidden_folders_and_environments_are_not_looked_into(self, tmp_path: Path) -> None:
        places = (
            "tests/test_x.py",
            ".git/x.py",
            "__pycache__/x.py",
            "env/lib/site-packages/x.py",
            "env/x.py",
        )
        write_package(tmp_path, {place: class_text() for place in places} | {"env/pyvenv.cfg": ""})
        assert "no class with @mds.model" in refusal(tmp_path).message

    def test_a_handler_names_the_module(self, tmp_path: Path) -> None:
        files = {
            "nodes/a.py": class_text(name="A"),
            "nodes/b.py": class_text(name="B"),
            "c/__init__.py": class_text(),
        }
        write_package(tmp_path, files)
        assert find_package(tmp_path, "nodes.b").class_name == "B"
        assert find_package(tmp_path, "c").class_name == "Model"

    @pytest.mark.parametrize("handler", ["nodes.missing", "../nodes/a", "nodes..a", "nodes.a.B", ""])
    def test_a_handler_that_is_not_there(self, tmp_path: Path, handler: str) -> None:
        write_package(tmp_path, {"nodes/a.py": class_text(), "a.py": class_text()})
        assert f"handler_module {handler}: the package has no module" in refusal(tmp_path, handler).message

    def test_a_handler_without_a_class(self, tmp_path: Path) -> None:
        write_package(tmp_path, {"a.py": class_text(), "b.py": "x = 1\n"})
        assert "handler_module b holds no class" in refusal(tmp_path, "b").message

    @pytest.mark.parametrize(
        "text",
        [
            "from mds import model, predict\n@model('m', 'v1')\nclass Model:\n"
            "    @predict\n    def p(self, d): ...",
            "import mds as m\n@m.model('m', 'v1')\nclass Model:\n    @m.predict\n    def p(self, d): ...",
            "from mds import model as served\nimport mds\n@served('m', 'v1')\nclass Model:\n" + ECHO,
            "import sys\nif sys:\n    import mds\n    @mds.model('m', 'v1')\n    class Model:\n"
            "        @mds.predict\n        def p(self, d): ...",
            "try:\n    import nothing_like_it\nexcept ImportError:\n    nothing = None\n" + class_text(),
        ],
    )
    def test_under_whatever_name_mds_goes(self, tmp_path: Path, text: str) -> None:
        write_package(tmp_path, {"model.py": text})
        assert load(tmp_path).__name__ == "Model"


class TestWhatIsRefused:
    def test_two_classes_are_both_named(self, tmp_path: Path) -> None:
        write_package(tmp_path, {"a.py": class_text(name="A"), "b.py": class_text(name="B")})
        error = refusal(tmp_path)
        assert error.message == "2 classes have @mds.model above them: A (a.py:5), B (b.py:5); expected one"
        assert error.hint is not None
        assert "pipeline" in error.hint

    def test_no_class_at_all(self, tmp_path: Path) -> None:
        write_package(tmp_path, {"a.py": "import mds\n", "b.py": "x = 1\n"})
        error = refusal(tmp_path)
        assert error.message == (
            "no class with @mds.model('name', 'v1') above it in the 2 modules of the package"
        )
        assert error.hint == "write a package that works at once with: mdslite init NAME"

    def test_no_package_at_all(self, tmp_path: Path) -> None:
        assert "there is no package nothing" in refusal(tmp_path / "nothing").message

    def test_a_file_without_one(self, tmp_path: Path) -> None:
        write_package(tmp_path, {"a.py": "import mds\n"})
        assert "a.py holds no class with @mds.model" in refusal(tmp_path / "a.py").message

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("import mds\nclass A(:\n", "model.py:2: invalid syntax"),
            (b"import mds\nx = '\xff'\n", "model.py"),
            (b"import mds\n\x00\n", "model.py"),
            ("import mds\nx = " + "(" * 10_000, "model.py"),
        ],
    )
    def test_a_module_that_is_no_python(self, tmp_path: Path, content: str | bytes, said: str) -> None:
        write_package(tmp_path, {"model.py": content})
        assert said in refusal(tmp_path).message

    def test_a_broken_module_beside_a_good_one_does_not_matter(self, tmp_path: Path) -> None:
        write_package(tmp_path, {"model.py": class_text(), "draft.py": "import mds\nclass A(:\n"})
        assert load(tmp_path).__name__ == "Model"

    def test_a_wrong_decorator_with_its_line(self, tmp_path: Path) -> None:
        body = "@mds.predict\n@mds.batch(batch_size=0)\ndef answer(self, data): ...\n"
        write_package(tmp_path, {"model.py": class_text(body)})
        assert refusal(tmp_path).message == (
            "model.py:7: @mds.batch: batch_size=0: expected a whole number, 1 to 1024"
        )

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("raise ValueError('no such file')", "model.py:1: ValueError: no such file"),
            ("import sys; sys.exit(3)", "model.py:1: SystemExit: 3"),
            ("raise KeyboardInterrupt", "model.py:1: KeyboardInterrupt"),
            ("import helper", "helper.py:2: ZeroDivisionError: division by zero"),
            (
                "raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()",
                "Odd: its message could not",
            ),
            ("raise ValueError('x' * 5000)", "x" * 900),
        ],
    )
    def test_what_an_import_raises(
        self, tmp_path: Path, line: str, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_package(tmp_path, {"model.py": f"{line}\n{class_text()}", "helper.py": "\n1 / 0\n"})
        assert said in refusal(tmp_path).message
        printed = capsys.readouterr().err
        assert printed.startswith("Traceback (most recent call last):\n  File")
        assert "mdslite" not in printed.replace(str(tmp_path), "")
        assert "importlib" not in printed

    def test_a_class_that_is_none_when_the_module_was_run(self, tmp_path: Path) -> None:
        write_package(tmp_path, {"model.py": class_text() + "\nModel = 3\n"})
        assert refusal(tmp_path).message == "model.py:5: Model is no class once the module was imported"

    def test_a_missing_module_says_how_it_gets_installed(self, tmp_path: Path) -> None:
        write_package(tmp_path, {"model.py": "import nothing_like_it\n" + class_text()})
        error = refusal(tmp_path)
        assert "model.py:1: ModuleNotFoundError: No module named 'nothing_like_it'" in error.message
        assert error.hint is not None
        assert '@mds.requirements(["nothing_like_it"])' in error.hint

    def test_a_module_beside_it_in_a_folder_of_the_package_is_pointed_to(self, tmp_path: Path) -> None:
        text = "from words import find\n" + class_text()
        write_package(tmp_path, {"spam/model.py": text, "spam/words.py": "find = None\n"})
        error = refusal(tmp_path)
        assert "spam/model.py:1: ModuleNotFoundError: No module named 'words'" in error.message
        assert error.hint == (
            "words.py stands in spam/: give that folder as the package, or write from spam import words"
        )
        assert load(tmp_path / "spam").__name__ == "Model"

    @pytest.mark.parametrize("name", ["tensorflow", "pytorch"])
    def test_a_library_that_the_machine_lacks(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module, extra = {"tensorflow": ("tensorflow", "tensorflow"), "pytorch": ("torch", "torch")}[name]
        hide(module, monkeypatch)
        write_package(tmp_path, {"model.py": class_text(above=f"@mds.runtime('{name}')\n")})
        error = refusal(tmp_path)
        assert f"model.py:6: Model needs @mds.runtime('{name}'): {module} is not installed" in error.message
        assert error.hint is not None
        assert f"pip install 'mdslite[{extra}]'" in error.hint

    def test_a_library_that_is_imported_before_anything_is_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hide("tensorflow", monkeypatch)
        text = "import tensorflow\n" + class_text(above="@mds.runtime('tensorflow')\n")
        write_package(tmp_path, {"model.py": text})
        assert "pip install 'mdslite[tensorflow]'" in str(refusal(tmp_path).hint)

    def test_requirements_that_only_the_code_could_tell(self, tmp_path: Path) -> None:
        above = "@mds.requirements(open('requirements.txt').read().split())\n"
        write_package(tmp_path, {"model.py": class_text(above=above)})
        error = refusal(tmp_path)
        assert "model.py:6: what @mds.requirements is given cannot be read without running" in error.message
        assert error.hint == 'write it out: @mds.requirements(["numpy>=2"])'

    def test_requirements_that_the_code_changes(self, tmp_path: Path) -> None:
        text = "NEEDED = ['numpy']\nNEEDED.append('pillow')\n"
        write_package(tmp_path, {"model.py": text + class_text(above="@mds.requirements(NEEDED)\n")})
        error = refusal(tmp_path)
        assert "model.py:8: what @mds.requirements is given cannot be read without running" in error.message


def hide(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a module one that is not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, package=None: None if name == module else find(name, package),
    )
    monkeypatch.setitem(sys.modules, module, None)  # what the import system takes for: not there


class TestWhatStandsAboveTheClass:
    def test_is_read_without_running_anything(self, tmp_path: Path) -> None:
        above = "@mds.requirements(['numpy>=2', \"pillow\"])\n"
        write_package(tmp_path, {"model.py": "raise SystemExit\n" + class_text(above=above)})
        found = find_package(tmp_path)
        assert found.requirements == ("numpy>=2", "pillow")

    def test_may_be_a_constant_of_the_module(self, tmp_path: Path) -> None:
        text = "NEEDED = ['numpy']\n" + class_text(above="@mds.requirements(packages=NEEDED)\n")
        write_package(tmp_path, {"model.py": text})
        assert find_package(tmp_path).requirements == ("numpy",)

    def test_is_nothing_where_there_is_nothing(self, tmp_path: Path) -> None:
        write_package(tmp_path, {"model.py": class_text()})
        assert find_package(tmp_path).requirements == ()


HELPED = """
import helper
from helper import name
from . import helper as same
from .helper import name as same_name
from deep.inner import value
import deep.inner
import deep.inner as inner
assert helper is same and name is same_name and deep.inner is inner
"""
ANSWERS = """
    @mds.predict
    def answer(self, data):
        import late
        return [helper.name, value, late.name]
"""


def helped(name: str) -> dict[str, str]:
    return {
        "model.py": HELPED + class_text(ANSWERS),
        "helper.py": f"name = {name!r}\n",
        "late.py": f"name = {name!r}\n",
        "deep/inner.py": "from .. import helper\nfrom . import beside\nvalue = helper.name + beside.mark\n",
        "deep/beside.py": "mark = '!'\n",
    }


class TestImports:
    def test_between_its_modules_are_relative_or_absolute_early_or_late(self, tmp_path: Path) -> None:
        model = load(write_package(tmp_path, helped("one")))()
        assert model.answer(None) == ["one", "one!", "one"]

    def test_of_two_packages_with_equal_names_do_not_meet(self, tmp_path: Path) -> None:
        one = load(write_package(tmp_path / "one", helped("one")))
        two = load(write_package(tmp_path / "two", helped("two")))
        assert two().answer(None) == ["two", "two!", "two"]
        assert one().answer(None) == ["one", "one!", "one"]
        assert one.__module__ != two.__module__
        assert not {"helper", "model", "late", "deep"} & set(sys.modules)

    def test_may_have_names_that_others_have(self, tmp_path: Path) -> None:
        body = "@mds.predict\ndef answer(self, data):\n    return random.mark\n"
        write_package(tmp_path, {"model.py": "import random\n" + class_text(body), "random.py": "mark = 7\n"})
        assert load(tmp_path)().answer(None) == 7
        assert not hasattr(importlib.import_module("random"), "mark")

    def test_a_folder_of_data_hides_no_library(self, tmp_path: Path) -> None:
        body = "@mds.predict\ndef answer(self, data):\n    return numpy.float32.__name__\n"
        text = "import numpy\n" + class_text(body)
        write_package(tmp_path, {"model.py": text, "numpy/weights.bin": b"x", "numpy/notes.py": ""})
        assert load(tmp_path)().answer(None) == "float32"

    def test_of_a_single_file_see_nothing_beside_it(self, tmp_path: Path) -> None:
        write_package(tmp_path, {"model.py": "import helper\n" + class_text(), "helper.py": ""})
        assert "No module named 'helper'" in refusal(tmp_path / "model.py").message

    def test_leave_no_trace_in_the_folder(self, tmp_path: Path) -> None:
        write_package(tmp_path, helped("one"))
        before = sorted(tmp_path.rglob("*"))
        load(tmp_path)().answer(None)
        assert sorted(tmp_path.rglob("*")) == before

    def test_do_not_believe_bytecode_that_lies_beside(self, tmp_path: Path) -> None:
        write_package(tmp_path, helped("one"))
        cached = Path(importlib.util.cache_from_source(str(tmp_path / "helper.py")))
        write_package(tmp_path, {str(cached.relative_to(tmp_path)): b"\x00" * 100})
        assert load(tmp_path)().answer(None)[0] == "one"

    def test_exposed_find_the_same_modules_by_their_plain_names(self, tmp_path: Path) -> None:
        files = {
            "features.py": "class Scaler:\n    factor = 2\n",
            "model.py": "import features\n" + class_text(),
        }
        cls = load(write_package(tmp_path, files), exposed=True)
        try:
            plain = importlib.import_module("features")
            assert plain is sys.modules[cls.__module__.replace("model", "features")]
            # As a model that was trained elsewhere names its class.
            found = pickle.loads(b"cfeatures\nScaler\n.")
            assert found is plain.Scaler
            assert plain.__spec__ is not None
            assert plain.__spec__.name.endswith(".features")
        finally:
            unload_class(cls)
        assert "features" not in sys.modules

    def test_unloading_takes_the_modules_away_and_leaves_the_instance(self, tmp_path: Path) -> None:
        body = "@mds.predict\ndef answer(self, data):\n    return json.dumps(data)\n"
        cls = load(write_package(tmp_path, {"model.py": "import json\n" + class_text(body)}))
        model = cls()
        assert cls.__module__ in sys.modules
        unload_class(cls)
        assert cls.__module__ not in sys.modules
        assert model.answer([1]) == "[1]"

    def test_dataclasses_and_the_like_find_their_module(self, tmp_path: Path) -> None:
        text = (
            "from __future__ import annotations\nfrom dataclasses import dataclass\nimport typing\n"
            "@dataclass\nclass Pair:\n    one: typing.ClassVar[int]\n    two: int = 2\n"
            "typing.get_type_hints(Pair)\n"
        )
        write_package(tmp_path, {"model.py": text + class_text()})
        assert load(tmp_path).__name__ == "Model"

    def test_context_folder_is_where_the_class_is(self, tmp_path: Path) -> None:
        body = """
            @mds.predict
            def answer(self, data):
                return (self.context.folder / "words.txt").read_text()
        """
        files = {"spam/model.py": class_text(body), "spam/words.txt": "ham"}
        assert load(write_package(tmp_path, files))().answer(None) == "ham"
