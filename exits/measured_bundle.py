"""Graphs and labelled data -> a bundle that says of its exits what these very graphs gave.

Role: the second half of every export and import with data. Flow: graphs into a scratch bundle -> ONNX Runtime on the
calibration part -> temperatures, confidences, accuracies -> the test part -> the bundle. So a quantised network is
calibrated on what it answers itself, not on what the network answered that it was made from.

Does not: make graphs, or choose anything by looking at the test part.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np

from .bundle import Bundle
from .bundle_logits import bundle_logits
from .bundle_writer import Description, Part, write_bundle
from .calibrate import CalibrationResult, calibrate
from .datasets import Split
from .manifest import ExitEntry
from .onnx_runner import OnnxRunner
from .whole_directory import hidden_beside

Stage = Literal["graphs", "calibrate", "test", "write"]


class Step(NamedTuple):
    """`done` of `total` samples or parts of a stage."""

    stage: Stage
    done: int
    total: int


OnStep: TypeAlias = "Callable[[Step], None]"


class Graphs(NamedTuple):
    """What to write: `description` without exits' figures but their number, and the parts."""

    description: Description
    segments: list[Part]
    heads: list[Part]


class Measured(NamedTuple):
    """A bundle and what was found while it was made. `tested`: share right per exit on the test part."""

    bundle: Bundle
    calibrated: CalibrationResult
    tested: tuple[float, ...]


class Measuring(NamedTuple):
    """How: `seed` divides the calibration samples; `threads` are ONNX Runtime's."""

    seed: int = 0
    threads: int = 2


USUAL = Measuring()


def measured_bundle(
    out: Path,
    graphs: Graphs,
    data: Split,
    *,
    measuring: Measuring = USUAL,
    replace: bool = False,
    check: Callable[[Bundle], None] | None = None,
    on_step: OnStep = lambda step: None,
) -> Measured:
    """Measure the graphs on the data and write them as a bundle.

    Args:
        graphs: with one `ExitEntry` per exit; accuracies and temperatures are filled in here.
        data: inputs as the manifest's preprocessing takes them, labels within its classes.
        check: see `write_bundle`; also done before anything is measured.
    Raises:
        EngineFault: ONNX Runtime cannot run these graphs here, or an exit gave NaN.
        ValueError: see `calibrate`.
        FileExistsError, BundleError: see `write_bundle`.
    """
    description, segments, heads = graphs
    runner = OnnxRunner(measuring.threads)
    with hidden_beside(out) as folder:
        scratch = write_bundle(folder / "scratch", description, segments=segments, heads=heads, check=check)
        part = data.calibration
        logits = bundle_logits(scratch, part.images, runner, _counting(on_step, "calibrate", len(part.labels)))
        result = calibrate(logits, part.labels, seed=measuring.seed)
        part = data.test
        logits = bundle_logits(scratch, part.images, runner, _counting(on_step, "test", len(part.labels)))
    tested = tuple(float(share) for share in np.mean(logits.argmax(2) == part.labels, axis=1))
    rates = " ".join(f"{share:.4f}" for share in tested)
    errors = " ".join(f"{error:.4f}" for error in result.error)
    told = {
        "test_accuracy": f"{rates} by exit, on {len(part.labels)} test samples",
        "calibration_error": f"{errors} by exit, on the half that no temperature was chosen on",
        "measured_with": f"onnxruntime {runner.versions['onnxruntime']}",
    }
    bundle = write_bundle(
        out,
        description._replace(
            exits=tuple(
                _entry(*row) for row in zip(description.exits, result.accuracies, result.temperatures, strict=True)
            ),
            provenance={**description.provenance, **told},
        ),
        segments=segments,
        heads=heads,
        calibration=result.file,
        replace=replace,
        check=check,
    )
    on_step(Step("write", 1, 1))
    return Measured(bundle, result, tested)


def _entry(entry: ExitEntry, accuracy: float, temperature: float) -> ExitEntry:
    return msgspec.structs.replace(entry, accuracy=round(accuracy, 6), temperature=temperature)


def _counting(on_step: OnStep, stage: Stage, total: int) -> Callable[[int], None]:
    return lambda done: on_step(Step(stage, done, total))
