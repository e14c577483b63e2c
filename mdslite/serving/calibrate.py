"""Opening a version's session, warming it and measuring its latency curve before it takes traffic.

Runs in a worker thread. A model that refuses the made-up inputs of a warm-up (an index out of its table, say)
is served all the same, with a curve that its first requests teach.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter

from mdslite.errors import DeadlineExceeded, LoadFailed, ModelError
from mdslite.runtimes.kinds import runtime_settings
from mdslite.runtimes.protocol import Device, LoadOptions, Outputs, Session, Signature
from mdslite.runtimes.warmup import make_inputs
from mdslite.serving.curve import LatencyCurve
from mdslite.spec import Spec
from mdslite.tensors import Codec, Key

WARM_S = 30.0
CALIBRATE_S = 0.25
_REPEATS = 3


def load_options(
    spec: Spec, device: Device, *, runtime: str, label: str, handler: str | None = None
) -> LoadOptions:
    """How one replica's session is opened as the spec wants it."""
    cpu = spec.resource.cpu
    env = dict(spec.container.env)
    if device.kind == "cuda":
        env.setdefault("CUDA_VISIBLE_DEVICES", str(device.index))
    return LoadOptions(
        device=device,
        threads=None if cpu is None else max(1, round(cpu)),
        settings=runtime_settings(runtime, spec.container_parameter),
        isolation=spec.isolation or "process",
        env=env,
        memory_limit_bytes=spec.resource.memory_bytes,
        handler=handler,
        label=label,
    )


def open_warm(
    open_session: Callable[[], Session], *, signature: Signature, curve: LatencyCurve, rows_max: int
) -> tuple[Session, Outputs | None]:
    """Open a session, warm it and fill `curve` for 1 to `rows_max` rows; also gives a warm run's outputs.

    :raises LoadFailed: it could not be opened, or its warm-up did not end
    """
    session = open_session()
    try:
        return session, _calibrate(session, signature, curve, rows_max)
    except BaseException:
        session.close()
        raise


def _calibrate(session: Session, signature: Signature, curve: LatencyCurve, rows_max: int) -> Outputs | None:
    """Time runs of 1, 2, 4, ... rows for CALIBRATE_S at most; the least of a few repeats counts."""
    sample = None
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
            best = min(_timed(session, feeds) for _ in range(_REPEATS))
        except ModelError:
            return sample
        curve.observe(Codec.bucket(key), rows, best)
        rows *= 2
    return sample


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
