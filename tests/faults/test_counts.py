"""The frame of the fault suite: counts, figures, and the table that says which fault is tested where."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from delen.tests.faults import counts, figures

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _own_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "noted", [])
    monkeypatch.setattr(counts, "used", {})


def test_a_count_is_cis_unless_a_soak_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "SOAK", False)
    assert counts.count("P1 requests") == 50_000
    monkeypatch.setattr(counts, "SOAK", True)
    assert counts.count("P1 requests") == 1_000_000
    assert counts.used == {"P1 requests": 1_000_000}
    with pytest.raises(KeyError):
        counts.count("P99")


def test_a_soak_does_no_less_than_ci() -> None:
    assert all(0 < row.ci <= row.soak for row in counts.COUNTS.values())


def test_randomness_is_the_same_each_time_and_each_part_has_its_own() -> None:
    first, again, other = (counts.randomness("x", part).random() for part in (0, 0, 1))
    assert first == again != other


def test_the_summary_says_counts_and_figures(tmp_path: Path) -> None:
    counts.count("P6 kills of the front")
    figures.note("hop", 0.5, "ms", target=1.0, beside="a quiet machine")
    figures.note_spread("gap", [3.0, 1.0, 2.0], "s")
    _, hop, gap = figures.lines()
    assert hop == "hop: 0.5 ms  (target 1 ms: met)  [a quiet machine]"
    assert gap == "gap, median: 2 s  [n=3, 1 to 3]"
    figures.write(str(tmp_path / "figures.json"))
    told = json.loads((tmp_path / "figures.json").read_text())
    assert told["figures"][0]["value"] == 0.5
    assert told["counts"] == counts.used
    figures.clear()
    assert figures.lines() == []


def test_a_target_that_was_missed_is_marked_and_said_again(tmp_path: Path) -> None:
    figures.note("hop", 0.5, "ms", target=0.5)
    figures.note("growth", 1.5, "MiB", target=1.0)
    figures.note_least("churn", 4_999, "1/s", target=5_000)
    figures.note_least("hits", 5_000, "1/s", target=5_000)
    figures.note_spread("gap", [3.0, 1.0, 2.0], "s", target=1.9)
    figures.note("no target", 1e9, "s")
    missed = [
        "growth: 1.5 MiB  (target 1 MiB: missed)",
        "churn: 4,999 1/s  (target at least 5000 1/s: missed)",
        "gap, median: 2 s  (target 1.9 s: missed)  [n=3, 1 to 3]",
    ]
    assert figures.missed_lines() == missed
    assert [line for line in figures.lines() if "missed" in line] == missed
    assert sum(": met)" in line for line in figures.lines()) == 2
    figures.write(str(tmp_path / "figures.json"))
    assert json.loads((tmp_path / "figures.json").read_text())["missed"] == ["growth", "churn", "gap, median"]


@pytest.mark.parametrize("soak", [False, True])
def test_only_a_soak_says_at_its_end_what_it_missed(monkeypatch: pytest.MonkeyPatch, soak: bool) -> None:
    from delen.tests.faults.conftest import pytest_terminal_summary

    class Reporter:
        def __init__(self) -> None:
            self.red: list[str] = []

        def section(self, title: str) -> None: ...

        def write_sep(self, _: str, title: str, **how: bool) -> None:
            self.write_line(title, **how)

        def write_line(self, line: str, **how: bool) -> None:
            if how.get("red"):
                self.red.append(line)

    monkeypatch.setattr(counts, "SOAK", soak)
    monkeypatch.setattr(figures, "PATH", "")
    figures.note("growth", 1.5, "MiB", target=1.0)
    reporter: Any = Reporter()
    pytest_terminal_summary(reporter)
    assert reporter.red == (["1 targets missed", "growth: 1.5 MiB  (target 1 MiB: missed)"] if soak else [])


def test_every_fault_has_a_test_that_exists_or_a_reason() -> None:
    numbers, missing = [], []
    for line in (HERE / "README.md").read_text().splitlines():
        found = re.match(r"\| (\d+) \| (.+) \| (.+) \|$", line)
        if found is None:
            continue
        numbers.append(int(found[1]))
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", found[3])
        if not named and len(found[3].split()) < 5:
            missing.append(f"{found[1]}: neither a test nor a reason")
        for path, name in named:
            file = HERE.parents[1] / path
            if not file.is_file() or f"\ndef {name}(" not in file.read_text():
                missing.append(f"{found[1]}: no {path}::{name}")
    assert numbers == list(range(1, 57))
    assert missing == []
