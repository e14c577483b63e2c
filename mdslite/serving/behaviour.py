"""What of a spec changes without loading again: how a version batches, how long a prediction may take, and
where its confidence is read. One place for models that are computed here and for those of remote endpoints.
"""

from __future__ import annotations

import orjson

from mdslite.data import read_confidences
from mdslite.errors import LoadFailed, clip
from mdslite.fields import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_BATCH_TIMEOUT_MS,
    DEFAULT_PREDICTION_TIME_MS,
    QUEUE_ROWS,
)
from mdslite.runtimes.executor import find_confidence
from mdslite.runtimes.protocol import Outputs, ProbeReport, Signature
from mdslite.serving.batch import Confidence
from mdslite.serving.confidence import confidence_reader
from mdslite.serving.knobs import Knobs
from mdslite.spec import Spec


def behaviour(spec: Spec, report: ProbeReport, sample: Outputs | None) -> tuple[Knobs, Confidence]:
    """How a version that is computed here behaves by a spec.

    :raises LoadFailed: it does not fit the model
    """
    knobs = make_knobs(spec, report)
    if report.package is not None or report.pipeline is not None:
        confidence_field(spec)
        return knobs, read_confidences
    return knobs, confidence_reader(report.signature, spec.confidence, sample)


def remote_behaviour(spec: Spec, signature: Signature) -> tuple[Knobs, Confidence]:
    """How a version behaves whose batches are made where it is computed: what is left is time and the bound.

    :raises LoadFailed: the spec names an output that the model does not have
    """
    knobs = Knobs(
        batch_size=1,
        batch_timeout_s=DEFAULT_BATCH_TIMEOUT_MS / 1000,
        prediction_s=_seconds(spec.batch.prediction_time_ms, DEFAULT_PREDICTION_TIME_MS),
        queue_rows=QUEUE_ROWS,
    )
    return knobs, _remote_confidence(spec, signature)


def confidence_field(spec: Spec) -> str | None:
    """The field of a package's answers that holds their confidence, None for the usual one.

    :raises LoadFailed: the spec names an output, which a package does not have
    """
    if spec.confidence is None:
        return None
    if spec.confidence.output is not None:
        raise LoadFailed(
            f'confidence.output: "{clip(spec.confidence.output)}", but a Python package has no named outputs',
            hint="write confidence: {field: NAME}, a field of what the package answers",
        )
    return None if spec.confidence.field is None else str(spec.confidence.field)


def make_knobs(spec: Spec, report: ProbeReport) -> Knobs:
    """The batching knobs of a version: its spec's, else its package's, else what its model allows.

    :raises LoadFailed: the spec asks for batches of a model that cannot be batched
    """
    batch, package = spec.batch, report.package
    size, timeout_ms, time_ms = batch.batch_size, batch.batch_timeout_ms, batch.prediction_time_ms
    if report.pipeline is not None and not size is timeout_ms is None:
        raise LoadFailed(
            "batch: batch_size and batch_timeout_ms, but each node of a pipeline batches on its own",
            hint="write @mds.batch above the predict of a node; only prediction_time_ms is the pipeline's",
        )
    batches = report.signature.rows == "free"
    why_not = "the model fixes the first dimension of an input or output"
    hint = "leave batch_size out, or export the model with a free first dimension"
    default_size = DEFAULT_BATCH_SIZE
    if package is not None:
        # What is not written for batches takes one datum at a time; of async code, several may wait at once.
        default_size = package.batch_size or (DEFAULT_BATCH_SIZE if package.is_async else 1)
        timeout_ms = package.batch_timeout_ms if timeout_ms is None else timeout_ms
        time_ms = package.prediction_time_ms if time_ms is None else time_ms
        if package.streams:
            batches, why_not, hint = False, "its predict is a generator", "leave batch_size out"
    if not batches and (size or 1) > 1:
        raise LoadFailed(f"batch.batch_size is {size}, but {why_not}", hint=hint)
    return Knobs(
        batch_size=(default_size if size is None else size) if batches else 1,
        batch_timeout_s=_seconds(timeout_ms, DEFAULT_BATCH_TIMEOUT_MS),
        prediction_s=_seconds(time_ms, DEFAULT_PREDICTION_TIME_MS),
        queue_rows=QUEUE_ROWS,
    )


def _remote_confidence(spec: Spec, signature: Signature) -> Confidence:
    if signature.inputs:
        return confidence_reader(signature, spec.confidence, None)
    field = None if spec.confidence is None or spec.confidence.field is None else str(spec.confidence.field)

    def read(outputs: Outputs) -> list[float | None]:
        return [_confidence_in(answer, field) for answer in outputs[0]]

    return read


def _confidence_in(answer: bytes, field: str | None) -> float | None:
    if answer[:1] != b"{":
        return None
    try:
        return find_confidence(orjson.loads(answer), field)
    except orjson.JSONDecodeError:
        return None


def _seconds(chosen_ms: float | None, default_ms: float) -> float:
    return (default_ms if chosen_ms is None else chosen_ms) / 1000
