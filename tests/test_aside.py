"""A thread for what may hang: in order, with its failures, and no reason for a process to stay."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import wait

import pytest

from delen.daemon.aside import Aside
from delen.profiles.board_clocks import ClockError

HANGS = """
from threading import Event
from delen.daemon.aside import Aside
begun = Event()
aside = Aside("hangs", lambda: None)
aside.submit(lambda: begun.set() or Event().wait())
begun.wait()
aside.close()
"""


def test_jobs_are_done_in_order_and_fail_alone() -> None:
    done: list[int] = []
    woken: list[int] = []
    aside = Aside("test", lambda: woken.append(len(done)))

    def fails() -> None:
        raise ClockError("refused")

    jobs = [aside.submit(lambda: done.append(1)), aside.submit(fails), aside.submit(lambda: done.append(2))]
    wait(jobs, 5)
    assert done == [1, 2]
    with pytest.raises(ClockError, match="refused"):
        jobs[1].result()
    aside.close()
    assert aside._thread is not None
    aside._thread.join(5)
    assert woken == [1, 1, 2]


@pytest.mark.slow
def test_what_hangs_does_not_keep_the_process() -> None:
    assert subprocess.run([sys.executable, "-c", HANGS], timeout=20, check=False).returncode == 0
