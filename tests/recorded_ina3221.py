"""What Linux's own ina3221 driver shows in `/sys`: a tree recorded from a running kernel, not built from documents.

Role: `plant_recorded(root)` lays out `ina3221_tree.txt`, links and permission bits as they were; `states()` names the
changes recorded after it, each with the files that it changed. Source: Linux 6.1.192 of Debian 12 on arm64, in qemu,
with drivers/hwmon/ina3221.c of the same release, over chips that i2c-stub plays. Two of these are described as
arch/arm64/boot/dts/nvidia/tegra234-p3701.dtsi describes those of Jetson AGX Orin (2 mOhm shunts, two inputs that are
not connected); a third, at 0-0042, no device tree describes. `record_ina3221.sh` makes it again.

Form: `[state]`, then `mode path text`, newlines as `~`, or `link path target`. A text with `!` in front is the error
that reading gave. No plain file gives such an error, so a directory stands for it, whose reading is an OSError too.

Does not: hold readings of a board, NVIDIA's changes to the driver, or anything of `uevent` and `power/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

RECORD = Path(__file__).with_name("ina3221_tree.txt")
CHIPS = ("0-0040", "0-0041", "0-0042")


class Entry(NamedTuple):
    """One link or file; `kind`: `link`, or the permission bits in octal; `text`: the target, content, or `!` error."""

    kind: str
    path: str
    text: str


def states() -> dict[str, list[Entry]]:
    """Every recorded state by name: all files in the first, "", and in the others those that differ from it."""
    found: dict[str, list[Entry]] = {}
    for line in RECORD.read_text("ascii").splitlines():
        if line.startswith("["):
            entries = found.setdefault(line[1:-1], [])
        elif not line.startswith("#"):
            kind, path, text = line.split(" ", 2)
            entries.append(Entry(kind, path, text.replace("~", "\n")))
    return found


def plant_recorded(root: Path, chips: tuple[str, ...] = CHIPS) -> Path:
    """Write the first state below `root`, of these chips alone."""
    left_out = [chip for chip in CHIPS if chip not in chips]
    for entry in states()[""]:
        if not any(chip in f"{entry.path} {entry.text}" for chip in left_out):
            _plant(root, entry)
    return root


def change(root: Path, state: str) -> None:
    """Make the planted tree what it was in a later state."""
    for entry in states()[state]:
        (root / entry.path).unlink()
        _plant(root, entry)


def _plant(root: Path, entry: Entry) -> None:
    path = root / entry.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if entry.kind == "link":
        path.symlink_to(entry.text)
    elif entry.text.startswith("!"):
        path.mkdir()
    else:
        path.write_text(entry.text)
        path.chmod(int(entry.kind, 8))
