"""The decorators: what they refuse, and where they say it stands."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from user_modules import run_module

import mds


def refusal(text: str, folder: Path) -> mds.DecorationError:
    with pytest.raises(mds.DecorationError) as caught:
        run_module("import mds\n" + textwrap.dedent(text), folder)
    return caught.value


PREDICT = "    @mds.predict\n    def answer(self, data): return data\n"


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("text", "line", "said"),
        [
            (
                "@mds.model('a', 'v1')\nclass A:\n    @mds.predict\n    def one(self, data): ...\n"
                "    @mds.predict\n    def two(self, data): ...\n",
                6,
                "@mds.predict stands on two methods of A, one (line 4) and two: expected one",
            ),
            ("@mds.model('a', 'v1')\nclass A:\n    pass\n", 2, "A has no method with @mds.predict"),
            ("@mds.model('a')\nclass A:\n" + PREDICT, 2, "missing a required argument: 'version'"),
            (
                "@mds.model('a', 'v1', owner='me')\nclass A:\n" + PREDICT,
                2,
                "unexpected keyword argument 'owner'",
            ),
            ("@mds.model\nclass A:\n" + PREDICT, 2, "missing a required argument: 'version'"),
            (
                "@mds.model('my model', 'v1')\nclass A:\n" + PREDICT,
                2,
                "name 'my model' is no name: expected 1 to 63",
            ),
            ("@mds.model('a', 1)\nclass A:\n" + PREDICT, 2, "version 1 is no name"),
            ("@mds.model('a', '../x')\nclass A:\n" + PREDICT, 2, "version '../x' is no name"),
            (
                "@mds.model('a', 'v1')\n@mds.model('a', 'v2')\nclass A:\n" + PREDICT,
                2,
                "@mds.model stands twice on A",
            ),
            ("@mds.model('a', 'v1')\ndef f(): ...\n", 2, "@mds.model goes on a class, not on the function f"),
            (
                "@mds.runtime('keras')\nclass A: ...\n",
                2,
                "'keras' is none of 'python', 'onnx', 'pytorch', 'tensorflow'",
            ),
            ("@mds.runtime('TensorFlow')\nclass A: ...\n", 2, "did you mean 'tensorflow'?"),
            ("@mds.runtime(3)\nclass A: ...\n", 2, "3 is none of"),
            (
                "@mds.context([1])\nclass A: ...\n",
                2,
                "@mds.context takes a dict with names as keys, not list [1]",
            ),
            ("@mds.context({1: 2})\nclass A: ...\n", 2, "takes a dict with names as keys, not dict {1: 2}"),
            (
                "@mds.model('a', 'v1')\n@mds.context({'a': 1})\nclass A:\n    context = {}\n" + PREDICT,
                3,
                "@mds.context: A has an attribute of its own named context",
            ),
            ("@mds.requirements('numpy')\nclass A: ...\n", 2, "takes a list, such as"),
            ("@mds.requirements(7)\nclass A: ...\n", 2, "takes a list, such as"),
            ("@mds.requirements(['-r x.txt'])\nclass A: ...\n", 2, "'-r x.txt' is no requirement"),
            ("@mds.requirements(['a\\nb'])\nclass A: ...\n", 2, "is no requirement"),
            ("@mds.requirements([1])\nclass A: ...\n", 2, "1 is no requirement"),
        ],
    )
    def test_on_a_class_is_named_with_its_line(self, tmp_path: Path, text: str, line: int, said: str) -> None:
        error = refusal(text, tmp_path)
        assert said in str(error)
        assert str(error).startswith(f"model.py:{line}: ")
        assert (error.file, error.line) == (str(tmp_path / "model.py"), line)

    @pytest.mark.parametrize(
        ("method", "line", "said"),
        [
            ("@mds.batch(batch_size=0)\n", 4, "batch_size=0: expected a whole number, 1 to 1024"),
            ("@mds.batch(batch_size=2000)\n", 4, "batch_size=2000: expected a whole number, 1 to 1024"),
            ("@mds.batch(batch_size=True)\n", 4, "batch_size=True"),
            ("@mds.batch(batch_size='8')\n", 4, "batch_size='8'"),
            (
                "@mds.batch(size=8)\n",
                4,
                "@mds.batch: got an unexpected keyword argument 'size'; expected @mds.batch(",
            ),
            ("@mds.batch(batch_timeout_ms=-1)\n", 4, "batch_timeout_ms=-1: expected milliseconds, 0 or more"),
            ("@mds.batch(batch_timeout_ms=float('nan'))\n", 4, "batch_timeout_ms=nan"),
            (
                "@mds.batch(prediction_time_ms=0)\n",
                4,
                "prediction_time_ms=0: expected milliseconds, 1 or more",
            ),
            ("@mds.batch\n", 4, "@mds.batch takes arguments: write @mds.batch(batch_size=32)"),
            ("@mds.batch()\n    @mds.batch()\n", 4, "@mds.batch stands twice on A.answer"),
            ("@mds.predict()\n", 4, "missing a required argument: 'method'; expected @mds.predict(method)"),
            ("@mds.predict\n", 4, "@mds.predict stands twice on A.answer"),
            ("@mds.pre\n", 4, "@mds.pre stands beside @mds.predict on A.answer"),
            ("@mds.post\n    @property\n", 4, "@mds.post goes on a method, not on property"),
        ],
    )
    def test_on_a_method_is_named_with_its_line(
        self, tmp_path: Path, method: str, line: int, said: str
    ) -> None:
        text = f"@mds.model('a', 'v1')\nclass A:\n    {method}{PREDICT}"
        error = refusal(text, tmp_path)
        assert said in str(error)
        assert str(error).startswith(f"model.py:{line}: ")

    @pytest.mark.parametrize(
        ("methods", "said"),
        [
            (
                "@mds.predict\n    def answer(self): ...",
                "A.answer is @mds.predict: it must take one argument",
            ),
            (
                "@mds.predict\n    def answer(self, a, b): ...",
                "it must take one argument beside self, the datum",
            ),
            (
                PREDICT.strip() + "\n    @mds.warmup\n    def go(self, x): ...",
                "it must take no argument beside self",
            ),
            (PREDICT.strip() + "\n    @mds.pre\n    def go(self, x): yield x", "only @mds.predict may yield"),
            (
                "@mds.batch()\n    @mds.predict\n    def answer(self, data): yield 1",
                "cannot stand beside @mds.batch",
            ),
            (
                PREDICT.strip() + "\n    @mds.batch()\n    def go(self, x): ...",
                "@mds.batch stands on A.go, but goes beside",
            ),
            (
                PREDICT.strip() + "\n    def __init__(self, size): ...",
                "A.__init__ asks for arguments, and is called without any",
            ),
        ],
    )
    def test_methods_that_do_not_fit_their_part(self, tmp_path: Path, methods: str, said: str) -> None:
        error = refusal(f"@mds.model('a', 'v1')\nclass A:\n    {methods}\n", tmp_path)
        assert said in str(error)

    def test_a_part_overridden_by_what_is_no_method(self, tmp_path: Path) -> None:
        text = f"class Base:\n{PREDICT}@mds.model('a', 'v1')\nclass A(Base):\n    answer = 3\n"
        assert "A.answer is to be @mds.predict, but is no method" in str(refusal(text, tmp_path))

    def test_a_method_decorator_on_a_function_a_class_or_a_value(self, tmp_path: Path) -> None:
        text = "@mds.predict\ndef answer(data): ...\n"
        assert "answer is a function outside of a class" in str(refusal(text, tmp_path))
        assert "not on the class A" in str(refusal("@mds.predict\nclass A: ...\n", tmp_path))
        assert "not on int 3" in str(refusal("mds.predict(3)\n", tmp_path))
        assert "len is a function outside" in str(refusal("class A:\n    f = mds.predict(len)\n", tmp_path))
        # What belongs to a class of somebody else's, and cannot be written on.
        text = "class A:\n    f = mds.predict('x'.join)\n"
        assert "not on the function str.join" in str(refusal(text, tmp_path))

    def test_a_class_with_parts_and_no_model(self, tmp_path: Path) -> None:
        cls = run_module(f"import mds\nclass A:\n{PREDICT}", tmp_path)["A"]
        with pytest.raises(mds.DecorationError, match=r"model\.py:3: A has no @mds\.model"):
            mds.describe(cls)

    def test_is_a_type_error_for_who_does_not_know_it(self, tmp_path: Path) -> None:
        assert isinstance(refusal("@mds.batch(batch_size=0)\ndef f(): ...\n", tmp_path), TypeError)


class TestTheModule:
    def test_names_what_it_offers(self) -> None:
        assert sorted(mds.__all__) == mds.__all__
        assert all(hasattr(mds, name) for name in mds.__all__)

    def test_imports_nothing_but_the_standard_library(self) -> None:
        code = (
            "import sys, mds\n"
            "tops = {name.partition('.')[0] for name in sys.modules}\n"
            "print(sorted(tops - set(sys.stdlib_module_names) - {'mds', '__main__'}))"
        )
        paths = str(Path(mds.__file__).parent.parent)
        # Without site, so that no other package's .pth file imports anything.
        found = subprocess.run(
            [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({paths!r})\n{code}"],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        assert found.stdout.strip() == "[]"

    def test_keeps_the_types_of_what_it_decorates(self, tmp_path: Path) -> None:
        file = tmp_path / "model.py"
        file.write_text(
            textwrap.dedent("""\
                import mds

                @mds.model("a", "v1")
                @mds.context({"a": 1})
                class A:
                    context: mds.Context

                    @mds.predict
                    @mds.batch(batch_size=4)
                    def answer(self, data: list[int]) -> list[str]:
                        return [str(one) for one in data]

                reveal_type(A())
                reveal_type(A().answer)
                reveal_type(A().context.folder)
                mds.batch(size=3)
            """)
        )
        path = Path(mds.__file__).parent.parent
        found = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(file)],
            env={"MYPYPATH": str(path), "PATH": ""}, cwd=tmp_path,
            capture_output=True, text=True, timeout=55, check=False,
        )  # fmt: skip
        lines = found.stdout.splitlines()
        assert 'Revealed type is "model.A"' in lines[0]
        assert 'Revealed type is "def (data: list[int]) -> list[str]"' in lines[1].replace("builtins.", "")
        assert 'Revealed type is "pathlib' in lines[2]
        assert 'Unexpected keyword argument "size"' in lines[3]

    def test_a_body_is_bytes_that_know_their_type(self) -> None:
        body = mds.Body(b"\x89PNG", "image/png")
        assert body == b"\x89PNG"
        assert body.content_type == "image/png"
        assert mds.Body(b"").content_type == "application/octet-stream"
