"""The first worker's process, started before the front has loaded anything itself, so that both load at once.

Role: `begin` starts `worker.py` knowing nothing but which engine it will be. It loads that one's libraries and waits;
what it is to be is said by `worker_process.py`, once the front holds its runtime directory. Until then it has touched
neither a device nor a file of delen's, and where the front ends before, so does it.

Does not: import what takes long, or decide what is served: what cannot be told in advance is found out without it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .toml_file import ConfigError, read_toml

ENGINES = ("onnx", "torch", "replay")


class Early:
    """A process that is to be a worker. `end`: the front's of its pipe; `voice`: where its words can be read."""

    def __init__(self, engine: str) -> None:
        """Raises OSError where no process can be started."""
        self._began_us = time.monotonic_ns() // 1000
        self._taken = False
        self.end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.voice, words = os.pipe2(os.O_CLOEXEC)
        command = [sys.executable, "-m", f"{__package__}.worker", str(theirs.fileno()), engine]
        try:
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=words, stderr=words
            )
        except OSError:
            self._close()
            raise
        finally:
            theirs.close()
            os.close(words)

    def take(self) -> int:
        """It is somebody's now, who will see to its end; returns how long ago it was started, us."""
        self._taken = True
        return time.monotonic_ns() // 1000 - self._began_us

    def dismiss(self) -> None:
        """End it, if nobody has taken it."""
        if self._taken:
            return
        self._taken = True
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        self.end.close()
        os.close(self.voice)


def begin(path: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str]) -> Early | None:
    """Start the worker that this configuration will want; None where that is not plain, or not this process's to do.

    Args:
        path, flags, environ: as for `load_config`, which judges them later.
    """
    try:
        file = read_toml(path) if path is not None else {}
    except ConfigError:
        return None
    engine, worker = (
        flags.get(name) or environ.get(f"DELEN_{name.upper()}") or file.get(name, usual)
        for name, usual in (("engine", "onnx"), ("worker", "spawn"))
    )
    if engine not in ENGINES or worker != "spawn":
        return None
    with contextlib.suppress(OSError):
        return Early(engine)
    return None
