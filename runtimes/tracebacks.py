"""What is said of an exception out of user code: one line for the caller, the traceback for the output.

A traceback shows the user's frames; those of the machinery that called them are left out.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

from mdslite.errors import MdsliteError, ModelError, OutOfMemory, without_frames

MESSAGE_LENGTH = 1000
_OWN_FOLDER = f"{Path(__file__).parent}/"
_IMPORTLIB = ("<frozen importlib", importlib.__file__)


def blame(exc: BaseException) -> MdsliteError:
    """Print an exception's traceback on stderr, and return the error that its caller gets. Nothing is left of
    the exception that knows the rows."""
    write_traceback(exc)
    without_frames(exc)
    # torch.OutOfMemoryError and its like, without importing what defines them
    if isinstance(exc, MemoryError) or type(exc).__name__ == "OutOfMemoryError":
        return OutOfMemory(exception_text(exc))
    return ModelError(exception_text(exc))


def exception_text(exc: BaseException) -> str:
    """An exception in one line: its type and its message, cut where it is long."""
    try:
        said = str(exc).strip()
    except Exception:  # its __str__ is user code as well
        said = "its message could not be read"
    name = type(exc).__name__
    text = f"{name}: {said}" if said else name
    return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 3] + "..."


def write_traceback(exc: BaseException) -> None:
    """Print an exception on stderr."""
    found = traceback.TracebackException.from_exception(exc)
    _strip(found)
    try:
        sys.stderr.write("".join(found.format()))
        sys.stderr.flush()
    except (OSError, ValueError):  # user code may close it
        return


def find_line(exc: BaseException, folder: Path) -> str | None:
    """Where in a folder's files an exception was raised, as `file:line`: the innermost such line."""
    if isinstance(exc, SyntaxError) and exc.filename is not None and _inside(exc.filename, folder):
        return f"{Path(exc.filename).relative_to(folder)}:{exc.lineno}"
    for frame in reversed(traceback.extract_tb(exc.__traceback__)):
        if _inside(frame.filename, folder):
            return f"{Path(frame.filename).relative_to(folder)}:{frame.lineno}"
    return None


def _strip(found: traceback.TracebackException) -> None:
    pending = [found]
    while pending:
        one = pending.pop()
        kept = [frame for frame in one.stack if not _is_own(frame.filename)]
        one.stack = traceback.StackSummary.from_list(kept)
        pending += [chained for chained in (one.__cause__, one.__context__) if chained is not None]


def _is_own(file: str) -> bool:
    return file.startswith((_OWN_FOLDER, *_IMPORTLIB))


def _inside(file: str, folder: Path) -> bool:
    return Path(file).is_relative_to(folder)
