"""Opening a version's session, warming it and measuring its latency curve before it takes traffic.

Runs in a worker thread. A model that refuses the made-up inputs of a warm-up (an index out of its table, say)
is served all the same, with a curve that its first requests teach.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter, process_time

from mdslite.errors import DeadlineExceeded, LoadFailed, ModelError
from mdslite.runtimes.kinds import runtime_settings
from mdslite.runtimes.machine import cores, idle_s
from mdslite.runtimes.protocol import Device, LoadOptions, Outputs, Session, Signature
from mdslite.runtimes.warmup import make_inputs
from mdslite.serving.crew import CROWDED
from mdslite.serving.curve import LatencyCurve
from mdslite.spec import Spec
from mdslite.tensors import Codec, Key

WARM_S = 30.0
CALIBRATE_S = 0.25
_REPEATS = 3
_QUICK_S = 0.005
_DOUBLING = 1.25  # twice the threads must be so many times as quick
_DUELS = 10  # at least
# More threads need more idle cores to show what they bring, and a machine is busy while it starts: so long
# they may try; and where others took more of their cores than this, they are kept all the same.
_DUEL_S = 0.3
_TAKEN = 0.5  # of a core
_SHORT_S = 100e-6  # a run that is over before a second thread is awake


def load_options(
    spec: Spec,
    device: Device,
    *,
    runtime: str,
    label: str,
    handler: str | None = None,
    threads: int | None = None,
) -> LoadOptions:
    """How one replica's session is opened as the spec wants it; `threads` is for a spec that does not say."""
    cpu = spec.resource.cpu
    env = dict(spec.container.env)
    if device.kind == "cuda" and runtime == "PYTHON":  # which does not know devices by our numbers
        env.setdefault("CUDA_VISIBLE_DEVICES", str(device.index))
    return LoadOptions(
        device=device,
        threads=threads if cpu is None else max(1, round(cpu)),
        settings=runtime_settings(runtime, spec.container_parameter),
        isolation=spec.isolation or "process",
        env=env,
        memory_limit_bytes=spec.resource.memory_bytes,
        handler=handler,
        label=label,
    )


@dataclass(frozen=True, slots=True)
class Warm:
    """A session that is ready to serve, what is known of its run times, and what a warm-up run answered."""

    session: Session
    curve: LatencyCurve
    sample: Outputs | None
    seconds: Mapping[int, float]  # the least that a run took, by its rows
    beside: Session | None = None  # the same model with one thread, for when the event loop is busy


def open_warm(open_session: Callable[[], Session], *, signature: Signature, rows_max: int) -> Warm:
    """Open a session, warm it and measure it for 1 to `rows_max` rows.

    :raises LoadFailed: it could not be opened, or its warm-up did not end
    """
    session = open_session()
    try:
        return _measure(session, signature, rows_max)
    except BaseException:
        session.close()
        raise


def open_fitting(
    open_session: Callable[[int | None], Session], *, signature: Signature, rows_max: int, twice: bool
) -> Warm:
    """As `open_warm`, with the threads that the runtime chooses (None) or with one, if more hardly pay.

    Where they pay, a machine has few cores and the model may be kept `twice`, it is kept with both: all cores
    are best while the event loop has nothing else to do, and one is best beside a loop that is busy itself.

    Each further thread takes a core from other models and from the event loop, which has to read and answer
    what the model computes. Only quick models are tried twice; both then run the largest batch in turns, so
    that what else the machine does meanwhile hits both.
    """
    many = open_warm(partial(open_session, None), signature=signature, rows_max=rows_max)
    if many.session.threads == 1 or max(many.seconds.values(), default=_QUICK_S) >= _QUICK_S:
        return many
    with ExitStack() as opened:
        opened.callback(many.session.close)
        one = open_warm(partial(open_session, 1), signature=signature, rows_max=rows_max)
        opened.callback(one.session.close)
        pays = _pay(many, one, signature)
        opened.pop_all()
    if pays and twice and many.session.threads <= CROWDED:
        return replace(many, beside=one.session)
    kept, left = (many, one) if pays else (one, many)
    left.session.close()
    return kept


def _pay(many: Warm, one: Warm, signature: Signature) -> bool:
    """Whether the threads of the first make it quick enough, at the most rows both were measured with, or had
    no cores to show that."""
    rows = max(many.seconds.keys() & one.seconds.keys(), default=0)
    if not rows or one.seconds[rows] < _SHORT_S:
        return False
    wanted: float = _DOUBLING ** math.log2(many.session.threads)
    feeds = make_inputs(signature, rows)
    many_s = one_s = math.inf
    threads, used_s = many.session.threads, 0.0
    begun, idle_before_s, own_before_s = perf_counter(), idle_s(), process_time()
    for turn in itertools.count(1):
        this_s, that_s = _timed(many.session, feeds), _timed(one.session, feeds)
        used_s += threads * this_s + that_s
        many_s, one_s = min(many_s, this_s), min(one_s, that_s)
        if turn >= _DUELS:
            if one_s / many_s >= wanted:
                return True
            if perf_counter() - begun >= _DUEL_S:
                break
    seconds = perf_counter() - begun
    # What waited for a core did not use it, and what else this process does takes cores as others do.
    used_s = min(used_s, process_time() - own_before_s)
    others = cores() - (used_s + idle_s() - idle_before_s) / seconds  # cores that they kept busy
    return others > max(0, cores() - threads) + _TAKEN


def _measure(session: Session, signature: Signature, rows_max: int) -> Warm:
    """Time runs of 1, 2, 4, ... rows for CALIBRATE_S at most; the least of a few repeats counts."""
    curve = LatencyCurve()
    sample = None
    seconds: dict[int, float] = {}
    counted = int(signature.rows != "none")
    rows = 1
    begun = perf_counter()
    while rows <= rows_max and (rows == 1 or perf_counter() - begun < CALIBRATE_S):
        feeds = make_inputs(signature, rows)
        key: Key = tuple(
            feeds[spec.name].shape[counted:] if spec.name in feeds else None for spec in signature.inputs
        )
        try:
            # The first run of a size allocates: it warms and does not count.
            sample = _run_bounded(session, feeds)
            seconds[rows] = min(_timed(session, feeds) for _ in range(_REPEATS))
        except ModelError:
            break
        curve.observe(Codec.bucket(key), rows, seconds[rows])
        rows *= 2
    return Warm(session, curve, sample, seconds)


def _run_bounded(session: Session, feeds: dict) -> Outputs:  # type: ignore[type-arg]
    handle = session.handle()
    timer = threading.Timer(WARM_S, handle.terminate)
    timer.start()
    try:
        return session.run(feeds, handle)
    except DeadlineExceeded as exc:
        raise LoadFailed(f"its warm-up did not end within {WARM_S:g} s") from exc
    finally:
        timer.cancel()


def _timed(session: Session, feeds: dict) -> float:  # type: ignore[type-arg]
    begun = perf_counter()
    session.run(feeds)
    return perf_counter() - begun
