"""Real test images that ship with delen, with what they show: demos and benchmarks measure true accuracy on them.

Flow: `load_samples("fashion")` -> `Labelled`; `prepare(images, preprocessing)` -> what the network takes. The images
are the first 2,000 of Fashion-MNIST's test part in its own order, and all 360 of digits' test part: never trained or
calibrated on. Does not: resize or decode pictures (`clients/pictures.py`), or need more than numpy.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..clients.info import Preprocessing
from .datasets import Labelled

SAMPLE_COUNTS = {"fashion": 2000, "digits": 360}


def samples_directory() -> Path:
    return Path(__file__).parent / "sample_images"


def load_samples(network: str, directory: Path | None = None) -> Labelled:
    """The shipped test images of `network`: images (n, channels, height, width) uint8, labels (n,) int64.

    Raises:
        ValueError: none ship for this network, or the file is damaged.
    """
    path = (directory or samples_directory()) / f"{network}.npz"
    if not path.is_file():
        raise ValueError(f"no samples ship for network {network[:80]!r}; there are: {', '.join(SAMPLE_COUNTS)}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); install delen again") from error
    if images.ndim != 4 or images.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise ValueError(f"{path} is damaged: images {images.dtype}{images.shape}; install delen again")
    return Labelled(images, labels.astype(np.int64))


def save_samples(network: str, test: Labelled, directory: Path | None = None) -> Path:
    """Write the samples that ship, from a data set's test part; the first ones in its own order."""
    count = SAMPLE_COUNTS[network]
    path = (directory or samples_directory()) / f"{network}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Labels as bytes: ten classes, and the file is committed.
    np.savez_compressed(path, images=test.images[:count], labels=test.labels[:count].astype(np.uint8))
    return path


def prepare(images: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Bytes to what the network takes: (value * scale - mean) / std, channel by channel.

    `images`: shape (n, channels, height, width). Gives float32 of the same shape, as the network saw in training.
    """
    mean = np.asarray(preprocessing.mean, np.float32)[:, None, None]
    std = np.asarray(preprocessing.std, np.float32)[:, None, None]
    return (images.astype(np.float32) * np.float32(preprocessing.scale) - mean) / std
