"""Labelled images for training, calibration and measuring, read from files that the user already has.

Role: turn `fashion` (Fashion-MNIST in its original idx files) and `digits` (scikit-learn's) into one `Split`: what a
network is trained on, what its exits are calibrated on, and what its accuracy is reported on. The three never overlap,
and the reported part is the data set's own test part.

Does not: download anything, normalise (that is a network's preprocessing), or import torch.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

# Debian's package dataset-fashion-mnist puts the original files here.
FASHION_DIRECTORIES = (Path("/usr/share/datasets/fashion-mnist"), Path("data/fashion-mnist"))
# 10,000 images make a one-percent loss budget testable at certainty 0.9 in 99 % of draws (binomial tail).
FASHION_CALIBRATION_COUNT = 10_000
IDX_MAGIC_IMAGES, IDX_MAGIC_LABELS = 2051, 2049


class Labelled(NamedTuple):
    """Images and what they show.

    `images`: shape (n, channels, height, width), uint8. `labels`: shape (n,), int64.
    """

    images: Images
    labels: Labels


class Split(NamedTuple):
    """Three parts that share no image: to train on, to calibrate exits on, to report accuracy on."""

    train: Labelled
    calibration: Labelled
    test: Labelled


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
    folder = _find_fashion(directory)
    known = Labelled(_read_idx(folder, "train-images"), _read_idx(folder, "train-labels").astype(np.int64))
    test = Labelled(_read_idx(folder, "t10k-images"), _read_idx(folder, "t10k-labels").astype(np.int64))
    train, calibration = _hold_out(known, FASHION_CALIBRATION_COUNT, seed)
    return Split(train, calibration, test)


def _load_digits(seed: int) -> Split:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # 0..16 in the source; stretched to the whole byte so that one preprocessing rule fits both data sets.
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    everything = Labelled(images, bunch.target.astype(np.int64))
    known, test = _hold_out(everything, 360, seed)
    train, calibration = _hold_out(known, 360, seed + 1)
    return Split(train, calibration, test)


def _hold_out(part: Labelled, count: int, seed: int) -> tuple[Labelled, Labelled]:
    order = np.random.default_rng(seed).permutation(len(part.labels))
    kept, held = np.sort(order[count:]), np.sort(order[:count])
    return Labelled(part.images[kept], part.labels[kept]), Labelled(part.images[held], part.labels[held])


def _find_fashion(directory: Path | None) -> Path:
    places = (directory,) if directory is not None else FASHION_DIRECTORIES
    for place in places:
        if _idx_path(place, "train-images") is not None:
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
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    images = part.endswith("images")
    rank = 3 if images else 1
    magic, *shape = struct.unpack_from(f">{1 + rank}i", raw)
    if magic != (IDX_MAGIC_IMAGES if images else IDX_MAGIC_LABELS):
        raise ValueError(f"{path} is not an idx file of {part}: its magic number is {magic}")
    # Of a bytearray, so that the array is writable: PyTorch warns of others.
    values = np.frombuffer(bytearray(raw), np.uint8, offset=4 * (1 + rank))
    if values.size != int(np.prod(shape)):
        raise ValueError(f"{path} is cut short: {values.size} bytes, expected {int(np.prod(shape))}")
    return values.reshape(shape[0], 1, *shape[1:]) if images else values
