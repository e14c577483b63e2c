"""deployments.yaml into typed structs, and the place and hint of every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from mdslite import deployments
from mdslite import spec as specs
from mdslite.deployments import Deployments
from mdslite.document import MAX_SOURCE_BYTES, decode
from mdslite.errors import SpecError
from mdslite.fields import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_BATCH_TIMEOUT_MS,
    DEFAULT_PREDICTION_TIME_MS,
    QUEUE_ROWS,
    Name,
    Operator,
    PackageType,
    RuntimeType,
    SourceType,
    make_name,
)
from mdslite.spec import Spec

BASE = Path("/srv/models")

EXAMPLE = """\
deployments:
- project: mail
  model: spamfilter
  versions:
  - version: v1
    spec:
      uri: ./spam-v1.onnx
      batch: {batch_size: 32, batch_timeout_ms: 2, prediction_time_ms: 5000}   # optional
      service_info: {weight: 80}
  - version: v2
    spec:
      uri: ./spam_v2/            # a package folder
      service_info: {weight: 20}
"""

# One version beside another, with a line of its own in two places.
TEMPLATE = """\
deployments:
- project: demo
  model: digits
  versions:
  - version: v1
    spec: {{uri: a.onnx, service_info: {{weight: 90}}}}
  - version: v2
    {beside}
    spec:
      uri: b.onnx
      {inside}
"""


def read(text: str, *, base: Path = BASE) -> Deployments:
    return deployments.load(text, file="deployments.yaml", base=base)


def mistake(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        read(text)
    return caught.value


def with_lines(*, beside: str = "# nothing", inside: str = "# nothing") -> str:
    return TEMPLATE.format(beside=beside, inside=inside)


def second(*, beside: str = "# nothing", inside: str = "# nothing") -> Spec:
    """The spec of the version under test."""
    return read(with_lines(beside=beside, inside=inside)).deployments[0].versions[1].spec


def flow(**spec: Any) -> str:
    """A file of one version, written as JSON."""
    version = {"version": "v1", "spec": {"uri": "a.onnx", **spec}}
    return json.dumps({"deployments": [{"project": "p", "model": "m", "versions": [version]}]})


class TestWhatLoads:
    def test_the_documented_example(self) -> None:
        [deployment] = read(EXAMPLE).deployments
        assert (deployment.project, deployment.model) == ("mail", "spamfilter")
        first, other = deployment.versions
        assert (first.version, other.version) == ("v1", "v2")
        assert first.spec.uri == "/srv/models/spam-v1.onnx"
        assert other.spec.uri == "/srv/models/spam_v2"
        assert (first.spec.service_info.weight, other.spec.service_info.weight) == (80, 20)
        assert first.spec.batch == specs.Batch(batch_size=32, batch_timeout_ms=2, prediction_time_ms=5000)

    def test_defaults_are_those_of_the_contract(self) -> None:
        spec = read(flow()).deployments[0].versions[0].spec
        assert spec.source_type is SourceType.UNSET_SOURCETYPE
        assert spec.package_type is PackageType.UNSET_PACKAGETYPE
        assert spec.runtime is RuntimeType.UNSET_RUNTIME
        assert spec.operator is Operator.UNSET_OPERATOR
        assert spec.service_info == specs.ServiceInfo(
            replicas=1, weight=100, shadow=False, shadow_percent=100
        )
        assert spec.batch == specs.Batch(batch_size=None, batch_timeout_ms=None, prediction_time_ms=None)
        assert (DEFAULT_BATCH_SIZE, DEFAULT_BATCH_TIMEOUT_MS) == (32, 2)
        assert (DEFAULT_PREDICTION_TIME_MS, QUEUE_ROWS) == (30_000, 1024)

    def test_a_certificate_s_path_starts_from_the_file_as_a_uri_does(self) -> None:
        options: list[dict[str, Any]] = [{"ca": "box.pem"}, {"ca": "/etc/ca.pem"}, {"ca": "../ca.pem"}, {}]
        endpoints = [{"url": "https://far", "options": one} for one in options]
        spec = read(flow(service_info={"endpoints_infos": endpoints})).deployments[0].versions[0].spec
        assert [one.options.get("ca") for one in spec.service_info.endpoints_infos] == [
            "/srv/models/box.pem", "/etc/ca.pem", "/srv/ca.pem", None,
        ]  # fmt: skip

    def test_every_field_of_the_contract(self) -> None:
        given: dict[str, Any] = {
            "uri": "s3://bucket/spam",
            "source_type": "OBJECT_STORAGE",
            "package_type": "MDS",
            "runtime": "PYTHON",
            "operator": "NCC",
            "operator_configs": {
                "ncc_operator_config": {"namespace": "ml"},
                "c3dls_operator_config": {"queue": "gpu"},
                "custom_operator_config": {"command": ["push"]},
            },
            "container_parameter": {
                "env": {"LEVEL": "debug"},
                "image": "registry/spam:1",
                "command": ["serve"],
                "args": ["--fast"],
                "onnxruntime": {
                    "intra_op_threads": 2,
                    "inter_op_threads": 1,
                    "cpu_mem_arena": False,
                    "mem_pattern": True,
                    "graph_optimization": "extended",
                    "tensorrt": True,
                    "gpu_mem_limit_mb": 512,
                },
                "anything": {"else": [1, None]},
            },
            "resource": {"cpu": 2.5, "gpu": 1, "memory": "2Gi", "gpu_names": "H200,A100*"},
            "service_info": {
                "replicas": 2,
                "weight": 0.5,
                "shadow_percent": 10,
                "endpoints_infos": [
                    {"url": "http://a:8500", "protocol": "OIP", "provider": "dns", "options": {"port": 1}}
                ],
            },
            "batch": {"batch_size": 8, "batch_timeout_ms": 0.5, "prediction_time_ms": 100},
            "isolation": "inline",
            "confidence": {"output": "probabilities", "field": 1},
        }
        spec = read(flow(**given)).deployments[0].versions[0].spec
        assert specs.to_plain(spec) == given
        assert spec.resource.memory_bytes == 2 << 30
        assert spec.container.env == {"LEVEL": "debug"}
        assert spec.container.onnxruntime.graph_optimization == "extended"

    def test_the_short_form_equals_the_long_one(self) -> None:
        short = second(beside="{}: 5".format("weight"))
        assert short == second(inside="service_info: {weight: 5}")
        assert second(beside="replicas: 3").service_info.replicas == 3
        assert second(beside="shadow: true") == second(inside="service_info: {shadow: true}")

    def test_both_forms_may_stand_when_they_agree(self) -> None:
        assert second(beside="weight: 5", inside="service_info: {weight: 5}").service_info.weight == 5

    def test_the_short_form_leaves_the_rest_of_the_long_one(self) -> None:
        info = second(beside="weight: 5", inside="service_info: {replicas: 2}").service_info
        assert (info.weight, info.replicas) == (5, 2)

    def test_a_shadow_without_a_weight_has_none(self) -> None:
        assert second(beside="shadow: true").service_info.weight == 0
        assert second(beside="shadow: true", inside="service_info: {weight: 0}").service_info.weight == 0

    def test_json_is_read_too_tabs_and_surrogate_pairs_included(self) -> None:
        text = json.dumps(json.loads(flow(uri="modèles/\N{GRINNING FACE}.onnx")), indent="\t")
        assert "\\ud83d\\ude00" in text
        assert read(text).deployments[0].versions[0].spec.uri == "/srv/models/modèles/\N{GRINNING FACE}.onnx"

    def test_a_byte_order_mark_and_foreign_line_ends_are_no_matter(self) -> None:
        assert read("\ufeff" + EXAMPLE.replace("\n", "\r\n")) == read(EXAMPLE)

    def test_an_anchor_may_be_repeated(self) -> None:
        text = with_lines(beside="weight: &share 10", inside="batch: {batch_size: *share}")
        assert read(text).deployments[0].versions[1].spec.batch.batch_size == 10

    def test_a_file_without_models_and_a_model_without_versions(self) -> None:
        assert read("deployments: []").deployments == ()
        assert read("deployments: [{project: p, model: m, versions: []}]").deployments[0].versions == ()

    @pytest.mark.parametrize(
        ("uri", "absolute"),
        [
            ("a.onnx", "/srv/models/a.onnx"),
            ("../a.onnx", "/srv/a.onnx"),
            ("/else/where.onnx", "/else/where.onnx"),
            ("file:///else/my%20model.onnx", "/else/my model.onnx"),
            ("file://localhost/else/a.onnx", "/else/a.onnx"),
            ("http://host/a.onnx", "http://host/a.onnx"),
            ("HTTPS://host:8443/a.onnx?x=1", "HTTPS://host:8443/a.onnx?x=1"),
            ("oci://registry/a:1", "oci://registry/a:1"),
        ],
    )
    def test_a_uri_becomes_absolute(self, uri: str, absolute: str) -> None:
        assert read(flow(uri=uri)).deployments[0].versions[0].spec.uri == absolute

    def test_an_image_of_a_registry_is_no_path(self) -> None:
        spec = read(flow(uri="team/spam:1", source_type="DOCKER_REGISTRY")).deployments[0].versions[0].spec
        assert spec.uri == "team/spam:1"


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


class TestHostileText:
    """What is refused costs no more than its size; the limits are far above what an honest file holds."""

    def test_an_alias_bomb(self) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 30)]
        assert "more than 150000 values" in str(mistake("\n".join(lines)))

    def test_a_chain_of_aliases(self) -> None:
        lines = ["a0: &a0 [x]", *(f"a{level}: &a{level} [*a{level - 1}]" for level in range(1, 3000))]
        assert "nested more than 32 levels deep" in str(mistake("\n".join(lines)))

    @pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "[a, ["])
    def test_deep_nesting(self, opening: str) -> None:
        assert "nested more than 32 levels deep" in str(mistake(opening * 50_000))

    def test_an_honest_file_of_many_models_is_within_the_bounds(self) -> None:
        model = (
            "- project: mail\n  model: m{0}\n  versions:\n  - version: v1\n    spec: {{uri: ./m{0}.onnx}}\n"
        )
        text = "deployments:\n" + "".join(model.format(number) for number in range(500))
        assert len(read(text).deployments) == 500

    def test_a_list_as_long_as_the_bound_allows_is_refused_for_what_it_is(self) -> None:
        error = mistake(f"deployments: [{'1,' * 60_000}]")
        assert "deployments[0]: expected a mapping, got 1" in str(error)

    def test_a_text_beyond_the_bound(self) -> None:
        error = mistake("#" + "x" * MAX_SOURCE_BYTES)
        assert str(error) == "deployments.yaml: the text is too long: expected at most 256 KiB"
        assert error.hint == "spread the models over several files"
        assert "too long" in str(mistake("#" + "é" * (MAX_SOURCE_BYTES // 2)))

    @given(some.text(alphabet="ab:-[]{},&*!|>'\"%@`#? \n\t\\0é1.\ufeff<~", max_size=60))
    def test_any_text_loads_or_is_refused_with_its_place(self, text: str) -> None:
        try:
            read(text)
        except SpecError as error:
            assert error.line is None or 1 <= error.line <= text.count("\n") + 1
            assert error.message

    @given(
        some.recursive(
            some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=5),
            lambda inner: (
                some.lists(inner, max_size=3)
                | some.dictionaries(
                    some.sampled_from(
                        [
                            "deployments",
                            "project",
                            "model",
                            "versions",
                            "version",
                            "spec",
                            "uri",
                            "weight",
                            "x`.[0]",
                        ]
                    ),
                    inner,
                    max_size=5,
                )
            ),
            max_leaves=12,
        )
    )
    def test_any_json_loads_or_is_refused(self, value: Any) -> None:
        for text in (json.dumps(value), json.dumps({"deployments": [value]})):
            try:
                read(text)
            except SpecError as error:
                assert error.message


names = some.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z")


class TestPlainForm:
    @given(
        some.builds(
            Spec,
            uri=some.just("/a.onnx"),
            runtime=some.sampled_from(RuntimeType),
            container_parameter=some.dictionaries(some.text(max_size=3), some.integers(0, 3) | some.just({})),
            resource=some.builds(specs.Resource, gpu=some.none() | some.integers(0, 3)),
            service_info=some.builds(specs.ServiceInfo, weight=some.floats(0, 1000) | some.integers(0, 200)),
            batch=some.builds(specs.Batch, batch_size=some.none() | some.integers(1, 1024)),
            confidence=some.none() | some.builds(specs.Confidence, field=some.none() | some.text(max_size=3)),
        )
    )
    def test_a_spec_survives_json(self, spec: Spec) -> None:
        plain = json.loads(json.dumps(specs.to_plain(spec)))
        assert specs.from_plain(plain) == spec

    def test_defaults_are_left_out(self) -> None:
        assert specs.to_plain(Spec(uri="/a.onnx")) == {"uri": "/a.onnx"}

    def test_a_stored_spec_that_does_not_fit_is_refused(self) -> None:
        with pytest.raises(SpecError, match=r"a stored spec does not fit: .*runtime"):
            specs.from_plain({"uri": "/a.onnx", "runtime": "COBOL"})

    def test_specs_are_values(self) -> None:
        with pytest.raises(AttributeError):
            Spec(uri="/a.onnx").uri = "/b.onnx"  # type: ignore[misc]

    @given(names)
    def test_a_name_is_its_own_nearest_name_but_for_its_ends(self, name: str) -> None:
        assert make_name(name) == name.strip("_-")

    @given(some.text())
    def test_a_made_name_is_a_name(self, text: str) -> None:
        assert msgspec.convert(make_name(text), Name) == make_name(text)


class TestMemory:
    @pytest.mark.parametrize(
        ("quantity", "size_bytes"),
        [
            ("2Gi", 2 << 30),
            ("512Mi", 512 << 20),
            ("1.5Gi", 3 << 29),
            ("2G", 2 * 10**9),
            ("4k", 4000),
            ("4Ki", 4096),
            ("1Ti", 1 << 40),
            ("100B", 100),
            ("100", 100),
            (100, 100),
        ],
    )
    def test_quantities(self, quantity: str | int, size_bytes: int) -> None:
        assert specs.parse_memory(quantity) == size_bytes

    @pytest.mark.parametrize(
        "quantity", ["", "x", "Gi", "-1Gi", "1.5", "1 Gi", "1gi", "0Mi", "nan", "1Gi\n", -5]
    )
    def test_what_is_no_quantity(self, quantity: str | int) -> None:
        with pytest.raises(ValueError, match="expected an amount of memory"):
            specs.parse_memory(quantity)
