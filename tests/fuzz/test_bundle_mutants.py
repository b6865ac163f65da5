"""Bundles with spoilt bytes and right hashes: refused by us or by the engine, or run; no process dies of one.

They are loaded in a process of their own, since what might happen is that an engine's parser crashes. What is hostile
by design is in `test_hostile_bundles.py`.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from delen.tests.faults import counts
from delen.tests.faults.counts import count
from delen.tests.faults.figures import note
from delen.tests.small_bundles import digits_copy

pytest.importorskip("onnxruntime", reason="loads graphs with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]

SECONDS_PER_MUTANT_MAX = 2.0


def test_no_spoilt_bundle_kills_the_process_that_loads_it(tmp_path: Path) -> None:
    good, wanted = digits_copy(tmp_path), count("P10 bundle mutants")
    ends: Counter[str] = Counter()
    died, first = [], 0
    while first < wanted:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "delen.tests.fuzz.mutant_child",
                str(good),
                str(counts.SEED),
                str(first),
                str(wanted),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60 + SECONDS_PER_MUTANT_MAX * wanted,
        )
        said = done.stdout.splitlines()
        ends.update(line.removeprefix("end ") for line in said if line.startswith("end "))
        if done.returncode == 0:
            break
        last = int(next(line for line in reversed(said) if line.startswith("begin ")).split()[1])
        died.append(f"mutant {last} of seed {counts.SEED}: exit {done.returncode}: {done.stderr[-1500:]}")
        first = last + 1
    for how, times in sorted(ends.items()):
        note(f"P10 bundle mutants, {how}", times, "bundles")
    assert not died, "\n".join(died)
    assert ends.total() == wanted
    assert set(ends) == {"refused", "not loaded", "ran"} or set(ends) == {"refused", "not loaded", "not run", "ran"}
