"""Versions in a registry."""

from __future__ import annotations

from mdslite.store.registry import Registry, VersionRow

V1 = VersionRow(
    "mail", "spam", "v1", {"uri": "/m/v1.onnx", "service_info": {"weight": 80}}, "sha256:1", 10, 100
)
V2 = VersionRow("mail", "spam", "v2", {"uri": "/m/v2.onnx", "service_info": {"weight": 20}}, "sha256:2", 20)
V3 = VersionRow("mail", "ham", "v1", {"uri": "/m/v3.onnx"}, "sha256:3", 30)


def commit(registry: Registry, *versions: VersionRow, reason: str = "because") -> int:
    return registry.commit(
        author="ada", reason=reason, source="deployments: []", diff={"models": []}, versions=versions
    )


def keys(rows: list[VersionRow]) -> list[str]:
    return [f"{row.model}@{row.version}" for row in rows]
