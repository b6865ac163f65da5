"""A process that loads and runs spoilt bundles, and may die of one: then only it is gone.

Role: `python -m delen.tests.fuzz.mutant_child FOLDER SEED FIRST LAST` takes the good bundle in FOLDER, spoils it as the
seed and a number say, puts its hashes right, loads it as a daemon and its engine do, and runs it. One line for each
number before it, one after it with how it ended; the engine may say more in between. Flow: `test_bundle_mutants.py`
reads the lines. Does not: judge.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from random import Random

import numpy as np

from delen.daemon.engines import make_runner
from delen.exits.bundle import BundleError, load_bundle
from delen.exits.runner import EngineFault, Runner
from delen.tests.fuzz.mutations import spoilt
from delen.tests.hostile_files import rehash

ROWS = 2


def mutant(good: Path, folder: Path, draw: Random) -> None:
    """A copy of the good bundle with one of its files spoilt."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    file = draw.choice(sorted(path.name for path in good.iterdir() if path.suffix in (".onnx", ".npz", ".toml")))
    data = spoilt(draw, (folder / file).read_bytes(), draw.choice([1, 1, 2, 4]))
    (folder / file).write_bytes(data)
    if not file.endswith(".toml"):
        rehash(folder, file)


def outcome(folder: Path, runner: Runner) -> str:
    """How far it got."""
    try:
        bundle = load_bundle(folder)
    except BundleError:
        return "refused"
    try:
        loaded = runner.load(bundle, ROWS)
    except EngineFault:
        return "not loaded"
    taken = bundle.manifest.input
    try:
        features = loaded.place(np.ones((ROWS, *taken.shape), taken.dtype))
        for index in range(len(bundle.manifest.exits)):
            features = loaded.segment(index, features)
            logits = loaded.head(index, features)
            assert logits.shape == (ROWS, len(bundle.manifest.classes))
    except EngineFault:
        return "not run"
    return "ran"


def main() -> None:
    good, seed, first, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    runner = make_runner("onnx", "auto", 1)
    folder = good.parent / "mutant"
    for number in range(first, last):
        sys.stdout.write(f"begin {number}\n")
        sys.stdout.flush()
        mutant(good, folder, Random(f"{seed} {number}"))
        sys.stdout.write(f"end {outcome(folder, runner)}\n")


if __name__ == "__main__":
    main()
