"""State on real disks: writers killed at any moment, a disk that is full, files that may not grow.

A writer is killed 20 times, by `make soak` 500 times (`STATE_KILLS`).
"""

from __future__ import annotations

import errno
import os
import random
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from delen.exits import state_files
from delen.tests.state_writer import found

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

KILLS = int(os.environ.get("STATE_KILLS", "20"))
WAIT_S_MAX = 20
WRITER = [sys.executable, "-m", "delen.tests.state_writer"]


def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    """It may have begun one number more than it has said."""
    chance, root, last, between = random.Random(1), tmp_path, 0, 0
    acknowledged: set[int] = set()
    for _ in range(KILLS):
        with subprocess.Popen([*WRITER, "endless", str(root)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randrange(1, 8)):
                acknowledged.add(int(writer.stdout.readline()))
            # Somewhere in its next writes.
            select.select([], [], [], chance.random() * 0.01)
            writer.kill()
            acknowledged |= {int(word) for word in writer.stdout.read().split()}
        last = max(acknowledged)
        in_file, in_slots, numbers = found(root)
        assert {in_file, in_slots} <= {last, last + 1}
        assert state_files.inspect(root).faults == ()
        assert numbers[-1] in (last, last + 1)
        # The log keeps only so much.
        assert {number for number in acknowledged if number >= numbers[0]} <= set(numbers)
        between += in_file != in_slots
    print(f"{KILLS} kills, {between} between two of its writes, {last} numbers acknowledged, none lost")  # noqa: T201


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("a small file system can be mounted only in a name space of its own, which is not allowed here")
    script = f'mount -t tmpfs -o size=64k none "$1" && exec {" ".join(WRITER)} small-disk "$1"'
    ended = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=WAIT_S_MAX,
        check=False,
    )
    _check(ended, os.strerror(errno.ENOSPC))


def test_a_file_that_may_not_grow_leaves_what_was_there(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*WRITER, "small-files", str(tmp_path)], capture_output=True, text=True, timeout=WAIT_S_MAX, check=False
    )
    _check(ended, os.strerror(errno.EFBIG))


def _check(ended: subprocess.CompletedProcess[str], refused: str) -> None:
    assert ended.returncode == 0, ended.stderr
    *each, rubbish = ended.stdout.splitlines()
    assert each == [refused, "1 ()"] * 5
    assert rubbish == "rubbish []"
