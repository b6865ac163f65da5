"""The fuzzers' last words, which are the fault suite's: what was tried how often, and what was measured.

And the one daemon that all of them fire at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from delen.tests.faults.conftest import pytest_terminal_summary

if TYPE_CHECKING:
    from delen.tests.fuzz.watched import Fuzzed

__all__ = ["fuzzed", "pytest_terminal_summary"]


@pytest.fixture(scope="session")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    """A real daemon, not in development mode, with a tenant for the fuzzer and a healthy one."""
    pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
    from delen.tests.fuzz.watched import fuzzed_daemon

    with fuzzed_daemon(tmp_path_factory.mktemp("fuzzed")) as made:
        yield made
