"""A configured daemon's state on disk: what it counted outlives SIGKILL, and a directory it cannot trust stops it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from delen.clients.client import Client
from delen.clients.errors import Refused
from delen.clients.places import endpoint_path
from delen.daemon.audit_log import read_audit
from delen.daemon.counters import Totals, decoded
from delen.daemon.keeping import AUDIT, COUNTERS, SLOT_BYTES
from delen.daemon.slot_file import peek
from delen.exits import state_files
from delen.exits.samples import load_samples, prepare
from delen.tests.daemon_fixture import WAIT_S_MAX

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STATE_KILLS = int(os.environ.get("STATE_KILLS", "3"))


class Configured:
    """A daemon as an operator configures it: one tenant, of this user, with a cap on its energy."""

    def __init__(self, folder: Path, *, energy_j_day_max: float = 1000.0) -> None:
        self.state, self.runtime = folder / "state", folder / "run"
        self.state.mkdir(exist_ok=True, mode=0o755)
        self.config = folder / "delen.toml"
        self.config.write_text(
            f'runtime_dir = "{self.runtime}"\nstate_dir = "{self.state}"\nnetworks = ["digits"]\nwatts = 5.0\n'
            f'[[tenants]]\nname = "a"\nuids = [{os.getuid()}]\nenergy_j_day_max = {energy_j_day_max}\n'
        )

    @contextlib.contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        """From ready until the block ends; killed then if it still runs."""
        read_fd, write_fd = os.pipe()
        command = [sys.executable, "-m", "delen", "serve", "--config", str(self.config), "--ready-fd", str(write_fd)]
        with subprocess.Popen(command, pass_fds=[write_fd]) as process:
            os.close(write_fd)
            try:
                assert select.select([read_fd], [], [], WAIT_S_MAX)[0]
                assert os.read(read_fd, 1), "it ended while it started; what it said is above"
                yield process
            finally:
                os.close(read_fd)
                process.kill()

    def client(self, timeout_s: float = WAIT_S_MAX) -> Client:
        return Client(endpoint=f"ipc://{endpoint_path(self.runtime, 'a')}", timeout_s=timeout_s)

    def totals(self) -> Totals:
        """On the disk."""
        path = self.state / COUNTERS
        found = decoded(peek(path, slot_bytes=SLOT_BYTES)).totals if path.exists() else ()
        return found[0] if found else Totals("a")

    def ended(self, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Started where it cannot be, by the command `before` if there is one."""
        command = [*before, sys.executable, "-m", "delen", "serve", "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S_MAX, check=False)


def ask(client: Client, count: int) -> float:
    """Have so many digits looked at; returns the energy they were charged, mJ."""
    (info,) = client.networks()
    x = prepare(load_samples("digits").images[:1], info.preprocessing)[0]
    return sum(client.infer("digits", x).energy_mj or 0.0 for _ in range(count))


def test_counters_outlive_kills_and_lose_a_second_at_most(tmp_path: Path) -> None:
    daemon = Configured(tmp_path)
    charged_mj, answered = 0.0, 0
    for _ in range(STATE_KILLS):
        with daemon.serving() as process:
            before = daemon.totals()
            assert before.answered == answered
            with daemon.client() as client:
                charged_mj += ask(client, 5)
                answered += 5
                # Two ticks of the counters: what was booked before the first is on the disk after the second.
                for _ in range(200):
                    if daemon.totals().answered == answered:
                        break
                    select.select([], [], [], 0.02)
            process.send_signal(signal.SIGKILL)
            process.wait(WAIT_S_MAX)
        assert daemon.totals().answered == answered
        assert daemon.totals().energy_mj == pytest.approx(charged_mj)
        assert sum(mj for _, mj in daemon.totals().day) == pytest.approx(charged_mj)
        assert state_files.inspect(daemon.state).faults == ()
    with daemon.serving() as process:
        with daemon.client() as client:
            ask(client, 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S_MAX) == 0
    assert daemon.totals().answered == answered + 2, "an orderly end loses nothing"
    told = read_audit(daemon.state / AUDIT / "audit.jsonl")
    assert told.fault == ""
    assert [entry.what for entry in told.entries] == ["begin"] * (STATE_KILLS + 1) + ["end"]


def test_a_daily_cap_is_not_given_twice_by_a_restart(tmp_path: Path) -> None:
    daemon = Configured(tmp_path)
    with daemon.serving() as process:
        with daemon.client() as client:
            charged_mj = ask(client, 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S_MAX) == 0
    assert charged_mj > 0
    capped = Configured(tmp_path, energy_j_day_max=charged_mj / 1000)
    # A client tries again for as long as it may.
    with capped.serving(), capped.client(timeout_s=1) as client, pytest.raises(Refused, match="energy_j_day_max"):
        ask(client, 1)


def test_a_state_directory_that_cannot_be_used_is_not(tmp_path: Path) -> None:
    daemon = Configured(tmp_path)
    daemon.state.chmod(0o777)
    ended = daemon.ended()
    assert ended.returncode == 77
    assert f"anybody may write in the state directory {daemon.state}: chmod o-w" in ended.stderr
    daemon.state.chmod(0o755)
    with daemon.serving():
        other = Configured(tmp_path)
        other.config.write_text(other.config.read_text().replace("/run", "/other"))
        ended = other.ended()
        assert ended.returncode == 75
        assert "another delen daemon keeps its state in" in ended.stderr


@pytest.mark.parametrize("empty", [True, False])
def test_a_state_directory_on_a_read_only_disk_is_said_with_the_way_out(tmp_path: Path, empty: bool) -> None:
    """Root may write where no mode lets anybody; on a disk that is mounted read-only it may not either."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("a disk can be mounted read-only only in a name space of its own, which is not allowed here")
    daemon = Configured(tmp_path)
    if not empty:
        with daemon.serving():
            pass
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    read_only = ("unshare", "-rm", "sh", "-c", script, "sh", str(daemon.state))
    ended = daemon.ended(read_only)
    assert ended.returncode == 77, ended.stderr
    assert f"cannot keep state in {daemon.state}: {os.strerror(errno.EROFS)}" in ended.stderr
    assert "name another with state_dir" in ended.stderr
