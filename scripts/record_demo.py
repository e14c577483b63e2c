"""Records what `mdslite dash --demo` plays: the digits example and the spam filter, really served, asked and
changed for a while. `record_demo.py [FILE]`, run where mdslite is installed; it takes two minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from demo import appliance, wait_until_ready

from mdslite.client import Client
from mdslite.tui.recording import FORMAT, Tape, write_tape

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "tui" / "demo.json.xz"
PERIOD_S = 90
MODELS_EVERY_S = 3.0
SETTLE_S = 65.0  # the figures of models are those of a minute: let them be the traffic's that is recorded

Request = tuple[str, dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Record what mdslite dash --demo plays.")
    parser.add_argument("file", nargs="?", type=Path, default=TARGET)
    file = parser.parse_args().file
    with (
        tempfile.TemporaryDirectory(prefix="mdslite-record-") as store,
        appliance(Path(store), port=0) as (process, url),
    ):
        wait_until_ready(url, process)
        tape = record(url)
    content = write_tape(tape)
    file.write_bytes(content)
    print(f"{len(tape.rows):,} requests of {PERIOD_S} s in {len(content) / 1000:.0f} kB: {file}")


def record(url: str) -> Tape:
    done = threading.Event()
    with Client(url) as client, ThreadPoolExecutor(9) as pool:
        try:
            senders = [pool.submit(send, url, number, done) for number in range(8)]
            change(client)
            time.sleep(SETTLE_S)
            begin = int(time.time()) + 1
            models: list[tuple[float, list[dict[str, Any]]]] = []
            while (offset := time.time() - begin) < PERIOD_S:
                if offset >= len(models) * MODELS_EVERY_S:
                    models.append((max(0.0, offset), [without_paths(one) for one in client.models()]))
                time.sleep(0.1)
            time.sleep(1.0)
            return Tape(
                format=FORMAT,
                period_s=PERIOD_S,
                status=without_paths(client.status()),
                rows=list(read_rows(client, begin)),
                models=models,
                history=read_history(client, begin),
                revisions=read_revisions(client, begin),
            )
        finally:
            done.set()
            for sender in senders:
                sender.result()


def change(client: Client) -> None:
    """A few days' changes in half a minute. The first one is the example's own file."""
    linear, network = (ROOT / "examples" / "digits" / name for name in ("v1.onnx", "v2.onnx"))
    half = versions(("v1", linear, 50, False), ("v2", network, 50, False))
    fifth = versions(("v1", linear, 80, False), ("v2", network, 20, False))
    copied = versions(("v1", linear, 80, False), ("v2", network, 20, False), ("v3", network, 0, True))
    apply(client, "the small network gets half", half)
    apply(client, "a fifth is enough to compare them", fifth)
    apply(client, "the next one on a copy of the traffic", copied)


def versions(*wanted: tuple[str, Path, int, bool]) -> dict[str, Any]:
    log = {"bodies": "all"}
    digits = [
        {
            "version": name,
            "weight": weight,
            **({"shadow": True} if shadow else {}),
            "spec": {"uri": str(uri), "log": log},
        }
        for name, uri, weight, shadow in wanted
    ]
    spam = {"version": "v1", "spec": {"uri": str(ROOT / "examples" / "spam" / "spamfilter"), "log": log}}
    return {
        "deployments": [
            {"project": "demo", "model": "digits", "versions": digits},
            {"project": "mail", "model": "spamfilter", "versions": [spam]},
        ]
    }


def apply(client: Client, reason: str, document: dict[str, Any]) -> None:
    """Apply a document, and let some traffic meet what it made."""
    body = {
        "source": json.dumps(document, indent=1),
        "file": "deployments.yaml",
        "base": str(ROOT),
        "author": "ana",
        "reason": reason,
    }
    for event in client.apply(body):
        if event.get("event") == "result" and event["state"] not in ("applied", "unchanged"):
            raise SystemExit(f"{reason}: {event}")
    time.sleep(6.0)


def send(url: str, number: int, done: threading.Event) -> None:
    """One caller, who asks more often and less often by turns."""
    order = random.Random(number)
    make = requests(order)
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=10)
    while not done.is_set():
        path, body = make()
        with suppress(OSError, HTTPException):
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            connection.getresponse().read()
        busy = 1.0 + 0.6 * math.sin(time.time() * 2 * math.pi / (PERIOD_S / 3)) + 0.2 * math.sin(time.time())
        done.wait(order.expovariate(2.2 * max(0.2, busy)))


def requests(order: random.Random) -> Callable[[], Request]:
    digits = json.loads((ROOT / "examples" / "digits" / "held_out.json").read_text())["instances"]
    messages = json.loads((ROOT / "examples" / "spam" / "held_out.json").read_text())["messages"]

    def make() -> Request:
        chance = order.random()
        if chance < 0.18:
            return "/projects/mail/models/spamfilter:predict", {"instances": [order.choice(messages)["text"]]}
        if chance < 0.19:
            return "/projects/demo/models/digits:predict", {"instances": [[1, 2, 3]]}
        if chance < 0.193:
            return "/projects/demo/models/letters:predict", {"instances": [[0] * 64]}
        if chance < 0.26:  # smudged, so that they are doubtful
            pixels = [min(16, max(0, pixel + order.randint(-6, 6))) for pixel in order.choice(digits)]
            return "/projects/demo/models/digits:predict", {"instances": [pixels]}
        return "/projects/demo/models/digits:predict", {"instances": [order.choice(digits)]}

    return make


def read_rows(client: Client, begin: int) -> Iterator[dict[str, Any]]:
    """The rows of the period, oldest first, their times and ids counted from its beginning."""
    found: list[dict[str, Any]] = []
    cursor: int | None = None
    filter = f"since={begin} until={begin + PERIOD_S}"
    while True:
        page = client.logs(filter, limit=1000, before=cursor)
        found += page["rows"]
        cursor = page["next"]
        if cursor is None:
            break
    for row in reversed(found):
        number = row["id"] - begin * 1_000_000
        if 0 <= number < PERIOD_S * 1_000_000:
            yield {**row, "id": number, "time": row["time"] - begin}


def read_history(client: Client, begin: int) -> dict[str, Any]:
    """A value a second."""
    told = client.devices_history(since=float(begin - 1), until=float(begin + PERIOD_S + 1))
    first = next(at for at, moment in enumerate(told["times"]) if moment >= begin)
    part = slice(first, first + PERIOD_S)
    devices = [
        {name: value[part] if isinstance(value, list) else value for name, value in one.items()}
        for one in told["devices"]
    ]
    if len(told["queue_rows"][part]) < PERIOD_S:
        raise SystemExit("the history has gaps: record again on a machine with less to do")
    return {"devices": devices, "queue_rows": told["queue_rows"][part]}


def read_revisions(client: Client, begin: int) -> list[dict[str, Any]]:
    found = []
    for one in client.revisions():
        full = without_paths(client.revision(one["id"]))
        found.append({**full, "time": datetime.fromisoformat(full["time"]).timestamp() - begin})
    return found


def without_paths(value: Any) -> Any:
    """The same, with this machine's folders left out."""
    text = json.dumps(value).replace(str(ROOT) + "/", "").replace(str(ROOT), ".")
    found = json.loads(text)
    if isinstance(found, dict) and "store" in found:
        found["store"] = ".mdslite"
    return found


if __name__ == "__main__":
    main()
