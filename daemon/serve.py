"""delend as a process: what holds the runtime directory, starts the loop, and cleans up behind it.

Role: `serve` is all that `delen serve` calls. Does not: read files of configuration, or know signals (lifecycle.py).
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable
from pathlib import Path

from ..profiles.store import state_directory
from .config import Config
from .log_writer import Log
from .loop import Loop
from .reload import Reread
from .runtime_lock import RuntimeLock
from .worker_early import Early


def serve(
    config: Config,
    note: Log,
    on_ready: Callable[[], None] | None = None,
    reread: Reread | None = None,
    early: Early | None = None,
) -> None:
    """Run the daemon until SIGTERM or SIGINT, and all it has accepted is answered.

    Args:
        note: takes what the operator should know, line by line.
        on_ready: called once, when every network is served and all endpoints are bound.
        reread: gives the configuration as it stands at a reload. early: the first worker's process, if it runs already.
    Raises:
        AlreadyRunning, EndpointError: the runtime directory. BundleError, ProfileError, ConfigError, WorkerFailed:
        what cannot be served, and why.
    """
    state = state_directory(os.environ, os.getuid(), flag=Path(config.state_dir) if config.state_dir else None)
    # A watchdog that ends this process does it with SIGABRT; the log should show where the loop was.
    faulthandler.enable()
    lock = RuntimeLock(Path(config.runtime_dir))
    try:
        loop = Loop(config, state, note, reread, early)
        try:
            loop.start()
            if on_ready is not None and not loop.stopping:
                on_ready()
            loop.run()
        finally:
            loop.close()
    finally:
        lock.release()
