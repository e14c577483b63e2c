"""What is kept of a version's requests in a span of time: counts and sketches of a bounded size that can be
added up, none of the values themselves. Owns how they are written down.

Latency and confidence have fixed bins. Numbers whose range nobody knows go into a KLL sketch (Karnin, Lang
and Liberty, 2016), whose ranks are right within RANK_ERROR. Of texts, the first SLOTS different ones of a
version have a counter each and all others share BUCKETS by hash, so that counts stay exact and comparable
over time however many texts there are.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec
import numpy as np
from datasketches import kll_floats_sketch
from numpy.typing import NDArray

from mdslite.drift.features import INPUT, Reading
from mdslite.drift.measures import Counts

FEATURES_MAX = 32
SLOTS = 64
BUCKETS = 32
_K = 200
RANK_ERROR = float(kll_floats_sketch(_K).normalized_rank_error(False))
_FLOAT_MAX = 3.0e38

# Latency: eight bins an octave from 10 µs to about 170 s.
FIRST_MS = 0.01
AN_OCTAVE = 8
LATENCY_BINS = 24 * AN_OCTAVE
_NEAR_ZERO = [0.0, 1e-4, 1e-3]
CONFIDENCE_EDGES = np.array(
    [*_NEAR_ZERO, *(step / 100 for step in range(1, 100)), *(1 - low for low in (5e-3, 1e-3, 1e-4, 1e-6))]
)
CONFIDENCE_BINS = len(CONFIDENCE_EDGES) + 1

Ints = NDArray[np.int64]


class Vocabulary:
    """Which counter a text has, the same for as long as its version has one artifact."""

    def __init__(self, names: dict[str, list[str]] | None = None) -> None:
        self.names: dict[str, list[str]] = names or {}
        self._places = {of: {text: at for at, text in enumerate(texts)} for of, texts in self.names.items()}

    def place(self, feature: str, text: str) -> int:
        places = self._places.setdefault(feature, {})
        found = places.get(text)
        if found is not None:
            return found
        if len(places) < SLOTS:
            places[text] = len(places)
            self.names.setdefault(feature, []).append(text)
            return places[text]
        return SLOTS + zlib.crc32(text.encode("utf-8", "replace")) % BUCKETS

    def forget(self, feature: str) -> None:
        self.names.pop(feature, None)
        self._places.pop(feature, None)

    def text(self, feature: str, place: int) -> str:
        names = self.names.get(feature, [])
        return names[place] if place < len(names) else "(other)"


class Presence(msgspec.Struct, array_like=True):
    """Of how many rows a feature was a number, a text, or there but neither (null, NaN)."""

    numbers: int = 0
    texts: int = 0
    empty: int = 0


class Sketch(msgspec.Struct, array_like=True):
    """As it is written down."""

    requests: int
    failed: int
    latency: list[int]
    confidence: list[int]
    rows: int
    unread: int
    left_out: int
    numbers: dict[str, bytes]
    texts: dict[str, list[int]]
    presence: dict[str, Presence]


_decode = msgspec.msgpack.Decoder(Sketch).decode


class Window:
    """One version's requests in a span of time."""

    def __init__(self) -> None:
        self.requests = 0  # good answers, and errors
        self.failed = 0
        self.latency: Ints = np.zeros(LATENCY_BINS, dtype=np.int64)
        self.confidence: Ints = np.zeros(CONFIDENCE_BINS, dtype=np.int64)
        self.rows = 0  # of sampled requests that could be read
        self.unread = 0  # sampled requests that could not
        self.left_out = 0  # features of rows beyond FEATURES_MAX
        self.numbers: dict[str, kll_floats_sketch] = {}
        self.texts: dict[str, Ints] = {}
        self.presence: dict[str, Presence] = {}

    def add_columns(
        self, *, latency_ms: Counts, confidence: Counts, good: NDArray[np.bool_], failed: int
    ) -> None:
        """Count requests. `good` ones have their latency and confidence counted (NaN: not)."""
        latency_ms, confidence = latency_ms[good], confidence[good]
        self.requests += len(latency_ms) + failed
        self.failed += failed
        bins = np.log2(np.maximum(latency_ms, FIRST_MS) / FIRST_MS) * AN_OCTAVE
        places = np.minimum(bins.astype(np.int64), LATENCY_BINS - 1)
        self.latency += np.bincount(places, minlength=LATENCY_BINS)
        confidence = confidence[~np.isnan(confidence)]
        if len(confidence):
            places = np.searchsorted(CONFIDENCE_EDGES, confidence, side="right")
            self.confidence += np.bincount(places, minlength=CONFIDENCE_BINS)

    def add_readings(self, readings: Sequence[Reading], vocabulary: Vocabulary, known: set[str]) -> None:
        """Take in sampled rows. `known` are the features that there is room for; new ones enter it."""
        numbers: dict[str, list[float]] = {}
        for reading in readings:
            if any(name.startswith(INPUT) for name in reading):
                self.rows += 1
            else:
                self.unread += 1
            for name, value in reading.items():
                if name not in known:
                    if len(known) >= FEATURES_MAX:
                        self.left_out += 1
                        continue
                    known.add(name)
                self._add(name, value, numbers, vocabulary)
        for name, values in numbers.items():
            sketch = self.numbers.get(name)
            if sketch is None:
                sketch = self.numbers[name] = kll_floats_sketch(_K)
            limited = np.clip(np.array(values, dtype=np.float64), -_FLOAT_MAX, _FLOAT_MAX)
            sketch.update(limited.astype(np.float32))

    def _add(
        self, name: str, value: float | str | None, numbers: dict[str, list[float]], vocabulary: Vocabulary
    ) -> None:
        presence = self.presence.get(name)
        if presence is None:
            presence = self.presence[name] = Presence()
        if isinstance(value, str):
            presence.texts += 1
            counts = self.texts.get(name)
            if counts is None:
                counts = self.texts[name] = np.zeros(SLOTS + BUCKETS, dtype=np.int64)
            counts[vocabulary.place(name, value)] += 1
        elif value is None or value != value:
            presence.empty += 1
        else:
            presence.numbers += 1
            numbers.setdefault(name, []).append(value)

    def merge(self, other: Window) -> None:
        """Add another span's requests."""
        for name in ("requests", "failed", "rows", "unread", "left_out"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.latency += other.latency
        self.confidence += other.confidence
        for name, sketch in other.numbers.items():
            self.numbers.setdefault(name, kll_floats_sketch(_K)).merge(sketch)
        for name, counts in other.texts.items():
            self.texts[name] = self.texts.get(name, 0) + counts
        for name, presence in other.presence.items():
            mine = self.presence.setdefault(name, Presence())
            mine.numbers += presence.numbers
            mine.texts += presence.texts
            mine.empty += presence.empty

    def encode(self) -> bytes:
        sketch = Sketch(
            requests=self.requests,
            failed=self.failed,
            latency=self.latency.tolist(),
            confidence=self.confidence.tolist(),
            rows=self.rows,
            unread=self.unread,
            left_out=self.left_out,
            numbers={name: bytes(one.serialize()) for name, one in self.numbers.items()},
            texts={name: counts.tolist() for name, counts in self.texts.items()},
            presence=self.presence,
        )
        return zlib.compress(msgspec.msgpack.encode(sketch), 1)

    @classmethod
    def decode(cls, data: bytes) -> Window:
        """
        :raises ValueError: it is no window
        """
        try:
            sketch = _decode(zlib.decompress(data))
        except (zlib.error, msgspec.DecodeError) as exc:
            raise ValueError(f"no sketch: {exc}") from exc
        made = cls()
        for name in ("requests", "failed", "rows", "unread", "left_out", "presence"):
            setattr(made, name, getattr(sketch, name))
        made.latency = np.array(sketch.latency, dtype=np.int64)
        made.confidence = np.array(sketch.confidence, dtype=np.int64)
        made.numbers = {name: kll_floats_sketch.deserialize(one) for name, one in sketch.numbers.items()}
        made.texts = {name: np.array(counts, dtype=np.int64) for name, counts in sketch.texts.items()}
        return made


def count_numbers(sketch: kll_floats_sketch | None, edges: NDArray[np.float32]) -> Counts:
    """How many of a sketch's values lie in (-inf, edge 0], (edge 0, edge 1], … (last edge, inf)."""
    if sketch is None or sketch.is_empty():
        return np.zeros(len(edges) + 1)
    below = np.array(sketch.get_cdf(edges.tolist(), True), dtype=np.float64)
    counts: Counts = np.diff(below, prepend=0.0) * int(sketch.n)
    return counts


def choose_edges(sketch: kll_floats_sketch, cells: int = 64) -> NDArray[np.float32]:
    """Quantiles of a sketch; a value that many have gets a cell of its own."""
    shares = (np.arange(1, cells) / cells).tolist()
    ends = (sketch.get_min_value(), sketch.get_max_value())
    edges = np.array([*ends, *sketch.get_quantiles(shares)], dtype=np.float32)
    values, times = np.unique(edges, return_counts=True)
    heavy = values[times > 1]
    below = np.nextafter(heavy, np.float32(-np.inf), dtype=np.float32)
    return np.unique(np.concatenate([values, below]))
