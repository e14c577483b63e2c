"""Where in a deployments file a mistake stands that only showed when its models were looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mdslite import deployments
from mdslite.deploy.orders import FileSource, Source, VersionSource
from mdslite.errors import ArtifactError, InvalidRequest, MdsliteError, SpecError

_ABOUT = re.compile(r"(?P<project>[\w-]+)/(?P<model>[\w-]+) (?P<version>[\w-]+): (?P<what>.*)", re.DOTALL)
# What a message begins with, and the field of the spec that it is about; any other is about the uri.
_FIELDS = {
    "confidence": ("confidence", "output"),
    "compare": ("compare", "output"),
    "batch": ("batch", "batch_size"),
    "the spec asks for a GPU": ("resource", "gpu"),
    "resource": ("resource",),
    "operator": ("operator",),
    "package_type": ("package_type",),
    "runtime": ("runtime",),
    "the spec says package_type": ("package_type",),
    "the spec says runtime": ("runtime",),
    "source_type": ("source_type",),
    "tensors": ("tensors",),
    "endpoints_infos": ("service_info", "endpoints_infos"),
}


@contextmanager
def placing(source: Source) -> Iterator[None]:
    """Add file, line and column to errors that begin with `PROJECT/MODEL VERSION: `, as `blaming` writes; to
    those about a model that came without a file, its name. A file that is not there is looked for from a
    folder, which only the source knows."""
    try:
        yield
    except SpecError as exc:
        if isinstance(source, FileSource) and source.is_model:  # all else of its text is ours
            raise InvalidRequest(
                f"{source.file}: expected a path in Unicode without control characters", hint="rename it"
            ) from exc
        raise
    except MdsliteError as exc:
        if isinstance(source, VersionSource) and (about := _ABOUT.match(exc.message)):
            exc.field = ".".join(("spec", *_field(about["what"])))
        if isinstance(source, FileSource):
            if source.is_model:
                _name(exc, source.file)
            elif exc.place is None:
                exc.place = _find(exc.message, source)
            if isinstance(exc, ArtifactError) and exc.misnamed:
                exc.hint = f"check the uri: a relative one starts at {source.base}"
        raise


def _name(error: MdsliteError, file: str) -> None:
    """Say an error of the text made for a model about the model, unless it does so already."""
    found = _ABOUT.match(error.message)
    if found is None:
        return
    what, shown = found["what"], Path(file).name
    error.message = what if what.startswith((f"{shown} ", f"{shown}:")) else f"{file}: {what}"
    error.args = (error.message,)


def _find(message: str, source: FileSource) -> SpecError | None:
    found = _ABOUT.match(message)
    if found is None:
        return None
    names = found["project"], found["model"], found["version"]
    return deployments.place(source.text, names, field=_field(found["what"]), file=source.file)


def _field(what: str) -> tuple[str, ...]:
    return next((path for start, path in _FIELDS.items() if what.startswith(start)), ("uri",))
