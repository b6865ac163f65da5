"""Open files: who is let in follows what is free, so that no listener is ever without one, which ends the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from delen.daemon.config import Limits
from delen.daemon.descriptors import COUNT_AFTER, COUNT_US, Descriptors, Use, in_use

EATEN = """
import os, resource, socket, sys, time
from pathlib import Path
from delen.clients.places import endpoint_path
from delen.daemon.config import Limits, TenantConfig
from delen.daemon.descriptors import COUNT_US
from delen.daemon.rights import Rights
from delen.daemon.sockets import Endpoints

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
folder, tenants = Path(sys.argv[1]), [TenantConfig("a", uids=(os.getuid(),))]
endpoints = Endpoints(folder, tenants, Limits(), Rights(tenants, own_uid=None, wall_s=0.0))
path, now_us = str(endpoint_path(folder, "a")), 0

def turns():
    global now_us
    for _ in range(20):
        now_us += COUNT_US // 4
        for note in endpoints.attend(now_us, 0.0).notes:
            print(note, flush=True)
        time.sleep(0.01)

others = []
for _ in range(10):
    others.append(socket.socket(socket.AF_UNIX))
turns()
eaten = []
while True:
    try:
        eaten.append(os.dup(0))
    except OSError:
        break
turns()
refused = 0
for made in others:
    try:
        made.connect(path)
    except OSError:
        refused += 1
print("refused", refused, flush=True)
turns()
for fd in eaten:
    os.close(fd)
turns()
again = socket.socket(socket.AF_UNIX)
again.connect(path)
turns()
print("connected", len(endpoints.door("a").guard.fds), flush=True)
"""


class Kernel:
    """Grants a thousand, of which `free` are."""

    def __init__(self, granted: int = 1000) -> None:
        self.granted = self.free = granted
        self.asked = 0

    def __call__(self) -> Use:
        self.asked += 1
        return Use(self.granted, self.free)


def made(kernel: Kernel, **limits: int) -> Descriptors:
    return Descriptors(Limits(**limits), use=kernel)


def test_connections_get_half_of_what_others_leave_beside_the_reserve() -> None:
    kernel = Kernel()
    found = made(kernel, descriptors_spare_min=100)
    assert found.look(0, 0) == []
    assert found.connections_max() == 450
    kernel.free = 300
    found.look(COUNT_US, 0)
    assert found.connections_max() == 100
    # Those that are there are not held against themselves.
    kernel.free = 200
    found.look(2 * COUNT_US, 100)
    assert found.connections_max() == 100
    # And not dropped for what others take; but those that were too many are.
    kernel.free = 110
    found.look(3 * COUNT_US, 90)
    assert found.connections_max() == 90
    found.look(4 * COUNT_US, 100)
    assert found.connections_max() == 90


def test_nobody_is_let_in_while_less_is_free_than_is_kept_back_and_the_operator_is_told_once() -> None:
    kernel = Kernel()
    found = made(kernel, descriptors_spare_min=100)
    kernel.free = 99
    half, closed = found.look(0, 0)
    assert "901 of 1000 open files are in use (LimitNOFILE)" in half
    assert "99 of 1000 open files are free, 100 are kept back (descriptors_spare_min)" in closed
    assert found.short
    assert found.look(COUNT_US, 0) == []
    kernel.free = 124
    found.look(2 * COUNT_US, 0)
    assert found.short, "not at once, or doors would go to and fro"
    kernel.free = 125
    (opened,) = found.look(3 * COUNT_US, 0)
    assert "opened again" in opened
    assert not found.short


def test_of_a_small_limit_an_eighth_is_kept_back() -> None:
    kernel = Kernel(granted=80)
    found = made(kernel)
    kernel.free = 10
    found.look(0, 0)
    assert not found.short
    kernel.free = 9
    found.look(COUNT_US, 0)
    assert found.short


def test_it_counts_once_a_second_and_as_connections_come() -> None:
    kernel = Kernel()
    found = made(kernel)
    found.look(0, 0)
    found.look(COUNT_US - 1, COUNT_AFTER - 1)
    assert kernel.asked == 1
    found.look(COUNT_US - 1, COUNT_AFTER)
    assert kernel.asked == 2
    assert found.due_us == 2 * COUNT_US - 1


def test_what_is_free_is_what_the_kernel_gives_next() -> None:
    before = in_use()
    with Path("/dev/null").open(), Path("/dev/null").open():
        assert in_use().free == before.free - 2
    assert 0 < before.free < before.granted


@pytest.mark.e2e
@pytest.mark.slow
def test_with_no_file_left_new_connections_do_not_end_the_front(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", EATEN, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    said = ended.stdout
    assert ended.returncode == 0, (ended.returncode, said, ended.stderr[-2000:])
    assert "refused 10\n" in said
    assert "all endpoints are closed until there are more: 0 of 256 open files are free" in said
    assert said.index("endpoints are opened again") > said.index("refused 10")
    assert "connected 1\n" in said
