"""The spam filter of the examples, its real class, under mdslite and under what one would install instead."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.contenders import SERVERS, Bench, Contender, Running
from benchmarks.throughput import Cell, make_cell
from benchmarks.turns import Effort, Say, send_in_turns

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "spam"
CONNECTIONS = 32
BATCH_REQUESTS = 32
TEXTS = (1, 8)  # a request


def measure_spam(bench: Bench, effort: Effort, say: Say) -> list[Cell]:
    """Everybody who is there, in turns; who cannot be started is left out, saying so."""
    if bench.frameworks is None:
        say("LitServe and BentoML are not installed here: the spam filter is measured without them")
    cells = []
    for texts in TEXTS:
        say(f"{name_load(texts)} a request, {CONNECTIONS} connections")
        folder = bench.folder / f"spam-{texts}"
        folder.mkdir()
        body = write_body(folder, texts)
        with ExitStack() as stack:
            running = _start(stack, spam_contenders(bench, folder, texts), folder, body, say)
            ours, *others = send_in_turns(body, running, effort, connections=CONNECTIONS)
        cells += [make_cell(name_load(texts), CONNECTIONS, turns, ours) for turns in (ours, *others)]
    return cells


def name_load(texts: int) -> str:
    return "spam filter, 1 text" if texts == 1 else f"spam filter, {texts} texts"


def write_body(folder: Path, texts: int) -> Path:
    """One request of so many messages that the filter was not trained on."""
    messages = json.loads((EXAMPLE / "held_out.json").read_text())["messages"]
    body = folder / f"{texts}.json"
    body.write_text(json.dumps({"instances": [message["text"] for message in messages[:texts]]}))
    return body


def spam_contenders(bench: Bench, folder: Path, texts: int) -> list[Contender]:
    """Everybody with batches of at most 32 requests, and with the settings that suit it best on two cores.

    These were found by trying one and two processes of each kind, waiting 0, 1 and 2 ms for a batch, and both
    queues of LitServe. BentoML answers 503 beyond its limit on latency: under 1000 ms it failed requests.
    """
    batch_texts = BATCH_REQUESTS * texts  # how mdslite and BentoML count
    mosec = [sys.executable, str(SERVERS / "spam_mosec.py"), "--address", "127.0.0.1", "--port", "PORT"]
    plain = {**_environment(folder), "BATCH_REQUESTS": str(BATCH_REQUESTS)}
    found = [
        _appliance(bench, folder, "process", batch_texts),
        _appliance(bench, folder, "inline", batch_texts),
        Contender("mosec", "Mosec", mosec, "/inference", {**plain, "WORKERS": "1", "WAIT_MS": "1"}),
    ]
    if bench.frameworks is None:
        return found
    python = str(bench.frameworks)
    litserve = {"WORKERS": "1", "API_SERVERS": "1", "FAST_QUEUE": "1", "WAIT_MS": "2"}
    bentoml = ["-m", "bentoml", "serve", "benchmarks.servers.spam_bentoml:Spam", "--host", "127.0.0.1"]
    return [
        *found,
        Contender(
            "litserve",
            "LitServe",
            [python, str(SERVERS / "spam_litserve.py"), "PORT"],
            "/predict",
            {**plain, **litserve},
        ),
        Contender(
            "bentoml",
            "BentoML",
            [python, *bentoml, "--port", "PORT"],
            "/predict",
            {
                **plain,
                "WORKERS": "2",
                "LATENCY_MS": "1000",
                "BATCH_TEXTS": str(batch_texts),
                "BENTOML_DO_NOT_TRACK": "true",
            },
        ),
    ]


def _appliance(bench: Bench, folder: Path, isolation: str, batch_texts: int) -> Contender:
    spec = {
        "uri": str(EXAMPLE / "spamfilter"),
        "isolation": isolation,
        "batch": {"batch_size": batch_texts},
    }
    version = {"version": "v1", "spec": spec}
    file = folder / f"{isolation}.yaml"
    file.write_text(
        json.dumps({"deployments": [{"project": "mail", "model": "spamfilter", "versions": [version]}]})
    )
    command = [str(bench.mdslite), "up", str(file), "--port", "PORT", "--store", "STORE"]
    name, label = ("mdslite", "mdslite") if isolation == "process" else ("inline", "mdslite, inline")
    return Contender(name, label, command, "/projects/mail/models/spamfilter:predict")


def _environment(folder: Path) -> dict[str, str]:
    """Where the others find the filter's class, and `mds`, which its module imports: without mdslite."""
    tree = folder / "tree"
    tree.mkdir(exist_ok=True)
    link = tree / "mds"
    if not link.is_symlink():
        link.symlink_to(ROOT / "mdslite" / "mds")
    return {"PYTHONPATH": ":".join(map(str, (EXAMPLE / "spamfilter", tree, ROOT / "scripts")))}


def _start(
    stack: ExitStack, contenders: Sequence[Contender], folder: Path, body: Path, say: Say
) -> list[Running]:
    first, *others = contenders
    running = [stack.enter_context(Running(first, body=body, folder=folder / first.name))]
    wanted = read_answers(running[0].ask(first.path, body.read_bytes()))
    for contender in others:
        try:
            one = stack.enter_context(Running(contender, body=body, folder=folder / contender.name))
        except (RuntimeError, OSError) as exc:
            say(f"the spam filter is measured without {contender.label}: {exc}")
            continue
        found = read_answers(one.ask(contender.path, body.read_bytes()))
        if found != wanted:
            raise RuntimeError(f"{contender.label} gave other answers than mdslite: {found}, not {wanted}")
        running.append(one)
    return running


def read_answers(reply: bytes) -> Sequence[object]:
    """The answers of a reply; BentoML's are not in an object."""
    answers = json.loads(reply)
    if isinstance(answers, dict):
        answers = answers["predictions"]
    assert isinstance(answers, list)
    return answers
