"""What the artifact store remembers so as not to do the same work twice. All of it may be lost."""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from mdslite.store.disk import storage_errors, write_whole

_RACY_S = 2.0
_Identity = tuple[int, int, int, int, int]


class FileDigests:
    """Digests of files that did not change since they were hashed, as told by their inodes.

    A file changed so recently that the change after it might bear the same time stamp is not remembered.
    """

    def __init__(self, *, max_files: int = 20_000, clock: Callable[[], float] = time.time) -> None:
        self._max_files = max_files
        self._clock = clock
        self._known: OrderedDict[_Identity, str] = OrderedDict()

    def get(self, file: BinaryIO) -> str | None:
        return self._known.get(_identity(file))

    def hash(self, file: BinaryIO, compute: Callable[[], str]) -> str:
        """Hash a file in any case, and remember it."""
        before = _identity(file)
        now = self._clock()
        sha256 = compute()
        settled = now - max(before[3], before[4]) / 1e9 > _RACY_S
        if settled and _identity(file) == before:
            self._known[before] = sha256
            while len(self._known) > self._max_files:
                self._known.popitem(last=False)
        return sha256


def _identity(file: BinaryIO) -> _Identity:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Origins:
    """A small file that remembers which artifact an unchanged URL or archive became."""

    def __init__(self, path: Path, *, max_entries: int = 1000) -> None:
        self._path = path
        self._max_entries = max_entries

    def get(self, key: str) -> Mapping[str, str]:
        return self._read().get(key, {})

    def put(self, key: str, facts: Mapping[str, str]) -> None:
        """:raises StorageFull: it could not be written"""
        known = self._read()
        known.pop(key, None)
        known[key] = dict(facts)
        newest = list(known.items())[-self._max_entries :]
        with storage_errors():
            write_whole(self._path, json.dumps(dict(newest)).encode())

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {key: facts for key, facts in found.items() if isinstance(facts, dict)}
