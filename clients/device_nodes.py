"""Which GPU nodes this machine has, and the drop-in that lets the engine's service open those and no others.

Role: `delen doctor --devices`. The unit as shipped allows the classes of nodes that boards are known to have; here it
is told the very nodes, and the groups they belong to. Does not: change any node.
"""

from __future__ import annotations

import grp
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .durable import write_whole
from .exit_codes import CommandFailed, ExitCode
from .service_files import OURS, ServiceFile, device_file

# NVIDIA's nodes on boards and on desktops, and the kernel's own graphics nodes that CUDA opens on Orin.
NODES = (
    *("nvmap", "nvhost-*", "nvgpu/**/*", "nvidia[0-9]*", "nvidiactl", "nvidia-uvm*", "nvidia-modeset"),
    *("nvsciipc", "host1x-fence", "dri/renderD*"),
)


class Node(NamedTuple):
    """A device node, who may open it, and whether the engine may by its groups."""

    path: str
    group: str
    mode: str
    opens: bool


def device_nodes(devices: Path = Path("/dev")) -> list[Node]:
    """The GPU's nodes on this machine, by path."""
    found = {path for pattern in NODES for path in devices.glob(pattern)}
    nodes = []
    for path in sorted(found):
        try:
            status = path.stat()
        except FileNotFoundError:
            # A link to a node that is not there, or a device that has just gone.
            continue
        if stat.S_ISCHR(status.st_mode):
            bits = stat.S_IMODE(status.st_mode)
            opens = bits & 0o006 == 0o006 or (bits & 0o060 == 0o060 and status.st_gid != 0)
            nodes.append(Node(str(path), group_of(status.st_gid), f"{bits:04o}", opens))
    return nodes


def drop_in(nodes: Sequence[Node]) -> str:
    """What the engine may open: these nodes, and nothing that the unit allowed before; by the groups they belong to."""
    lines = [f"{OURS}`, written by `delen doctor --devices` from the nodes that were there.", "", "[Service]"]
    lines += ["DeviceAllow=", *(f"DeviceAllow={node.path} rw" for node in nodes)]
    groups = sorted({node.group for node in nodes if node.group != "root"})
    if groups:
        lines.append(f"SupplementaryGroups={' '.join(groups)}")
    return "\n".join([*lines, ""])


def write_drop_in(root: Path, devices: Path = Path("/dev")) -> tuple[Path | None, list[Node]]:
    """Write it below `root`; returns where, and the nodes in it. Without a GPU nothing is written: (None, []).

    Raises:
        CommandFailed: there is a file of somebody else's. OSError: it cannot be written.
    """
    nodes = device_nodes(devices)
    if not nodes:
        return None, []
    file = ServiceFile(device_file(root), drop_in(nodes))
    if file.state() == "strange":
        said = f"{file.path} is there and was not written by delen"
        raise CommandFailed(said, ExitCode.CANNOT_CREATE, "move it away, or name the nodes there yourself")
    write_whole(file.path, file.text.encode(), mode=0o644)
    return file.path, nodes


def group_of(gid: int) -> str:
    """Its name, or its number where it has none."""
    with suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)
