"""What every test starts from: no DELEN_* setting of the user's shell, and the same examples in every run."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Same code, same examples: a red test is red for everybody. No deadline: the machine's speed is not under test.
settings.register_profile("delen", derandomize=True, deadline=None, database=None, max_examples=100)
settings.load_profile("delen")


@pytest.fixture(autouse=True)
def _no_settings_from_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DELEN_")]:
        monkeypatch.delenv(name)
