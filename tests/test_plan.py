"""What an apply would change, as values."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from mdslite.deploy.plan import Action, Plan, State, Step, Wanted, make_plan, target_state, to_plain
from mdslite.spec import Batch, Confidence, EndpointInfo, OperatorConfigs, Resource, ServiceInfo, Spec

SPAM = ("mail", "spam")
DIGITS = ("demo", "digits")


def wanted(*, digest: str = "sha256:aa", memory_bytes: int | None = None, **spec: Any) -> Wanted:
    spec = {"uri": "/models/a.onnx", **spec}
    return Wanted(Spec(**spec), digest=digest, size_bytes=10, memory_bytes=memory_bytes)


def only_step(before: Wanted, after: Wanted) -> Step:
    [model] = make_plan({SPAM: {"v1": before}}, {SPAM: {"v1": after}}, prune=False).models
    [step] = model.steps
    return step


def done(plan: Plan) -> list[tuple[str, str, str]]:
    return [(step.action.value, step.model, step.version) for step in plan.steps]


specs = some.builds(
    Spec,
    uri=some.sampled_from(["/models/a.onnx", "/models/b.onnx"]),
    container_parameter=some.dictionaries(
        some.sampled_from(["a", "b"]), some.sampled_from([1, True, "x", {}])
    ),
    resource=some.builds(Resource, gpu=some.none() | some.integers(0, 1)),
    service_info=some.builds(
        ServiceInfo,
        weight=some.integers(0, 2),
        shadow=some.booleans(),
        replicas=some.integers(1, 2),
        endpoints_infos=some.sampled_from([(), (EndpointInfo(url="http://x"),)]),
    ),
    batch=some.builds(Batch, batch_size=some.none() | some.integers(1, 2)),
    confidence=some.none() | some.builds(Confidence, output=some.none() | some.just("p")),
)
versions = some.dictionaries(
    some.sampled_from(["v1", "v2", "v3"]),
    some.builds(
        Wanted,
        spec=specs,
        digest=some.sampled_from(["sha256:aa", "sha256:bb"]),
        size_bytes=some.integers(0, 2),
        memory_bytes=some.none() | some.integers(0, 2),
    ),
)
states = some.dictionaries(
    some.tuples(some.sampled_from("pq"), some.sampled_from("mn")), versions, max_size=4
)


def without_empty(state: State) -> dict[tuple[str, str], dict[str, Wanted]]:
    return {key: dict(versions) for key, versions in state.items() if versions}


@given(states, states)
def test_carrying_out_a_pruning_plan_gives_the_wanted_state(current: State, target: State) -> None:
    assert target_state(current, make_plan(current, target, prune=True)) == without_empty(target)


@given(states, states)
def test_without_pruning_the_models_that_are_not_named_stay(current: State, target: State) -> None:
    others = {key: versions for key, versions in current.items() if key not in target}
    reached = target_state(current, make_plan(current, target, prune=False))
    assert reached == {**others, **without_empty(target)}


@given(states, states, some.booleans())
def test_planning_again_finds_nothing_to_do(current: State, target: State, prune: bool) -> None:
    reached = target_state(current, make_plan(current, target, prune=prune))
    again = make_plan(reached, target, prune=prune)
    assert not again.changed
    assert {step.action for model in again.models for step in model.steps} <= {Action.RETAIN}


@given(states, states, some.booleans())
def test_every_step_is_done_once_in_the_order_of_its_action(
    current: State, target: State, prune: bool
) -> None:
    plan = make_plan(current, target, prune=prune)
    order = [Action.ADD, Action.UPDATE, Action.DELETE]
    ranks = [order.index(step.action) for step in plan.steps]
    assert ranks == sorted(ranks)
    listed = [step for model in plan.models for step in model.steps if step.action is not Action.RETAIN]
    assert sorted(map(id, plan.steps)) == sorted(map(id, listed))
    assert plan.changed is bool(listed)


@given(states, states, some.booleans())
def test_an_update_names_what_differs_and_nothing_else_does(
    current: State, target: State, prune: bool
) -> None:
    for model in make_plan(current, target, prune=prune).models:
        for step in model.steps:
            assert bool(step.changes) is (step.action is Action.UPDATE)
            if step.action is Action.RETAIN:
                assert step.before is not None and step.after is not None
                assert step.before.digest == step.after.digest
                assert not step.reload


@given(states, states)
def test_a_plan_survives_json(current: State, target: State) -> None:
    plain = to_plain(make_plan(current, target, prune=True))
    assert msgspec.json.decode(msgspec.json.encode(plain)) == plain


def test_steps_follow_the_file_within_each_action() -> None:
    current = {SPAM: {"v1": wanted(), "v2": wanted(), "v3": wanted()}, DIGITS: {"v1": wanted()}}
    lighter = wanted(service_info=ServiceInfo(weight=1))
    target = {DIGITS: {"v2": wanted(), "v1": lighter}, SPAM: {"v9": wanted(), "v3": lighter, "v4": wanted()}}
    assert done(make_plan(current, target, prune=False)) == [
        ("ADD", "digits", "v2"),
        ("ADD", "spam", "v9"),
        ("ADD", "spam", "v4"),
        ("UPDATE", "digits", "v1"),
        ("UPDATE", "spam", "v3"),
        ("DELETE", "spam", "v1"),
        ("DELETE", "spam", "v2"),
    ]


def test_a_model_that_the_file_does_not_name_is_left_alone_unless_pruned() -> None:
    current = {SPAM: {"v1": wanted()}, DIGITS: {"v1": wanted()}}
    target = {SPAM: {"v1": wanted()}}
    assert not make_plan(current, target, prune=False).changed
    assert done(make_plan(current, target, prune=True)) == [("DELETE", "digits", "v1")]


def test_naming_a_model_without_versions_deletes_them() -> None:
    plan = make_plan({SPAM: {"v1": wanted()}}, {SPAM: {}}, prune=False)
    assert done(plan) == [("DELETE", "spam", "v1")]
    assert target_state({SPAM: {"v1": wanted()}}, plan) == {}


def test_the_order_of_versions_alone_is_no_change() -> None:
    first, second = wanted(), wanted(digest="sha256:bb")
    plan = make_plan({SPAM: {"v1": first, "v2": second}}, {SPAM: {"v2": second, "v1": first}}, prune=False)
    assert not plan.changed


def test_newly_predicted_memory_alone_is_no_change() -> None:
    step = only_step(wanted(memory_bytes=None), wanted(memory_bytes=5))
    assert step.action is Action.RETAIN


@pytest.mark.parametrize(
    ("field", "after"),
    [
        ("service_info.weight", wanted(service_info=ServiceInfo(weight=1))),
        ("service_info.shadow", wanted(service_info=ServiceInfo(shadow=True))),
        ("service_info.shadow_percent", wanted(service_info=ServiceInfo(shadow_percent=10))),
        ("batch.batch_size", wanted(batch=Batch(batch_size=8))),
        ("batch.batch_timeout_ms", wanted(batch=Batch(batch_timeout_ms=8))),
        ("batch.prediction_time_ms", wanted(batch=Batch(prediction_time_ms=8))),
        ("confidence.field", wanted(confidence=Confidence(field=1))),
        ("uri", wanted(uri="/elsewhere/a.onnx")),
        ("source_type", wanted(source_type="FILE")),
        (
            "operator_configs.ncc_operator_config.namespace",
            wanted(operator_configs=OperatorConfigs(ncc_operator_config={"namespace": "x"})),
        ),
    ],
)
def test_what_a_session_is_not_made_from_changes_without_a_reload(field: str, after: Wanted) -> None:
    step = only_step(wanted(), after)
    assert step.action is Action.UPDATE
    assert [change.field for change in step.changes] == [field]
    assert not step.reload


@pytest.mark.parametrize(
    ("field", "after"),
    [
        ("digest", wanted(digest="sha256:bb")),
        ("service_info.replicas", wanted(service_info=ServiceInfo(replicas=2))),
        (
            "service_info.endpoints_infos",
            wanted(service_info=ServiceInfo(endpoints_infos=(EndpointInfo(url="http://x"),))),
        ),
        ("resource.cpu", wanted(resource=Resource(cpu=2))),
        ("resource.gpu", wanted(resource=Resource(gpu=1))),
        ("container_parameter.env.A", wanted(container_parameter={"env": {"A": "1"}})),
        ("runtime", wanted(runtime="PYTHON")),
        ("package_type", wanted(package_type="MDS")),
        ("operator", wanted(operator="LOCAL")),
        ("isolation", wanted(isolation="inline")),
    ],
)
def test_what_a_session_is_made_from_needs_a_reload(field: str, after: Wanted) -> None:
    step = only_step(wanted(), after)
    assert step.action is Action.UPDATE
    assert [change.field for change in step.changes] == [field]
    assert step.reload


def test_a_change_holds_the_old_and_the_new_value() -> None:
    step = only_step(wanted(), wanted(service_info=ServiceInfo(weight=80)))
    [change] = step.changes
    assert (change.field, change.before, change.after) == ("service_info.weight", 100, 80)


def test_new_bytes_come_before_other_changes() -> None:
    step = only_step(wanted(), wanted(uri="/models/b.onnx", digest="sha256:bb"))
    assert [change.field for change in step.changes] == ["digest", "uri"]


def test_true_and_one_are_different_parameters() -> None:
    before, after = wanted(container_parameter={"x": 1}), wanted(container_parameter={"x": True})
    assert only_step(before, after).action is Action.UPDATE


def test_a_dotted_key_is_not_a_nested_one() -> None:
    before = wanted(container_parameter={"a.b": 1})
    after = wanted(container_parameter={"a": {"b": 1}})
    assert only_step(before, after).action is Action.UPDATE
