"""What every test starts from: no DELEN_* setting of the user's shell, and the same examples in every run."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import pytest
from hypothesis import settings

# Same code, same examples: a red test is red for everybody. No deadline: the machine's speed is not under test.
settings.register_profile("delen", derandomize=True, deadline=None, database=None, max_examples=100)
settings.load_profile("delen")

NEEDS_TORCH = re.compile(r'^(torch = )?pytest\.importorskip\("torch"', re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m "... not slow ..."`, files that need PyTorch from their first line are not read: its import is slow."""
    if "not slow" not in str(config.option.markexpr) or collection_path.suffix != ".py":
        return None
    return True if NEEDS_TORCH.search(collection_path.read_text()) else None


def pytest_collection_finish() -> None:
    for name in [name for name in os.environ if name.startswith("DELEN_")]:
        del os.environ[name]
    # Modules and tests stay to the end: the garbage collector need not look through all of them again and again.
    gc.collect()
    gc.freeze()
