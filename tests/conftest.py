"""What every test starts from: no DELEN_* setting of the user's shell, and the same examples in every run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Same code, same examples: a red test is red for everybody. No deadline: the machine's speed is not under test.
settings.register_profile("delen", derandomize=True, deadline=None, database=None, max_examples=100)
settings.load_profile("delen")

NEEDS_TORCH = "\ntorch = pytest.importorskip("


@pytest.fixture(autouse=True)
def _no_settings_from_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DELEN_")]:
        monkeypatch.delenv(name)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m "... not slow ..."`, files that need PyTorch from their first line are not read: its import is slow."""
    if "not slow" not in str(config.option.markexpr) or collection_path.suffix != ".py":
        return None
    return True if NEEDS_TORCH in collection_path.read_text() else None
