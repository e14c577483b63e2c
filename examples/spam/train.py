"""Trains the spam filter of this example: `python examples/spam/train.py [FOLDER]`, with NumPy alone.

The 180 messages in messages.tsv were written for this example, half of them in the manner of spam. They are
no sample of anybody's mail: the accuracy says that the example works, not how it would do on yours.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "spamfilter"))

from words import find_words  # noqa: E402  the package's own module, found by the line above

SEED = 7
HELD_OUT = 0.25  # of the messages of each label
MIN_COUNT = 2  # a word that fewer messages have is not learned
DECAY = 0.02  # how strongly large weights are held back
STEPS = 2000
RATE = 0.5

Floats = np.ndarray[Any, np.dtype[np.float64]]


def read_messages(file: Path) -> tuple[list[str], list[int]]:
    """The texts, and 1 for each that is spam."""
    lines = [line.split("\t", 1) for line in file.read_text(encoding="utf-8").splitlines()]
    return [text for _, text in lines], [int(label == "spam") for label, _ in lines]


def split(labels: list[int], seed: int = SEED) -> tuple[list[int], list[int]]:
    """Places to train on and places to hold out, the same share of each label."""
    random = np.random.default_rng(seed)
    train: list[int] = []
    held_out: list[int] = []
    for label in (0, 1):
        places = [place for place, one in enumerate(labels) if one == label]
        shuffled = [places[index] for index in random.permutation(len(places))]
        count = round(len(shuffled) * HELD_OUT)
        held_out += shuffled[:count]
        train += shuffled[count:]
    return sorted(train), sorted(held_out)


def choose_words(texts: list[str]) -> list[str]:
    counts = Counter(word for text in texts for word in set(find_words(text)))
    return sorted(word for word, count in counts.items() if count >= MIN_COUNT)


def mark_words(texts: list[str], words: list[str]) -> Floats:
    """One row a text, one column a word, 1.0 where it occurs."""
    places = {word: place for place, word in enumerate(words)}
    rows = np.zeros((len(texts), len(words)))
    for row, text in zip(rows, texts, strict=True):
        row[[places[word] for word in set(find_words(text)) if word in places]] = 1
    return rows


def train(rows: Floats, labels: Floats) -> tuple[Floats, float]:
    """Weights and bias of a logistic regression, by gradient descent."""
    weights, bias = np.zeros(rows.shape[1]), 0.0
    for _ in range(STEPS):
        wrong = 1 / (1 + np.exp(-(rows @ weights + bias))) - labels
        weights -= RATE * (rows.T @ wrong / len(rows) + DECAY * weights)
        bias -= RATE * float(wrong.mean())
    return weights, bias


def count_right(texts: list[str], labels: list[int], words: list[str], weights: Floats, bias: float) -> int:
    found = mark_words(texts, words) @ weights + bias > 0
    return int(np.sum(found == np.array(labels, bool)))


def main(folder: Path) -> None:
    texts, labels = read_messages(HERE / "messages.tsv")
    places, held_out = split(labels)
    known = [texts[place] for place in places]
    words = choose_words(known)
    weights, bias = train(mark_words(known, words), np.array([labels[place] for place in places], float))
    for name, chosen in (("trained on", places), ("held out", held_out)):
        right = count_right(
            [texts[place] for place in chosen], [labels[place] for place in chosen], words, weights, bias
        )
        print(f"{name}: {right} of {len(chosen)} right ({right / len(chosen):.1%}), {len(words)} words")
    (folder / "spamfilter").mkdir(exist_ok=True)
    np.savez(
        folder / "spamfilter" / "weights.npz",
        words=np.array(words),
        weights=weights.astype(np.float32),
        bias=np.float32(bias),
    )
    instances = [{"text": texts[place], "label": ("ham", "spam")[labels[place]]} for place in held_out]
    write_json({"source": "messages.tsv, not trained on", "messages": instances}, folder / "held_out.json")
    write_json(
        {"instances": ["Can you bring the notes to the meeting?", "You have won a prize, claim it now"]},
        folder / "sample.json",
    )


def write_json(value: Any, file: Path) -> None:
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
