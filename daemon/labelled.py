"""Labelled data run through a bundle: what calibrating, certifying and their benchmarks have in common.

Role: from a name and a data set to logits, outcomes and costs on this device. Flow: `find_network` -> `read_inputs` ->
`run_all` on an engine -> `calibrate`; `profile_of` for costs. Does not: serve, train, or choose anything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ..clients.wire import Array
from ..exits.bundle import Bundle, find_bundle, load_bundle, shipped_directory
from ..exits.calibrate import doubt_of
from ..exits.calibration_file import Calibration
from ..exits.calibrations import measure_logits
from ..exits.data_arrays import read_arrays
from ..exits.data_files import open_data
from ..exits.datasets import DataError, Labelled, as_inputs
from ..exits.runner import Logits, Runner
from ..profiles.board import describe_device
from ..profiles.measure import QUICK, measure
from ..profiles.meters import best_meter
from ..profiles.schema import Profile
from ..profiles.store import find_profile

Part = Literal["calibration", "test", "all"]
BATCH = 32


class Inputs(NamedTuple):
    """Inputs as the network takes them, shape (n, *input shape), and what they show, shape (n,)."""

    values: Array
    labels: Array


def find_network(network: str, state: Path) -> Bundle:
    """A bundle by name or path, as the daemon would find it. Raises BundleError."""
    return load_bundle(find_bundle(network, [state / "bundles", shipped_directory()]))


def read_inputs(bundle: Bundle, spec: str, part: Part, seed: int = 0) -> Inputs:
    """A part of a data set, ready for the network.

    A file of one `x` and `y` is taken whole: nobody trained on one part of it and not on the other.

    Raises:
        FileNotFoundError, DataError: no such data, or none that fits this network.
    """
    manifest = bundle.manifest
    shape, count = manifest.input.shape, len(manifest.classes)
    path = Path(spec)
    found = _whole(path, shape) if path.suffix == ".npz" and path.is_file() else None
    if found is None:
        split = open_data(spec, seed, shape=shape)
        parts = {"calibration": (split.calibration,), "test": (split.test,), "all": split[:3]}[part]
        found = Labelled(np.concatenate([one.images for one in parts]), np.concatenate([one.labels for one in parts]))
    values = as_inputs(found.images, manifest.preprocessing, manifest.input.dtype)
    if values.shape[1:] != tuple(shape):
        raise DataError(f"{spec} has inputs of shape {values.shape[1:]}; {manifest.name} takes {tuple(shape)}")
    if values.dtype.kind == "f":
        broken = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        if broken.any():
            raise DataError(f"{spec}: input {int(broken.argmax())} holds NaN or infinite values; leave such rows out")
    wrong = (found.labels < 0) | (found.labels >= count)
    if wrong.any():
        raise DataError(
            f"{spec}: label {int(found.labels[wrong][0])} at row {int(wrong.argmax())} ({int(wrong.sum())} such); "
            f"{manifest.name} has {count} classes, so labels go from 0 to {count - 1}"
        )
    return Inputs(values, found.labels)


def run_all(runner: Runner, bundle: Bundle, inputs: Array, on_progress: Callable[[int], None]) -> Logits:
    """Logits of every exit, shape (exits, n, classes). Raises EngineFault."""
    return measure_logits(runner.load(bundle, BATCH), len(bundle.manifest.exits), inputs, BATCH, on_progress)


def outcomes(bundle: Bundle, logits: Logits, labels: Array) -> Calibration:
    """How sure and how right each exit was, at the bundle's temperatures; none of the rows is `fit`."""
    exits = bundle.manifest.exits
    doubts = [
        doubt_of(values.astype(np.float64), entry.temperature) for values, entry in zip(logits, exits, strict=True)
    ]
    found = logits.argmax(axis=2)
    # Rounded as a calibration file rounds them, so that both may be pooled.
    confidence = 1 - np.stack(doubts, axis=1).astype(np.float16).astype(np.float32)
    correct, agrees = (found == labels).T, (found == found[-1]).T
    return Calibration(confidence, correct.copy(), agrees.copy(), np.zeros(len(labels), bool))


def profile_of(runner: Runner, bundle: Bundle, state: Path) -> Profile:
    """What the network costs here: the stored profile, else a quick one measured now and kept nowhere.

    Raises:
        ProfileError, EngineFault.
    """
    found = find_profile(state, bundle, describe_device(runner))
    return found.profile if found else measure(runner, bundle, meter=best_meter(), budget=QUICK)


def _whole(path: Path, shape: tuple[int, ...]) -> Labelled | None:
    parts = read_arrays(path, shape)
    return parts.train if parts.calibration is None and parts.test is None else None
