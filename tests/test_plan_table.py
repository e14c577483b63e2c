"""The plan as a table on the terminal."""

from __future__ import annotations

from typing import Any

import pytest

from mdslite.deploy.plan import State, Wanted, make_plan, to_plain
from mdslite.fields import RuntimeType
from mdslite.planning import model_lines, render_plan, tense_of
from mdslite.spec import Batch, Confidence, EndpointInfo, Resource, ServiceInfo, Spec

DIGITS = ("demo", "digits")


def wanted(
    *,
    digest: str = "sha256:1a2b3c4d5e6f",
    size_bytes: int = 1_200_000,
    memory_bytes: int | None = None,
    **spec: Any,
) -> Wanted:
    spec = {"uri": "/models/digits.onnx", **spec}
    return Wanted(Spec(**spec), digest=digest, size_bytes=size_bytes, memory_bytes=memory_bytes)


def weighing(weight: float, **more: Any) -> Wanted:
    return wanted(service_info=ServiceInfo(weight=weight), **more)


def rendered(current: State, target: State, *, prune: bool = False) -> str:
    return render_plan(to_plain(make_plan(current, target, prune=prune)))


def diff(before: Wanted, after: Wanted) -> str:
    """What the DIFF column says of one version."""
    last = rendered({DIGITS: {"v1": before}}, {DIGITS: {"v1": after}}).splitlines()[-1]
    return last.split("|")[3].strip()


def added(version: Wanted) -> str:
    return rendered({}, {DIGITS: {"v1": version}}).splitlines()[-1].split("|")[3].strip()


def test_a_plan_looks_as_the_documentation_shows_it() -> None:
    current = {DIGITS: {"v1": weighing(100)}}
    target = {DIGITS: {"v1": weighing(80), "v2": weighing(20)}}
    assert rendered(current, target) == (
        "PROJECT: demo MODEL: digits\n"
        "= RETAIN (0)  + ADD (1)  ~ UPDATE (1)  x DELETE (0)\n"
        "| APPLY WILL | VERSION | DIFF                  |\n"
        "| ADD        | v2      | Weight: 20, 1.2 MB    |\n"
        "| UPDATE     | v1      | Weight: 100 -> 80     |"
    )


@pytest.mark.parametrize(("state", "head"), [("applied", "APPLY DID"), ("failed", "APPLY WOULD")])
def test_what_is_over_is_told_in_the_past(state: str, head: str) -> None:
    plan = to_plain(make_plan({}, {DIGITS: {"v1": weighing(100)}}, prune=False))
    table = render_plan(plan, tense=tense_of(state)).splitlines()[2:]
    assert table[0].split("|")[1].strip() == head
    assert len({len(line) for line in table}) == 1
    assert table[1].split("|")[1].strip() == "ADD"


def test_the_counts_take_two_lines_where_one_has_no_room() -> None:
    plan = to_plain(make_plan({DIGITS: {"v1": weighing(100)}}, {DIGITS: {"v1": weighing(80)}}, prune=False))
    counts = "= RETAIN (0)  + ADD (0)  ~ UPDATE (1)  x DELETE (0)"
    assert render_plan(plan, width=51).splitlines()[1] == counts
    assert render_plan(plan, width=50).splitlines()[1:3] == [counts[:23], counts[25:]]


def test_a_plan_that_changes_nothing_shows_its_counts_and_no_table() -> None:
    state = {DIGITS: {"v1": weighing(100)}}
    assert rendered(state, state) == (
        "PROJECT: demo MODEL: digits\n= RETAIN (1)  + ADD (0)  ~ UPDATE (0)  x DELETE (0)"
    )


def test_models_stand_apart() -> None:
    text = rendered({("mail", "spam"): {"v1": weighing(5)}}, {DIGITS: {"v1": weighing(1)}}, prune=True)
    first, second = text.split("\n\n")
    assert first.startswith("PROJECT: demo MODEL: digits\n")
    assert second.splitlines()[0] == "PROJECT: mail MODEL: spam"
    assert second.splitlines()[-1] == "| DELETE     | v1      | Weight: 5, 1.2 MB     |"


def many(count: int, weight: float = 5) -> dict[tuple[str, str], dict[str, Wanted]]:
    return {("mail", f"spam-{number}"): {"v1": weighing(weight)} for number in range(count)}


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, "mail/spam-0 stays as it is"),
        (2, "mail/spam-0 and mail/spam-1 stay as they are"),
        (26, "26 models stay as they are"),
    ],
)
def test_models_that_stay_as_they_are_share_a_line_below_the_others(count: int, said: str) -> None:
    before = {**many(count), DIGITS: {"v1": weighing(100)}}
    after = {**many(count), DIGITS: {"v1": weighing(80)}}
    first, second = rendered(before, after).split("\n\n")
    assert first == rendered({DIGITS: before[DIGITS]}, {DIGITS: after[DIGITS]})
    assert second == said


def test_of_several_models_none_of_which_changes_one_line_tells() -> None:
    assert rendered(many(27), many(27)) == "27 models stay as they are"


def test_models_that_stayed_as_they_were_are_told_of_in_the_past() -> None:
    plan = to_plain(make_plan(many(2), many(2), prune=False))
    assert render_plan(plan, tense="did") == "mail/spam-0 and mail/spam-1 stayed as they were"
    assert render_plan(plan, tense="would", width=30).splitlines() == [
        "mail/spam-0 and mail/spam-1",
        "stayed as they were",
    ]
    assert render_plan(to_plain(make_plan(many(1), many(1), prune=True)), tense="did").startswith("PROJECT")


def test_an_empty_plan_is_an_empty_text() -> None:
    assert rendered({}, {}) == ""


def test_columns_widen_for_what_they_hold() -> None:
    text = rendered({}, {DIGITS: {"candidate-2026": weighing(33.3, memory_bytes=35_000_000)}})
    header, row = text.splitlines()[-2:]
    assert header == "| APPLY WILL | VERSION        | DIFF                                |"
    assert row == "| ADD        | candidate-2026 | Weight: 33.3, 1.2 MB, memory ~35 MB |"


def test_predicted_memory_counts_every_replica() -> None:
    assert added(weighing(20, memory_bytes=35_000_000)) == "Weight: 20, 1.2 MB, memory ~35 MB"
    twice = wanted(service_info=ServiceInfo(replicas=2), memory_bytes=35_000_000)
    assert added(twice) == "Weight: 100, 1.2 MB, memory ~70 MB"


def test_a_shadow_is_called_so_instead_of_its_weight() -> None:
    assert added(wanted(service_info=ServiceInfo(weight=0, shadow=True))) == "Shadow, 1.2 MB"
    some = wanted(service_info=ServiceInfo(weight=0, shadow=True, shadow_percent=12.5))
    assert added(some) == "Shadow: 12.5 %, 1.2 MB"


def test_sizes_have_two_digits_where_they_say_something() -> None:
    sizes = {
        1: "1 B", 918: "918 B", 1000: "1.0 kB", 19_440: "19 kB", 999_499: "999 kB", 999_999: "1.0 MB",
        9_960_000: "10 MB", 1_230_000_000: "1.2 GB", 5_000_000_000_000: "5.0 TB", 10**16: "10000 TB",
    }  # fmt: skip
    for size_bytes, text in sizes.items():
        assert added(weighing(1, size_bytes=size_bytes)) == f"Weight: 1, {text}"


def test_a_version_that_is_served_elsewhere_has_no_size() -> None:
    assert added(weighing(10, digest="remote", size_bytes=0)) == "Weight: 10"


def test_changed_bytes_show_the_beginning_of_both_digests() -> None:
    before, after = wanted(digest="sha256:1a2b3c4d99"), wanted(digest="sha256:5e6f7a8b99")
    assert diff(before, after) == "Artifact: 1a2b3c4d -> 5e6f7a8b"


def test_a_reload_shows_the_memory_it_will_take() -> None:
    after = wanted(digest="sha256:5e6f7a8b99", memory_bytes=12_000_000)
    assert diff(wanted(), after) == "Artifact: 1a2b3c4d -> 5e6f7a8b, memory ~12 MB"
    assert diff(weighing(1), weighing(2, memory_bytes=12_000_000)) == "Weight: 1 -> 2"


def test_a_moved_file_shows_what_differs_of_its_address() -> None:
    assert diff(wanted(uri="/models/a.onnx"), wanted(uri="/models/b.onnx")) == "URI: a.onnx -> b.onnx"
    assert diff(wanted(uri="/old/a.onnx"), wanted(uri="/new/a.onnx")) == "URI: /old/a.onnx -> /new/a.onnx"


def test_fields_have_readable_names_and_units() -> None:
    before = wanted()
    cases = {
        "Batch size: default -> 16": wanted(batch=Batch(batch_size=16)),
        "Batch timeout: default -> 0.5 ms": wanted(batch=Batch(batch_timeout_ms=0.5)),
        "GPU: default -> 0": wanted(resource=Resource(gpu=0)),
        "GPU names: default -> H200,A100*": wanted(resource=Resource(gpu_names="H200,A100*")),
        "Shadow: false -> true": wanted(service_info=ServiceInfo(shadow=True)),
        "Runtime: default -> ONNXRUNTIME": wanted(runtime=RuntimeType.ONNXRUNTIME),
        "Confidence output: default -> p, Confidence field: default -> 1": wanted(
            confidence=Confidence(output="p", field=1)
        ),
        'container_parameter.env.LEVEL: default -> "deb\\u001bug"': wanted(
            container_parameter={"env": {"LEVEL": "deb\x1bug"}}
        ),
    }
    for text, after in cases.items():
        assert diff(before, after) == text


def test_several_changes_of_a_version_share_its_line() -> None:
    after = wanted(service_info=ServiceInfo(weight=5, replicas=2))
    assert diff(wanted(), after) == "Replicas: 1 -> 2, Weight: 100 -> 5"


def test_a_long_value_is_cut_short() -> None:
    after = wanted(service_info=ServiceInfo(endpoints_infos=(EndpointInfo(url="http://" + "h" * 500),)))
    text = diff(wanted(), after)
    assert text.startswith("Endpoints: [] -> [{")
    assert text.endswith("…")
    assert len(text) < 200


def changed(version: str, after: Wanted) -> Any:
    """The plan of a model one version of which will be `after`."""
    plan = make_plan({DIGITS: {version: wanted()}}, {DIGITS: {version: after}}, prune=False)
    (model,) = to_plain(plan)["models"]
    return model


def test_in_a_narrow_table_what_is_too_long_goes_on_below() -> None:
    after = wanted(service_info=ServiceInfo(weight=20, replicas=3), batch=Batch(batch_size=16))
    model = changed("candidate-of-the-week", after)
    table = list(model_lines(model, width=62))[2:]
    assert table == [
        "| APPLY WILL | VERSION               | DIFF                  |",
        "| UPDATE     | candidate-of-the-week | Replicas: 1 -> 3,     |",
        "|            |                       | Weight: 100 -> 20,    |",
        "|            |                       | Batch size: default   |",
        "|            |                       | -> 16                 |",
    ]
    assert list(model_lines(model, width=120)) == render_plan({"models": [model]}).split("\n")


@pytest.mark.parametrize("width", [50, 58, 70, 90])
def test_a_table_is_no_wider_than_it_may_be(width: int) -> None:
    after = wanted(container_parameter={"env": {"LEVEL": "x" * 90, "AND": "a value with blanks in it"}})
    table = list(model_lines(changed("Q" * 63, after), width=width))
    table = [line for line in table if line.startswith("|")]
    assert {len(line) for line in table} == {len(table[0])} and len(table[0]) <= width
    assert sum(line.count("Q") for line in table) == 63 and sum(line.count("x") for line in table) == 90
