"""The registry keeps what was deployed when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from clocks import Clock
from registry_rows import V1, V2, V3, commit, keys

from mdslite.errors import Conflict, NotFound, StoreError
from mdslite.store.registry import Registry


def test_a_new_registry_is_empty(registry: Registry) -> None:
    assert registry.current() == []
    assert registry.revisions(10) == []
    assert registry.latest() is None
    assert registry.at_revision(0) == []
    assert registry.at_time(5_000.0) == []


def test_what_is_committed_is_deployed_in_the_order_of_the_file(registry: Registry) -> None:
    number = commit(registry, V2, V1, V3)
    rows = registry.current()
    assert keys(rows) == ["spam@v2", "spam@v1", "ham@v1"]
    assert [replace(row, since_revision=None) for row in rows] == [V2, V1, V3]
    assert {row.since_revision for row in rows} == {number}


def test_a_revision_keeps_its_author_reason_diff_and_source(registry: Registry, clock: Clock) -> None:
    number = commit(registry, V1, reason="schöner")
    revision = registry.revision(number)
    assert (revision.author, revision.reason, revision.state, revision.error) == (
        "ada",
        "schöner",
        "applied",
        None,
    )
    assert (revision.diff, revision.source, revision.time) == ({"models": []}, "deployments: []", 1_000.0)
    assert registry.latest() == revision


def test_unchanged_versions_keep_the_revision_that_brought_them(registry: Registry) -> None:
    first = commit(registry, V1, V2, V3)
    heavier = replace(V2, spec={**V2.spec, "service_info": {"weight": 50}})
    second = commit(registry, V1, heavier, V3)
    assert [row.since_revision for row in registry.current()] == [first, second, first]
    third = commit(registry, heavier, V3)
    assert keys(registry.current()) == ["spam@v2", "ham@v1"]
    assert [row.since_revision for row in registry.current()] == [second, first]
    fourth = commit(registry, V3, heavier)
    assert keys(registry.current()) == ["ham@v1", "spam@v2"]
    assert [keys(registry.at_revision(number)) for number in (first, second, third, fourth)] == [
        ["spam@v1", "spam@v2", "ham@v1"],
        ["spam@v1", "spam@v2", "ham@v1"],
        ["spam@v2", "ham@v1"],
        ["ham@v1", "spam@v2"],
    ]


def test_the_state_at_any_time_can_be_read_back(registry: Registry, clock: Clock) -> None:
    commit(registry, V1)
    clock.now = 2_000.0
    commit(registry, V1, V2)
    clock.now = 3_000.0
    commit(registry)
    found = {time: keys(registry.at_time(time)) for time in (999.9, 1_000.0, 1_999.9, 2_500.0, 3_000.0)}
    assert found == {
        999.9: [],
        1_000.0: ["spam@v1"],
        1_999.9: ["spam@v1"],
        2_500.0: ["spam@v1", "spam@v2"],
        3_000.0: [],
    }


def test_a_clock_that_was_set_back_does_not_reorder_history(registry: Registry, clock: Clock) -> None:
    commit(registry, V1)
    clock.now = 500.0
    commit(registry, V2)
    assert [revision.time for revision in registry.revisions(10)] == [1_000.0, 1_000.0]
    assert keys(registry.at_time(1_000.0)) == ["spam@v2"]


def test_a_failed_apply_is_recorded_and_changes_nothing(registry: Registry) -> None:
    first = commit(registry, V1)
    failed = registry.record_failure(
        author="bob", reason="try", source="x", diff=[], error="v2 does not load"
    )
    assert keys(registry.current()) == ["spam@v1"]
    assert (registry.revision(failed).state, registry.revision(failed).error) == (
        "failed",
        "v2 does not load",
    )
    latest = registry.latest()
    assert latest is not None and latest.id == first
    assert keys(registry.at_revision(failed)) == ["spam@v1"]


def test_revisions_are_paged_newest_first(registry: Registry) -> None:
    numbers = [commit(registry, V1) for _ in range(5)]
    newest = registry.revisions(2)
    assert [revision.id for revision in newest] == numbers[:2:-1]
    older = registry.revisions(10, before=newest[-1].id)
    assert [revision.id for revision in older] == numbers[2::-1]


def test_an_unknown_revision_is_not_found(registry: Registry) -> None:
    for number in (1, -1):
        with pytest.raises(NotFound, match=f"no revision {number}"):
            registry.at_revision(number)


def test_a_commit_on_an_outdated_view_is_refused(registry: Registry) -> None:
    first = registry.commit(author="a", reason="", source="", diff=[], versions=[V1], expect_revision=0)
    with pytest.raises(Conflict, match=f"latest revision is {first}, expected 0"):
        registry.commit(author="a", reason="", source="", diff=[], versions=[], expect_revision=0)
    assert keys(registry.current()) == ["spam@v1"]
    registry.commit(author="a", reason="", source="", diff=[], versions=[V2], expect_revision=first)
    assert keys(registry.current()) == ["spam@v2"]


def test_a_commit_that_fails_halfway_leaves_nothing(registry: Registry) -> None:
    first = commit(registry, V1)
    with pytest.raises(StoreError):
        commit(registry, V1, V2, V2)  # the same version twice
    assert keys(registry.current()) == ["spam@v1"]
    assert [revision.id for revision in registry.revisions(10)] == [first]


def test_artifacts_and_probes_are_recorded_once(registry: Registry, clock: Clock) -> None:
    registry.add_artifact("sha256:1", kind="file", size_bytes=10, origin="/m/v1.onnx")
    clock.now = 2_000.0
    registry.add_artifact("sha256:1", kind="file", size_bytes=10, origin="/elsewhere.onnx")
    registry.add_artifact("sha256:2", kind="folder", size_bytes=20, origin="/m/v2")
    artifact = registry.artifact("sha256:1")
    assert artifact is not None and (artifact.origin, artifact.added_at) == ("/m/v1.onnx", 1_000.0)
    assert [artifact.digest for artifact in registry.artifacts()] == ["sha256:1", "sha256:2"]
    assert registry.artifact("sha256:3") is None

    report = {"rows": "free", "load_s": 0.1}
    registry.add_probe("sha256:1", runtime="ONNXRUNTIME", engine="onnxruntime 1.31.1", report=report)
    assert registry.probe("sha256:1", "onnxruntime 1.31.1") == report
    assert registry.probe("sha256:1", "onnxruntime 1.32.0") is None
    registry.add_probe("sha256:1", runtime="ONNXRUNTIME", engine="onnxruntime 1.31.1", report={"rows": "one"})
    assert registry.probe("sha256:1", "onnxruntime 1.31.1") == {"rows": "one"}

    registry.forget_artifacts(["sha256:1"])
    assert registry.artifact("sha256:1") is None
    assert registry.probe("sha256:1", "onnxruntime 1.31.1") is None


def test_what_an_undo_may_need_is_referred_to(registry: Registry) -> None:
    commit(registry, V1, V2)
    commit(registry, V3)
    assert registry.referenced() == {"sha256:1", "sha256:2", "sha256:3"}


def test_everything_is_there_after_closing_and_opening(tmp_path: Path, registry: Registry) -> None:
    commit(registry, V1, V2)
    before = registry.current(), registry.revisions(10)
    registry.close()
    registry.close()
    registry.open()
    assert (registry.current(), registry.revisions(10)) == before


def test_commits_wait_for_the_disk(registry: Registry) -> None:
    db = registry._db
    assert db.execute("pragma synchronous").fetchone()[0] == 2  # full
    assert db.execute("pragma journal_mode").fetchone()[0] == "wal"
