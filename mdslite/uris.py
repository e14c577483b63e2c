"""Where a model comes from: the uri of a version spec, made absolute."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mdslite.document import Document, quote
from mdslite.document import Path as Place
from mdslite.fields import SourceType

SERVED_HINT = "write a path, or an http:// or https:// address; of what is elsewhere fetch a copy first"
_SCHEMES = {
    SourceType.FILE: ("", "file"),
    SourceType.HTTP: ("http", "https"),
    SourceType.OBJECT_STORAGE: ("s3", "http", "https"),
    SourceType.DOCKER_REGISTRY: ("", "oci", "docker", "http", "https"),
}


def resolve(document: Document, path: Place, uri: str, source_type: SourceType, *, base: Path) -> str:
    """Make a uri absolute: relative paths start from `base`. `path` leads to the spec that holds it.

    :raises SpecError: it is none, or not of the source type that the spec states
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    scheme = found[1].lower() if found else ""
    if scheme and not any(scheme in schemes for schemes in _SCHEMES.values()):
        message = f"expected a path or an address, got the scheme {quote(scheme)}"
        raise document.error((*path, "uri"), message, hint=SERVED_HINT)
    wanted = source_type
    if wanted is not SourceType.UNSET_SOURCETYPE and scheme not in _SCHEMES[wanted]:
        message = f"{wanted} does not go with the uri {quote(uri)}"
        raise document.error((*path, "source_type"), message, hint="leave source_type out: the uri says it")
    if wanted is SourceType.DOCKER_REGISTRY or scheme not in ("", "file"):
        _check_host(document, path, uri, scheme)
        return uri
    written = unquote(uri[found.end() :].removeprefix("localhost")) if found else uri
    if found and (not written.startswith("/") or "\0" in written):
        message = f"expected file:///path, got {quote(uri)}"
        raise document.error((*path, "uri"), message, hint="write the path alone")
    return os.path.abspath(base / written)


def _check_host(document: Document, path: Place, uri: str, scheme: str) -> None:
    try:
        parts = urlsplit(uri)
        whole = not scheme or (bool(parts.hostname) and (parts.port is None or parts.port > 0))
    except ValueError:
        whole = False
    if not whole:
        message = f"expected an address with a host, got {quote(uri)}"
        raise document.error((*path, "uri"), message, hint=f"such as {scheme}://host/model.onnx")
