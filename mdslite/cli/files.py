"""The files that commands read and write: what is wrong with a name that was typed, and files that appear
when they are whole and replace nothing unasked."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import IO

from mdslite.errors import Conflict, InvalidRequest, StorageFull

_LOOKED_AT = 1000  # names of a folder
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def unreadable(path: str, exc: OSError, *, hint: str) -> InvalidRequest:
    """What a file that cannot be read is to who named it; `hint` where nothing of that name is near."""
    meant = similar(Path(path)) if isinstance(exc, FileNotFoundError) else None
    return InvalidRequest(
        f"cannot read {path}: {exc.strerror}",
        hint=hint if meant is None else f"did you mean {shlex.quote(str(meant))}?",
    )


def similar(path: Path) -> Path | None:
    """What lies beside a path that leads nowhere and is called nearly so."""
    try:
        with os.scandir(path.parent) as items:
            names = [item.name for item, _ in zip(items, range(_LOOKED_AT), strict=False)]
    except OSError:
        return None
    near = get_close_matches(path.name, names, n=1, cutoff=0.7)
    return path.with_name(near[0]) if near else None


def refuse_json_beside(target: str) -> None:
    """:raises InvalidRequest: the file goes to stdout, where JSON that says what was written has no room"""
    if target == "-":
        raise InvalidRequest(
            "--export - writes the file to stdout, which leaves no room for --json",
            hint="leave --json out, or name a file: --json then says what was written to it",
        )


@contextmanager
def new_file(target: str, *, force: bool) -> Iterator[IO[bytes]]:
    """A file to write, which appears when the block ends well, or does not.

    :raises Conflict: there is one already, and `force` is not given
    :raises StorageFull: there is no room for it
    :raises InvalidRequest: it cannot be written for another reason
    """
    path = Path(target)
    if path.exists() and not path.is_file():
        raise Conflict(f"{target} is no file", hint="name a new file; - is stdout")
    if path.exists() and not force:
        raise Conflict(f"{target} is there already", hint="add --force to replace it, or name another file")
    draft = path.with_name(f"{path.name}.part")
    try:
        with draft.open("wb") as file:
            yield file
        os.replace(draft, path)
    except OSError as exc:
        wrong = f"{target} cannot be written: {exc.strerror}"
        if exc.errno in _NO_ROOM:
            raise StorageFull(wrong, hint="name a file where there is room, or - for stdout") from exc
        raise InvalidRequest(
            wrong, hint="name a file in a folder that is there and can be written to, or - for stdout"
        ) from exc
    finally:
        with suppress(OSError):
            draft.unlink()
