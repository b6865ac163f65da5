"""A daemon of one's own, in a directory of its own, for as long as a `with` block: for the demo, benchmarks and tests.

Role: start `delen serve --dev` as a child process, wait until it says it is ready, stop it and clean up. It never
touches a daemon that runs already. Does not: talk to it; use a Client with `environ` or `endpoint`.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from .places import endpoint_path

# Loading, warming up and a quick profile of two networks take 6-8 s on two busy cores.
START_S_MAX = 90.0
STOP_S_MAX = 10.0
# Of a line, from when it is said until it can be read; a busy machine may be slow.
SAID_S_MAX, SAID_STEP_S = 20.0, 0.01


class DaemonFailed(RuntimeError):
    """The daemon did not start, or not do what was waited for; what it said is in the message."""


class PrivateDaemon:
    """`delen serve --dev` in a temporary runtime directory; `state_dir` None gives it a temporary one too.

    Without `dev` it admits whom the configuration in `arguments` names.
    """

    def __init__(
        self,
        tenants: Sequence[str],
        networks: Sequence[str],
        *,
        arguments: Sequence[str] = (),
        state_dir: Path | None = None,
        dev: bool = True,
    ) -> None:
        self._dev = dev
        self._tenants, self._networks, self._arguments = tuple(tenants), tuple(networks), tuple(arguments)
        # Short, because a socket's path has room for 107 bytes.
        self._scratch = Path(tempfile.mkdtemp(prefix="delen-"))
        self.runtime_dir = self._scratch / "run"
        self.state_dir = state_dir if state_dir is not None else self._scratch / "state"
        self._log = self._scratch / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def environ(self) -> dict[str, str]:
        """This process's environment, with clients pointed at this daemon."""
        return {**os.environ, "DELEN_RUNTIME_DIR": str(self.runtime_dir), "DELEN_STATE_DIR": str(self.state_dir)}

    def endpoint(self, tenant: str) -> str:
        return f"ipc://{endpoint_path(self.runtime_dir, tenant)}"

    def log(self) -> str:
        """What the daemon has said so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def until_said(self, text: str, count: int = 1, *, wait_s: float = SAID_S_MAX) -> str:
        """Wait until the log has this text `count` times, for its lines are written apart; returns it.

        Raises DaemonFailed with the log: it does not.
        """
        until_s = time.monotonic() + wait_s
        while (log := self.log()).count(text) < count:
            if time.monotonic() > until_s or self._process is None or self._process.poll() is not None:
                raise DaemonFailed(f"{text!r} was not said {count} times; said was:\n{log}")
            time.sleep(SAID_STEP_S)
        return log

    def start(self) -> None:
        """Start and wait until it is ready. Raises DaemonFailed with what it said."""
        command = [sys.executable, "-m", "delen", "serve", *(["--dev"] if self._dev else []), "--ready-fd"]
        read_fd, write_fd = os.pipe()
        command += [str(write_fd)]
        command += [part for name in self._tenants for part in ("--tenant", name)]
        command += [part for name in self._networks for part in ("--network", name)]
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [*command, *self._arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environ,
                    pass_fds=[write_fd],
                )
            os.close(write_fd)
            ready, _, _ = select.select([read_fd], [], [], START_S_MAX)
            # End of file without a byte: the process is gone.
            if not ready or not os.read(read_fd, 1):
                raise DaemonFailed(f"the daemon did not start: {self.log().strip() or 'it said nothing'}")
        finally:
            os.close(read_fd)

    def stop(self) -> int:
        """Stop it as an operator would; returns its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def __enter__(self) -> PrivateDaemon:
        try:
            self.start()
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean()

    def _clean(self) -> None:
        if self._process is not None:
            self.stop()
        shutil.rmtree(self._scratch, ignore_errors=True)
