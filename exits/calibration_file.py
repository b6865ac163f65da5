"""`calibration.npz`: how sure and how right each exit was on held-out samples, as a file that cannot run code.

Role: the one reader and the one writer of that format. Flow: `calibrate.py` -> `write_calibration` -> bytes in the
bundle -> `read_calibration` -> policies, which certify thresholds at run time.

Format: a zip of `.npy` members. `doubt` is 1 - confidence as float16: near confidence 1, where gates are set, that
keeps three significant digits of the distance to 1, and the file half as big as with float32. A calibration of a user's
own holds `temperatures` too, since those of the bundle's manifest then no longer apply.
Does not: compute confidences (`calibrate.py`), or choose thresholds.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

SAMPLES_MAX = 1_000_000
TEMPERATURE_MAX = 1e6
MEMBERS = {"doubt": np.dtype("<f2"), "correct": np.dtype(bool), "agrees": np.dtype(bool), "fit": np.dtype(bool)}
NPY_HEADER_BYTES_MAX = 1024
# As numpy has written it since .npy 1.0; matched, since numpy's own reader takes the header for Python.
NPY_START = b"\x93NUMPY\x01\x00"
NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|][a-zA-Z][0-9]{0,4})', 'fortran_order': (False|True), 'shape': \(([0-9, ]{0,64})\), \} *\n"
)
# The end of a zip's directory, without a comment after it or the form for files beyond 4 GiB in front of it: Python
# would make an object of every entry before anybody could count them.
ZIP_END, ZIP_END_BYTES, ZIP64_LOCATOR, ZIP64_LOCATOR_BYTES = b"PK\x05\x06", 22, b"PK\x06\x07", 20
ENTRIES_MAX, DIRECTORY_BYTES_MAX = 64, 8192
ENCRYPTED = 1
# A fixed date makes the same samples give the same bytes, and so the same hash.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


class CalibrationFault(ValueError):
    """The bytes are not a usable calibration; the text says what was found and what was expected."""


class Calibration(NamedTuple):
    """Held-out samples, one row each; columns are exits.

    `confidence`: shape (n, exits), float32, after temperature. `correct`: shape (n, exits), bool.
    `agrees`: shape (n, exits), bool: same label as the last exit. `fit`: shape (n,), bool: temperatures were chosen on
    these rows, so a certificate must use the others.
    """

    confidence: npt.NDArray[np.float32]
    correct: npt.NDArray[np.bool_]
    agrees: npt.NDArray[np.bool_]
    fit: npt.NDArray[np.bool_]


def write_calibration(
    doubt: npt.NDArray[np.float64], calibration: Calibration, temperatures: Sequence[float] = ()
) -> bytes:
    """The file's bytes, the same for the same samples.

    Args:
        doubt: shape (n, exits), float64: 1 - confidence computed without cancellation; stands for
            `calibration.confidence`, which is left out.
        temperatures: one per exit, in a user's own file; none in a bundle's, whose manifest has them.
    """
    columns: dict[str, npt.NDArray[Any]] = {
        "doubt": doubt.astype("<f2"),
        "correct": calibration.correct,
        "agrees": calibration.agrees,
        "fit": calibration.fit,
    }
    if temperatures:
        columns["temperatures"] = np.array(temperatures, "<f8")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, column in columns.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(column), version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", ZIP_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue())
    return packed.getvalue()


def read_calibration(data: bytes, exit_count: int) -> Calibration:
    """Read and check a calibration; nothing in it is executed and nothing is unpacked beyond its declared size.

    Raises:
        CalibrationFault: not such a zip, object arrays, wrong types or shapes, values out of range, too large.
    """
    return _calibration(_columns(data, MEMBERS, exit_count))


def read_own_calibration(data: bytes, exit_count: int) -> tuple[Calibration, tuple[float, ...]]:
    """The same for a user's own file, with its temperature per exit. Raises CalibrationFault."""
    columns = _columns(data, {**MEMBERS, "temperatures": np.dtype("<f8")}, exit_count)
    temperatures = columns.pop("temperatures")
    # A comparison with NaN is false, so this refuses NaN too.
    if not bool(np.all((temperatures > 0) & (temperatures < TEMPERATURE_MAX))):
        raise CalibrationFault(f"temperatures are {temperatures}; expected above 0 and below a million")
    return _calibration(columns), tuple(temperatures.tolist())


def _columns(data: bytes, members: Mapping[str, np.dtype[Any]], exit_count: int) -> dict[str, npt.NDArray[Any]]:
    _check_directory(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = sorted(archive.namelist())
            if names != sorted(f"{name}.npy" for name in members):
                raise CalibrationFault(f"it holds {names!s:.200}; expected {', '.join(members)} as .npy, no more")
            return {name: _read_member(archive, name, dtype, exit_count) for name, dtype in members.items()}
    except CalibrationFault:
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OSError) as error:
        raise CalibrationFault(f"it is not a readable zip: {error}") from error


def _check_directory(data: bytes) -> None:
    """Bound a zip's entries before they are read. Raises CalibrationFault."""
    end = data[-ZIP_END_BYTES:]
    if not end.startswith(ZIP_END) or end[-2:] != b"\0\0":
        raise CalibrationFault("it is not a readable zip: its directory is not at its end")
    entries, size = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if data[-ZIP_END_BYTES - ZIP64_LOCATOR_BYTES :].startswith(ZIP64_LOCATOR):
        raise CalibrationFault("it is a zip for more than 4 GiB; expected a plain one")
    if entries > ENTRIES_MAX or size > DIRECTORY_BYTES_MAX:
        raise CalibrationFault(f"its directory has {entries} entries in {size} bytes; at most {ENTRIES_MAX} are read")


def _calibration(columns: Mapping[str, npt.NDArray[Any]]) -> Calibration:
    doubt = columns["doubt"].astype(np.float32)
    correct, agrees, fit = columns["correct"], columns["agrees"], columns["fit"]
    if not len(doubt) == len(correct) == len(agrees) == len(fit):
        raise CalibrationFault("its columns differ in length")
    # A comparison with NaN is false, so this refuses NaN too.
    if not bool(np.all((doubt >= 0) & (doubt <= 1))):
        raise CalibrationFault("doubt has values outside 0..1")
    if not bool(agrees[:, -1].all()):
        raise CalibrationFault("agrees says that the last exit disagrees with itself")
    return Calibration(1 - doubt, correct, agrees, fit)


def _read_member(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], exit_count: int) -> npt.NDArray[Any]:
    flat = name in ("fit", "temperatures")
    row_bytes = dtype.itemsize * (1 if flat else exit_count)
    entry = archive.getinfo(f"{name}.npy")
    size = entry.file_size
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & ENCRYPTED:
        raise CalibrationFault(
            f"{name} is packed in a way (type {entry.compress_type}) that is not read; expected deflate"
        )
    if size > SAMPLES_MAX * row_bytes + NPY_HEADER_BYTES_MAX:
        raise CalibrationFault(f"{name} unpacks to {size} bytes; at most {SAMPLES_MAX} samples are allowed")
    with archive.open(entry) as stream:
        raw = stream.read(size + 1)
    if len(raw) != size:
        raise CalibrationFault(f"{name} unpacks to another size than the zip says")
    shape, body = _unpack(raw, name, dtype)
    rank_right = len(shape) == 1 if flat else len(shape) == 2 and shape[1] == exit_count
    if name == "temperatures" and shape != (exit_count,):
        raise CalibrationFault(f"temperatures have shape {shape}; expected one for each of {exit_count} exits")
    if not rank_right or not 0 < shape[0] <= SAMPLES_MAX:
        raise CalibrationFault(f"{name} has shape {shape}; expected samples x {exit_count} exits (fit: samples)")
    if len(body) != shape[0] * row_bytes:
        raise CalibrationFault(f"{name} has {len(body)} bytes for shape {shape}")
    if dtype == np.dtype(bool) and bytes(body).strip(b"\x00\x01"):
        raise CalibrationFault(f"{name} has bytes other than 0 and 1")
    return np.frombuffer(body, dtype).reshape(shape)


def _unpack(raw: bytes, name: str, dtype: np.dtype[Any]) -> tuple[tuple[int, ...], bytes]:
    """Shape and values of one .npy. Raises CalibrationFault."""
    size = len(NPY_START) + 2 + int.from_bytes(raw[len(NPY_START) :][:2], "little")
    header = NPY_HEADER.fullmatch(raw[len(NPY_START) + 2 : size]) if raw.startswith(NPY_START) else None
    if header is None or size > NPY_HEADER_BYTES_MAX:
        raise CalibrationFault(f"{name} is not a readable .npy of version (1, 0) as numpy writes it")
    if header[1] != dtype.str.encode() or header[2] != b"False":
        try:
            found = np.dtype(header[1].decode()).name
        except TypeError:
            found = header[1].decode()
        raise CalibrationFault(f"{name} is {found}; expected {dtype}, row by row (objects are never read)")
    sides = header[3].decode().rstrip(" ,").split(",") if header[3].strip(b" ,") else []
    if not all(side.strip().isdecimal() for side in sides):
        raise CalibrationFault(f"{name} has an unreadable shape")
    return tuple(int(side) for side in sides), raw[size:]
