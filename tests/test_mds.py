"""The decorators: what they leave on a class."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from user_modules import LISTING, run_module

import mds


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
