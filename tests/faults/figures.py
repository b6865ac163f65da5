"""Figures that the fault suite measures, beside what they should be.

Role: `note` takes one figure; the run's summary prints all with the counts used, and writes them as JSON to the file
that `DELEN_FIGURES` names. Flow: tests -> `note` -> `lines` in the terminal summary (`conftest.py`).

A figure with a target is marked as met or missed, and a soak says at its end, in red, which were missed. That is no
failed test, here or there: a test asserts orders of magnitude only, since what takes time depends on who else uses the
machine. A target missed by a soak on a quiet machine is a promise that does not hold; look at it before a release.

Does not: fail anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from delen.tests.faults import counts

# As in `counts.py`: read before pytest takes every DELEN_* setting away.
PATH = os.environ.get("DELEN_FIGURES", "")


class Figure(msgspec.Struct, frozen=True):
    """`target`: what it should be at most, or `at_least`; None: nothing. `beside`: what it was measured next to."""

    name: str
    value: float
    unit: str
    target: float | None = None
    beside: str = ""
    at_least: bool = False

    @property
    def missed(self) -> bool:
        """Whether there is a target and the figure is on the wrong side of it."""
        if self.target is None:
            return False
        return self.value < self.target if self.at_least else self.value > self.target


noted: list[Figure] = []


def note(name: str, value: float, unit: str, *, target: float | None = None, beside: str = "") -> None:
    """Keep a figure for the summary. `target`: what it should be at most."""
    noted.append(Figure(name, value, unit, target, beside))


def note_least(name: str, value: float, unit: str, *, target: float, beside: str = "") -> None:
    """Keep a figure that should be `target` at least."""
    noted.append(Figure(name, value, unit, target, beside, at_least=True))


def note_spread(name: str, values: Sequence[float], unit: str, *, target: float | None = None) -> None:
    """Keep the median of `values`, with the smallest, the largest and how many there are beside it."""
    beside = f"n={len(values)}, {min(values):.3g} to {max(values):.3g}"
    note(f"{name}, median", median(values), unit, target=target, beside=beside)


def lines() -> list[str]:
    """The summary: counts, then figures."""
    told = [f"{name}: {value:,} ({'soak' if counts.SOAK else 'CI'})" for name, value in counts.used.items()]
    return told + [_line(figure) for figure in noted]


def missed_lines() -> list[str]:
    """The figures on the wrong side of their targets."""
    return [_line(figure) for figure in noted if figure.missed]


def _line(figure: Figure) -> str:
    target = ""
    if figure.target is not None:
        side = "at least " if figure.at_least else ""
        target = f"  (target {side}{figure.target:g} {figure.unit}: {'missed' if figure.missed else 'met'})"
    beside = f"  [{figure.beside}]" if figure.beside else ""
    value = f"{figure.value:,}" if isinstance(figure.value, int) else f"{figure.value:.4g}"
    return f"{figure.name}: {value} {figure.unit}{target}{beside}"


def write(path: str) -> None:
    """Counts and figures as JSON."""
    told = {
        "soak": counts.SOAK,
        "seed": counts.SEED,
        "counts": counts.used,
        "figures": msgspec.to_builtins(noted),
        "missed": [figure.name for figure in noted if figure.missed],
    }
    Path(path).write_text(json.dumps(told, indent=1) + "\n")


def clear() -> None:
    """Forget all: they have been told."""
    counts.used.clear()
    noted.clear()
