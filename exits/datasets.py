"""Labelled images for training, calibration and measuring, read from files that the user already has.

Role: what a data set is (`Split`: what a network is trained on, what its exits are calibrated on, and what its
accuracy is reported on; the three never overlap), how a part is held out of another, how raw values become a network's
inputs (`as_inputs`), and the two data sets of the shipped recipes by name: `fashion` (Fashion-MNIST in its original idx
files) and `digits` (scikit-learn's). Everything else a user may have is read by `data_files.py`.

Does not: download anything, or import torch.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..clients.info import Preprocessing
from ..clients.wire import Array

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

# Debian's package dataset-fashion-mnist puts the original files here.
FASHION_DIRECTORIES = (Path("/usr/share/datasets/fashion-mnist"), Path("data/fashion-mnist"))
# 10,000 images make a one-percent loss budget testable at certainty 0.9 in 99 % of draws (binomial tail).
FASHION_CALIBRATION_COUNT = CALIBRATION_COUNT_MAX = 10_000
# Held out where the data has no part for it, up to the number above for calibration.
HELD_OUT_SHARE = 0.2
IDX_MAGIC_IMAGES, IDX_MAGIC_LABELS = 2051, 2049


class DataError(ValueError):
    """Data that cannot be used: which file or row, what was expected, what to do."""


class Labelled(NamedTuple):
    """Inputs and what they show.

    `images`: pictures of shape (n, channels, height, width), uint8; sounds of shape (n, channels, samples), float32;
    or whatever a network takes, shape (n, ...). `labels`: shape (n,), int64.
    """

    images: Array
    labels: Labels


class Split(NamedTuple):
    """Three parts that share no input: to train on, to calibrate exits on, to report accuracy on.

    `classes`: their names in the order of the labels; empty where the data has none.
    """

    train: Labelled
    calibration: Labelled
    test: Labelled
    classes: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Labelled, Labelled, Labelled]:
        """Without the classes."""
        return self.train, self.calibration, self.test


class Parts(NamedTuple):
    """A data set as its files divide it; None: they have no such part."""

    train: Labelled
    calibration: Labelled | None = None
    test: Labelled | None = None
    classes: tuple[str, ...] = ()


# Which published part the calibration is held out of.
CalibrateOn = Literal["train", "test"]


def complete(parts: Parts, seed: int, calibrate_on: CalibrateOn = "train") -> Split:
    """Hold out what the files do not.

    Args:
        calibrate_on: `test` halves the test part, for a network whose trunk has seen the whole training part: on
            pictures it was trained on it is surer than it will ever be again, and no certificate from them holds.
    Raises:
        DataError: there is no test part to halve, or a calibration part is there already.
    """
    train, calibration, test = parts.train, parts.calibration, parts.test
    if calibrate_on == "test":
        if test is None or calibration is not None:
            fault = "has no test part" if test is None else "has its own calibration part"
            raise DataError(f"the data {fault}, so calibration cannot be half of the test part; leave that out")
        test, calibration = hold_out(test, len(test.labels) // 2, seed)
    if test is None:
        train, test = hold_out(train, int(HELD_OUT_SHARE * len(train.labels)), seed)
        seed += 1
    if calibration is None:
        count = min(CALIBRATION_COUNT_MAX, int(HELD_OUT_SHARE * len(train.labels)))
        train, calibration = hold_out(train, count, seed)
    return Split(train, calibration, test, parts.classes)


def as_inputs(values: Array, preprocessing: Preprocessing, dtype: str = "float32") -> Array:
    """Raw values as a network takes them.

    Bytes (uint8) become (value * scale - mean) / std, channel by channel; numbers of any other kind count as prepared
    already, as they do when a client sends them, and only change their width.

    Args:
        values: shape (n, ...), for bytes with the channels second.
        dtype: the network's. Where it is no float, values stay as they are.
    """
    if np.dtype(dtype).kind != "f" or values.dtype != np.uint8:
        return values.astype(dtype, copy=False)
    sides = (-1, *[1] * (values.ndim - 2))
    mean = np.asarray(preprocessing.mean, np.float32).reshape(sides)
    std = np.asarray(preprocessing.std, np.float32).reshape(sides)
    return ((values.astype(np.float32) * np.float32(preprocessing.scale) - mean) / std).astype(dtype, copy=False)


def load(name: str, directory: Path | None = None, *, seed: int = 0) -> Split:
    """Read a data set by name.

    Args:
        name: `fashion` or `digits`.
        directory: where the idx files are, gzipped or not, under their original names; None looks in the usual places.
        seed: picks which training images are held out for calibration.
    Raises:
        ValueError: no such data set.
        FileNotFoundError: the files are in none of the places looked at.
    """
    if name == "fashion":
        return _load_fashion(directory, seed)
    if name == "digits":
        return _load_digits(seed)
    raise ValueError(f"no data set named {name!r}; known: fashion, digits")


def _load_fashion(directory: Path | None, seed: int) -> Split:
    published = read_idx_parts(find_fashion(directory))
    train, calibration = hold_out(published.train, FASHION_CALIBRATION_COUNT, seed)
    assert published.test is not None
    return Split(train, calibration, published.test)


def holds_idx(folder: Path) -> bool:
    """Whether files in the form of MNIST lie there."""
    return _idx_path(folder, "train-images") is not None


def read_idx_parts(folder: Path) -> Parts:
    """The published training and test part of a data set in MNIST's form."""
    train, test = [
        Labelled(_read_idx(folder, f"{part}-images"), _read_idx(folder, f"{part}-labels").astype(np.int64))
        for part in ("train", "t10k")
    ]
    return Parts(train, test=test)


def _load_digits(seed: int) -> Split:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # 0..16 in the source; stretched to the whole byte so that one preprocessing rule fits both data sets.
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    everything = Labelled(images, bunch.target.astype(np.int64))
    known, test = hold_out(everything, 360, seed)
    train, calibration = hold_out(known, 360, seed + 1)
    return Split(train, calibration, test)


def hold_out(part: Labelled, count: int, seed: int) -> tuple[Labelled, Labelled]:
    """What is left, and `count` rows drawn by the seed; both in their old order."""
    order = np.random.default_rng(seed).permutation(len(part.labels))
    kept, held = np.sort(order[count:]), np.sort(order[:count])
    return Labelled(part.images[kept], part.labels[kept]), Labelled(part.images[held], part.labels[held])


def find_fashion(directory: Path | None = None) -> Path:
    """The folder of Fashion-MNIST's files, looked for in the usual places where none is named."""
    places = (directory,) if directory is not None else FASHION_DIRECTORIES
    for place in places:
        if holds_idx(place):
            return place
    raise FileNotFoundError(
        f"no Fashion-MNIST files (train-images-idx3-ubyte or .gz) in {', '.join(map(str, places))}; "
        "install Debian's dataset-fashion-mnist, or name the folder of the original download with --data"
    )


def _idx_path(folder: Path, part: str) -> Path | None:
    rank = 3 if part.endswith("images") else 1
    stem = folder / f"{part}-idx{rank}-ubyte"
    return next((path for path in (stem, stem.with_name(stem.name + ".gz")) if path.is_file()), None)


def _read_idx(folder: Path, part: str) -> Images:
    """Read one idx file: big-endian magic, one int32 per dimension, then bytes (yann.lecun.com/exdb/mnist)."""
    path = _idx_path(folder, part)
    if path is None:
        raise FileNotFoundError(f"{folder} has no {part}-idx file; all four files of the download are needed")
    images = part.endswith("images")
    rank = 3 if images else 1
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, *shape = struct.unpack_from(f">{1 + rank}i", raw)
    except (gzip.BadGzipFile, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path} is damaged or cut short ({error}); download it again") from error
    if magic != (IDX_MAGIC_IMAGES if images else IDX_MAGIC_LABELS):
        raise DataError(f"{path} is not an idx file of {part}: its magic number is {magic}")
    # Of a bytearray, so that the array is writable: PyTorch warns of others.
    values = np.frombuffer(bytearray(raw), np.uint8, offset=4 * (1 + rank))
    if values.size != int(np.prod(shape)):
        raise DataError(f"{path} is cut short: {values.size} bytes, expected {int(np.prod(shape))}")
    return values.reshape(shape[0], 1, *shape[1:]) if images else values
