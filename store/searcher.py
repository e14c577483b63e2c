"""The request log's reader process: answers questions, one after the other, over a socket. It takes the time
that predictions leave, as the writer does, and shares no interpreter with the event loop.

A message to it is a `Question`; any bytes that come while it is at work mean that nobody waits any more. What
it says is frames of a kind, a length and bytes: pieces of the answer, then an end or an error.
"""

from __future__ import annotations

import contextlib
import logging
import select
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from mdslite.errors import MdsliteError
from mdslite.store.courtesy import give_way
from mdslite.store.letters import receive
from mdslite.store.questions import Question, answer
from mdslite.store.requests import RequestLog

HEAD = struct.Struct("<BI")  # kind, length
PIECE, END, ERROR = range(3)
KEPT_FILES = 48  # of finished hours, open from one question to the next
REST_S = 15.0  # without a question, after which none is: what retention removes is to free its room

_log = logging.getLogger(__name__)


class Message(msgspec.Struct, frozen=True, array_like=True):
    """A question; without one, a question that was asked before is taken back."""

    question: Question | None


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """A MdsliteError, by its code."""

    code: str
    message: str
    hint: str | None


def serve(end: socket.socket, folder: Path, *, timeout_s: float, mapped: bool = True) -> None:
    """Answer until the other side closes its end."""
    log = RequestLog(folder, timeout_s=timeout_s, stopped=lambda: _hears(end), mapped=mapped, kept=KEPT_FILES)
    with contextlib.suppress(OSError):
        while True:
            if log.kept and not _hears(end, wait_s=REST_S):
                log.rest()
            if (message := receive(end, Message)) is None:
                return
            if message.question is not None:
                _answer(end, log, message.question)


def _answer(end: socket.socket, log: RequestLog, question: Question) -> None:
    try:
        for piece in answer(log, question):
            _say(end, PIECE, piece)
            if _hears(end):
                break
        _say(end, END)
    except MdsliteError as exc:
        _say(end, ERROR, msgspec.msgpack.encode(Failure(exc.code, exc.message, exc.hint)))
    except OSError:
        raise
    except Exception:  # a mistake of ours must not end the process: the next question may be another
        _log.exception("a question could not be answered")
        _say(end, ERROR, msgspec.msgpack.encode(Failure("internal_error", "the query failed", None)))


def _say(end: socket.socket, kind: Literal[0, 1, 2] | int, data: bytes = b"") -> None:
    end.settimeout(None)
    end.sendall(HEAD.pack(kind, len(data)) + data)


def _hears(end: socket.socket, *, wait_s: float = 0.0) -> bool:
    return bool(select.select([end], [], [], wait_s)[0])


def main(arguments: Sequence[str]) -> None:
    # They are meant for the appliance, at whose end the socket closes.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    give_way()
    logging.basicConfig(level=logging.WARNING)
    socket_fd, folder, timeout_s = arguments
    with socket.socket(fileno=int(socket_fd)) as end:
        serve(end, Path(folder), timeout_s=float(timeout_s))


if __name__ == "__main__":
    main(sys.argv[1:])
