"""Boards that are not at hand: published figures of networks on them, and what `jetson-tx2@726MHz` means.

Role: `profiles/boards/*.json` hold figures as their source has them, one file per board and network, with source,
licence and whatever had to be assumed; `replayed` makes of one of them a `Profile` like any other. Flow: name of a
device -> its file -> `clocked.py` -> `Profile` -> simulation, `delen plan`, the replay engine.

Does not: hold figures of its own. Energies of different files are of different rails: each says which.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from .assumed import assumed_profile
from .clocked import GPU, GPU_MAX, Clocked
from .schema import Cost, Device, Profile, ProfileError, profile_fault

DIRECTORY = Path(__file__).parent / "boards"
FORMAT = 1
_UNITS_KHZ = {"khz": 1.0, "mhz": 1e3, "ghz": 1e6}


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Figures at one setting. `trunk_ms[i][k]`: from the input to the end of segment k at batch `batches[i]`.

    `head_ms[i][k]`: of head k, None where it is counted in; `trunk_mj`, `head_mj`: alike, of the whole batch, None
    where nobody measured energy. `mode`: the power mode, "" where it is not said.
    """

    mode: str
    gpu_khz: int | None
    batches: tuple[int, ...]
    trunk_ms: tuple[tuple[float, ...], ...]
    head_ms: tuple[tuple[float, ...], ...] | None
    trunk_mj: tuple[tuple[float, ...], ...] | None
    head_mj: tuple[tuple[float, ...], ...] | None
    p95_over_p50: float = 1.0
    p99_over_p50: float = 1.0


class BoardFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One network on one board as published. `energy`: what its energies are of. `assumed`: what was not measured.

    `accuracy`: per exit, a share; None where none is published.
    """

    format: int
    board: str
    title: str
    network: str
    source: str
    licence: str
    engine: str
    precision: str
    energy: str
    assumed: tuple[str, ...]
    accuracy: tuple[float, ...] | None
    points: tuple[Point, ...]


class Spec(NamedTuple):
    """What `BOARD@SETTING` says: a GPU clock, a power mode, or neither: the fastest there is."""

    board: str
    clock_khz: int | None
    mode: str | None

    def __str__(self) -> str:
        clock = "" if self.clock_khz is None else f"{self.clock_khz / 1000:g}MHz"
        said = ",".join(part for part in (self.mode, clock) if part)
        return f"{self.board}@{said}" if said else self.board


def board_names() -> list[str]:
    """All boards there are figures of."""
    return sorted({file.board for file in board_files()})


@lru_cache(maxsize=1)
def board_files() -> tuple[BoardFile, ...]:
    """All that are shipped, by board and network."""
    return tuple(read_board_file(path) for path in sorted(DIRECTORY.glob("*.json")))


def read_board_file(path: Path) -> BoardFile:
    """Read and check one file. Raises ProfileError naming the file and the fault."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=BoardFile)
    except OSError as error:
        raise ProfileError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} holds no figures of a board: {error}") from error
    if file.format != FORMAT:
        raise ProfileError(f"{path}: format is {file.format}; this delen reads {FORMAT}")
    try:
        faults = [profile_fault(_profile(file, point)) for point in file.points]
    except (ValueError, IndexError) as error:
        raise ProfileError(f"{path}: its tables do not fit together: {error}") from error
    fault = next((said for said in faults if said), None if file.points else "it has no points")
    if fault:
        raise ProfileError(f"{path}: {fault}")
    return file


def parse_spec(text: str) -> Spec:
    """`jetson-tx2@726MHz`, `jetson-xavier-nx@MaxQ`, `BOARD@MODE,CLOCK` or just `jetson-nano`.

    Raises ProfileError: nothing is known of the board, or what follows @ is neither a clock nor a mode of it.
    """
    board, at, settings = text.partition("@")
    files = [file for file in board_files() if file.board == board]
    if not files:
        raise ProfileError(f"no figures of a board {board!r}; there are {', '.join(board_names())}")
    clock_khz, mode = None, None
    modes = list(dict.fromkeys(point.mode for file in files for point in file.points if point.mode))
    for said in settings.split(",") if at else ():
        number = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([kKmMgG][hH][zZ])", said)
        if number and float(number[1]):
            clock_khz = _snapped(files, float(number[1]) * _UNITS_KHZ[number[2].lower()])
        elif said.lower() in [name.lower() for name in modes]:
            mode = next(name for name in modes if name.lower() == said.lower())
        else:
            known = f"one of its power modes, {', '.join(modes)}" if modes else "a clock"
            raise ProfileError(f"{text!r}: {said!r} is not {known}; expected e.g. {files[0].board}@{_example(files)}")
    return Spec(board, clock_khz, mode)


def clocked(board: str, network: str) -> Clocked:
    """All figures of a network on a board. Raises ProfileError: there are none; of which networks there are."""
    return Clocked.of([_profile(file, point) for file in [_file(board, network)] for point in file.points])


def replayed(spec: Spec, network: str) -> Profile:
    """The profile of a network on a device named so. Raises ProfileError: no figures, or not at that setting."""
    found = clocked(spec.board, network)
    return found.at(spec.clock_khz, found.modes[0] if spec.mode is None else spec.mode)


def about(board: str, network: str) -> BoardFile:
    """Where the figures are from, and what was assumed. Raises ProfileError."""
    return _file(board, network)


def _file(board: str, network: str) -> BoardFile:
    of_board = [file for file in board_files() if file.board == board]
    if not of_board:
        raise ProfileError(f"no figures of a board {board!r}; there are {', '.join(board_names())}")
    found = next((file for file in of_board if file.network == network), None)
    if found is None:
        has = ", ".join(file.network for file in of_board)
        raise ProfileError(f"no figures of network {network!r} on {board}; there are those of {has}")
    return found


def _example(files: list[BoardFile]) -> str:
    point = files[0].points[-1]
    return point.mode or (f"{point.gpu_khz // 1000}MHz" if point.gpu_khz else "1GHz")


def _snapped(files: list[BoardFile], khz: float) -> int:
    """The measured clock that is meant by its whole megahertz, 726 for 726.75; else the clock as said."""
    known = [point.gpu_khz for file in files for point in file.points if point.gpu_khz]
    return next((step for step in known if step // 1000 == khz / 1000), round(khz))


def _profile(file: BoardFile, point: Point) -> Profile:
    exits = len(point.trunk_ms[0])
    accuracy = file.accuracy or tuple((k + 1) / exits for k in range(exits))
    sizes = range(len(point.batches))
    zeros = tuple((0.0,) * exits for _ in sizes)
    known = point.trunk_mj is not None
    trunk_mj, head_mj = point.trunk_mj or zeros, point.head_mj or zeros

    def cost(ms: float, mj: float) -> Cost:
        p50_us, energy_mj = 1000 * ms, mj if known else None
        late_us, latest_us = p50_us * point.p95_over_p50, p50_us * point.p99_over_p50
        return Cost(p50_us=p50_us, p95_us=late_us, p99_us=latest_us, n=1, energy_mj=energy_mj)

    steps_ms = [_differences(row) for row in point.trunk_ms]
    steps_mj = [_differences(row) for row in trunk_mj]
    heads_ms = point.head_ms or zeros
    segments = [[cost(steps_ms[i][k], steps_mj[i][k]) for i in sizes] for k in range(exits)]
    heads = [[cost(heads_ms[i][k], head_mj[i][k]) for i in sizes] for k in range(exits)]
    made = assumed_profile(file.network, point.batches, segments, heads, accuracy)
    return replace(made, device=_device(file, point), energy_model=file.energy)


def _device(file: BoardFile, point: Point) -> Device:
    return Device(
        board=file.board,
        processor=file.title,
        cores=1,
        power_mode=point.mode or None,
        clocks_khz={GPU: point.gpu_khz, GPU_MAX: point.gpu_khz} if point.gpu_khz else {},
        engine="replay",
        device="gpu",
        precision=file.precision,
        threads=1,
        versions={"figures": file.source},
    )


def _differences(cumulative: tuple[float, ...]) -> list[float]:
    return [cumulative[0], *(after - before for before, after in pairwise(cumulative))]
