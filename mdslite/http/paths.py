"""URLs of predictions: what project, model and version a path names. Knows no routes."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from mdslite.errors import InvalidRequest, NotFound, quoted

# Project, model and version; None at model level.
Names = tuple[str, str, str | None]


def is_prediction(target: bytes) -> bool:
    """Does what is posted there go to the predict function?"""
    return target.startswith(b"/projects/") or is_infer(target)


def is_infer(target: bytes) -> bool:
    """Is it an infer URL of the Open Inference Protocol?"""
    return target.startswith(b"/v2/models/") and (target.endswith(b"/infer") or b"/infer?" in target)


def parse_predict_path(path: bytes) -> Names | None:
    """What a predict path names, None for any other path.

    Percent-encoding is undone between the slashes, so that none comes out of a name.

    :raises InvalidRequest: a name that no project, model or version can have
    """
    _, *parts = map(unquote_to_bytes, path.split(b"/"))
    if len(parts) not in (4, 6) or not parts[-1].endswith(b":predict"):
        return None
    parts[-1] = parts[-1].removesuffix(b":predict")
    if parts[::2] != [b"projects", b"models", b"versions"][: len(parts) // 2]:
        return None
    project, model, *version = [part.decode(errors="replace") for part in parts[1::2]]
    return check_names(project, model, version[0] if version else None)


def parse_infer_path(path: bytes) -> Names | None:
    """What an infer path of the Open Inference Protocol names, None for any other path.

    :raises InvalidRequest: a name that no project, model or version can have
    :raises NotFound: the model's name is not PROJECT.MODEL
    """
    _, *parts = map(unquote_to_bytes, path.split(b"/"))
    if len(parts) not in (4, 6) or parts[-1] != b"infer" or parts[:2] != [b"v2", b"models"]:
        return None
    if len(parts) == 6 and parts[3] != b"versions":
        return None
    version = parts[4].decode(errors="replace") if len(parts) == 6 else None
    return check_names(*split_model(parts[2].decode(errors="replace")), version)


def split_model(name: str) -> tuple[str, str]:
    """Project and model of a model's name in the Open Inference Protocol.

    :raises NotFound: it is not PROJECT.MODEL
    """
    project, dot, model = name.partition(".")
    if not dot:
        raise NotFound(f"no model {quoted(name)} is deployed: expected PROJECT.MODEL", hint="mdslite ls")
    return project, model


def check_names(project: str, model: str, version: str | None) -> Names:
    """The names, as they are.

    :raises InvalidRequest: a name that no project, model or version can have
    """
    for name in (project, model, version):
        if name is not None and not _is_name(name):
            raise InvalidRequest(
                f"{quoted(name)} is no name: "
                "expected 1 to 63 letters, digits, _ or -, the first one no _ or -"
            )
    return project, model, version


def _is_name(name: str) -> bool:
    return (
        0 < len(name) <= 63
        and name[0].isalnum()
        and name.isascii()
        and all(letter.isalnum() or letter in "_-" for letter in name)
    )
