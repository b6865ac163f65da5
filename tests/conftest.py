"""What every test starts from: no DELEN_* setting of the user's shell, and the same examples in every run.

And the one real daemon of a module's tests, for those that have none of their own.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from delen.clients.private_daemon import PrivateDaemon
    from delen.tests.daemon_fixture import Images, Plain

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


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all daemons keep their profiles, so that each network is measured once."""
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[PrivateDaemon]:
    """A private daemon on `digits`, of tenants a and b."""
    from delen.tests.daemon_fixture import serving

    with serving(folder) as daemon:
        yield daemon


@pytest.fixture
def plain(daemon: PrivateDaemon) -> Iterator[Plain]:
    """A connection of tenant a's that says what the test says."""
    from delen.tests.daemon_fixture import Plain

    with Plain(daemon) as plain:
        yield plain


@pytest.fixture(scope="module")
def images(daemon: PrivateDaemon) -> Images:
    """The test images of `digits`."""
    from delen.clients.client import Client
    from delen.tests.daemon_fixture import WAIT_S_MAX, Images

    with Client("a", endpoint=daemon.endpoint("a"), timeout_s=WAIT_S_MAX) as client:
        return Images(client)
