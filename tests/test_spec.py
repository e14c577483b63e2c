"""deployments.yaml into typed structs, whoever wrote it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some
from spec_texts import EXAMPLE, flow, mistake, read, second, with_lines

from mdslite import spec as specs
from mdslite.document import MAX_SOURCE_BYTES
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
    parse_memory,
)
from mdslite.spec import Spec


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
        assert parse_memory(quantity) == size_bytes

    @pytest.mark.parametrize(
        "quantity", ["", "x", "Gi", "-1Gi", "1.5", "1 Gi", "1gi", "0Mi", "nan", "1Gi\n", -5]
    )
    def test_what_is_no_quantity(self, quantity: str | int) -> None:
        with pytest.raises(ValueError, match="expected an amount of memory"):
            parse_memory(quantity)
