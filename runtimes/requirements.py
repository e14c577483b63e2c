"""A package's requirements against what is installed: which of them are not met. Installs nothing."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from mdslite.errors import LoadFailed, quoted

# What reaches every package by path, and never from a registry, where somebody else owns the first name.
OWN = frozenset({"mds", "mdslite"})


def parse_requirements(requirements: Iterable[str]) -> tuple[Requirement, ...]:
    """Requirements as pip reads them, in a fixed order, without those for other machines and for us.

    :raises LoadFailed: one is no requirement
    """
    found: dict[str, Requirement] = {}
    for text in requirements:
        try:
            one = Requirement(text)
        except InvalidRequirement as exc:
            first = str(exc).splitlines()[0]
            raise LoadFailed(
                f"the requirement {quoted(text)} is none: {first}", hint='write it as pip does: "numpy>=2"'
            ) from exc
        if canonicalize_name(one.name) not in OWN and (one.marker is None or one.marker.evaluate()):
            found[str(one)] = one
    return tuple(found[text] for text in sorted(found))


def find_unmet(requirements: Iterable[Requirement], path: Sequence[str] | None = None) -> list[str]:
    """Say of each requirement, and of each that it brings, what is wrong with it; nothing when all are met.

    `path` are the folders to look into, by default those that this process imports from.
    """
    search = _Search(path)
    for one in requirements:
        search.meet(one, extra="")
    return search.unmet


@dataclass(slots=True)
class _Search:
    path: Sequence[str] | None
    unmet: list[str] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)

    def meet(self, wanted: Requirement, *, extra: str) -> None:
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            return
        name = canonicalize_name(wanted.name)
        if name in OWN:
            return
        found = self._find(name)
        if found is None:
            self.unmet.append(f"{wanted.name} is not installed")
            return
        if wanted.url is not None and wanted.url != _origin(found):
            self.unmet.append(f"{wanted.name} was not installed from {wanted.url}")
        if not _fits(wanted, found.version):
            self.unmet.append(f"{wanted.name} {found.version} is installed, not {wanted.specifier}")
        for needed in ("", *wanted.extras):
            if (name, needed) not in self.seen:
                self.seen.add((name, needed))
                for text in found.requires or ():
                    self.meet(Requirement(text), extra=needed)

    def _find(self, name: str) -> importlib.metadata.Distribution | None:
        if self.path is None:
            found = importlib.metadata.distributions(name=name)
        else:
            found = importlib.metadata.distributions(name=name, path=list(self.path))
        return next(iter(found), None)


def _fits(wanted: Requirement, version: str) -> bool:
    try:
        return wanted.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return False


def _origin(found: importlib.metadata.Distribution) -> str | None:
    """The URL that a package was installed from, None when an index gave it."""
    try:
        return json.loads(found.read_text("direct_url.json") or "{}").get("url")  # type: ignore[no-any-return]
    except ValueError:
        return None
