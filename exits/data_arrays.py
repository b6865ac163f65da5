"""Data sets in one .npz file: `x` and `y`, and where they exist `x_calibration`, `y_calibration`, `x_test`, `y_test`.

Flow: `read_arrays(path, shape)` -> `Parts`. Names that others use are taken too: `images`, `inputs` or `x_train` for
`x`, `labels` or `y_train` for `y`; `classes` may name the classes. Bytes (uint8) are pictures and get a network's
preprocessing; floats and wider integers are taken as prepared. Does not: read objects, which would be pickles.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..clients.wire import Array
from .datasets import DataError, Labelled, Parts

INPUTS = ("x", "images", "inputs", "x_train")
LABELS = ("y", "labels", "y_train")


def read_arrays(path: Path, shape: tuple[int, ...] | None = None) -> Parts:
    """Read a file.

    Args:
        shape: what the network takes, without batch; tells apart rows of gray pictures and channels that come last.
    Raises:
        DataError: what is missing, of the wrong kind, or does not belong together.
    """
    # numpy takes anything else for a pickle, and its message advises to load that.
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is no .npz file; write one with numpy.savez(path, x=..., y=...)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}; write it again, without objects in it") from error
    train = _part(path, arrays, INPUTS, LABELS, shape)
    if train is None:
        raise DataError(f"{path} has {', '.join(arrays) or 'nothing'}; expected `x` and `y`")
    calibration, test = (_part(path, arrays, (f"x_{name}",), (f"y_{name}",), shape) for name in ("calibration", "test"))
    return Parts(train, calibration, test, tuple(map(str, np.atleast_1d(arrays.get("classes", np.array([], str))))))


def _part(
    path: Path,
    arrays: Mapping[str, Array],
    inputs: tuple[str, ...],
    labels: tuple[str, ...],
    shape: tuple[int, ...] | None,
) -> Labelled | None:
    x_name = next((name for name in inputs if name in arrays), None)
    y_name = next((name for name in labels if name in arrays), None)
    if x_name is None and y_name is None:
        return None
    if x_name is None or y_name is None:
        raise DataError(f"{path} has {x_name or y_name} but neither of {', '.join(labels if x_name else inputs)}")
    x, y = arrays[x_name], arrays[y_name]
    if y.dtype.kind not in "iu" or y.size != len(y):
        raise DataError(f"{path}: {y_name} is {y.dtype}{y.shape}; expected whole numbers, one per row of {x_name}")
    if x.ndim < 2 or len(x) != len(y):
        raise DataError(f"{path}: {x_name} has shape {x.shape}, {y_name} {y.shape}; expected as many rows of both")
    if x.dtype.kind not in "fiu":
        raise DataError(f"{path}: {x_name} is {x.dtype}; expected bytes, floats or integers")
    return Labelled(_arranged(x, shape), y.reshape(-1).astype(np.int64))


def _arranged(x: Array, shape: tuple[int, ...] | None) -> Array:
    """Channels second, floats of 32 bits, pictures of one channel with an axis for it."""
    if x.dtype.kind == "f":
        x = x.astype(np.float32, copy=False)
    elif x.dtype != np.uint8:
        x = x.astype(np.int64, copy=False)
    if x.shape[1:] == shape:
        return x
    if shape is not None and (1, *x.shape[1:]) == shape:
        return x[:, None]
    pictures = x.dtype == np.uint8
    if pictures and shape is None and x.ndim == 3:
        return x[:, None]
    if pictures and x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return x
