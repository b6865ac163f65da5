"""SIGABRT from outside is taken by the main thread, whatever other threads there are."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from delen.clients.private_daemon import PrivateDaemon

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# The second thread could take it at once; the main one lets it in only after that has had time.
SCRIPT = """
import faulthandler, os, signal, threading, time
from delen.daemon.aborts import leave_aborts

def second():
    {leave}
    begun.set()
    threading.Event().wait()

faulthandler.enable()
begun = threading.Event()
threading.Thread(target=second, daemon=True).start()
begun.wait()
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGABRT}})
os.kill(os.getpid(), signal.SIGABRT)
time.sleep(0.05)
print("alive", flush=True)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {{signal.SIGABRT}})
"""


@pytest.mark.parametrize(("leave", "said"), [("leave_aborts()", "alive\n"), ("pass", "")])
def test_a_thread_that_leaves_aborts_to_others_does_not_take_one(leave: str, said: str) -> None:
    code = SCRIPT.format(leave=leave)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == said
    assert "Fatal Python error: Aborted" in ended.stderr
    # Where it stood is shown in the thread that took it.
    assert ("in second" in ended.stderr.partition("Current thread")[2].partition("\n\n")[0]) == (said == "")


def test_of_a_daemons_threads_only_its_loops_takes_an_abort() -> None:
    with PrivateDaemon(["a"], ["digits"]) as daemon:
        # A process's first thread, the loop's, has the process's number.
        loop = daemon.pid
        blocked = {int(task.name): blocked_signals(task / "status") for task in Path(f"/proc/{loop}/task").iterdir()}
    assert len(blocked) > 1, "the log has a thread, and so has ZeroMQ"
    assert [task for task, signals in blocked.items() if signal.SIGABRT not in signals] == [loop]


def blocked_signals(status: Path) -> set[int]:
    """Those that a thread, by its /proc/.../status, does not let in."""
    mask = next(int(line.split()[1], 16) for line in status.read_text().splitlines() if line.startswith("SigBlk:"))
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}
