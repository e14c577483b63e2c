"""pipeline.yaml into a graph, and the place and hint of every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mdslite import pipelines
from mdslite.errors import SpecError
from mdslite.graph import Choice, ModelName, Node, Pipeline

LISTING = """\
pipeline:
  name: spam
  start_node_name: clean
  nodes:
  - name: clean
    model_load_meta:
      handler_module: nodes.clean
    next: judge
  - name: unused
    model_load_meta: {handler_module: nodes.unused}
  - name: judge
    model_load_meta: {handler_module: nodes.judge}
  - name: name
    model_load_meta: {handler_module: nodes.name}
"""

# A node under test on lines 5 to 7, and some for it to lead to.
TEMPLATE = """\
pipeline:
  name: spam
  start_node_name: {start}
  nodes:
  - name: {name}
    {work}
    {next}
  - name: first
    model: mail/spam@v2
    next: last
  - name: second
    model: mail/spam
    next: last
  - name: last
    model_load_meta: {{handler_module: nodes.last}}
"""


def with_node(
    *,
    name: str = "ask",
    start: str = "ask",
    work: str = "model_load_meta: {handler_module: nodes.ask}",
    next: str = "# nothing",
) -> str:
    return TEMPLATE.format(name=name, start=start, work=work, next=next)


def node(text: str) -> Node:
    return pipelines.load(text).nodes[0]


def mistake(text: str, *, folder: Path | None = None) -> SpecError:
    with pytest.raises(SpecError) as caught:
        pipelines.load(text, folder=folder)
    return caught.value


class TestWhatLoads:
    def test_the_form_of_the_listing(self) -> None:
        assert pipelines.load(LISTING) == Pipeline(
            name="spam",
            start="clean",
            nodes=(
                Node("clean", "nodes.clean", ("judge",)),
                Node("unused", "nodes.unused", ("judge",)),
                Node("judge", "nodes.judge", ("name",)),
                Node("name", "nodes.name", ()),
            ),
        )

    def test_what_no_node_leads_to_is_not_run(self) -> None:
        pipeline = pipelines.load(LISTING)
        assert [one.name for one in pipeline.order] == ["clean", "judge", "name"]
        assert [one.name for one in pipeline.unreached] == ["unused"]

    def test_without_a_start_the_first_node_listed_is_it(self) -> None:
        assert pipelines.load(LISTING.replace("  start_node_name: clean\n", "")).start == "clean"

    def test_next_may_name_one_node_several_or_the_end(self) -> None:
        assert node(with_node(next="next: last")).next == ("last",)
        assert node(with_node(next="next: [second, first]")).next == ("second", "first")
        assert node(with_node(next="next: end")).next == ()

    def test_next_may_choose_by_a_field(self) -> None:
        text = "next: {by: top.label, when: {spam: first, '3': [first, second]}, otherwise: end}"
        assert node(with_node(next=text)).next == Choice(
            ("top", "label"), {"spam": ("first",), "3": ("first", "second")}, ()
        )

    def test_a_choice_may_go_by_the_whole_answer_and_name_every_case(self) -> None:
        assert node(with_node(next="next: {when: {spam: first}}")).next == Choice(
            (), {"spam": ("first",)}, None
        )

    @pytest.mark.parametrize(
        ("written", "name"),
        [("mail/spam", ModelName("mail", "spam")), ("mail/spam@v-2", ModelName("mail", "spam", "v-2"))],
    )
    def test_a_node_may_be_a_deployed_model(self, written: str, name: ModelName) -> None:
        found = node(with_node(work=f"model: {written}"))
        assert found.work == name
        assert str(name) == written

    def test_a_branch_may_lead_into_another_when_it_says_so(self) -> None:
        text = with_node(next="next: [first, last]").replace("    next: last\n", "    next: second\n", 1)
        assert pipelines.load(text).merges == {"last"}

    def test_the_last_node_ends_the_pipeline_as_another_branch_may_do(self) -> None:
        text = LISTING.replace(
            "{handler_module: nodes.judge}",
            "{handler_module: j}\n    next: {when: {a: name}, otherwise: end}",
        )
        assert pipelines.load(text).sources["end"] == ("judge", "name")

    def test_the_folder_holds_modules_and_packages(self, tmp_path: Path) -> None:
        (tmp_path / "nodes" / "last").mkdir(parents=True)
        (tmp_path / "nodes" / "ask.py").touch()
        (tmp_path / "nodes" / "last" / "__init__.py").touch()
        (tmp_path / "pipeline.yaml").write_text(with_node(next="next: last"))
        assert pipelines.read(tmp_path).name == "spam"


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "place", "message", "hint"),
        [
            ("", "1:1", "the file is empty", "begin with pipeline:"),
            ("[]", "1:1", "expected a mapping, got a list", "begin the file with pipeline:"),
            ("nodes: []", "1:1", "nodes: unknown key", "nodes belongs in pipeline"),
            (
                "pipeline: {name: p}",
                "1:11",
                "pipeline: nodes is missing",
                "each with name: and model_load_meta:",
            ),
            ("pipeline: {nodes: []}", "1:11", "pipeline: name is missing", None),
            (
                "pipeline: {name: p, nodes: []}",
                "1:28",
                "nodes: expected 1 to 64 entries, but it is empty",
                "such as nodes: [{name: ..., model_load_meta: {handler_module: ...}}]",
            ),
            (
                f"pipeline: {{name: p, nodes: [{'{name: a, model: p/m}, ' * 65}]}}",
                "1:28",
                "nodes: expected 1 to 64 entries, got 65",
                "a node may name a deployed pipeline",
            ),
            (
                with_node(start="asl"),
                "3:20",
                'start_node_name: no node has the name "asl"',
                "did you mean ask?",
            ),
            (
                with_node(start="zzz"),
                "3:20",
                'no node has the name "zzz"',
                "the nodes are ask, first, second, last",
            ),
            (with_node(name="first"), "8:11", "name: first is listed twice, first on line 5", "another name"),
            (with_node(name="end", start="first"), "5:11", "a node cannot have the name end", "another name"),
            (with_node(name="my node"), "5:11", "name: expected a name", "such as my_node"),
            (
                with_node(work="# nothing"),
                "5:5",
                "nodes[0]: ask has nothing to run",
                "model_load_meta: {handler",
            ),
            (
                with_node(next="model: mail/spam"),
                "7:5",
                "model: model_load_meta stands here too",
                "keep one of the two",
            ),
            (with_node(work="modle: mail/spam"), "6:5", "modle: unknown key", "did you mean model?"),
            (
                with_node(work="model: spam"),
                "6:12",
                "expected the name of a deployed model",
                "PROJECT/MODEL@VERS",
            ),
            (
                with_node(work="model_load_meta: nodes.ask"),
                "6:22",
                "model_load_meta: expected a mapping",
                "{handler_module: nodes.tokenise}",
            ),
            (
                with_node(work="model_load_meta: {handler: nodes.ask}"),
                "6:23",
                "handler: unknown key",
                "did you mean handler_module?",
            ),
            (
                with_node(work="model_load_meta: {handler_module: nodes/my-ask.py}"),
                "6:39",
                "handler_module: expected a dotted module",
                "such as nodes.my_ask",
            ),
        ],
    )
    def test_of_the_file_and_its_nodes(self, text: str, place: str, message: str, hint: str | None) -> None:
        error = mistake(text)
        assert str(error).startswith(f"pipeline.yaml:{place}: ")
        assert message in str(error)
        assert (hint or "") in (error.hint or "")

    @pytest.mark.parametrize(
        ("next", "place", "message", "hint"),
        [
            ("next: lats", "7:11", 'next: no node has the name "lats"', "did you mean last?"),
            ("next: [last, lats]", "7:18", 'next[1]: no node has the name "lats"', "did you mean last?"),
            ("next: [last, last]", "7:18", "next[1]: last is listed twice", "a node runs once"),
            ("next: [last, end]", "7:18", "next[1]: end stands beside other nodes", "leave it out"),
            ("next: []", "7:11", "next: no node is named", "write end to end the pipeline here"),
            ("next: ''", "7:11", "next: no node is named", "write end to end the pipeline here"),
            ("next:", "7:5", "next: expected the name of a node", "write end to end the pipeline here"),
            (
                "next: 3",
                "7:11",
                "next: expected the name of a node, a list of names or a choice",
                "in quotes",
            ),
            ("next: ask", "7:11", "the nodes lead round in a circle: ask → ask", "lead to another node"),
            ("next: {by: label}", "7:11", "next: when is missing", "{spam: block, ham: deliver}"),
            ("next: {by: label, when: {}}", "7:29", "when: expected 1 to 64 entries", "when: {VALUE: NODE}"),
            ("next: {by: '', when: {a: last}}", "7:16", "by: expected the name of a field", "such as label"),
            ("next: {when: {a: lats}}", "7:22", 'a: no node has the name "lats"', "did you mean last?"),
            ("next: {when: {a: [lats]}}", "7:23", 'a[0]: no node has the name "lats"', "did you mean"),
            ("next: {when: {3: last}}", "7:19", "expected a name as the key, got 3", '"3"'),
            (
                "next: {when: {a: 3}}",
                "7:22",
                "a: expected the name of a node, or a list of them",
                "in quotes",
            ),
            (
                "next: {when: {a: last}, otherwise: lats}",
                "7:40",
                'otherwise: no node has the name "lats"',
                "last",
            ),
            ("next: {when: {a: last}, else: last}", "7:29", "else: unknown key", "did you mean otherwise?"),
            ("next: {spam: last}", "7:12", "spam: unknown key", "known here: when, by, otherwise"),
        ],
    )
    def test_of_next(self, next: str, place: str, message: str, hint: str) -> None:
        error = mistake(with_node(next=next))
        assert str(error).startswith(f"pipeline.yaml:{place}: ")
        assert message in str(error)
        assert hint in (error.hint or "")

    def test_a_cycle_is_shown_where_it_leads_back(self) -> None:
        error = mistake(
            LISTING.replace("{handler_module: nodes.name}", "{handler_module: n}\n    next: judge")
        )
        assert str(error) == (
            "pipeline.yaml:15:11: next: the nodes lead round in a circle: judge → name → judge"
        )
        assert error.excerpt == "    next: judge"

    def test_a_cycle_among_nodes_that_are_never_reached_is_one_too(self) -> None:
        text = LISTING.replace("nodes.unused}", "nodes.unused}\n    next: unused")
        assert "unused → unused" in str(mistake(text))

    def test_a_branch_does_not_fall_into_the_next_one_unasked(self) -> None:
        text = with_node(next="next: [first, second]").replace("    next: last\n", "", 1)
        error = mistake(text)
        assert str(error) == (
            "pipeline.yaml:8:5: nodes[1]: "
            "next is left out, so first leads on to second, another branch of ask"
        )
        assert error.hint == "write next: second if that is meant, or else next: NODE or next: end"

    def test_a_handler_that_is_not_in_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "nodes").mkdir()
        (tmp_path / "nodes" / "asks.py").touch()
        error = mistake(with_node(), folder=tmp_path)
        assert str(error) == "pipeline.yaml:6:39: handler_module: there is no nodes/ask.py in the folder"
        assert error.hint == "did you mean nodes.asks?"

    def test_a_folder_without_a_pipeline(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"pipeline\.yaml: cannot be read: No such file"):
            pipelines.read(tmp_path)

    @given(
        some.recursive(
            some.none() | some.integers() | some.sampled_from(["a", "b", "end", ""]),
            lambda inner: (
                some.lists(inner, max_size=3)
                | some.dictionaries(
                    some.sampled_from(["name", "model", "next", "by", "when", "otherwise", "nodes"]),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        )
    )
    def test_any_nodes_load_or_are_refused_with_their_place(self, nodes: object) -> None:
        try:
            pipelines.load(json.dumps({"pipeline": {"name": "p", "nodes": nodes}}))
        except SpecError as error:
            assert error.line == 1 and error.message
