"""A ring of records in memory that two processes share: one appends, the other reads. Owns the memory and
where its records stand; knows nothing of their contents, and tells nobody that one came.

Positions count bytes since the ring was made and only rise; position P stands at byte P modulo the size. The
end of the last whole record stands in the memory itself, so that a reader who has lost the appending process
still finds everything that it appended. What is read is given back to the system, so that a ring holds
memory only for what waits in it.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import struct
from typing import Self

RING_BYTES = 32 << 20
LEAST_BYTES = 1 << 20  # a smaller one would hold a tenth of a second
_LENGTH = struct.Struct("<I")  # before each record
_POSITION = struct.Struct("<Q")
_HEAD_BYTES = mmap.PAGESIZE  # the position stands here, the records behind it


class Ring:
    """`end` is the position behind what was appended and how many rows that was; up to `freed` it may be
    overwritten."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.freed = 0
        self._memory = mmap.mmap(fd, os.fstat(fd).st_size)
        self._view = memoryview(self._memory)
        self._records = self._view[_HEAD_BYTES:]
        self.size = len(self._records)
        self.end = (self.appended(), 0)

    @classmethod
    def create(cls, size_bytes: int = RING_BYTES) -> Self:
        """Make a ring for so many bytes, in whole pages; a smaller one where the limit on the size of files
        (`ulimit -f`), which holds for shared memory as well, allows no more.

        :raises OSError: this machine has no room for it
        """
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        size_bytes = -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        if limit != resource.RLIM_INFINITY and limit < size_bytes + _HEAD_BYTES:
            size_bytes = limit // mmap.PAGESIZE * mmap.PAGESIZE - _HEAD_BYTES
            if size_bytes < LEAST_BYTES:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        fd = os.memfd_create("mdslite-log")
        try:
            os.ftruncate(fd, _HEAD_BYTES + size_bytes)
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    @property
    def waiting_bytes(self) -> int:
        return self.end[0] - self.freed

    def put(self, record: bytes, rows: int = 1) -> bool:
        """Append a record of so many rows; False, and nothing changes, when there is no room for it."""
        data = _LENGTH.pack(len(record)) + record
        head, before = self.end
        after = head + len(data)
        if after - self.freed > self.size:
            return False
        start = head % self.size
        stop = start + len(data)
        if stop <= self.size:
            self._records[start:stop] = data
        else:
            cut = self.size - start
            self._records[start:] = data[:cut]
            self._records[: stop - self.size] = data[cut:]
        _POSITION.pack_into(self._view, 0, after)
        self.end = (after, before + rows)
        return True

    def appended(self) -> int:
        """The end of what was appended, as it stands in the memory: the other process may be gone."""
        (head,) = _POSITION.unpack_from(self._view)
        return int(head)

    def record(self, position: int) -> tuple[bytes, int]:
        """The record at a position, and the position of the next one."""
        (length,) = _LENGTH.unpack(self._copy(position, _LENGTH.size))
        start = position + _LENGTH.size
        return self._copy(start, length), start + length

    def free(self, stop: int) -> None:
        """Let what stands before a position be overwritten, and the system have its whole pages."""
        at, last = (position - position % mmap.PAGESIZE for position in (self.freed, stop))
        while at < last:
            start = at % self.size
            length = min(last - at, self.size - start)
            with contextlib.suppress(OSError):  # the memory stays, then
                self._memory.madvise(mmap.MADV_REMOVE, _HEAD_BYTES + start, length)
            at += length
        self.freed = stop

    def close(self) -> None:
        """Let go of the descriptor; the memory goes with the last who holds this object."""
        os.close(self.fd)

    def _copy(self, position: int, length: int) -> bytes:
        start = position % self.size
        stop = start + length
        if stop <= self.size:
            return bytes(self._records[start:stop])
        return bytes(self._records[start:]) + bytes(self._records[: stop - self.size])
