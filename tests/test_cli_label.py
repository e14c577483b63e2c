"""`mdslite label` and `mdslite replay` against a real appliance, at a terminal and without one."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from labelled import DIGITS, held_out
from live import Live, up

from mdslite.cli import run
from mdslite.cli.label_view import Look, ansi, assign_keys, item_lines, key_text
from mdslite.client import Client
from mdslite.hosts import author

Captured = pytest.CaptureFixture[str]

DEPLOYMENTS = f"""\
deployments:
- project: demo
  model: digits
  versions:
  - version: v1
    spec:
      uri: {DIGITS}/v1.onnx
      log: {{bodies: all}}
  - version: v2
    shadow: true
    spec:
      uri: {DIGITS}/v2.onnx
      log: {{bodies: all}}
"""
MODEL = "demo/digits"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("labels")
    (folder / "deployments.yaml").write_text(DEPLOYMENTS)
    with up("deployments.yaml", cwd=folder) as started:
        yield started


@pytest.fixture
def client(live: Live, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A queue with nothing in it, whose rule is to take everything."""
    monkeypatch.setenv("MDSLITE_URL", live.url)
    monkeypatch.delenv("NO_COLOR", raising=False)
    with Client(live.url) as made:
        made.put_labeling("demo", "digits", below_confidence=None, disagreements=False, share=1.0)
        for one in queue(made):
            made.put_label(one["id"], "0")
        made.forget_labels("demo", "digits")
        yield made


def queue(client: Client) -> list[Any]:
    items: list[Any] = client.label_queue("demo", "digits", limit=200)["items"]
    return items


def ask(client: Client, count: int) -> list[Any]:
    """Have digits predicted; what waits for a label then, the newest first."""
    for row in held_out()[0][:count]:
        client.predict("demo", "digits", [row])
    deadline = monotonic() + 20
    while len(items := queue(client)) < count or any(len(one["answers"]) < 2 for one in items):
        assert monotonic() < deadline, items
        sleep(0.05)
    return items


class Typist:
    """Types into a command's terminal, each key when the command has said what it is waiting for."""

    def __init__(self, live: Live, args: Sequence[str], **env: str) -> None:
        self._ours, theirs = pty.openpty()
        full = {**os.environ, "COLUMNS": "100", "TERM": "xterm", "MDSLITE_URL": live.url, **env}
        command = [sys.executable, "-m", "mdslite", *args]
        self._process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=full)
        os.close(theirs)
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a piece may end within a character
        self.printed = ""

    def sees(self, text: str) -> None:
        """Read until the text was printed, from where the last one ended."""
        while text not in self.printed:
            self.printed += self._decoder.decode(os.read(self._ours, 4096)).replace("\r\n", "\n")
        self.printed = self.printed.partition(text)[2]

    def types(self, key: str) -> None:
        os.write(self._ours, key.encode())

    def ends(self) -> tuple[int, str]:
        """The exit code, and the rest of what was printed."""
        rest = self.printed
        while True:
            try:
                piece = os.read(self._ours, 4096)
            except OSError:
                break
            rest += self._decoder.decode(piece).replace("\r\n", "\n")
        os.close(self._ours)
        return self._process.wait(20), rest


# What is shown


def item(content: Any, *, answers: Sequence[str] = ("7",)) -> dict[str, Any]:
    text = content if isinstance(content, str) else json.dumps(content)
    body = {"content": text, "encoding": "utf-8", "size_bytes": len(text), "truncated": False}
    told = [
        {"version": f"v{number}", "shadow": number > 1, "replay": False, "answer": one, "confidence": 0.5}
        for number, one in enumerate(answers, 1)
    ]
    return {"request": body, "answer": answers[0] if answers else None, "answers": told}


def shown(content: Any, *, plain: bool = False, **look: Any) -> str:
    lines = item_lines(item(content), Look(**{"colour": False, **look}), plain=plain)
    return "\n".join(ansi(line, Look(colour=False)) for line in lines)


def test_a_digit_of_8_by_8_looks_like_one() -> None:
    rows, truth = held_out()
    zero = rows[truth.index(0)]
    picture = shown({"instances": [zero]}, ascii=True).split("\n\n")[0].splitlines()
    inked = [[char not in " ." for char in line.ljust(34)[2:34]] for line in picture]
    assert len(inked) == 16 and all(any(line) for line in inked[2:14])
    middle = [line[14:18] for line in inked[6:10]]
    assert not any(any(part) for part in middle), "a zero has a hole"
    colours = ansi(item_lines(item({"instances": [zero]}), Look())[2], Look())
    assert re.search(r"\x1b\[38;2;\d+;\d+;\d+m\x1b\[48;2;\d+;\d+;\d+m", colours)
    assert " 0  0 14 16 13 16  2  0\n" in shown({"instances": [zero]}, plain=True)


def test_text_fields_and_numbers_are_shown_as_what_they_are() -> None:
    assert "Win a prize" in shown({"instances": ["Win a prize \x1b[2J now"]})
    assert "\x1b" not in shown({"instances": ["Win a prize \x1b[2J now"]})
    told = shown({"instances": [{"subject": "hello", "length": 3, "tags": ["a", "b"]}]})
    assert re.search(r"subject +hello", told) and re.search(r'tags +\["a", "b"\]', told)
    assert shown({"instances": [[1.5, 2.25, -3]]}).splitlines()[0].split() == ["1.5", "2.25", "-3"]
    long = shown({"instances": ["word " * 2000]}, columns=60)
    assert len(long.splitlines()) < 25 and max(map(len, long.splitlines())) <= 60


def test_each_class_has_a_key_of_its_own() -> None:
    digits = [str(number) for number in range(10)]
    assert assign_keys(digits) == {digit: digit for digit in digits}
    assert assign_keys(["spam", "ham", "scam", "quiz"]) == {"s": "spam", "h": "ham", "1": "scam", "2": "quiz"}
    assert assign_keys(["q", "/"])["q"] == "q"
    assert "/" not in assign_keys(["/", "a"])
    many = assign_keys([f"class {number}" for number in range(60)])
    assert len(many) == len(set(many.values())) == 35 and "q" not in many
    assert key_text(assign_keys(digits), item(1)).startswith("0-9   enter 7   / other")
    assert "enter" not in key_text({}, item(1, answers=()))


# At a terminal


def test_a_key_labels_a_request_and_the_end_sums_up(live: Live, client: Client) -> None:
    items = ask(client, 5)
    said = [one["answer"] for one in items]
    typist = Typist(live, ["label", MODEL])
    typist.sees("1 of 5")
    typist.sees("0-9   enter")
    typist.types("\r")
    typist.sees(f"> {said[0]}   as v1")
    typist.sees("q quit")
    other = str((int(said[1]) + 5) % 10)
    typist.types(other)
    typist.sees(f"> {other}   ")
    typist.sees("q quit")
    typist.types(" ")
    typist.sees("> skipped")
    typist.sees("q quit")
    typist.types("\t")
    typist.sees("q quit")
    typist.types("\x1b[A")  # an arrow does nothing
    typist.types("/")
    typist.sees("label: ")
    typist.types("no digit\n")
    typist.sees("> no digit   as none said")
    typist.sees("q quit")
    typist.types("q")
    code, rest = typist.ends()
    assert code == 0
    assert "3 labelled, 1 skipped" in rest and "v1 answered 1 of 3 as you did" in rest
    labels = {one["id"]: one["label"] for one in client.labels("demo", "digits")["labels"]}
    assert labels == {items[0]["id"]: said[0], items[1]["id"]: other, items[3]["id"]: "no digit"}


def test_undo_goes_back_to_the_request_before(live: Live, client: Client) -> None:
    items = ask(client, 2)
    typist = Typist(live, ["label", MODEL], NO_COLOR="1")
    typist.sees(str(items[0]["id"]))
    typist.types("\x7f")
    typist.sees("> nothing to undo")
    typist.types("3")
    typist.sees("> 3")
    typist.sees(str(items[1]["id"]))
    typist.sees("q quit")
    typist.types("\x7f")
    typist.sees("> undone")
    typist.sees(str(items[0]["id"]))
    typist.sees("q quit")
    typist.types("4")
    typist.sees(str(items[1]["id"]))
    typist.sees("q quit")
    typist.types("5")
    code, rest = typist.ends()  # nothing more waits
    assert code == 0 and "2 labelled, 0 skipped" in rest
    first = client.label(items[0]["id"])
    assert [(one["label"], one["undone_at"] is None) for one in first["history"]] == [
        ("3", False),
        ("4", True),
    ]


def test_ctrl_c_ends_with_what_was_done(live: Live, client: Client) -> None:
    ask(client, 1)
    typist = Typist(live, ["label", MODEL])
    typist.sees("q quit")
    typist.types("\x03")
    code, rest = typist.ends()
    assert code == 0 and "nothing labelled" in rest and "Traceback" not in rest


# Without one


def say(capsys: Captured, *args: str) -> str:
    assert run(args) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_labels_without_a_terminal(client: Client, capsys: Captured, tmp_path: Path) -> None:
    items = ask(client, 3)
    number = str(items[0]["id"])
    assert [one["id"] for one in json.loads(say(capsys, "label", MODEL, "--json"))["items"]] == [
        one["id"] for one in items
    ]
    assert "picture 8x8" in say(capsys, "label", MODEL, "--rule", "random")
    assert re.match(
        rf"{number}  4 by {re.escape(author())}  \(v1 \d, v2 \d\)", say(capsys, "label", MODEL, number, "4")
    )
    say(capsys, "label", MODEL, number, "9", "--note", "a slip")
    told = say(capsys, "label", MODEL, number, "--undo")
    assert f"9 by {author()}, undone by {author()}  a slip" in told
    assert json.loads(say(capsys, "label", MODEL, number, "--json"))["label"] == "4"
    told = say(capsys, "label", MODEL, "--accuracy")
    assert re.search(r"v1 +all traffic +[01] of 1 +\d+\.0% \[", told) and "labels tell little" in told
    assert json.loads(say(capsys, "label", MODEL, "--accuracy", "--json"))["labels"] == 1
    lines = say(capsys, "label", MODEL, "--export", "-").splitlines()
    row = json.loads(lines[0])
    assert (row["label"], row["input"], len(lines)) == ("4", items[0]["input"], 1)
    say(capsys, "label", MODEL, "--export", str(tmp_path / "set.csv"))
    assert run(["label", MODEL, "--export", str(tmp_path / "set.csv")]) == 1
    assert "is there already\nhint: add --force" in capsys.readouterr().err
    told = json.loads(say(capsys, "label", MODEL, "--export", str(tmp_path / "set.jsonl"), "--json"))
    size_bytes = (tmp_path / "set.jsonl").stat().st_size
    assert told == {"file": str(tmp_path / "set.jsonl"), "rows": 1, "size_bytes": size_bytes}
    assert run(["label", MODEL, "--export", "-", "--json"]) == 1
    assert "which leaves no room for --json" in json.loads(capsys.readouterr().out)["error"]
    cells = list(csv.DictReader(io.StringIO((tmp_path / "set.csv").read_text())))
    assert [(one["label"], json.loads(one["input"])) for one in cells] == [("4", items[0]["input"])]
    assert "1 labels dropped" in say(capsys, "label", MODEL, "--forget", "--yes")
    assert say(capsys, "label", MODEL, "--accuracy") == ""


def test_who_asks_is_who_is_named_everywhere(client: Client, capsys: Captured) -> None:
    ask(client, 1)
    replay = json.loads(say(capsys, "replay", "since=1h", "--to", f"{MODEL}@v1", "--detach", "--json"))
    assert replay["author"] == author()
    begun = json.loads(say(capsys, "rollout", MODEL, "v2", "--ungated", "--every", "1h", "--json"))
    assert begun["author"] == author()
    assert "\nnext " in say(capsys, "rollout", MODEL)
    assert "\nnext " not in say(capsys, "rollout", MODEL, "pause")  # nothing is due, whatever was
    ended = json.loads(say(capsys, "rollout", MODEL, "abort", "--json"))
    assert ended["message"].startswith(f"aborted by {author()}")


def test_a_model_that_is_not_deployed_is_not_said_to_have_nothing_to_label(
    client: Client, capsys: Captured, tmp_path: Path
) -> None:
    sets = ("--export", str(tmp_path / "set.jsonl")), ("--export", str(tmp_path / "set.jsonl"), "--json")
    for args in ((), ("--json",), ("--rules",), ("--forget", "--yes"), *sets):
        assert run(["label", "demo/nope", *args]) == 1
        told = capsys.readouterr()
        assert bool(told.out) == ("--json" in args)  # the error, told once more
        assert told.err.splitlines()[0] == "error: no model demo/nope is deployed"
    assert not [*tmp_path.iterdir()]
    assert run(["label", MODEL]) == 0
    assert "nothing of demo/digits waits for a label" in "".join(capsys.readouterr())


def test_a_training_set_in_parquet(client: Client, capsys: Captured, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    items = ask(client, 2)
    for one in items:
        say(capsys, "label", MODEL, str(one["id"]), str(one["answer"]))
    say(capsys, "label", MODEL, "--export", str(tmp_path / "set.parquet"))
    table = parquet.read_table(tmp_path / "set.parquet").to_pylist()
    assert [(one["id"], one["label"]) for one in table] == [(one["id"], one["answer"]) for one in items]
    assert json.loads(table[0]["input"]) == items[0]["input"]
    assert table[0]["time"].tzinfo is not None


def test_rules_are_shown_and_changed(client: Client, capsys: Captured) -> None:
    assert re.search(r"at random +100%", say(capsys, "label", MODEL, "--rules"))
    told = say(capsys, "label", MODEL, "--share", "2.5%", "--below-confidence", "0.7", "--disagreements")
    assert re.search(r"less sure than +0.7\ndisagreements +yes\nat random +2.5%", told)
    told = say(capsys, "label", MODEL, "--below-confidence", "off", "--class", "0", "--class", "1", "--json")
    assert json.loads(told)["classes"] == ["0", "1"] and json.loads(told)["below_confidence"] is None
    for wrong in (
        ("--share", "200%"),
        ("--share", "x"),
        ("--below-confidence", "2"),
        ("--export", "a.xml"),
        ("--undo",),
    ):
        assert run(["label", MODEL, *wrong]) == 1
        assert capsys.readouterr().err.startswith("error: ")


def test_a_replay_is_waited_for_and_compared(client: Client, capsys: Captured) -> None:
    ask(client, 4)
    to = ("--to", f"{MODEL}@v2", "--rate", "500/s")
    told = say(capsys, "replay", "since=10m", *to, "--compare")
    assert re.search(r"state +done", told) and "with a body" in told and "agreement" in told
    assert re.search(r"^· compute: ", told, re.MULTILINE)
    found = json.loads(say(capsys, "replay", "since=10m", *to, "--limit", "2", "--json"))
    assert (found["sent"], found["state"], found["comparison"]) == (2, "done", None)
    told = say(capsys, "replay", "since=10m", *to, "--limit", "1")
    assert re.search(r"matched +\d+ logged requests; of these the first 1 with a body were looked at", told)
    assert "no logged request matches" in say(capsys, "replay", "client=nobody", *to, "--compare")
    told = say(capsys, "replay", "since=10m", "--to", f"{MODEL}@v2", "--rate", "0.01/s", "--detach")
    number = re.search(r"replay (\d+) has begun", told)
    assert number is not None
    assert re.search(r"state +cancelled\n", say(capsys, "replay", "--cancel", number[1]))
    assert re.search(rf"{number[1]} .*cancelled", say(capsys, "replay", "--list"))
    assert json.loads(say(capsys, "replay", "--show", number[1], "--json"))["state"] == "cancelled"
    for wrong in ((), ("--to", MODEL), ("--to", f"{MODEL}@v9"), (*to[:2], "--rate", "fast")):
        assert run(["replay", "since=1h", *wrong]) == 1
        assert capsys.readouterr().err.startswith("error: ")
