"""A user's own calibrations: certificates for the data a network really sees, in place of what its bundle ships.

Role: the one reader and the one writer of `<state>/calibrations/<network>/<bundle digest>.npz`. A bundle is never
written to, so what is measured anew lies beside it and overrides it; another version of the bundle has another digest,
and what was measured on the old one no longer applies.
Flow: `delen calibrate` -> `measure_logits` on an engine -> `calibrate` -> `keep`; daemon start -> `overridden`.

Does not: read data sets (`data_files.py`) or choose temperatures (`calibrate.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from . import state_files
from .bundle import Bundle, BundleError
from .calibration_file import Calibration, CalibrationFault, read_own_calibration
from .runner import Loaded, Logits


class Own(NamedTuple):
    """A user's own calibration of one bundle, where it lies, and SHA-256 of its file."""

    calibration: Calibration
    temperatures: tuple[float, ...]
    path: Path
    digest: str


class CalibratedBundle(Bundle):
    """A bundle as it is, but for its temperatures and its held-out samples, which are the user's own."""

    def __init__(self, bundle: Bundle, own: Own) -> None:
        made = at_temperatures(bundle, own.temperatures)
        accuracies = own.calibration.correct.mean(axis=0).tolist()
        exits = tuple(
            replace(entry, accuracy=accuracy) for entry, accuracy in zip(made.manifest.exits, accuracies, strict=True)
        )
        super().__init__(bundle.directory, replace(made.manifest, exits=exits), bundle.digest)
        self.own = own

    @property
    def evidence(self) -> str:
        """Of the bundle and of the user's own file."""
        return f"{self.digest} {self.own.digest}"

    def calibration(self) -> Calibration:
        """The user's own."""
        return self.own.calibration


def at_temperatures(bundle: Bundle, temperatures: Sequence[float]) -> Bundle:
    """The bundle with these temperatures, one per exit, in place of its manifest's; none: as it is."""
    if not temperatures:
        return bundle
    entries = zip(bundle.manifest.exits, temperatures, strict=True)
    exits = tuple(replace(entry, temperature=temperature) for entry, temperature in entries)
    return Bundle(bundle.directory, replace(bundle.manifest, exits=exits), bundle.digest)


def own_path(state: Path, bundle: Bundle) -> Path:
    """Where the user's own calibration of exactly this bundle is."""
    return state / "calibrations" / bundle.manifest.name / f"{bundle.digest}.npz"


def find_own(state: Path, bundle: Bundle) -> Own | None:
    """The user's own calibration, if there is one. Raises BundleError: it cannot be used."""
    path = own_path(state, bundle)
    try:
        data = state_files.read(state, path).data
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        said = f"{path} cannot be read: {error.strerror}"
        raise BundleError(f"{said}; remove it, or run delen calibrate again") from error
    try:
        return Own(*read_own_calibration(data, len(bundle.manifest.exits)), path, hashlib.sha256(data).hexdigest())
    except CalibrationFault as fault:
        raise BundleError(f"{path}: {fault}; remove it, or run delen calibrate again") from fault


def overridden(bundle: Bundle, state: Path) -> Bundle:
    """The bundle with the user's own calibration where there is one, else as it is. Raises BundleError."""
    own = find_own(state, bundle)
    return bundle if own is None else CalibratedBundle(bundle, own)


def keep(state: Path, bundle: Bundle, file: bytes) -> Path:
    """Write a calibration (`CalibrationResult.file`, made with `own`) as a whole or not at all.

    Raises:
        OSError: the disk refused; the old file still stands.
    """
    path = own_path(state, bundle)
    state_files.keep(state, path, file)
    return path


def measure_logits(
    loaded: Loaded[Any], exit_count: int, inputs: npt.NDArray[Any], batch: int, on_progress: Callable[[int], None]
) -> Logits:
    """Logits of every exit for every input, shape (exits, n, classes), as the engine that will serve computes them.

    Args:
        inputs: as the network takes them, shape (n, *input shape).
        on_progress: told how many are done.
    """
    parts: list[list[Logits]] = [[] for _ in range(exit_count)]
    for start in range(0, len(inputs), batch):
        rows = np.ascontiguousarray(inputs[start : start + batch])
        features = loaded.place(rows)
        for index in range(exit_count):
            features = loaded.segment(index, features)
            # An engine may use its output buffer again for the next batch.
            parts[index].append(np.array(loaded.head(index, features), np.float32))
        on_progress(start + len(rows))
    return np.stack([np.concatenate(part) for part in parts])
