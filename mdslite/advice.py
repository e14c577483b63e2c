"""What the rest of a deployments.yaml adds to the hint of one field."""

from __future__ import annotations

import re
from typing import Any

from mdslite.document import Document, Path, read_scalar
from mdslite.fields import DEFAULT_WEIGHT, NAME_PATTERN, make_name


class Adviser:
    """What the rest of a file adds to a field's hint."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def advise(self, path: Path) -> str | None:
        if not path:
            return "begin the file with deployments:"
        if path[-1] == "weight":
            return self._weight(path)
        raw = self._document.raw(path)
        if path[-1] in ("project", "model", "version") and raw and not re.match(NAME_PATTERN, raw):
            name = make_name(raw)
            return f"such as {name if isinstance(read_scalar(name), str) else make_name('v' + name)}"
        return None

    def _weight(self, path: Path) -> str | None:
        """A weight that would give this version a plain share, beside what the others have."""
        model_path, at = path[:2], path[3]
        names = [self._document.get((*model_path, name)) for name in ("project", "model")]
        versions = self._document.get((*model_path, "versions"))
        if not all(isinstance(name, str) and re.match(NAME_PATTERN, name) for name in names):
            return None
        if self._service(versions[at], "shadow") is True:
            return "a shadow has none: leave weight out"
        others = {
            str(item.get("version")): weight
            for index, item in enumerate(versions)
            if index != at and isinstance(item, dict) and (weight := self._written_weight(item)) > 0
        }
        if not others:
            return None
        total = sum(others.values())
        parts = ((9, "a tenth"), (4, "a fifth"), (3, "a quarter"), (1, "half"))
        share, words = next((part, words) for part, words in parts if total % part == 0 or part == 1)
        model = "/".join(names)
        who = f"{model} {next(iter(others))} has" if len(others) == 1 else f"the others of {model} have"
        return f"{who} {total:g}, so {total / share:g} gives it {words}"

    def _written_weight(self, version: dict[str, Any]) -> float:
        weight = self._service(version, "weight")
        if isinstance(weight, int | float) and not isinstance(weight, bool):
            return float(weight)
        return 0 if weight is not None or self._service(version, "shadow") is True else DEFAULT_WEIGHT

    def _service(self, version: Any, name: str) -> Any:
        """A field of the service_info as written, in the short form or the long."""
        for holder in (version, self._inside(self._inside(version, "spec"), "service_info")):
            if self._inside(holder, name) is not None:
                return holder[name]
        return None

    def _inside(self, holder: Any, name: str) -> Any:
        return holder.get(name) if isinstance(holder, dict) else None
