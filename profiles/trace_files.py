"""Readers of published trace files, each for the real form of its files.

Role: path -> `read_timestamps` (int64 us) | `read_servegen` (`Window` records) | `read_counts` (`Counts`); whatever is
not of the form is refused, naming file and line. `traces.py` makes arrivals of them.
Sources: Azure LLM inference traces 2023 (timestamps); ServeGen (per client and window: rate and fitted gaps); SLO-Power
(counts of Wikipedia and Azure) and the Numenta Anomaly Benchmark (counts with timestamps).

Does not: ship any of them (paths are the user's), or draw anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from ..clients.arrivals import ARRIVALS_MAX

Times: TypeAlias = npt.NDArray[np.int64]
Family = Literal["Gamma", "Weibull", ""]

# The longest published one has 1 MB; more is not a trace of this kind.
TRACE_BYTES_MAX = 256 << 20
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,9})?")


class TraceError(ValueError):
    """A trace file that cannot be read as what it should be: which file and line, and what was expected."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of one ServeGen client: its rate, and the gaps fitted to it; `family` is empty where it was silent.

    `cv`: coefficient of variation of the gaps measured; `shape`, `scale_s`: the fitted distribution's parameters.
    """

    start_s: float
    length_s: float
    rate_hz: float
    cv: float
    family: Family
    shape: float
    scale_s: float


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Arrivals counted per bin; `bin_s` is None where the file does not say how long a bin lasts."""

    counts: tuple[float, ...]
    bin_s: float | None


def read_timestamps(path: Path) -> Times:
    """Arrival times of a CSV file with a TIMESTAMP column (`2023-11-16 18:17:03.9799600`): us from the first.

    Raises TraceError for an unreadable file, another form, or times that go back.
    """
    rows = _rows(path)
    header = [name.upper() for name in rows[0]]
    if "TIMESTAMP" not in header:
        raise TraceError(f"{path}, line 1: the columns are {rows[0]}; expected one named TIMESTAMP")
    column = header.index("TIMESTAMP")
    stamps = [row[column] if column < len(row) else "" for row in rows[1:]]
    return _nanoseconds(path, stamps) // 1000


def read_servegen(path: Path) -> tuple[Window, ...]:
    """One ServeGen client: rows of window start (s), rate (1/s), CV, Gamma or Weibull, shape and scale (s).

    A window lasts until the next begins, the last as long as the one before. Silent ones have no family and zeros.
    Raises TraceError for an unreadable file or a row of another form.
    """
    rows = _rows(path)
    found = [_servegen_row(f"{path}, line {line}", row) for line, row in enumerate(rows, 1)]
    starts_s = [start_s for start_s, *_ in found]
    if len(starts_s) < 2:
        raise TraceError(f"{path} has {len(starts_s)} windows; expected at least 2, to know how long one lasts")
    lengths_s = [later - earlier for earlier, later in pairwise(starts_s)]
    for line, length_s in enumerate(lengths_s, 2):
        if length_s <= 0:
            raise TraceError(
                f"{path}, line {line}: begins at {starts_s[line - 1]} s; expected later than the one before"
            )
    return tuple(
        Window(start_s=start, length_s=length, rate_hz=rate, cv=cv, family=family, shape=shape, scale_s=scale)
        for (start, rate, cv, family, shape, scale), length in zip(found, [*lengths_s, lengths_s[-1]], strict=True)
    )


def read_counts(path: Path) -> Counts:
    """Counts per bin: numbers separated by commas or line ends, or a CSV file with the columns timestamp and value.

    With timestamps the bin is the shortest step; a bin that was left out counted nothing (CloudWatch writes none for
    those). Raises TraceError for an unreadable file, another form, or times that are not a multiple of the bin apart.
    """
    rows = _rows(path)
    if [name.lower() for name in rows[0]] != ["timestamp", "value"]:
        return Counts(
            counts=tuple(
                _number(f"{path}, line {line}", cell, "a count") for line, row in enumerate(rows, 1) for cell in row
            ),
            bin_s=None,
        )
    if len(rows) < 3:
        raise TraceError(f"{path} has {len(rows) - 1} counts; expected at least 2, to know how long one lasts")
    values = [_number(f"{path}, line {line}", row[-1], "a count") for line, row in enumerate(rows[1:], 2)]
    times_ns = _nanoseconds(path, [row[0] if len(row) == 2 else "" for row in rows[1:]])
    bin_ns = int(np.diff(times_ns).min())
    uneven = np.flatnonzero(times_ns % bin_ns) if bin_ns else np.array([1])
    if len(uneven):
        raise TraceError(
            f"{path}, line {uneven[0] + 2}: expected a time whole bins of {bin_ns / 1e9} s after the first"
        )
    places = times_ns // bin_ns
    if places[-1] >= ARRIVALS_MAX:
        raise TraceError(f"{path} spans {places[-1]} bins of {bin_ns / 1e9} s; at most {ARRIVALS_MAX} can be read")
    counts = np.zeros(int(places[-1]) + 1)
    counts[places] = values
    return Counts(counts=tuple(counts.tolist()), bin_s=bin_ns / 1e9)


def _rows(path: Path) -> list[list[str]]:
    """The lines of a text file, split at commas; a comma or line end at the very end adds nothing."""
    try:
        if path.stat().st_size > TRACE_BYTES_MAX:
            raise TraceError(f"{path} has more than {TRACE_BYTES_MAX >> 20} MB; expected a trace of one load")
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise TraceError(f"cannot read trace {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path} is not text ({error.reason} at byte {error.start}); expected a CSV file") from error
    text = text.rstrip("\r\n ,")
    if not text:
        raise TraceError(f"{path} is empty; expected a trace")
    return [[cell.strip() for cell in line.split(",")] for line in text.split("\n")]


def _nanoseconds(path: Path, stamps: Sequence[str]) -> Times:
    """Nanoseconds from the first of `stamps`, which begin in line 2 and never fall."""
    if not stamps:
        raise TraceError(f"{path} has a header and nothing below it; expected one line for each arrival or bin")
    for line, stamp in enumerate(stamps, 2):
        if not TIMESTAMP.fullmatch(stamp):
            raise TraceError(f"{path}, line {line}: {stamp[:60]!r}; expected a time like 2023-11-16 18:17:03.9799600")
    try:
        times_ns = np.array(stamps, "datetime64[ns]").astype(np.int64)
    except ValueError as error:
        line = next(line for line, stamp in enumerate(stamps, 2) if not _exists(stamp))
        raise TraceError(f"{path}, line {line}: {stamps[line - 2]}; expected a time that exists: {error}") from error
    falls = np.flatnonzero(np.diff(times_ns) < 0)
    if len(falls):
        raise TraceError(
            f"{path}, line {falls[0] + 3}: {stamps[falls[0] + 1]} is before the line above it; sort the file"
        )
    since_ns: Times = times_ns - times_ns[0]
    return since_ns


def _exists(stamp: str) -> bool:
    try:
        np.datetime64(stamp, "ns")
    except ValueError:
        return False
    return True


def _servegen_row(place: str, row: list[str]) -> tuple[float, float, float, Family, float, float]:
    if len(row) != 6:
        raise TraceError(f"{place}: {len(row)} columns; expected 6: window start, rate, CV, family, shape, scale")
    family = row[3]
    if family not in get_args(Family):
        raise TraceError(
            f"{place}: the family is {family[:60]!r}; expected Gamma or Weibull, or none where it was silent"
        )
    names = ("a window's start in s", "a rate", "a CV", "a shape", "a scale in s")
    start_s, rate_hz, cv, shape, scale_s = (
        _number(place, cell, name) for cell, name in zip([*row[:3], *row[4:]], names, strict=True)
    )
    if rate_hz > 0 and not (family and shape > 0):
        raise TraceError(
            f"{place}: a rate of {rate_hz} without fitted gaps; expected Gamma or Weibull, and a shape above 0"
        )
    return start_s, rate_hz, cv, cast("Family", family), shape, scale_s


def _number(place: str, cell: str, expected: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise TraceError(f"{place}: {cell[:60]!r}; expected {expected}, a finite number, 0 or more")
    return value
