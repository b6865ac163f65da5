"""A data set from whatever files the user has: one door, which finds out what lies there and what is wrong with it.

Flow: `open_data(spec)` -> the reader of that form -> what its files do not divide is held out by the seed -> checked
-> `Split`. Forms: .npz arrays (`data_arrays.py`), CIFAR-10 (`data_cifar.py`), MNIST's idx files (`datasets.py`), and
folders with one subfolder per class of pictures (`data_pictures.py`) or sounds (`data_audio.py`).

Does not: download anything, unpickle anything, or normalise (`datasets.as_inputs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .data_arrays import read_arrays
from .data_audio import AUDIO_SUFFIXES, read_sounds
from .data_cifar import cifar_reader
from .data_folders import first_suffix, read_folder
from .data_pictures import PICTURE_SUFFIXES, read_pictures
from .datasets import (
    CalibrateOn,
    DataError,
    Parts,
    Split,
    complete,
    find_fashion,
    holds_idx,
    load,
    read_idx_parts,
)

# Fewer prove nothing: at certainty 0.9 a loss of 1 % can be excluded with 230 samples of which not one is lost (exact).
CALIBRATION_COUNT_MIN = 230
FORMS = (
    "an .npz file (x, y), Fashion-MNIST's idx files, CIFAR-10's .bin or .png files, or a folder with one subfolder of "
    "pictures or .wav files per class"
)


def open_data(
    spec: str | Path, seed: int = 0, *, shape: Sequence[int] | None = None, calibrate_on: CalibrateOn = "train"
) -> Split:
    """Read a data set.

    Args:
        spec: a folder or file; or `fashion` or `digits` where nothing of that name is there.
        seed: draws what is held out. Training, calibration and export must use the same one.
        shape: what the network takes, without batch: pictures are scaled and sounds cut to it. None: all must be alike.
        calibrate_on: see `datasets.complete`.
    Raises:
        FileNotFoundError: there is nothing of that name.
        DataError: which file or row is wrong, what was expected, what to do.
        ImportError: pictures, and no Pillow.
    """
    path = Path(spec)
    if path.exists():
        split = complete(_read(path, None if shape is None else tuple(shape)), seed, calibrate_on)
    elif str(spec) == "fashion":
        split = complete(read_idx_parts(find_fashion()), seed, calibrate_on)
    elif str(spec) == "digits" and calibrate_on == "train":
        split = load("digits", seed=seed)
    else:
        raise FileNotFoundError(f"no data at {spec}; expected {FORMS}")
    check_split(split, split.classes or None)
    return split


def check_split(
    split: Split,
    classes: Sequence[str] | None,
    *,
    shape: Sequence[int] | None = None,
    dtype: str | None = None,
    calibration_count_min: int = 0,
) -> None:
    """Refuse data that does not fit a network.

    Args:
        classes: the network's, in the order of its outputs; None: not known yet.
        shape: what it takes, without batch. dtype: likewise.
        calibration_count_min: how many samples the calibration part must have.
    Raises:
        DataError: which part and row, what was expected, what to do.
    """
    if classes is not None:
        _check_names(split.classes, classes)
    for name, part in zip(("training", "calibration", "test"), split.parts, strict=True):
        if len(part.images) != len(part.labels) or not len(part.labels):
            raise DataError(
                f"the {name} part has {len(part.images)} inputs and {len(part.labels)} labels; more are needed"
            )
        if shape is not None and part.images.shape[1:] != tuple(shape):
            found, wanted = part.images.shape[1:], tuple(shape)
            raise DataError(f"the {name} part has inputs of shape {found}; the network takes {wanted}")
        if part.images.shape[1:] != split.train.images.shape[1:]:
            raise DataError(
                f"the {name} part has inputs of shape {part.images.shape[1:]}, the training part of "
                f"{split.train.images.shape[1:]}; make them alike"
            )
        if dtype is not None and np.dtype(dtype).kind != "f" and part.images.dtype.kind == "f":
            raise DataError(
                f"the {name} part has inputs of {part.images.dtype}; the network takes {dtype}, whole numbers"
            )
        if classes is not None:
            _check_labels(name, part.labels, classes)
        if part.images.dtype.kind == "f":
            broken = ~np.isfinite(part.images).all(axis=tuple(range(1, part.images.ndim)))
            if broken.any():
                raise DataError(f"input {int(broken.argmax())} of the {name} part holds NaN or infinite values")
    if len(split.calibration.labels) < calibration_count_min:
        raise DataError(
            f"{len(split.calibration.labels)} samples to calibrate on; at least {calibration_count_min} are needed "
            "before anything can be certified: add data, or a `calibration` part of its own"
        )


def _check_names(found: Sequence[str], expected: Sequence[str]) -> None:
    """The same names in another order would teach every class the wrong name."""
    if found and not all(name.isdecimal() for name in expected) and tuple(found) != tuple(expected):
        unknown = sorted(set(found) ^ set(expected))
        what = f"{', '.join(unknown[:4])} only on one side" if unknown else "the same in another order"
        raise DataError(
            f"the data's classes are not the network's: {what}; expected {', '.join(expected[:6])}"
            f"{', ...' if len(expected) > 6 else ''}: rename the folders, or attach with these --labels"
        )


def _check_labels(name: str, labels: np.ndarray, classes: Sequence[str]) -> None:
    wrong = (labels < 0) | (labels >= len(classes))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"label {int(labels[row])} at row {row} of the {name} part ({int(wrong.sum())} such); there are "
            f"{len(classes)} classes, so labels go from 0 to {len(classes) - 1}: correct them, or attach more --classes"
        )
    missing = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if missing.size:
        names = ", ".join(classes[index] for index in missing[:6].tolist())
        raise DataError(
            f"the {name} part has no sample of {missing.size} of {len(classes)} classes ({names}); add some, or attach "
            "with the classes that there are"
        )


def _read(path: Path, shape: tuple[int, ...] | None) -> Parts:
    if path.is_file():
        if path.suffix.lower() == ".npz":
            return read_arrays(path, shape)
        raise DataError(f"{path} is no data set; expected {FORMS}")
    reader = cifar_reader(path)
    if reader is not None:
        return reader(path)
    if holds_idx(path):
        return read_idx_parts(path)
    suffix = first_suffix(path)
    if suffix in PICTURE_SUFFIXES:
        return read_folder(path, PICTURE_SUFFIXES, lambda files: read_pictures(files, shape))
    if suffix in AUDIO_SUFFIXES:
        return read_folder(path, AUDIO_SUFFIXES, lambda files: read_sounds(files, shape))
    raise DataError(f"{path} holds no data set that can be read; expected {FORMS}")
