"""How much memory a process may still take here: what the system has free, and what its control group allows.

Role: read /proc/meminfo and the limits of the control group, version 1 or 2, which is what counts in a container or a
service with MemoryMax. On a Jetson the GPU takes its memory from the same. Does not: reserve anything.
"""

from __future__ import annotations

import re
from pathlib import Path

from .meter_ina3221 import ROOT

# Version 1 says "no limit" with a number near 2^63.
NO_LIMIT = 1 << 60
# (limit, used) of the group this process is in, below /sys/fs/cgroup, by version. Beyond `high` a group is not killed
# but slowed down, without swap to a standstill.
V2 = (("memory.max", "memory.current"), ("memory.high", "memory.current"))
V1 = (("memory.limit_in_bytes", "memory.usage_in_bytes"),)


def memory_available_bytes(root: Path = ROOT) -> int | None:
    """Bytes that may still be taken without pushing others out; None where the system does not say."""
    known = [_system(root), *(_group(folder, names) for folder, names in _groups(root))]
    return min((free for free in known if free is not None), default=None)


def _system(root: Path) -> int | None:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024


def _groups(root: Path) -> list[tuple[Path, tuple[str, str]]]:
    """This process's group and all around it, of the memory controller."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[tuple[Path, tuple[str, str]]] = []
    limits: tuple[tuple[str, str], ...]
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            base, limits = root / "sys/fs/cgroup", V2
        elif "memory" in controllers.split(","):
            base, limits = root / "sys/fs/cgroup/memory", V1
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        found += [(base.joinpath(*parts[:depth]), names) for depth in range(len(parts), -1, -1) for names in limits]
    return found


def _group(folder: Path, names: tuple[str, str]) -> int | None:
    """What is left of one group's limit; None where it has none. Files that were read count as taken until they age."""
    try:
        limit, used = (int((folder / name).read_text()) for name in names)
        aged = re.search(r"^(?:total_)?inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    if limit >= NO_LIMIT:
        return None
    return max(0, limit - used + (int(aged[1]) if aged is not None else 0))
