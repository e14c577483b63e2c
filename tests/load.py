"""Callers that account for every request that they send."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from urllib.parse import urlsplit


class Load:
    """`clients` threads that each send one request after the other until `stop`, or until the server says
    goodbye with `Connection: close` and then no longer accepts. Without `keep` each request has a connection
    of its own.

    `statuses` and `versions` count the answers; `lost` lists what was sent and never answered.
    """

    def __init__(self, url: str, path: str, body: bytes, *, clients: int = 8, keep: bool = True) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._path = path
        self._body = body
        self._keep = keep
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._reached = threading.Condition(self._lock)
        self.statuses: Counter[int] = Counter()
        self.versions: Counter[str] = Counter()
        self.lost: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())

    def wait_for_more(self, count: int = 50) -> None:
        """Wait until so many more requests were answered."""
        with self._reached:
            target = self.answered + count
            assert self._reached.wait_for(lambda: self.answered >= target or self.lost, 30), (
                "the load stalled"
            )

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def join(self) -> None:
        """Wait until every caller has ended."""
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=20)
        while not self._stopping.is_set():
            if connection.sock is None:
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    return
            try:
                connection.request("POST", self._path, self._body, {"content-type": "application/json"})
                reply = connection.getresponse()
                reply.read()
            except (http.client.HTTPException, OSError) as exc:
                with self._reached:
                    self.lost.append(repr(exc))
                    self._reached.notify_all()
                return
            with self._reached:
                self.statuses[reply.status] += 1
                self.versions[reply.headers.get("mdslite-version", "")] += 1
                self._reached.notify_all()
            if reply.will_close or not self._keep:
                connection.close()
        connection.close()
