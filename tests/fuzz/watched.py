"""A real daemon under a fuzzer's fire, and everything that must be true of it meanwhile and afterwards.

Role: `fuzzed_daemon` starts one that is not in development mode, with a tenant for the fuzzer (ipc and tcp) and a
healthy one; `Watched` asks as the healthy one every 50 ms, and knows the daemon's memory, descriptors and threads.
Flow: `with Watched` -> `begin` -> `check` now and then -> `over`. Real time passes here, so all tests that use it are
marked `pytest.mark.e2e`. Does not: send what is wrong.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
from click.testing import CliRunner

from delen.clients.cli import delen
from delen.clients.keys import KeyFile, read_key
from delen.clients.private_daemon import PrivateDaemon
from delen.clients.wire import VERSION, Ping
from delen.daemon.log_lines import LINE_BYTES_MAX
from delen.tests.daemon_fixture import WAIT_S_MAX, Plain

PROBE_S = 0.05
# A probe is answered in a millisecond. One that takes a second misses what a tenant may hope for; on a machine that
# others use as well, so does one in ten thousand, so a test fails at more.
PROBE_S_MAX, LATE_S = 10.0, 1.0
MB = 1024**2
# What is left behind when all are gone: fragments of memory, no growth with the number of cases.
GROWTH_BYTES_MAX = 24 * MB
# The fuzzer's own tenant is not to be cooled down, nor its door shut: what it sends then is not looked at.
SETTINGS = """
tcp = "tcp://127.0.0.1"
[limits]
payload_bytes_max = 65536
malformed_max = 1_000_000_000
connections_max = 3000
connections_total_max = 6000
log_lines_max = 100_000
"""


class Fuzzed(NamedTuple):
    """`address`: of the fuzzer's ipc endpoint, `far`: of its tcp one; `key`: who it is there."""

    daemon: PrivateDaemon
    address: str
    far: tuple[str, int]
    key: KeyFile


@contextmanager
def fuzzed_daemon(folder: Path) -> Iterator[Fuzzed]:
    """Started, and stopped after the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    uid, where = str(os.getuid()), ("--config-dir", str(folder))
    _keys("init", *where)
    out = ("--out", str(folder / "fuzz.key"))
    _keys("new", "fuzz", "--uid", uid, "--network", "digits", "--tcp", "127.0.0.1", "--port", str(port), *out, *where)
    _keys("new", "healthy", "--uid", uid, "--network", "digits", *where)
    config = folder / "delen.toml"
    config.write_text(SETTINGS)
    made = PrivateDaemon((), ("digits",), arguments=("--config", str(config)), state_dir=folder / "state", dev=False)
    with made as daemon:
        # Its first turns start what it has for good.
        with Plain(daemon, "healthy") as plain:
            plain.answers([plain.infer()])
        address = daemon.endpoint("fuzz").removeprefix("ipc://")
        yield Fuzzed(daemon, address, ("127.0.0.1", port), read_key(folder / "fuzz.key"))


def _keys(*arguments: str) -> None:
    done = CliRunner().invoke(delen, ["keys", *arguments])
    assert done.exit_code == 0, done.output


class Held(NamedTuple):
    """What the daemon's process has."""

    resident_bytes: int
    descriptors: int
    threads: int


class Watched:
    """The healthy tenant, who asks all the while in a thread of its own, and the daemon's process."""

    def __init__(self, daemon: PrivateDaemon) -> None:
        self._daemon = daemon
        self._process = psutil.Process(daemon.pid)
        self._stop = threading.Event()
        self.worst_s = 0.0
        self.probes = self.late = 0
        self._failed = ""
        self._idle = self.held()
        self._resident_bytes = self._idle.resident_bytes
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Watched:
        with Plain(self._daemon, "healthy") as plain:
            plain.answers([plain.infer()])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2 * PROBE_S_MAX)

    def begin(self) -> None:
        """From now on memory may not grow: what comes before is for warming up."""
        self._resident_bytes = self.held().resident_bytes

    def held(self) -> Held:
        return Held(self._process.memory_info().rss, self._process.num_fds(), self._process.num_threads())

    def check(self) -> None:
        """Raises AssertionError: the daemon is gone, or the healthy tenant is not served."""
        assert not self._failed, f"{self._failed}; the daemon said: {self._daemon.log()[-2000:]}"
        assert self._process.is_running(), f"the daemon is dead: {self._daemon.log()[-2000:]}"

    def _ask(self) -> None:
        with Plain(self._daemon, "healthy", client="probe") as plain:
            while not self._stop.wait(PROBE_S):
                sent_s = time.monotonic()
                plain.send(Ping(VERSION, plain.new_id()))
                if not plain.socket.poll(int(1000 * PROBE_S_MAX)):
                    self._failed = f"the healthy tenant waits for more than {PROBE_S_MAX} s"
                    return
                plain.receive()
                took_s = time.monotonic() - sent_s
                self.probes += 1
                self.worst_s = max(self.worst_s, took_s)
                self.late += took_s > LATE_S

    def over(self) -> int:
        """All is as before; returns by how many bytes the memory has grown. Raises AssertionError: it is not."""
        give_up_s, idle = time.monotonic() + WAIT_S_MAX, self._idle
        with Plain(self._daemon, "healthy", client="over") as plain:
            while True:
                held = self.held()
                # This connection and the one that probes are more than there were.
                back = held.descriptors <= idle.descriptors + 2 and held.threads <= idle.threads
                grown_bytes = held.resident_bytes - self._resident_bytes
                if back and grown_bytes < GROWTH_BYTES_MAX:
                    break
                assert time.monotonic() < give_up_s, f"idle {idle}, {self._resident_bytes} bytes when warm; now {held}"
                assert plain.until_pong() == []
            plain.answers([plain.infer()])
        self.check()
        log = self._daemon.log()
        assert "Traceback" not in log, log[-4000:]
        assert "fault of delen's own" not in log, log[-4000:]
        assert all(len(line.encode()) <= LINE_BYTES_MAX for line in log.splitlines())
        return grown_bytes
