"""A service manager in small: starts a configured daemon, hears when it is ready, and starts it again when it is gone.

Role: `Kept` is one daemon through all its lives, with one configuration and one state directory, as systemd would have
it: a notification socket, and another process as soon as one has died. Flow: `up` -> `kill` -> `up` ... -> `end`.

Real time passes here, so all tests that use it are marked `pytest.mark.e2e`. Does not: check anything.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from delen.clients.places import endpoint_path
from delen.tests.daemon_fixture import WAIT_S_MAX


class Kept:
    """One daemon of tenants `a` and `b`, who are this user; `settings`: more of its configuration."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        # Short, because a socket's path has room for 107 bytes.
        self.place = Path(tempfile.mkdtemp(prefix="kept-", dir=folder))
        self.state = self.place / "state"
        self.state.mkdir(mode=0o755)
        self.config = self.place / "delen.toml"
        tenants = "".join(f'[[tenants]]\nname = "{name}"\nuids = [{os.getuid()}]\nsees_all = true\n' for name in "ab")
        text = f'runtime_dir = "{self.place}/run"\nstate_dir = "{self.state}"\nnetworks = ["digits"]\nwatts = 5.0\n'
        self.config.write_text(f"{text}{tenants}{settings}")
        self.log = self.place / "log"
        self.lives = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._heard.bind(str(self.place / "notify"))

    def __enter__(self) -> Kept:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heard.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        sys.stderr.write(f"the daemons said:\n{self.log.read_text(errors='replace')[-8000:]}")

    def endpoint(self, tenant: str) -> str:
        return f"ipc://{endpoint_path(self.place / 'run', tenant)}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """The next life begins; it may take a while."""
        self.lives += 1
        environ = {**os.environ, "NOTIFY_SOCKET": str(self.place / "notify")}
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "delen", "serve", "--config", str(self.config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environ)

    def ready_within(self, wait_s: float) -> bool:
        """Wait until it says that it is ready, at most so long."""
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0:
            self._heard.settimeout(left_s)
            try:
                said = self._heard.recv(4096)
            except TimeoutError:
                break
            if b"READY=1" in said:
                return True
        return False

    def up(self) -> None:
        """Start, and wait until it is ready."""
        self.start()
        assert self.ready_within(WAIT_S_MAX), "it does not get ready"

    def kill(self) -> None:
        """No life ends more suddenly; returns once it has."""
        assert self._process is not None
        assert self._process.poll() is None, f"it ended by itself, with {self._process.returncode}"
        self._process.kill()
        self._process.wait(WAIT_S_MAX)
        # What this life said is not the next one's.
        self._heard.setblocking(False)
        while True:
            try:
                self._heard.recv(4096)
            except BlockingIOError:
                return

    def hang_up(self) -> None:
        """Have it read its configuration again."""
        os.kill(self.pid, signal.SIGHUP)

    def end(self) -> int:
        """As an operator ends it; returns its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(WAIT_S_MAX)
