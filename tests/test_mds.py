"""The decorators: what they leave on a class, what they refuse and where they say it stands."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mds

# As it is documented, word for word.
LISTING = """\
import mds

@mds.model('spamfilter', 'v1')
@mds.runtime('tensorflow')
@mds.context({"my_param": 11111})
@mds.requirements(["numpy"])
class SpamFilter(object):
    def __init__(self):
        ...

    @mds.health_check
    def my_health_check(self):
        return {"status": "OK"}

    @mds.warmup
    def my_warmup(self):
        ...

    @mds.pre
    def my_pre(self, data):
        return data

    @mds.predict
    def my_predict(self, data):
        return [{'answer': 42}]

    @mds.post
    def my_post(self, data):
        return data
"""


def run_module(text: str, folder: Path) -> dict[str, Any]:
    """Run Python text as `model.py`; what it defined."""
    file = folder / "model.py"
    file.write_text(textwrap.dedent(text))
    names: dict[str, Any] = {"__name__": "model"}
    exec(compile(file.read_text(), str(file), "exec"), names)
    return names


def refusal(text: str, folder: Path) -> mds.DecorationError:
    with pytest.raises(mds.DecorationError) as caught:
        run_module("import mds\n" + textwrap.dedent(text), folder)
    return caught.value


class TestTheListing:
    def test_runs_unchanged(self, tmp_path: Path) -> None:
        described = mds.describe(run_module(LISTING, tmp_path)["SpamFilter"])
        assert (described.name, described.version) == ("spamfilter", "v1")
        assert described.runtime == "tensorflow"
        assert described.context == {"my_param": 11111}
        assert described.requirements == ("numpy",)
        assert (described.pre, described.predict, described.post) == ("my_pre", "my_predict", "my_post")
        assert (described.health_check, described.warmup) == ("my_health_check", "my_warmup")
        assert described.batch is None
        assert not described.streams
        assert not described.is_async

    @pytest.mark.parametrize("place", ["above", "below"])
    def test_is_batched_with_one_more_line_above_or_below_predict(self, tmp_path: Path, place: str) -> None:
        line = "    @mds.batch(batch_size=10, batch_timeout_ms=500, prediction_time_ms=500000)\n"
        predict = "    @mds.predict\n"
        text = LISTING.replace(predict, line + predict if place == "above" else predict + line)
        described = mds.describe(run_module(text, tmp_path)["SpamFilter"])
        assert described.batch == mds.Batch(batch_size=10, batch_timeout_ms=500, prediction_time_ms=500000)

    def test_is_still_an_ordinary_class(self, tmp_path: Path) -> None:
        spam = run_module(LISTING, tmp_path)["SpamFilter"]()
        assert spam.my_predict("x") == [{"answer": 42}]
        assert spam.my_pre.__name__ == "my_pre"
        assert spam.context == {"my_param": 11111}


class TestTheContext:
    def test_is_there_before_init_and_is_a_dict(self) -> None:
        @mds.model("a", "v1")
        @mds.context({"limit": 3})
        class A:
            context: mds.Context

            def __init__(self) -> None:
                self.limit = self.context["limit"]

            @mds.predict
            def predict(self, data: Any) -> Any:
                return data

        assert A().limit == 3
        assert isinstance(A().context, dict)
        assert A().context == {"limit": 3}

    def test_is_each_instance_s_own(self) -> None:
        @mds.model("a", "v1")
        @mds.context({"limit": 3})
        class A:
            context: mds.Context

            @mds.predict
            def predict(self, data: Any) -> Any:
                return data

        one, other = A(), A()
        one.context["limit"] = 4
        assert one.context == {"limit": 4}
        assert other.context == {"limit": 3}

    def test_knows_the_folder_of_the_class_s_files(self, tmp_path: Path) -> None:
        (tmp_path / "model.py").write_text(LISTING)
        code = "import model; print(model.SpamFilter().context.folder)"
        found = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
        )
        assert found.stdout.strip() == str(tmp_path.resolve())

    def test_is_empty_where_nothing_was_given(self) -> None:
        @mds.model("a", "v1")
        class A:
            context: mds.Context

            @mds.predict
            def predict(self, data: Any) -> Any:
                return data

        assert A().context == {}


class TestInheritance:
    def test_an_override_keeps_its_part_and_its_batch(self) -> None:
        class Base:
            @mds.predict
            @mds.batch(batch_size=4)
            def answer(self, data: list[Any]) -> list[Any]:
                return data

        @mds.model("a", "v1")
        class A(Base):
            def answer(self, data: list[Any]) -> list[Any]:
                return [1 for _ in data]

        described = mds.describe(A)
        assert described.predict == "answer"
        assert described.batch == mds.Batch(4)

    def test_a_decorated_override_says_anew_what_it_is(self) -> None:
        class Base:
            @mds.predict
            @mds.batch(batch_size=4)
            def answer(self, data: Any) -> Any:
                return data

        @mds.model("a", "v1")
        class Single(Base):
            @mds.predict
            def answer(self, data: Any) -> Any:
                return 1

        @mds.model("b", "v1")
        class Larger(Base):
            @mds.batch(batch_size=8)
            def answer(self, data: Any) -> Any:
                return data

        assert mds.describe(Single).batch is None
        assert mds.describe(Larger).batch == mds.Batch(8)

    def test_a_part_may_move_to_another_method(self) -> None:
        class Base:
            @mds.predict
            def answer(self, data: Any) -> Any:
                return data

            @mds.post
            def finish(self, data: Any) -> Any:
                return data

        @mds.model("a", "v1")
        class A(Base):
            @mds.predict
            def other(self, data: Any) -> Any:
                return data

        described = mds.describe(A)
        assert (described.predict, described.post) == ("other", "finish")

    def test_none_takes_a_part_away(self) -> None:
        class Base:
            @mds.pre
            def clean(self, data: Any) -> Any:
                return data

            @mds.predict
            def answer(self, data: Any) -> Any:
                return data

        @mds.model("a", "v1")
        class A(Base):
            clean = None  # type: ignore[assignment]

        assert mds.describe(A).pre is None

    def test_a_mixin_brings_its_parts(self) -> None:
        class Tokenises:
            @mds.pre
            def tokenise(self, data: str) -> list[str]:
                return data.split()

        class Counts:
            @mds.predict
            def count(self, data: list[str]) -> int:
                return len(data)

        @mds.model("a", "v1")
        class A(Tokenises, Counts):
            pass

        described = mds.describe(A)
        assert (described.pre, described.predict) == ("tokenise", "count")

    def test_parameters_add_up_and_the_nearest_runtime_counts(self) -> None:
        @mds.model("base", "v1")
        @mds.runtime("onnx")
        @mds.context({"a": 1, "b": 1})
        @mds.requirements(["pillow"])
        class Base:
            context: mds.Context

            @mds.predict
            def answer(self, data: Any) -> Any:
                return data

        @mds.model("a", "v1")
        @mds.context({"b": 2})
        class A(Base):
            pass

        described = mds.describe(A)
        assert A().context == described.context == {"a": 1, "b": 2}
        assert described.runtime == "onnx"
        assert described.requirements == ()
        assert Base().context == {"a": 1, "b": 1}

    def test_a_base_s_model_is_not_its_subclass_s(self) -> None:
        @mds.model("base", "v1")
        class Base:
            @mds.predict
            def answer(self, data: Any) -> Any:
                return data

        class A(Base):
            pass

        with pytest.raises(mds.DecorationError, match=r"A has no @mds\.model"):
            mds.describe(A)


class TestMethods:
    def test_may_be_static_or_of_the_class(self) -> None:
        @mds.model("a", "v1")
        class A:
            @mds.pre
            @staticmethod
            def clean(data: Any) -> Any:
                return data

            @classmethod
            @mds.predict
            def answer(cls, data: Any) -> Any:
                return data

            @staticmethod
            @mds.post
            def finish(data: Any) -> Any:
                return data

        described = mds.describe(A)
        assert (described.pre, described.predict, described.post) == ("clean", "answer", "finish")

    def test_may_be_decorated_by_others_on_both_sides(self) -> None:
        def traced(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def call(*args: Any) -> Any:
                return function(*args)

            return call

        @mds.model("a", "v1")
        class A:
            @traced
            @mds.batch(batch_size=2)
            @traced
            @mds.predict
            def answer(self, data: Any) -> Any:
                return data

        described = mds.describe(A)
        assert described.predict == "answer"
        assert described.batch == mds.Batch(2)

    def test_are_one_method_under_two_names(self) -> None:
        @mds.model("a", "v1")
        class A:
            @mds.predict
            def answer(self, data: Any) -> Any:
                return data

            __call__ = answer

        assert mds.describe(A).predict == "answer"

    def test_tell_that_they_stream_or_are_coroutines(self) -> None:
        @mds.model("a", "v1")
        class Stream:
            @mds.predict
            def answer(self, data: Any) -> Iterator[Any]:
                yield data

        @mds.model("b", "v1")
        class Coroutine:
            @mds.predict
            async def answer(self, data: Any) -> Any:
                return data

        @mds.model("c", "v1")
        class Both:
            @mds.predict
            async def answer(self, data: Any) -> AsyncIterator[Any]:
                yield data

        kinds = [(one.streams, one.is_async) for one in map(mds.describe, (Stream, Coroutine, Both))]
        assert kinds == [(True, False), (False, True), (True, True)]

    def test_class_decorators_go_in_any_order(self) -> None:
        @mds.requirements(["numpy"])
        @mds.context({"a": 1})
        @mds.runtime("python")
        @mds.model("a", "v1")
        class A:
            @mds.predict
            def answer(self, data: Any) -> Any:
                return data

        described = mds.describe(A)
        assert (described.runtime, described.context, described.requirements) == (
            "python",
            {"a": 1},
            ("numpy",),
        )


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
