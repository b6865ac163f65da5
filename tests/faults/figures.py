"""Figures that the fault suite measures, beside what they should be.

Role: `note` takes one figure; the run's summary prints all with the counts used, and writes them as JSON to the file
that `DELEN_FIGURES` names. Flow: tests -> `note` -> `lines` in the terminal summary (`conftest.py`).

Does not: judge. A test asserts orders of magnitude only, since whoever runs it may be busy; whether a target is met is
read off a soak on a quiet machine.
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
    """`target`: what it should be at most, None where there is none. `beside`: what it was measured next to."""

    name: str
    value: float
    unit: str
    target: float | None = None
    beside: str = ""


noted: list[Figure] = []


def note(name: str, value: float, unit: str, *, target: float | None = None, beside: str = "") -> None:
    """Keep a figure for the summary."""
    noted.append(Figure(name, value, unit, target, beside))


def note_spread(name: str, values: Sequence[float], unit: str, *, target: float | None = None) -> None:
    """Keep the median of `values`, with the smallest, the largest and how many there are beside it."""
    beside = f"n={len(values)}, {min(values):.3g} to {max(values):.3g}"
    note(f"{name}, median", median(values), unit, target=target, beside=beside)


def lines() -> list[str]:
    """The summary: counts, then figures."""
    told = [f"{name}: {value:,} ({'soak' if counts.SOAK else 'CI'})" for name, value in counts.used.items()]
    for figure in noted:
        target = "" if figure.target is None else f"  (target {figure.target:g} {figure.unit})"
        beside = f"  [{figure.beside}]" if figure.beside else ""
        value = f"{figure.value:,}" if isinstance(figure.value, int) else f"{figure.value:.4g}"
        told.append(f"{figure.name}: {value} {figure.unit}{target}{beside}")
    return told


def write(path: str) -> None:
    """Counts and figures as JSON."""
    told = {"soak": counts.SOAK, "seed": counts.SEED, "counts": counts.used, "figures": msgspec.to_builtins(noted)}
    Path(path).write_text(json.dumps(told, indent=1) + "\n")


def clear() -> None:
    """Forget all: they have been told."""
    counts.used.clear()
    noted.clear()
