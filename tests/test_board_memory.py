"""What may still be taken is what the system has free, or what the control group leaves, whichever is less."""

from __future__ import annotations

from pathlib import Path

import pytest

from delen.profiles.board_memory import memory_available_bytes
from delen.tests.board_trees import plant

MEMINFO = "MemTotal:        8000000 kB\nMemFree:          100000 kB\nMemAvailable:    2000000 kB\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    plant(tmp_path / "proc/meminfo", MEMINFO)
    return tmp_path


def test_here_there_is_some() -> None:
    here = memory_available_bytes()
    assert here is None or here > 1 << 20


def test_without_groups_it_is_the_systems(root: Path) -> None:
    assert memory_available_bytes(root) == 2_000_000 * 1024


def test_a_group_of_version_2_counts_and_so_do_those_around_it(root: Path) -> None:
    plant(root / "proc/self/cgroup", "0::/system.slice/delen.service\n")
    for folder, limit, used in (("system.slice/delen.service", "max", 9), ("system.slice", "1000000", 600_000)):
        plant(root / "sys/fs/cgroup" / folder / "memory.max", f"{limit}\n")
        plant(root / "sys/fs/cgroup" / folder / "memory.current", f"{used}\n")
        plant(root / "sys/fs/cgroup" / folder / "memory.stat", "anon 5\ninactive_file 50000\n")
    assert memory_available_bytes(root) == 450_000, "files that were read once can be dropped"


def test_a_limit_beyond_which_a_group_only_crawls_counts_too(root: Path) -> None:
    plant(root / "proc/self/cgroup", "0::/delen.service\n")
    folder = root / "sys/fs/cgroup/delen.service"
    for name, text in (("max", "1000000"), ("high", "800000"), ("current", "600000"), ("stat", "inactive_file 0")):
        plant(folder / f"memory.{name}", f"{text}\n")
    assert memory_available_bytes(root) == 200_000
    plant(folder / "memory.high", "max\n")
    assert memory_available_bytes(root) == 400_000


def test_a_group_of_version_1(root: Path) -> None:
    plant(root / "proc/self/cgroup", "5:cpu:/\n9:memory:/docker/abc\n")
    folder = root / "sys/fs/cgroup/memory/docker/abc"
    for name, text in (("limit_in_bytes", "5000"), ("usage_in_bytes", "7000"), ("stat", "total_inactive_file 0")):
        plant(folder / f"memory.{name}", f"{text}\n")
    assert memory_available_bytes(root) == 0
    plant(folder / "memory.limit_in_bytes", "9223372036854771712\n")
    assert memory_available_bytes(root) == 2_000_000 * 1024


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    assert memory_available_bytes(tmp_path) is None
    plant(tmp_path / "proc/meminfo", "garbage")
    plant(tmp_path / "proc/self/cgroup", "garbage\n0::/../..\n")
    assert memory_available_bytes(tmp_path) is None
