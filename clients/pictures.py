"""Pictures and arrays in files, made into a network's inputs.

Role: `read_inputs` turns a file into arrays of the network's exact shape and dtype: .npy as it is, everything else as a
picture through Pillow (the extra `pictures`): resized to the network's size, gray or RGB, then
(value * scale - mean) / std as the network's manifest says.
Does not: ask the daemon anything, or guess: a file that does not fit is refused with what was expected.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import BadFile, BadRequest
from .inputs import input_tensor

if TYPE_CHECKING:
    from .info import NetworkInfo
    from .wire import Array

# Pictures beyond this many pixels are refused before they are unpacked: a small file may unpack to gigabytes.
PIXELS_MAX = 64 * 1024 * 1024
INPUTS_MAX = 100_000


def read_inputs(path: Path | str, info: NetworkInfo) -> list[Array]:
    """Read one file: a picture gives one input, an .npy file one or, with one more axis in front, many.

    Raises:
        OSError: it cannot be read. BadFile: it is no picture or array that fits. ImportError: Pillow is missing.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        return _from_npy(path, info)
    return [picture_input(path, info)]


def picture_input(path: Path | str, info: NetworkInfo) -> Array:
    """One picture as an input of shape `info.shape`, which is (channels, height, width). Errors as `read_inputs`."""
    path = Path(path)
    colour = info.preprocessing.colour
    channels = {"gray": 1, "rgb": 3}.get(colour)
    if channels is None or len(info.shape) != 3 or info.shape[0] != channels:
        raise BadFile(f"{info.name} takes no pictures (input {info.shape}, {colour}); give it an .npy file")
    return prepare(_pixels(path, info, "L" if channels == 1 else "RGB"), info)


def prepare(pixels: Array, info: NetworkInfo) -> Array:
    """Pixel values as the network wants them: (value * scale - mean) / std per channel.

    `pixels`: shape `info.shape`, 0 to 255. Networks of integers get the values as they are.
    """
    steps = info.preprocessing
    dtype = np.dtype(info.dtype)
    if dtype.kind != "f":
        return input_tensor(info, pixels.astype(dtype))
    mean = np.asarray(steps.mean, np.float32)[:, None, None]
    std = np.asarray(steps.std, np.float32)[:, None, None]
    scaled = (pixels.astype(np.float32) * np.float32(steps.scale) - mean) / std
    return input_tensor(info, scaled.astype(dtype))


def _pixels(path: Path, info: NetworkInfo, mode: str) -> Array:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        hint = "pip install 'delen[pictures]', or give an .npy file"
        raise ImportError(f"reading pictures needs Pillow: {hint}") from error
    _, height, width = info.shape
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > PIXELS_MAX:
                raise BadFile(f"{path}: {picture.width}x{picture.height} pixels; at most {PIXELS_MAX} are read")
            upright = ImageOps.exif_transpose(picture).convert(mode)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow tells a picture that is broken or cut short as an OSError too, but without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadFile(f"{path} is no picture that can be read: {error}") from None
    if upright.size != (width, height):
        upright = upright.resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(upright)
    return values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))


def _from_npy(path: Path, info: NetworkInfo) -> list[Array]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise BadFile(f"{path} is no array that can be read: {error}") from None
    many = array.ndim == len(info.shape) + 1
    if many and not 0 < len(array) <= INPUTS_MAX:
        raise BadFile(f"{path} holds {len(array)} inputs; expected 1 to {INPUTS_MAX}")
    try:
        return [np.array(input_tensor(info, one)) for one in (array if many else [array])]
    except BadRequest as error:
        raise BadFile(f"{path}: {error}") from None
