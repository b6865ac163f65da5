"""The fault suite's first and last words: daemons as installed, and what was tried how often and measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from delen.tests.faults import counts, figures

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


@pytest.fixture(scope="session", autouse=True)
def _bytecode() -> Iterator[None]:
    """An installed daemon has its bytecode; one that compiles itself at every start takes twice as long to be ready."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all daemons keep their profiles; has what networks cost."""
    from delen.tests.faults.measured import measured

    folder = tmp_path_factory.getbasetemp()
    measured(folder)
    return folder


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    # The fuzzers' summary is this one too; whichever comes first tells all.
    told = figures.lines()
    if not told:
        return
    terminalreporter.section("counts and figures")
    for line in told:
        terminalreporter.write_line(line)
    if counts.SOAK and (missed := figures.missed_lines()):
        terminalreporter.write_sep("=", f"{len(missed)} targets missed", red=True, bold=True)
        for line in missed:
            terminalreporter.write_line(line, red=True)
    if figures.PATH:
        figures.write(figures.PATH)
    figures.clear()
