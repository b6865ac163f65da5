"""What a network takes in memory: one with several exits against a network of its own for each operating point.

Role: the measuring half of `delen bench footprint`, and where the factors of `exits/memory_need.py` come from. Flow:
`python -m delen.profiles.memory_bench DIRECTORY EXITS...` loads exits in a process of its own (each a separate network
of segments 0..k and head k; `all`: the multi-exit network), runs the largest batch once, and says what became resident.

Does not: run in the caller's process, whose memory is full of other things.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace

from ..exits.bundle import Bundle, load_bundle
from ..exits.memory_need import MIB, engine_bytes, memory_need
from ..exits.onnx_runner import OnnxRunner
from .board import resident_bytes

BATCH_MAX = 32


class Taken(msgspec.Struct, frozen=True):
    """Bytes resident: `base` of the process with its engine, `loaded` with the networks, `ran` after a full batch."""

    base: int
    loaded: int
    ran: int


class MemoryRow(msgspec.Struct, frozen=True):
    """One bundle, MiB beyond the engine's own: `one_mib` with all its exits, `separate_mib` as a network for each.

    `*_run_mib`: after the largest batch. `estimated_mib`: what `memory_need` says of the first, before loading.
    `engine_mib`, `engine_estimated_mib`: of the process before it has loaded anything.
    """

    network: str
    exits: int
    one_mib: float
    separate_mib: float
    one_run_mib: float
    separate_run_mib: float
    saved: float
    estimated_mib: float
    engine_mib: float
    engine_estimated_mib: float


def bench_memory(directories: Sequence[Path], batch_max: int = BATCH_MAX) -> list[MemoryRow]:
    """Some seconds for each bundle, more for large ones. Raises BundleError."""
    return [_row(directory, batch_max) for directory in directories]


def _row(directory: Path, batch_max: int) -> MemoryRow:
    bundle = load_bundle(directory)
    count = len(bundle.manifest.exits)
    one = _measure(directory, ["all"], batch_max)
    separate = _measure(directory, [str(index) for index in range(count)], batch_max)
    return MemoryRow(
        network=bundle.manifest.name,
        exits=count,
        one_mib=(one.loaded - one.base) / MIB,
        separate_mib=(separate.loaded - separate.base) / MIB,
        one_run_mib=(one.ran - one.base) / MIB,
        separate_run_mib=(separate.ran - separate.base) / MIB,
        saved=1 - (one.ran - one.base) / max(1, separate.ran - separate.base),
        estimated_mib=memory_need(bundle, batch_max).total / MIB,
        engine_mib=one.base / MIB,
        engine_estimated_mib=engine_bytes("onnx") / MIB,
    )


def _measure(directory: Path, exits: Sequence[str], batch_max: int) -> Taken:
    command = [sys.executable, "-m", __name__, str(directory), str(batch_max), *exits]
    said = subprocess.run(command, check=True, capture_output=True).stdout
    return msgspec.json.decode(said, type=Taken)


def _main(directory: str, batch_max: str, *exits: str) -> Taken:
    """Load these exits of a bundle here."""
    bundle, batch, runner = load_bundle(Path(directory)), int(batch_max), OnnxRunner()
    base = _resident()
    networks = [(part, runner.load(part, batch)) for part in (_part(bundle, said) for said in exits)]
    loaded = _resident()
    for part, network in networks:
        taken = part.manifest.input
        features = network.place(np.zeros((batch, *taken.shape), taken.dtype))
        for index in range(len(part.manifest.segments)):
            features = network.segment(index, features)
            if index < len(part.manifest.heads) and len(part.manifest.heads) > 1:
                network.head(index, features)
        if len(part.manifest.heads) == 1:
            network.head(0, features)
    return Taken(base, loaded, _resident())


def _part(bundle: Bundle, said: str) -> Bundle:
    """The whole network, or what serves one of its exits and nothing else."""
    if said == "all":
        return bundle
    index, manifest = int(said), bundle.manifest
    cut = replace(manifest, segments=manifest.segments[: index + 1], heads=(manifest.heads[index],))
    return Bundle(bundle.directory, cut, bundle.digest)


def _resident() -> int:
    resident = resident_bytes()
    if resident is None:
        raise OSError("the system does not say how much memory a process takes")
    return resident


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(_main(*sys.argv[1:])))
