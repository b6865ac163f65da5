"""Picture files as arrays of bytes, made as the daemon's clients make them: upright, gray or RGB, scaled to one size.

Flow: `read_pictures(files, shape)` -> uint8 (n, channels, height, width). Needs Pillow, the extra `pictures`. Scaling
is that of `clients/pictures.py`, so that what is served looks like what was trained on. Does not: find the files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .datasets import DataError, Images

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif"})
# A small file may unpack to gigabytes: beyond this it is refused before it is unpacked.
PIXELS_MAX = 64 * 1024 * 1024
# All pictures of a part are held in memory at once.
BYTES_MAX = 8 * 1024**3


def read_pictures(files: Sequence[Path], shape: tuple[int, ...] | None) -> Images:
    """Read pictures.

    Args:
        shape: (channels, height, width) to scale to; None takes the first picture's size, which all must have, in RGB.
    Raises:
        DataError: which file is no picture, or of another size; or all together are too many.
        ImportError: Pillow is missing.
    """
    if shape is not None and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise DataError(f"pictures cannot feed a network that takes {shape}; it must take (1 or 3, height, width)")
    channels = 3 if shape is None else shape[0]
    size = None if shape is None else shape[1:]
    pictures: Images | None = None
    for row, path in enumerate(files):
        pixels = _pixels(path, channels, size)
        if pictures is None:
            if len(files) * math.prod(pixels.shape) > BYTES_MAX:
                raise DataError(
                    f"{len(files)} pictures of {pixels.shape} are more than the {BYTES_MAX >> 30} GiB that are held in "
                    "memory; take fewer, or a network with smaller inputs"
                )
            pictures = np.empty((len(files), *pixels.shape), np.uint8)
        if pixels.shape != pictures.shape[1:]:
            height, width = pixels.shape[1:]
            raise DataError(
                f"{path} is {width}x{height} pixels, {files[0].name} {pictures.shape[3]}x{pictures.shape[2]}; scale "
                "them alike, or name a network whose size they are scaled to"
            )
        pictures[row] = pixels
    assert pictures is not None
    return pictures


def _pixels(path: Path, channels: int, size: tuple[int, ...] | None) -> Images:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'delen[pictures]'") from error
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > PIXELS_MAX:
                raise DataError(f"{path}: {picture.width}x{picture.height} pixels; at most {PIXELS_MAX} are read")
            upright = ImageOps.exif_transpose(picture).convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow tells a picture that is broken or cut short as an OSError too, but without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path} is no picture that can be read ({error}); mend it or take it away") from None
    if size is not None and upright.size != size[::-1]:
        upright = upright.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    values = np.asarray(upright)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
