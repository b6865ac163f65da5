"""Dělen's own profile files: accuracy, computation and energy of each exit, as its first release published them.

Role: read `[{"accuracy": 0.4354, "flops": 0.81, "energy": 45.99}, ...]`, so that conditions written for Dělen
(`computation` in GMAC, `energy` in mJ) mean the same here. Flow: file -> `read_imported` -> `Imported`.

The files carry no latency, no batch sizes and no units: they cannot become a `Profile`. `flops` counts multiply-adds in
billions (ResNet-50's last exit has 4.14, its published GMAC); `energy` is mJ, inferred from the release's latencies.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from .schema import ProfileError

EXITS_MAX = 32


class ImportedExit(msgspec.Struct, frozen=True, kw_only=True):
    """One exit, cumulative from the input at batch 1: share right, billions of multiply-adds, mJ."""

    accuracy: float
    gmac: float
    energy_mj: float


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """A profile from outside. `dominated[k]`: another exit is at least as accurate for no more energy."""

    name: str
    exits: tuple[ImportedExit, ...]
    dominated: tuple[bool, ...]

    @property
    def gmac(self) -> tuple[float, ...]:
        """What a `computation` condition compares: billions of multiply-adds to each exit."""
        return tuple(entry.gmac for entry in self.exits)


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One exit in the file's own words."""

    accuracy: float
    flops: float
    energy: float


def read_imported(path: Path) -> Imported:
    """Read and check one file in Dělen's form. Raises ProfileError naming the file, the exit and what was expected."""
    try:
        rows = msgspec.json.decode(path.read_bytes(), type=list[_Row])
    except OSError as error:
        raise ProfileError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProfileError(
            f"{path} is not a profile in Dělen's form: {error}; expected a list: accuracy, flops, energy per exit"
        ) from error
    if not 0 < len(rows) <= EXITS_MAX:
        raise ProfileError(f"{path} has {len(rows)} exits; expected 1 to {EXITS_MAX}")
    for index, row in enumerate(rows):
        fault = _fault(row)
        if fault:
            raise ProfileError(f"{path}, exit {index}: {fault}")
    exits = tuple(ImportedExit(accuracy=row.accuracy, gmac=row.flops, energy_mj=row.energy) for row in rows)
    for name, values in (("flops", [one.gmac for one in exits]), ("energy", [one.energy_mj for one in exits])):
        if values != sorted(values):
            raise ProfileError(f"{path}: {name} is {values}; expected cumulative figures, rising from exit to exit")
    return Imported(
        name=path.stem, exits=exits, dominated=tuple(_dominated(exits, index) for index in range(len(exits)))
    )


def _fault(row: _Row) -> str | None:
    if not 0 <= row.accuracy <= 1:
        return f"accuracy is {row.accuracy}; expected a share, 0 to 1"
    for name, value in (("flops", row.flops), ("energy", row.energy)):
        if not (math.isfinite(value) and value > 0):
            return f"{name} is {value}; expected a finite number above 0"
    return None


def _dominated(exits: tuple[ImportedExit, ...], index: int) -> bool:
    # Figures are cumulative and rise, so only a shallower exit can be as good for no more.
    return any(other.accuracy >= exits[index].accuracy for other in exits[:index])
