"""Sound files as arrays: .wav of whole numbers or floats, in folders of classes, all at one sampling rate.

Flow: `read_sounds(files, shape)` -> float32 (n, channels, samples), -1 to 1. The headers are read here because Python's
own reader refuses the floats that many tools write; form: RIFF chunks `fmt ` and `data` (Microsoft, Multimedia
Programming Interface 1.0). Does not: resample or filter, which would be a choice of quality that is not ours to make.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .datasets import DataError

AUDIO_SUFFIXES = frozenset({".wav"})
BYTES_MAX = 8 * 1024**3
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
READABLE = {(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)}

Samples = npt.NDArray[np.float32]


class Sound(NamedTuple):
    """`samples`: shape (channels, samples), -1 to 1."""

    rate_hz: int
    samples: Samples


def read_sounds(files: Sequence[Path], shape: tuple[int, ...] | None) -> Samples:
    """Read sounds of one rate.

    Args:
        shape: (channels, samples) or (samples,) of the network: longer sounds lose their end, shorter ones get silence,
            several channels are averaged into one. None: all must be alike.
    Raises:
        DataError: which file is no sound that can be read, has another rate or another length.
    """
    if shape is not None and len(shape) not in (1, 2):
        raise DataError(f"sounds cannot feed a network that takes {shape}; it must take (channels, samples)")
    sounds: Samples | None = None
    rate_hz = 0
    for row, path in enumerate(files):
        sound = read_wav(path)
        samples = sound.samples if shape is None else _fitted(path, sound.samples, shape)
        if sounds is None:
            rate_hz = sound.rate_hz
            if len(files) * samples.nbytes > BYTES_MAX:
                raise DataError(f"{len(files)} sounds are more than the {BYTES_MAX >> 30} GiB that are held in memory")
            sounds = np.empty((len(files), *samples.shape), np.float32)
        if sound.rate_hz != rate_hz:
            raise DataError(
                f"{path} has {sound.rate_hz} samples a second, {files[0].name} {rate_hz}; resample it first, for "
                f"instance with `sox {path.name} -r {rate_hz} out.wav`"
            )
        if samples.shape != sounds.shape[1:]:
            raise DataError(
                f"{path} has {samples.shape[1]} samples in {samples.shape[0]} channels, {files[0].name} "
                f"{sounds.shape[2]} in {sounds.shape[1]}; cut them alike, or name a network that they are cut for"
            )
        sounds[row] = samples
    assert sounds is not None
    return sounds


def read_wav(path: Path) -> Sound:
    """Read one file of 8, 16, 24 or 32 bit whole numbers, or 32 or 64 bit floats."""
    chunks = _chunks(path, path.read_bytes())
    head, data = chunks.get(b"fmt ", b""), chunks.get(b"data")
    if len(head) < 16 or data is None:
        raise DataError(f"{path} has no description or no samples in it; mend it or take it away")
    form, channels, rate_hz, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", head)
    if form == EXTENSIBLE and len(head) >= 26:
        (form,) = struct.unpack_from("<H", head, 24)
    if (form, bits) not in READABLE:
        raise DataError(
            f"{path} is coded as form {form} with {bits} bits; only whole numbers and floats are read: convert it"
        )
    if not channels or frame_bytes != channels * bits // 8:
        raise DataError(f"{path} contradicts itself: {channels} channels of {bits} bits in {frame_bytes} bytes")
    values = _values(data[: len(data) // frame_bytes * frame_bytes], form, bits)
    if not values.size:
        raise DataError(f"{path} holds no samples; take it away")
    return Sound(rate_hz, np.ascontiguousarray(values.reshape(-1, channels).T))


def _chunks(path: Path, raw: bytes) -> dict[bytes, bytes]:
    if raw[:4] != b"RIFF" or raw[8:12] != b"WAVE":
        raise DataError(f"{path} is no .wav file; convert it, for instance with `ffmpeg -i {path.name} out.wav`")
    found: dict[bytes, bytes] = {}
    start = 12
    while start + 8 <= len(raw):
        name, length = raw[start : start + 4], int.from_bytes(raw[start + 4 : start + 8], "little")
        if start + 8 + length > len(raw):
            raise DataError(f"{path} is cut short: {len(raw) - start - 8} bytes of {length}; mend it or take it away")
        found.setdefault(name, raw[start + 8 : start + 8 + length])
        start += 8 + length + length % 2
    return found


def _values(data: bytes, form: int, bits: int) -> Samples:
    whole: Samples
    if form == FLOAT:
        whole = np.frombuffer(data, f"<f{bits // 8}").astype(np.float32)
        return whole
    if bits == 8:
        # The one width without a sign.
        whole = np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)
    elif bits == 24:
        # As the upper three bytes of four.
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        whole, bits = wide.view("<i4")[:, 0].astype(np.float32), 32
    else:
        whole = np.frombuffer(data, f"<i{bits // 8}").astype(np.float32)
    return whole / np.float32(2 ** (bits - 1))


def _fitted(path: Path, samples: Samples, shape: tuple[int, ...]) -> Samples:
    channels, count = shape if len(shape) == 2 else (1, shape[0])
    if channels == 1:
        samples = samples.mean(axis=0, keepdims=True)
    if len(samples) != channels:
        raise DataError(f"{path} has {len(samples)} channels; the network takes {channels}")
    fitted = np.zeros((channels, count), np.float32)
    fitted[:, : samples.shape[1]] = samples[:, :count]
    return fitted.reshape(shape)
