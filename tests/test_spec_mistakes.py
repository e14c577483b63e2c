"""Every mistake in a deployments.yaml has its place and its hint."""

from __future__ import annotations

import pytest
from spec_texts import EXAMPLE, flow, mistake, read, with_lines

from mdslite.document import decode
from mdslite.errors import SpecError


class TestMistakes:
    def test_the_documented_mistake_word_for_word(self) -> None:
        error = mistake(with_lines(beside="weight: ten"))
        assert str(error) == 'deployments.yaml:8:13: weight: expected a number, got "ten"'
        assert (error.line, error.column, error.excerpt) == (8, 13, "    weight: ten")
        assert error.hint == "relative weight, 0 or more; demo/digits v1 has 90, so 10 gives it a tenth"
        assert (error.status, error.code) == (422, "invalid_spec")

    @pytest.mark.parametrize(
        ("others", "hint"),
        [
            ("{weight: 90}", "demo/digits v1 has 90, so 10 gives it a tenth"),
            ("{weight: 80}", "demo/digits v1 has 80, so 20 gives it a fifth"),
            ("{}", "demo/digits v1 has 100, so 25 gives it a fifth"),
            ("{weight: 6}", "demo/digits v1 has 6, so 2 gives it a quarter"),
            ("{weight: 7}", "demo/digits v1 has 7, so 7 gives it half"),
            ("{shadow: true}", None),
            ("{weight: x}", None),
        ],
    )
    def test_the_hint_for_a_weight_knows_the_other_versions(self, others: str, hint: str | None) -> None:
        text = with_lines(inside="service_info: {weight: []}").replace("{weight: 90}", others)
        given = mistake(text.replace("{weight: x}", "{weight: 0}"))
        assert given.hint == "; ".join(filter(None, ["relative weight, 0 or more", hint]))

    def test_the_hint_for_a_weight_adds_several_versions_up(self) -> None:
        third = "  - version: v3\n    spec: {uri: c.onnx, service_info: {weight: 9}}\n"
        error = mistake(with_lines(beside="weight: ten") + third)
        assert error.hint is not None
        assert error.hint.endswith("; the others of demo/digits have 99, so 11 gives it a tenth")

    def test_the_hint_for_a_shadows_weight_is_to_leave_it_out(self) -> None:
        error = mistake(with_lines(beside="shadow: true", inside="service_info: {weight: ten}"))
        assert error.hint == "relative weight, 0 or more; a shadow has none: leave weight out"

    @pytest.mark.parametrize(
        ("line", "place", "message", "hint"),
        [
            ("weight: -1", "8:13", "weight: expected a number of 0 or more, got -1", "relative weight"),
            (
                "weight: 1000001",
                "8:13",
                "weight: expected a number of 1000000 or less, got 1000001",
                "relative",
            ),
            ("weight: .nan", "8:13", "weight: expected a finite number, got .nan", "a plain number"),
            ("weight: -.inf", "8:13", "weight: expected a finite number, got -.inf", "a plain number"),
            ("weight: 1e999", "8:13", "weight: expected a finite number, got 1e999", "a plain number"),
            ("weight: true", "8:13", "weight: expected a number, got true", "relative weight"),
            ("weight: {a: 1}", "8:13", "weight: expected a number, got a mapping", "relative weight"),
            ("weight:", "8:5", "weight: expected a number, got nothing", "relative weight"),
            ('weight: "10"', "8:13", 'weight: expected a number, got "10"', "write it without quotes: 10"),
            ("shadow: yes", "8:13", 'shadow: expected true or false, got "yes"', "write true"),
            ("shadow: Off", "8:13", 'shadow: expected true or false, got "Off"', "write false"),
            ('shadow: "true"', "8:13", 'shadow: expected true or false, got "true"', "without quotes: true"),
            ("shadow:", "8:5", "shadow: expected true or false, got nothing", "leave the key out"),
            (
                "replicas: 0",
                "8:15",
                "replicas: expected a whole number of 1 or more, got 0",
                "how many copies",
            ),
            ("replicas: 1.5", "8:15", "replicas: expected a whole number, got 1.5", "how many copies"),
            ("wieght: 3", "8:5", "wieght: unknown key", "did you mean weight?"),
            ("URI: x", "8:5", "URI: unknown key", "known here: version, spec, weight, shadow, replicas"),
            ("batch_size: 3", "8:5", "batch_size: unknown key", "batch_size belongs in batch"),
            ("1: 2", "8:5", "expected a name as the key, got 1", 'put it in quotes: "1"'),
            ("? [a]\n    : 1", "8:7", "expected a name as the key, got none", "write a name and a colon"),
            (": 1", "8:5", "expected a name as the key, got none", "write a name and a colon"),
            ("<<: {weight: 1}", "8:5", "merge keys (<<) are not read", "write the keys out"),
            ("weight: 1\n    weight: 2", "9:5", "weight: written twice, first on line 8", "keep one"),
            ("weight: 9" + "9" * 5000, "8:13", "weight: expected a number that fits in 64 bits", "smaller"),
            ("weight: !!python/name:os.system 1", "8:13", "the tag ", "write the plain value"),
        ],
    )
    def test_beside_a_version(self, line: str, place: str, message: str, hint: str) -> None:
        error = mistake(with_lines(beside=line))
        assert str(error).startswith(f"deployments.yaml:{place}: {message}")
        assert error.hint is not None and hint in error.hint

    @pytest.mark.parametrize(
        ("line", "place", "message", "hint"),
        [
            ("weight: 5", "11:7", "weight: unknown key", "weight belongs in service_info"),
            ("bacth: {}", "11:7", "bacth: unknown key", "did you mean batch?"),
            ("zzz: 1", "11:7", "zzz: unknown key", "known here: uri, source_type"),
            ("runtime: onnx", "11:16", "runtime: expected one of ONNXRUNTIME, PYTHON", "mean ONNXRUNTIME?"),
            ("runtime: 3", "11:16", "runtime: expected one of ONNXRUNTIME, PYTHON", "write one of these"),
            ("package_type: mds", "11:21", "package_type: expected one of ONNX, MDS", "did you mean MDS?"),
            ("isolation: child", "11:18", "isolation: expected one of process, inline", "write one of these"),
            (
                "batch:",
                "11:7",
                "batch: expected a mapping, got nothing",
                "its keys: batch_size, batch_timeout_ms",
            ),
            (
                "batch: {batch_size: 0}",
                "11:27",
                "batch_size: expected a whole number of 1 or more",
                "1 to 1024",
            ),
            (
                "batch: {batch_size: 2000}",
                "11:27",
                "batch_size: expected a whole number of 1024 or less",
                "1024",
            ),
            (
                "batch: {batch_timeout_ms: -1}",
                "11:33",
                "batch_timeout_ms: expected a number of 0 or",
                "fill up",
            ),
            (
                "batch: {prediction_time_ms: 0.0}",
                "11:35",
                "prediction_time_ms: expected a number above 0",
                "take",
            ),
            (
                "resource: {memory: lots}",
                "11:26",
                'memory: expected an amount of memory, got "lots"',
                "512Mi",
            ),
            ("resource: {memory: 0Gi}", "11:26", 'memory: expected an amount of memory, got "0Gi"', "512Mi"),
            ("resource: {gpu: -1}", "11:23", "gpu: expected a whole number of 0 or more", "stays on the CPU"),
            (
                "resource: {gpu_names: [H200]}",
                "11:29",
                "gpu_names: expected text, got a list",
                '"H200,A100*"',
            ),
            ("resource: {gpu_names: 200}", "11:29", "gpu_names: expected text, got 200", 'it is text: "200"'),
            ("container_parameter: {env: {A: x, B: 8080}}", "11:44", "B: expected text, got 8080", '"8080"'),
            (
                "container_parameter: {env: {A: x, B C: y}}",
                "11:41",
                "B C: expected the name of a variable",
                "{LEVEL: debug}",
            ),
            ("container_parameter: {env: {'A=B': x}}", "11:35", "A=B: expected the name of", "LEVEL"),
            ("container_parameter: {env: {'': x}}", "11:35", '"": expected the name of', "LEVEL"),
            ("container_parameter: {env: {1A: x}}", "11:35", "1A: expected the name of", "LEVEL"),
            (
                "container_parameter: {onnxruntime: {intra_threads: 2}}",
                "11:43",
                "intra_threads: unknown key",
                "did you mean intra_op_threads?",
            ),
            (
                "container_parameter: {onnxruntime: {graph_optimization: al}}",
                "11:63",
                "graph_optimization: expected one of disabled, basic, extended, all",
                "did you mean all?",
            ),
            (
                "service_info: {endpoints_infos: [{protocol: OIP}]}",
                "11:40",
                "endpoints_infos[0]: url is missing",
                "url: where the endpoint answers",
            ),
            (
                "service_info: {endpoints_infos: [{url: 'http://a:99999'}]}",
                "11:46",
                "url: expected an address with a port of 1 to 65535",
                "http://host:8500",
            ),
            (
                "service_info: {shadow_percent: 101}",
                "11:38",
                "shadow_percent: expected a number of 100",
                "0 to 100",
            ),
            (
                "source_type: HTTP",
                "11:20",
                "source_type: HTTP does not go with the uri",
                "leave source_type out",
            ),
        ],
    )
    def test_inside_a_spec(self, line: str, place: str, message: str, hint: str) -> None:
        error = mistake(with_lines(inside=line))
        assert str(error).startswith(f"deployments.yaml:{place}: {message}")
        assert error.hint is not None and hint in error.hint

    @pytest.mark.parametrize(
        ("uri", "message", "hint"),
        [
            ("", "uri: expected a path or an address", "a file, a folder"),
            ("a\nb", "uri: expected a path or an address", "a file, a folder"),
            (
                "gs://bucket/a",
                'uri: expected a path or an address, got the scheme "gs"',
                "http:// or https://",
            ),
            ("http://", "uri: expected an address with a host", "such as http://host/model.onnx"),
            ("http://[::1", "uri: expected an address with a host", "such as http://host/model.onnx"),
            ("http://host:99999/", "uri: expected an address with a host", "such as http://host/model.onnx"),
            ("file://host/a", "uri: expected file:///path", "write the path alone"),
            ("file:///a%00b", "uri: expected file:///path", "write the path alone"),
        ],
    )
    def test_an_address_that_is_none(self, uri: str, message: str, hint: str) -> None:
        error = mistake(flow(uri=uri))
        assert message in str(error)
        assert error.hint is not None and hint in error.hint

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("a b", "such as a_b"),
            ("../x", "such as x"),
            ("1.0", "such as v1_0"),
            ("a" * 64, "such as " + "a" * 63),
            ('"a\\n"', "such as a"),
            ('"§"', "such as model"),
            ("12", 'in quotes it is a name: "12"'),
            ("true", 'in quotes it is a name: "true"'),
            ("1_0", 'in quotes it is a name: "1_0"'),
        ],
    )
    def test_a_name_that_is_none_comes_with_one_that_is(self, name: str, hint: str) -> None:
        text = "deployments: [{{project: p, model: {}, versions: []}}]"
        error = mistake(text.format(name))
        assert "model: expected a name, got " in str(error)
        assert error.hint is not None and error.hint.endswith(hint)
        suggestion = hint.removeprefix("such as ").removeprefix("in quotes it is a name: ")
        assert read(text.format(suggestion)).deployments[0].versions == ()

    def test_forms_that_disagree_name_both_places(self) -> None:
        error = mistake(with_lines(beside="weight: 1", inside="service_info: {weight: 3}"))
        assert str(error) == "deployments.yaml:8:13: weight: 1 here, but 3 in service_info on line 11"
        assert error.hint == "keep one of the two"

    def test_a_shadow_with_a_weight(self) -> None:
        error = mistake(with_lines(beside="shadow: true", inside="service_info: {weight: 3}"))
        assert str(error).startswith("deployments.yaml:11:30: weight: a shadow answers nobody")
        assert error.hint == "remove weight, or write shadow: false"

    @pytest.mark.parametrize("weights", ["{weight: 0}", "{weight: 0.0}"])
    def test_weights_that_are_all_zero(self, weights: str) -> None:
        text = with_lines(beside="shadow: true").replace("{weight: 90}", weights)
        error = mistake(text)
        assert "versions: every weight of demo/digits is 0, so no version would answer" in str(error)
        assert error.hint == "give one version a weight above 0"

    def test_a_model_of_shadows_only(self) -> None:
        error = mistake(with_lines(beside="shadow: true").replace("{weight: 90}", "{shadow: true}"))
        assert "every version of demo/digits is a shadow" in str(error)
        assert error.hint == "add a version without shadow"

    def test_a_version_listed_twice(self) -> None:
        error = mistake(EXAMPLE.replace("version: v2", "version: v1"))
        assert str(error) == "deployments.yaml:10:14: version: v1 is listed twice, first on line 5"
        assert error.hint == "give it another name"

    def test_a_model_listed_twice(self) -> None:
        model = "- project: p\n  model: m\n  versions: []\n"
        error = mistake("deployments:\n" + model + model)
        assert str(error) == "deployments.yaml:6:10: model: p/m is listed twice, first on line 3"
        assert error.hint == "list all its versions in one place"

    @pytest.mark.parametrize(
        ("text", "place", "message", "hint"),
        [
            ("", "1:1", "the file is empty", "begin with deployments:"),
            ("# only a comment\n", "1:1", "the file is empty", "begin with deployments:"),
            ("null", "1:1", "the file is empty", "begin with deployments:"),
            ("- project: p", "1:1", "expected a mapping, got a list", "begin the file with deployments:"),
            ("deploy: []", "1:1", "deploy: unknown key", "did you mean deployments?"),
            ("{}", "1:1", "deployments is missing", "a list of models"),
            ("deployments:", "1:1", "deployments: expected a list, got nothing", "a list of models"),
            ("deployments: [3]", "1:15", "deployments[0]: expected a mapping, got 3", "its keys: project"),
            ("deployments: [{}]", "1:15", "deployments[0]: project is missing", "project: letters, digits"),
            ("deployments: [{name: m}]", "1:16", "name: unknown key", "did you mean model?"),
            (
                "deployments: [{project: p, model: m, versions: [{version: v1}]}]",
                "1:49",
                "versions[0]: spec is",
                "uri",
            ),
            (
                "deployments: [{project: p, model: m, versions: [{version: v1, spec: {path: x}}]}]",
                "1:70",
                "path: unknown key",
                "did you mean uri?",
            ),
            ("a:\n\t- b", "2:1", "a tab stands where YAML wants spaces", "indent with spaces"),
            ("a: b: c", "1:5", "a key cannot stand here", "quote a ': ' in a value"),
            ("a: @b", "1:4", "this character cannot start a value", "in quotes"),
            ("a: *b", "1:4", "*name repeats the value marked &name", "quote it"),
            ("a: 1\nb: [1,\n", "3:1", "a value is missing", "write the value"),
            ("a: 1\nb: [1\n", "3:1", "a bracket is not closed", "close the bracket that opens on line 2"),
            ("a: 1\nb: 'x\n", "3:1", "a quote is not closed", "close the quote that opens on line 2"),
            ("a:\n  - b\n c: 1", "3:2", "the indentation does not fit", "begins on line 1"),
            ("a: 1\n---\nb: 2", "2:1", "a second document begins", "remove the ---"),
            ("a: 1\nb\nc: 2", "3:1", "a key has no value", "a colon and the value"),
            ('a: "\\x"', "1:7", "this is no valid YAML: expected escape sequence", ""),
            ('a: "\\U99999999"', "1:5", "an escape stands for no character", ""),
            ("a: 1\nb: \x00", "2:4", "the character U+0000 cannot stand in YAML", "remove it"),
            ("a: \x1b[31m", "1:4", "the character U+001B cannot stand in YAML", "remove it"),
            ('a: "\\0"', "1:4", "a: expected text without NUL characters", "remove"),
            ('a: "\\ud83d"', "1:4", "a: expected text, got half of a surrogate pair", "the character itself"),
            ("a: !!set {x}", "1:4", "the tag", "write the plain value"),
            ("&a [*a]", "1:1", "nested more than 32 levels deep", "flatter"),
            ("%YAML 3.0\n---\na: 1", "1:1", "this is no valid YAML: found incompatible", ""),
        ],
    )
    def test_a_file_that_is_no_deployments(self, text: str, place: str, message: str, hint: str) -> None:
        error = mistake(text)
        assert str(error).startswith(f"deployments.yaml:{place}: {message}")
        assert hint in (error.hint or "")

    def test_a_mistake_in_one_long_line_shows_the_part_around_it(self) -> None:
        error = mistake(flow(confidence={"output": "x" * 500, "field": []}, isolation=None))
        assert error.line == 1 and error.excerpt is not None
        assert error.excerpt.startswith("…") and '"field": []' in error.excerpt
        assert len(error.excerpt) <= 102

    def test_a_mistake_in_a_repeated_value_stands_where_it_is_written(self) -> None:
        error = mistake(with_lines(beside="weight: &share ten", inside="service_info: {weight: *share}"))
        assert (error.line, error.column) == (8, 13)

    def test_bytes_that_are_no_utf_8(self) -> None:
        with pytest.raises(
            SpecError, match=r"^x\.yaml:2:5: expected UTF-8 text, got the byte 0xff$"
        ) as caught:
            decode("a: é\nbé: ".encode() + b"\xff", file="x.yaml")
        assert caught.value.hint == "save the file as UTF-8"

    def test_utf_8_is_decoded(self) -> None:
        assert decode("é".encode(), file="x.yaml") == "é"
